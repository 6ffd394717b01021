"""Names of formats and precisions, and the other names that are accepted wherever one can be given.

Names are translated only here. Standard library only, like `elements.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from mxcheck.formats.choices import unknown

#: element format -> the precision that casts operands to it in MX blocks. A precision's name carries the
#: family: elsewhere in this field plain `fp8_e4m3` is the dtype of a KV cache.
MX_PRECISIONS: Mapping[str, str] = MappingProxyType(
    {
        "fp8_e4m3": "mxfp8_e4m3",
        "fp8_e5m2": "mxfp8_e5m2",
        "fp6_e3m2": "mxfp6_e3m2",
        "fp6_e2m3": "mxfp6_e2m3",
        "fp4_e2m1": "mxfp4_e2m1",
        "mxint8": "mxint8",
        "fp4_e3m0": "mxfp4_e3m0",
    }
)
#: `mxfp8` alone means E4M3 in the field; `mxfp6` alone names neither of two formats, and is no name.
_SHORT = {"mxfp8": "fp8_e4m3", "mxfp4": "fp4_e2m1"}

#: precision -> the format of its operands, where that has a name of its own.
_TENSOR = {f"fp8_tensor_{element}": f"{element}_tensor" for element in ("e4m3", "e5m2")}

#: other name -> format.
ALIASES: Mapping[str, str] = MappingProxyType(
    {
        **_SHORT,
        **{name: element for element, name in MX_PRECISIONS.items() if name != element},
        **_TENSOR,
    }
)
#: other name -> precision.
PRECISION_ALIASES: Mapping[str, str] = MappingProxyType(
    {
        **{short: MX_PRECISIONS[element] for short, element in _SHORT.items()},
        **{element: name for element, name in MX_PRECISIONS.items() if name != element},
        "nvfp8_emu_e4m3": "fp8_tensor_e4m3",
        "nvfp8_emu_e5m2": "fp8_tensor_e5m2",
        "bfp16": "bf16_operands",
    }
)
_GLOBAL = "global-"
#: format of element-wise results -> its name in a case, which contains the name of no precision, so that
#: `-k mxfp4_e2m1` does not select other precisions whose element-wise results are FP4.
_GLOBAL_NAMES = {
    "bf16": "bfloat16",
    "mxint8": "int8",
    **{element: element.partition("_")[2] for element in MX_PRECISIONS if element != "mxint8"},
}
#: The options of a case's name that `global_option` returns.
GLOBAL_OPTIONS = tuple(f"{_GLOBAL}{name}" for name in _GLOBAL_NAMES.values())


def own_name(name: str) -> str:
    """Return our name for a format that the field calls `name`; any other name unchanged."""
    return ALIASES.get(name, name) if isinstance(name, str) else name


def own_precision(name: str) -> str:
    """Return the canonical name of a precision; any other name unchanged."""
    return PRECISION_ALIASES.get(name, name) if isinstance(name, str) else name


def precision_of(format: str) -> str:
    """Return the name of a block format in ids: of an MX format its precision's, else its own."""
    return MX_PRECISIONS.get(format, format)


def global_option(format: str) -> str:
    """Return the option in a case's name that says to which format element-wise results are cast."""
    return f"{_GLOBAL}{_GLOBAL_NAMES[format]}"


def own_option(option: str) -> str:
    """Return an option of a case's name as it is spelt today; any other unchanged."""
    format = own_name(option.removeprefix(_GLOBAL))
    return global_option(format) if option.startswith(_GLOBAL) and format in _GLOBAL_NAMES else option


def aliases_of(name: str) -> tuple[str, ...]:
    """Return the other names of the format `name`."""
    return tuple(alias for alias, own in ALIASES.items() if own == name)


def precision_aliases_of(name: str) -> tuple[str, ...]:
    """Return the other names of the precision `name`."""
    return tuple(alias for alias, own in PRECISION_ALIASES.items() if own == name)


def former_text(text: str) -> str:
    """Return an id with former names of precisions: `ref-neo-fp8_e4m3-A` for `ref-neo-mxfp8_e4m3-A`."""
    for alias, name in PRECISION_ALIASES.items():
        text = text if alias in _SHORT else text.replace(name, alias)
    return text


def choose_format(kind: str, name: str, allowed: Iterable[str]) -> str:
    """Return our name for the format `name`, if it is one of `allowed`.

    Raises:
        ValueError: it is not; names the allowed ones and the nearest match, including aliases; or it names
            several formats.
    """
    names = list(allowed)
    if (own := own_name(name)) in names:
        return own
    if own == name:
        _refuse_several(kind, name, {one: one for one in (*names, *ALIASES)})
    raise unknown(kind, name, names, also={alias: alias for alias, own in ALIASES.items() if own in names})


def choose_precision(kind: str, name: str, allowed: Iterable[str]) -> str:
    """As `choose_format`, for the canonical name of a precision; the nearest match is a canonical name."""
    names = list(allowed)
    if (own := own_precision(name)) in names:
        return own
    former = {alias: own for alias, own in PRECISION_ALIASES.items() if own in names}
    _refuse_several(kind, name, {**former, **{one: one for one in names}})
    raise unknown(kind, name, names, also=former)


def _refuse_several(kind: str, name: str, names: Mapping[str, str]) -> None:
    """Refuse the beginning of several names; `names` has each with the name to suggest for it."""
    several = list(dict.fromkeys(to for one, to in names.items() if one.startswith(f"{name}_")))
    if several:
        raise ValueError(f"{kind} {name!r} may be {' or '.join(several)}; name one of them")
