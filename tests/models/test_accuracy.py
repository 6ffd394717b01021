"""The model suite of this repository; the code is in the package."""

from mxcheck.suite.models.test_accuracy import *  # noqa: F403  (one import: the suite exists once)
