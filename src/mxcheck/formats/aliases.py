"""The field's names for our formats, accepted wherever a format can be named.

Names are translated only here. Standard library only, like `elements.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from mxcheck.formats.choices import unknown

#: the field's name -> ours. `mxfp8` alone means E4M3 in the field; `mxfp6` alone names neither of two
#: formats, and is no name.
ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "mxfp8": "fp8_e4m3",
        "mxfp8_e4m3": "fp8_e4m3",
        "mxfp8_e5m2": "fp8_e5m2",
        "mxfp6_e3m2": "fp6_e3m2",
        "mxfp6_e2m3": "fp6_e2m3",
        "mxfp4": "fp4_e2m1",
    }
)


def own_name(name: str) -> str:
    """Return our name for a format that the field calls `name`; any other name unchanged."""
    return ALIASES.get(name, name) if isinstance(name, str) else name


def aliases_of(name: str) -> tuple[str, ...]:
    """Return the field's names for our format `name`."""
    return tuple(alias for alias, own in ALIASES.items() if own == name)


def choose_format(kind: str, name: str, allowed: Iterable[str]) -> str:
    """Return our name for the format `name`, if it is one of `allowed`.

    Raises:
        ValueError: it is not; names the allowed ones and the nearest match, including aliases; or it names
            several formats.
    """
    names = list(allowed)
    if (own := own_name(name)) in names:
        return own
    several = [alias for alias in ALIASES if alias.startswith(f"{name}_")]
    if several and name not in ALIASES:
        raise ValueError(f"{kind} {name!r} may be {' or '.join(several)}; name one of them")
    raise unknown(kind, name, names, also=[alias for alias, own in ALIASES.items() if own in names])
