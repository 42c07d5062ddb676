"""``python -m scoretomo``."""

import sys

from .cli import main

sys.exit(main())
