"""A pytest plugin that ends this process when its parent ends in any way. It works on Linux only; elsewhere
it does nothing.

A killed Ray worker cannot clean up, and Ray kills a worker's children only where the worker itself still can
(`RAY_kill_child_processes_on_worker_exit`); a surviving pytest would hold its GPU beside the retry. xdist
passes `-p` on to its workers, so each process of the run has the plugin: they end from the root to the
leaves.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

#: The expected parent process, to detect one that died before this module was loaded.
PARENT = "MXCHECK_PARENT"
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

if sys.platform == "linux":
    # The signal comes when the parent's *thread* that started this process ends: in a Ray worker, and in
    # xdist's controller, that is the main thread.
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    # Only the first process has the variable: its children are xdist's, and execnet ends them with their
    # parent.
    parent = os.environ.pop(PARENT, None)
    if parent is not None and os.getppid() != int(parent):
        os.kill(os.getpid(), signal.SIGKILL)
