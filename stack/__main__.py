"""`python -m stack up | down | status | run | ...`: see `stack.cli`."""

import sys

from stack.cli import main

sys.exit(main())
