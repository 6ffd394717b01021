"""`python -m mxcheck`, which is `mxcheck`."""

import sys

from mxcheck.cli.entry import main

sys.exit(main())
