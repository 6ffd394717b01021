"""A kernel that a command line names."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mxcheck.kernels.api import Kernel


class KernelError(Exception):
    """A kernel that returns no result to compare."""


def named_kernel(name: str) -> Kernel:
    """Return the kernel of that name, `package.module:function` on the device that it runs on, or the program
    of `command:./my_cast --fast`.

    Raises:
        ValueError: there is no such kernel.
        KernelError: its module raised an error, which is the cause.
    """
    from mxcheck.conformance.implementation.accelerator import on_device
    from mxcheck.kernels.api import resolve_kernel
    from mxcheck.kernels.device_choice import resolve_device
    from mxcheck.kernels.registry import PROGRAM, implementations
    from mxcheck.kernels.usual_settings import check_subnormals

    if name.startswith(PROGRAM):
        from mxcheck.conformance.programs.program import program

        check_subnormals()
        return program(name.removeprefix(PROGRAM))
    # Like `python -m`: the installed command would not find the modules of the current directory.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    cpu_only = {one.name for one in implementations().values() if one.cpu_only}
    try:
        function = resolve_kernel(name)[0]
    except ValueError:
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # (reported as the module's own error)
        raise KernelError(f"cannot be loaded: its module raised {type(error).__name__}") from error
    check_subnormals()
    return on_device(function, "cpu" if name in cpu_only else resolve_device("auto"))
