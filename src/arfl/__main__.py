"""``python -m arfl``: see `arfl.cli`."""

import sys

from arfl import warm

status = warm.run(sys.argv[1:])
if status is None:
    from arfl.cli import main

    status = main()
sys.exit(status)
