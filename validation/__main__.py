"""`python -m validation`, in a checkout: the commands that measure sensitivity and false alarms."""

import sys

from validation.commands.entry import main

sys.exit(main())
