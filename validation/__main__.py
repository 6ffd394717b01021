"""`python -m validation`, in a checkout: the commands that say how well mxcheck sees."""

import sys

from validation.commands.entry import main

sys.exit(main())
