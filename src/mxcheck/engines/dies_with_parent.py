"""A pytest plugin: this process ends when its parent does, however that ended. Only on Linux; elsewhere it
does nothing.

A killed Ray worker cannot clean up, and Ray kills a worker's children only where the worker itself still can
(`RAY_kill_child_processes_on_worker_exit`); a pytest that went on would hold its GPU beside the retry. xdist
passes `-p` on to its workers, so each process of the run has it: they end from the root to the leaves.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

#: The process that has to be the parent, so that one that died before this module was loaded is seen too.
PARENT = "MXCHECK_PARENT"
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

if sys.platform == "linux":
    # The signal comes when the parent's *thread* ends that started this process: in a Ray worker, and in
    # xdist's controller, that is the main one.
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    # Only the first process has the variable: its children are xdist's, whom execnet ends with their parent.
    parent = os.environ.pop(PARENT, None)
    if parent is not None and os.getppid() != int(parent):
        os.kill(os.getpid(), signal.SIGKILL)
