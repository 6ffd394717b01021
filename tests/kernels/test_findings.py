from mxcheck.suite.kernels.test_findings import *  # noqa: F403  (a thin file: the tests live in the package)
