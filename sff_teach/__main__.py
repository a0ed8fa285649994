"""``python -m sff_teach`` is ``sff-teach``."""

import sys

from .cli import main

sys.exit(main())
