"""`python -m validation`, in a checkout: sensitivity, false alarms, and exhaustive sweeps."""

import sys

from validation.commands.main import main

sys.exit(main())
