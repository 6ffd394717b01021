"""Changes in the errors of decoder layers, of their attention and of their MLP since acceptance.

Each figure is compared in its own unit, place by place. A wrong cast in all layers changes the median over
places, one in a single layer the maximum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import median
from typing import Any

__all__ = [
    "EXACT_TOLERANCE",
    "FIGURES",
    "NOISE_MULTIPLE",
    "SKETCH_UNIT",
    "SublayerError",
    "SublayerNoise",
    "check_sublayers",
    "moves",
    "sublayer_error_from_dict",
    "sublayer_noise",
    "sublayer_noise_from_dict",
]

#: The number that 1 in a sketch represents; a sketch's root mean square is 1 / this.
SKETCH_UNIT = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class SublayerError:
    """The error of one place on the reference's input: of a layer, its attention or its MLP. With y the
    reference's update at a token and y_q the quantized one:

    Attributes:
        gain: median over tokens of ⟨y_q - y, y⟩ / ⟨y, y⟩, signed: how much too long the update is.
        gain_99: 99th percentile of its absolute value.
        norm: median over tokens of ‖y_q - y‖ / ‖y‖.
        norm_99: its 99th percentile.
        size: median over tokens of ‖y‖ / ‖x‖, with x the layer's input: a figure of the reference alone.
        sketch: 64 random projections of the error, each token's scaled to length 1, in `SKETCH_UNIT`;
            empty where the error is exactly zero.
    """

    gain: float
    gain_99: float
    norm: float
    norm_99: float
    size: float
    sketch: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**asdict(self), "sketch": list(self.sketch)}


def sublayer_error_from_dict(data: Mapping[str, Any], *, where: str) -> SublayerError:
    """Decode the output of `SublayerError.as_dict`. Raises ValueError, naming `where` and the field, for
    fields that are missing, unknown, or not finite numbers."""
    _check_fields(data, SublayerError, where)
    sketch = data["sketch"]
    if not isinstance(sketch, list) or not all(type(value) is int for value in sketch):
        raise ValueError(f"{where}: sketch must be a list of whole numbers, got {sketch!r:.40}")
    figures = {name: _finite(value, f"{where}: {name}") for name, value in data.items() if name != "sketch"}
    return SublayerError(sketch=tuple(sketch), **figures)


def _check_fields(data: Mapping[str, Any], kind: type[Any], where: str) -> None:
    if not isinstance(data, Mapping):
        raise ValueError(f"{where}: must be a table of figures, got {data!r:.40}")
    expected = {field.name for field in fields(kind)}
    missing, unknown = sorted(expected - data.keys()), sorted(data.keys() - expected)
    if missing or unknown:
        raise ValueError(
            f"{where}: missing fields: {', '.join(missing) or 'none'}, unknown fields: "
            f"{', '.join(unknown) or 'none'}; accept anew with --snapshot-update"
        )


def _finite(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{where} must be a finite number, got {value!r:.40}")
    return float(value)


def _relative(now: float, then: float, unit: float) -> float:
    """Return |now - then| in units of `unit`; infinite where the unit is zero or a value is NaN, which a
    median or a maximum could pass over."""
    if now == then:
        return 0.0
    change = abs(now - then) / abs(unit) if unit else math.inf
    return math.inf if math.isnan(change) else change


def _turned(now: Sequence[int], then: Sequence[int]) -> float:
    """Return ‖now - then‖ / ‖then‖ of two sketches: 0 for equal errors, 1.41 for unrelated ones."""
    if len(now) != len(then):
        return math.inf
    change = math.dist(now, then)
    return _relative(change, 0.0, math.hypot(*then))


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Comparison of one figure.

    Attributes:
        words: its name in messages.
        change: how far the figure of one place moved, in its own unit, from values now and then.
        typical, largest: minimum bounds in other arithmetic for the median place and for the worst, where
            less noise was measured. docs/layers.md shows how they were chosen.
    """

    words: str
    change: Callable[[SublayerError, SublayerError], float]
    typical: float
    largest: float


