"""The orderings of this repository's baselines; the code is in the package."""

from mxcheck.suite.models.test_orderings import *  # noqa: F403  (one import: the suite exists once)
