from mxcheck.suite.kernels.test_code_tables import *  # noqa: F403  (a thin file: the tests live in the package)
