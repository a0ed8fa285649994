"""``python -m sff_teach`` is ``sff-teach``."""

import sys

try:
    from .cli import main
except ModuleNotFoundError as error:
    if error.name != "tyro":
        raise
    sys.exit("The command line needs the package tyro, which Colab lacks: pip install tyro")

sys.exit(main())