#: By name, in the order of messages.
FIGURES: Mapping[str, Figure] = {
    "gain": Figure(
        words="signed gain, in units of the error's norm",
        change=lambda now, then: _relative(now.gain, then.gain, then.norm),
        typical=1e-3,
        largest=2e-2,
    ),
    "gain_99": Figure(
        words="99th percentile of the gain, in units of the norm's",
        change=lambda now, then: _relative(now.gain_99, then.gain_99, then.norm_99),
        typical=1e-3,
        largest=1e-1,
    ),
    "norm": Figure(
        words="error's norm, relative",
        change=lambda now, then: _relative(now.norm, then.norm, then.norm),
        typical=1e-3,
        largest=2e-2,
    ),
    "norm_99": Figure(
        words="99th percentile of the norm, relative",
        change=lambda now, then: _relative(now.norm_99, then.norm_99, then.norm_99),
        typical=1e-3,
        largest=1e-1,
    ),
    "size": Figure(
        words="size of the reference's own update, relative",
        change=lambda now, then: _relative(now.size, then.size, then.size),
        typical=1e-4,  # a bfloat16 reference rounds its update: 2.8e-4 at the worst place
        largest=2e-3,
    ),
    "sketch": Figure(
        words="sketch of the error, relative",
        change=lambda now, then: _turned(now.sketch, then.sketch),
        typical=1e-2,
        largest=0.25,  # one token of 32 with an unrelated error: sqrt(2 / 32)
    ),
}

#: On a machine with the baseline's arithmetic: less than one unit of any sketch.
EXACT_TOLERANCE = 1e-9
#: Elsewhere: this multiple of the measured noise, and at least the figure's own bounds.
NOISE_MULTIPLE = 4.0
#: Multiple of a figure's own bounds where products are rounded to 16 bits: gain and norm differed by 0.1 %
#: between two machines, as much as the bound of their median.
COARSE_MULTIPLE = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SublayerNoise:
    """Changes of each figure when only this machine's arithmetic changed: at the median place (`typical`) and
    at the worst (`largest`), in the worst environment."""

    typical: dict[str, float]
    largest: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def sublayer_noise_from_dict(data: Mapping[str, Any], *, where: str) -> SublayerNoise:
    """Decode the output of `SublayerNoise.as_dict`. Raises ValueError, naming `where`, unless it holds a
    number of 0 or more for every figure."""
    _check_fields(data, SublayerNoise, where)
    for name in ("typical", "largest"):
        table = data[name]
        if not isinstance(table, Mapping) or table.keys() != FIGURES.keys():
            raise ValueError(f"{where}: {name} must hold {', '.join(FIGURES)}, got {table!r:.60}")
        for figure, value in table.items():
            if _finite(value, f"{where}: {name} of {figure}") < 0:
                raise ValueError(f"{where}: {name} of {figure} must be 0 or more, got {value}")
    return SublayerNoise(typical=dict(data["typical"]), largest=dict(data["largest"]))


def moves(
    now: Mapping[str, SublayerError], then: Mapping[str, SublayerError], figure: str
) -> dict[str, float]:
    """Return by place how far `figure` moved. Raises ValueError where the places differ."""
    if now.keys() != then.keys():
        other = sorted(now.keys() ^ then.keys())
        raise ValueError(f"cannot compare different places: {other[0]} is in one of the two only")
    change = FIGURES[figure].change
    return {place: change(now[place], then[place]) for place in then}


def sublayer_noise(
    accepted: Mapping[str, SublayerError], trials: Sequence[Mapping[str, SublayerError]]
) -> SublayerNoise:
    """Return the worst of the `trials`, each measured in another environment. Raises ValueError without a
    trial, where places differ, and where a figure moved without bound, which is not noise."""
    if not trials or not accepted:
        raise ValueError(
            "noise needs places and at least one trial; got none: measure in an environment first"
        )
    typical, largest = {}, {}
    for figure in FIGURES:
        changes = [list(moves(trial, accepted, figure).values()) for trial in trials]
        typical[figure] = max(median(change) for change in changes)
        largest[figure] = max(max(change) for change in changes)
        if not math.isfinite(largest[figure]):
            raise ValueError(
                f"{figure} has an error in one environment and none in another: that is no noise"
            )
    return SublayerNoise(typical=typical, largest=largest)


