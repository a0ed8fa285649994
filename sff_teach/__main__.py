"""``python -m sff_teach`` runs the command ``sff-teach``."""

import sys

from .cli import main

try:
    sys.exit(main())
except ModuleNotFoundError as error:
    if error.name != "tyro":
        raise
    sys.exit("This command needs the package tyro, which Colab lacks: pip install tyro")
