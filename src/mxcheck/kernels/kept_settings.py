"""Settings of torch and numpy on which the result of a call depends: how each is read and put, and what it
usually is. Whoever keeps them keeps all of them."""

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

#: What usually holds is what the process has.
AS_IT_IS: Any = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One of them.

    Attributes:
        name: for messages.
        get: what it is, as something that can be compared.
        put: makes it so.
        usual: what it is for a cast or a model; `AS_IT_IS` where that is not mxcheck's to say.
    """

    name: str
    get: Callable[[], Any]
    put: Callable[[Any], object]
    usual: Any = AS_IT_IS


def flushes() -> bool:
    """Whether subnormal numbers become zero in this thread: it is set for all types of floats at once."""
    return _LEAST_NORMAL_DOUBLE * 0.5 == 0


def _default_device() -> torch.device | None:
    """None: one that this machine does not have; nothing can be computed then, and nobody wants it back."""
    try:
        return torch.get_default_device()
    except (AssertionError, RuntimeError):  # it makes a tensor there
        return None


def _put_default_device(device: torch.device | None) -> None:
    if _device_contexts() > 1:
        return  # torch cannot change the default below `with torch.device(…)`: that one holds
    # Without a default each call of torch is faster than with the CPU as one.
    torch.set_default_device(None)
    if device is not None and device.type != "cpu" and not _device_contexts():
        torch.set_default_device(device)


def _device_contexts() -> int:
    """The default, where there is one, and each `with torch.device(…)`."""
    modes = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    return sum(isinstance(mode, DeviceContext) for mode in modes)


def _put_autocast(enabled: tuple[bool, ...]) -> None:
    for kind, one in zip(_AUTOCAST, enabled, strict=True):
        torch.set_autocast_enabled(kind, one)


SETTINGS = (
    # Asked for and refused elsewhere: `check_subnormals`.
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
    """What they are."""
    return [one.get() for one in SETTINGS]


def put_settings(values: list[Any]) -> list[str]:
    """Make them so; returns the names of those that were otherwise."""
    changed = []
    for one, value in zip(SETTINGS, values, strict=True):
        if one.get() != value:
            one.put(value)
            changed.append(one.name)
    return changed


@contextmanager
def settings_kept() -> Iterator[None]:
    """Whatever the body does to them is undone; to torch's generator of random numbers it is not."""
    before = settings()
    try:
        yield
    finally:
        put_settings(before)
