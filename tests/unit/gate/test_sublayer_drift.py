from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from mxcheck.gate.sublayer_drift import (
    FIGURES,
    NOISE_MULTIPLE,
    SublayerError,
    SublayerNoise,
    check_sublayers,
    moves,
    sublayer_error_from_dict,
    sublayer_noise,
    sublayer_noise_from_dict,
)

ERROR = SublayerError(
    gain=-0.006, gain_99=0.05, norm=0.06, norm_99=0.1, size=0.3, sketch=(100, -100, 100, -100) * 16
)
PLACES = {f"layers.{index}.{part}": ERROR for index in range(4) for part in ("attention", "mlp", "layer")}
QUIET = SublayerNoise(typical=dict.fromkeys(FIGURES, 0.0), largest=dict.fromkeys(FIGURES, 0.0))

every_figure = pytest.mark.parametrize("figure", FIGURES)


def shifted(figure: str, change: float) -> SublayerError:
    """`ERROR` with one figure moved by `change` of that figure's own unit."""
    if figure == "sketch":
        # one of 64 entries, all of size 100: the distance is that entry's change over 100 * 8
        return replace(ERROR, sketch=(round(100 + 800 * change), *ERROR.sketch[1:]))
    units = {"gain": ERROR.norm, "gain_99": ERROR.norm_99}
    before = getattr(ERROR, figure)
    return replace(ERROR, **{figure: before + change * units.get(figure, before)})


def failed(now: dict[str, SublayerError], **how: Any) -> dict[str, str]:
    options = {"same_arithmetic": False, "noise": QUIET} | how
    return {key: text for key, passed, text in check_sublayers(now, PLACES, **options) if not passed}


@every_figure
def test_a_move_is_measured_in_the_figure_s_own_unit(figure: str) -> None:
    assert moves({"a": shifted(figure, 0.25)}, {"a": ERROR}, figure) == {"a": pytest.approx(0.25)}


@every_figure
def test_one_place_beyond_its_bound_fails_that_figure_alone_and_is_named(figure: str) -> None:
    bound = FIGURES[figure].largest
    place = "layers.2.mlp"

    assert failed({**PLACES, place: shifted(figure, 0.5 * bound)}) == {}
    found = failed({**PLACES, place: shifted(figure, 1.5 * bound)})
    assert list(found) == [figure]
    assert place in found[figure]
    assert "layers.1" not in found[figure]
    assert f"bound {bound:.2e}" in found[figure]


@every_figure
def test_a_small_move_of_all_places_fails_though_none_alone_would(figure: str) -> None:
    change = 2 * FIGURES[figure].typical
    assert change < FIGURES[figure].largest
    assert failed({**PLACES, "layers.2.mlp": shifted(figure, change)}) == {}
    assert list(failed(dict.fromkeys(PLACES, shifted(figure, change)))) == [figure]


@pytest.mark.parametrize("figure", [figure for figure in FIGURES if figure != "size"])
def test_on_a_machine_of_the_same_arithmetic_the_least_move_fails(figure: str) -> None:
    one_unit = 1 / 800 if figure == "sketch" else 1e-8
    now = {**PLACES, "layers.2.mlp": shifted(figure, one_unit)}

    assert failed(now) == {}
    assert list(failed(now, same_arithmetic=True)) == [figure]
    assert failed(PLACES, same_arithmetic=True) == {}


def test_a_reference_that_moved_is_not_the_same_arithmetic() -> None:
    """Products of other shapes may be equal and the layers' not: then the bounds of other machines hold."""
    moved = replace(shifted("norm", 1e-8), size=ERROR.size * (1 + 1e-8))
    assert failed({**PLACES, "layers.2.mlp": moved}, same_arithmetic=True) == {}
    beyond = replace(ERROR, size=ERROR.size * (1 + 2 * FIGURES["size"].largest))
    assert list(failed({**PLACES, "layers.2.mlp": beyond}, same_arithmetic=True)) == ["size"]


@every_figure
def test_measured_noise_widens_both_bounds_of_its_figure(figure: str) -> None:
    spec = FIGURES[figure]
    noise = SublayerNoise(
        typical={**QUIET.typical, figure: 2 * spec.typical},
        largest={**QUIET.largest, figure: 2 * spec.largest},
    )
    one = {**PLACES, "layers.2.mlp": shifted(figure, 1.5 * NOISE_MULTIPLE * spec.largest)}
    everywhere = dict.fromkeys(PLACES, shifted(figure, 1.5 * NOISE_MULTIPLE * spec.typical))

    for now in (one, everywhere):
        assert list(failed(now)) == [figure]
        assert list(failed(now, noise=None)) == [figure]
        assert failed(now, noise=noise) == {}


