from mxcheck.suite.kernels.test_layouts import *  # noqa: F403  (a thin file: the tests live in the package)
