"""Settings of torch and numpy that a call's result depends on: how to read and set each, and its usual value.
All are kept together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

_LEAST_NORMAL_DOUBLE = 2.0**-1022
_AUTOCAST = ("cpu", "cuda")

#: The usual value is the process's own.
AS_IT_IS: Any = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting.

    Attributes:
        name: its name in messages.
        get: returns its value, comparable.
        put: sets it.
        usual: its value for a cast or a model; `AS_IT_IS` where mxcheck does not choose it.
    """

    name: str
    get: Callable[[], Any]
    put: Callable[[Any], object]
    usual: Any = AS_IT_IS


def flushes() -> bool:
    """Return whether this thread flushes subnormal numbers to zero: torch sets it for all float types at
    once."""
    return _LEAST_NORMAL_DOUBLE * 0.5 == 0


def _default_device() -> torch.device | None:
    """Return the default device; None for one that this machine lacks: nothing can be computed on it, and
    nobody wants it back."""
    try:
        return torch.get_default_device()
    except (AssertionError, RuntimeError):  # torch creates a tensor on it
        return None


def _put_default_device(device: torch.device | None) -> None:
    if _device_contexts() > 1:
        return  # torch cannot change the default below `with torch.device(…)`: that one wins
    # Calls of torch are faster without a default device than with the CPU as default.
    torch.set_default_device(None)
    if device is not None and device.type != "cpu" and not _device_contexts():
        torch.set_default_device(device)


def _device_contexts() -> int:
    """Count the device contexts: the default device, if set, and each `with torch.device(…)`."""
    modes = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    return sum(isinstance(mode, DeviceContext) for mode in modes)


def _put_autocast(enabled: tuple[bool, ...]) -> None:
    for kind, one in zip(_AUTOCAST, enabled, strict=True):
        torch.set_autocast_enabled(kind, one)


SETTINGS = (
    # Checked and refused elsewhere: `check_subnormals`.
    Setting(name="torch's flushing of subnormal numbers", get=flushes, put=torch.set_flush_denormal),
    Setting(
        name="torch's default dtype",
        get=torch.get_default_dtype,
        put=torch.set_default_dtype,
        usual=torch.float32,
    ),
    Setting(
        name="torch's default device",
        get=_default_device,
        put=_put_default_device,
        usual=torch.device("cpu"),
    ),
    Setting(name="torch's number of threads", get=torch.get_num_threads, put=torch.set_num_threads),
    # The gate is green with them and without.
    Setting(
        name="torch's deterministic algorithms",
        get=torch.get_deterministic_debug_mode,
        put=torch.set_deterministic_debug_mode,
    ),
    Setting(
        name="torch's grad mode",
        get=torch.is_grad_enabled,
        put=torch.set_grad_enabled,
        usual=True,
    ),
    Setting(
        name="torch's precision of fp32 products",
        get=torch.get_float32_matmul_precision,
        put=torch.set_float32_matmul_precision,
        usual="highest",
    ),
    Setting(
        name="torch's autocast",
        get=lambda: tuple(torch.is_autocast_enabled(kind) for kind in _AUTOCAST),
        put=_put_autocast,
        usual=(False, False),
    ),
    Setting(
        name="torch's anomaly detection",
        get=lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        put=lambda both: torch.autograd.set_detect_anomaly(*both),
        usual=(False, True),
    ),
    Setting(
        name="numpy's handling of errors",
        get=np.geterr,
        put=lambda kinds: np.seterr(**kinds),
        usual={"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"},
    ),
)


def settings() -> list[Any]:
    """Return the values of all settings."""
    return [one.get() for one in SETTINGS]


def put_settings(values: list[Any]) -> list[str]:
    """Set all settings; return the names of those that had other values."""
    changed = []
    for one, value in zip(SETTINGS, values, strict=True):
        if one.get() != value:
            one.put(value)
            changed.append(one.name)
    return changed


@contextmanager
def settings_kept() -> Iterator[None]:
    """Restore the settings after the body, but not the state of torch's random generator."""
    before = settings()
    try:
        yield
    finally:
        put_settings(before)