def test_an_error_that_appears_or_goes_is_an_infinite_move() -> None:
    exact = SublayerError(gain=0.0, gain_99=0.0, norm=0.0, norm_99=0.0, size=0.3, sketch=())
    assert list(failed({**PLACES, "layers.0.mlp": exact})) == ["gain", "gain_99", "norm", "norm_99", "sketch"]
    for figure in ("gain", "norm", "sketch"):
        assert moves({"a": ERROR}, {"a": exact}, figure) == {"a": float("inf")}
        assert moves({"a": exact}, {"a": exact}, figure) == {"a": 0.0}


def test_other_places_are_one_failure_and_nothing_else_is_compared() -> None:
    less = {place: error for place, error in PLACES.items() if not place.startswith("layers.3")}
    lost = check_sublayers(less, PLACES, same_arithmetic=True, noise=None)
    added = check_sublayers({**PLACES, "layers.9.mlp": ERROR}, PLACES, same_arithmetic=True, noise=None)

    assert lost == [
        ("places", False, "no longer measured: layers.3.attention, layers.3.layer, layers.3.mlp"),
    ]
    assert added == [("places", False, "newly measured: layers.9.mlp")]
    assert [passed for _, passed, _ in check_sublayers({}, {}, same_arithmetic=True, noise=None)] == [False]


def test_of_two_places_one_may_move_as_far_as_the_worst() -> None:
    two = {"layers.0.attention": ERROR, "layers.0.mlp": ERROR}
    now = {**two, "layers.0.mlp": shifted("norm", 0.5 * FIGURES["norm"].largest)}
    checks = check_sublayers(now, two, same_arithmetic=False, noise=QUIET)
    assert all(passed for _, passed, _ in checks)


def test_noise_is_the_worst_environment_by_figure() -> None:
    quiet = {**PLACES, "layers.0.mlp": shifted("norm", 0.125)}
    loud = dict.fromkeys(PLACES, shifted("norm", 0.0625))
    noise = sublayer_noise(PLACES, [quiet, loud])

    assert noise.typical["norm"] == pytest.approx(0.0625)
    assert noise.largest["norm"] == pytest.approx(0.125)
    assert noise.typical["size"] == noise.largest["size"] == 0.0


@pytest.mark.parametrize(
    ("trials", "message"),
    [
        ([], "at least one trial"),
        ([{"layers.0.mlp": ERROR}], "different places"),
        ([dict.fromkeys(PLACES, replace(ERROR, sketch=()))], "no noise"),
    ],
)
def test_what_is_no_noise_is_refused(trials: list[dict[str, SublayerError]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sublayer_noise(PLACES, trials)


def test_both_survive_json() -> None:
    assert sublayer_error_from_dict(json.loads(json.dumps(ERROR.as_dict())), where="here") == ERROR
    noise = sublayer_noise(PLACES, [PLACES])
    assert sublayer_noise_from_dict(json.loads(json.dumps(noise.as_dict())), where="here") == noise


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gain": float("nan")}, "here: gain must be a finite number, got nan"),
        ({"gain": True}, "here: gain must be a finite number, got True"),
        ({"norm": "0.1"}, "here: norm must be a finite number, got '0.1'"),
        ({"sketch": [1, 2.5]}, "here: sketch must be a list of whole numbers"),
        ({"sketch": "12"}, "here: sketch must be a list of whole numbers"),
        ({"more": 1.0}, "unknown fields: more"),
    ],
)
def test_a_spoilt_error_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sublayer_error_from_dict({**ERROR.as_dict(), **change}, where="here")


def test_a_missing_field_is_refused_by_name() -> None:
    fields = ERROR.as_dict()
    del fields["size"]
    with pytest.raises(ValueError, match="here: missing fields: size"):
        sublayer_error_from_dict(fields, where="here")
    with pytest.raises(ValueError, match="here: must be a table"):
        sublayer_error_from_dict([], where="here")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("typical", "message"),
    [
        ({}, "here: typical must hold gain, gain_99"),
        ({**QUIET.typical, "norm": -1.0}, "here: typical of norm must be 0 or more, got -1.0"),
        ({**QUIET.typical, "norm": float("inf")}, "here: typical of norm must be a finite number"),
    ],
)
def test_spoilt_noise_is_refused_by_name(typical: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sublayer_noise_from_dict({**QUIET.as_dict(), "typical": typical}, where="here")


@every_figure
def test_in_16_bits_another_machine_may_move_ten_times_as_much_and_the_sketch_freely(figure: str) -> None:
    bound = 10 * FIGURES[figure].largest
    one = {**PLACES, "layers.2.mlp": shifted(figure, 0.9 * bound)}
    assert list(failed(one)) == [figure]
    assert failed(one, in_16_bits=True) == {}
    # A reference that moved says that this is another machine.
    here = failed(one, in_16_bits=True, same_arithmetic=True)
    assert list(here) == ([] if figure == "size" else [figure])
    more = {**PLACES, "layers.2.mlp": shifted(figure, 1.1 * bound)}
    assert list(failed(more, in_16_bits=True)) == ([] if figure == "sketch" else [figure])
