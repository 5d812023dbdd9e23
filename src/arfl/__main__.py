"""``python -m arfl``."""

import sys

from arfl.cli import main

sys.exit(main())
