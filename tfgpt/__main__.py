"""`python -m tfgpt` is `tfgpt`."""

import sys

from tfgpt.cli import main

sys.exit(main())