def same_layers(now: Mapping[str, SublayerError], then: Mapping[str, SublayerError]) -> bool:
    """Return whether the reference's layers were reproduced to the bit, by their sizes.

    Equal fixed products and equal losses do not imply that: with two threads, ref-moe's layers differed by
    7e-9 at 32 tokens though the products of other shapes were equal.
    """
    return all(now[place].size == then[place].size for place in now.keys() & then.keys())


def check_sublayers(
    now: Mapping[str, SublayerError],
    then: Mapping[str, SublayerError],
    *,
    same_arithmetic: bool,
    noise: SublayerNoise | None,
    in_16_bits: bool = False,
) -> list[tuple[str, bool, str]]:
    """Compare the figures of every place with the accepted ones; return `(key, passed, message)` for each
    check.

    The first check is that the places are the accepted ones; only then follow the others, one for each
    figure. `noise` None: none was measured, so each figure's own bounds apply. `in_16_bits`: the case or its
    reference multiplies in a 16-bit type, so another machine rounds every product differently: the figures'
    own bounds are then ten times as wide, and the sketch is not checked.
    """
    lost, added = sorted(then.keys() - now.keys()), sorted(now.keys() - then.keys())
    parts = [
        f"{title} {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        for title, names in (("no longer measured:", lost), ("newly measured:", added))
        if names
    ]
    if not then and not now:
        parts = ["no layer was measured, now or then"]
    checks = [("places", not parts, "; ".join(parts) or f"{len(then)} parts of layers measured, as accepted")]
    if parts:
        return checks
    exact = same_arithmetic and same_layers(now, then)
    coarse = in_16_bits and not exact
    for name, figure in FIGURES.items():
        if coarse and name == "sketch":
            continue
        bounds = EXACT_TOLERANCE, EXACT_TOLERANCE
        if not exact:
            bounds = _bounds(name, figure, noise, times=COARSE_MULTIPLE if coarse else 1.0)
        checks.append(_check(name, now, then, bounds))
    return checks


def _bounds(name: str, figure: Figure, noise: SublayerNoise | None, *, times: float) -> tuple[float, float]:
    """Return the bounds of the median place and of the worst in other arithmetic."""
    typical, largest = times * figure.typical, times * figure.largest
    if noise is None:
        return typical, largest
    return max(typical, NOISE_MULTIPLE * noise.typical[name]), max(
        largest, NOISE_MULTIPLE * noise.largest[name]
    )


def _check(
    name: str,
    now: Mapping[str, SublayerError],
    then: Mapping[str, SublayerError],
    bounds: tuple[float, float],
) -> tuple[str, bool, str]:
    figure, (typical, largest) = FIGURES[name], bounds
    change = moves(now, then, name)
    middle, most = median(change.values()), max(change.values())
    if len(change) <= 2:  # a single place, which noise may hit, moves their median
        typical = largest
    passed = middle <= typical and most <= largest
    message = (
        f"{figure.words}: median place moved by {middle:.2e} (bound {typical:.2e}), "
        f"worst by {most:.2e} (bound {largest:.2e})"
    )
    beyond = largest if middle <= typical else typical
    return name, passed, message if passed else f"{message}: {_worst(name, change, beyond, now, then)}"


def _worst(
    name: str,
    change: Mapping[str, float],
    bound: float,
    now: Mapping[str, SublayerError],
    then: Mapping[str, SublayerError],
) -> str:
    """Describe the places that moved most, at most three, with old and new figures, and the number of other
    moved places."""
    places = sorted((place for place in change if change[place] > bound), key=lambda one: -change[one])
    if name == "sketch":
        words = [f"{place} by {change[place]:.2g}" for place in places[:3]]
    else:
        figures = [(place, getattr(then[place], name), getattr(now[place], name)) for place in places[:3]]
        words = [f"{place} {before:.4g} → {after:.4g}" for place, before, after in figures]
    return ", ".join(words) + (f" and {len(places) - 3} more" if len(places) > 3 else "")
