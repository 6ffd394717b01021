"""The environment of a measurement: recorded, shown when a case is red, never compared."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

#: Environment variables that change how a machine multiplies.
_SETTINGS = ("ATEN_CPU_CAPABILITY", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA")


def environment(*, device: str, kernel: str, threads: int) -> dict[str, str]:
    """Return versions, machine and settings, as plain text.

    `kernel` is the one asked for; for `auto`, what that takes for plain tensors on this device now.
    """
    import torch

    from mxcheck.kernels.house import used

    return {
        "mxcheck": version("mxcheck"),
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # its subclass of str cannot be sent between workers
        "transformers": version("transformers"),
        "machine": platform.machine(),
        "processor": _processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "device": device if device == "cpu" else torch.cuda.get_device_name(),
        "kernel": used(kernel, device),
        "threads": str(threads),
        **{name: os.environ[name] for name in _SETTINGS if name in os.environ},
    }


def _processor() -> str:
    """Return the processor's own name where Linux gives it."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
