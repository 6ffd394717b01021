from mxcheck.suite.kernels.test_many_calls import *  # noqa: F403  (a thin file: the tests live in the package)
