"""Exhaustive sweeps on small spans: what they compare with, what they find, and how they go on."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mxcheck.formats.elements import ELEMENT_FORMATS, ElementFormat
from mxcheck.formats.oracle import quantize_block
from mxcheck.formats.spec import CastSpec, cast_spec
from mxcheck.kernels import rules
from validation import ROOT
from validation.commands.main import main
from validation.second_oracle.bit_tables import encode_bits, encode_range, scale_thresholds
from validation.sweeps import bit_sweep, sweep_run
from validation.sweeps.bit_sweep import compare
from validation.sweeps.sweep import Sweep, SweepResult, sweeps
from validation.sweeps.sweep_run import run
from validation.sweeps.sweep_state import SOURCES, sweep_sources_digest

INF, SIGN, END = 0x7F80_0000, 1 << 31, 1 << 32

each_sweep = pytest.mark.parametrize("sweep", sweeps(), ids=lambda sweep: sweep.name)


def without_time(results: list[SweepResult]) -> list[tuple[object, ...]]:
    return [(one.sweep, one.compared, one.excluded, one.mismatches, one.first) for one in results]


# The sweeps


def test_every_cast_once() -> None:
    names = [sweep.name for sweep in sweeps()]
    assert (
        len(names) == len(set(names)) == 7 * 3 + 7 * 4 - 1 + 2
    )  # mxint8 has no rule `even`, and the FP8 formats have `reciprocal`
    assert names[:3] == ["fp8_e4m3-element-even", "fp8_e4m3-block-floor", "fp8_e5m2-element-even"]
    assert [sweep.name for sweep in sweeps(["mxint8", "mxint8"])] == [
        *("mxint8-element-even", "mxint8-block-floor", "mxint8-block-ceil", "mxint8-block-rceil"),
        *("mxint8-element-away", "mxint8-element-zero"),
    ]
    with pytest.raises(ValueError, match="unknown format 'fp9'; allowed: fp8_e4m3"):
        sweeps(["fp9"])


# What they compare with


@each_sweep
def test_expected_codes_are_the_table_search(sweep: Sweep) -> None:
    """The runs of one code, put together, against the same table one input at a time."""
    element = ELEMENT_FORMATS[sweep.format]
    for start in (0, 0x3F80_0000 - 5000, INF - 5000, SIGN, SIGN + 0x3AFF_F000, SIGN + INF - 5000):
        bits = np.arange(start, start + 10_000, dtype=np.int64)
        *scales, codes = bit_sweep._expected(sweep, element, start, start + len(bits), "cpu")
        if sweep.scale_rule is None:
            expected = encode_range(start, start + len(bits), element, sweep.rounding)
            assert np.array_equal(codes.numpy(), expected)
            continue
        amax = (bits & (SIGN - 1)).astype(np.uint32)
        of_amax = np.searchsorted(scale_thresholds(element, sweep.scale_rule), amax, side="right")
        of_amax[amax >= INF] = 255
        assert np.array_equal(scales[0].numpy(), of_amax)
        for scale in np.unique(of_amax).tolist():
            place = of_amax == scale
            numbers = bits[place].astype(np.uint32)
            expected = np.zeros(len(numbers), np.uint8)
            if scale < 255:
                expected = encode_bits(numbers, element, "even", scale - 127)
            assert np.array_equal(codes.numpy()[place], expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fp8_e5m2", "fp6_e2m3", "mxint8"])
def test_expected_blocks_are_those_of_the_first_oracle(name: str) -> None:
    sweep = Sweep(format=name, scale_rule="rceil")
    drawn = np.random.default_rng(0).integers(0, END, 200).tolist()
    for bits in [0, 1, SIGN, 0x7F_FFFF, INF - 1, INF, INF + 1, END - 1, *drawn]:
        value = float(np.uint32(bits).view(np.float32))
        codes, scale = quantize_block([value], cast_spec(name, block_size=1, scale_rule="rceil"))
        expected = bit_sweep._expected(sweep, ELEMENT_FORMATS[name], bits, bits + 1, "cpu")
        assert [part.tolist() for part in expected] == [[scale], list(codes)]


@each_sweep
def test_ours_is_exact_at_the_ends_of_every_stretch(sweep: Sweep) -> None:
    """Around zero, one, the largest number and the end, of either sign; NaNs are left out without a code."""
    nans = 0 if sweep.scale_rule or ELEMENT_FORMATS[sweep.format].nan_magnitudes else 999
    for middle, excluded in ((0x3F80_0000, 0), (INF, nans), (SIGN + 1000, 0), (SIGN + INF, nans)):
        result = compare(sweep, middle - 1000, middle + 1000)
        assert (result.mismatches, result.first) == (0, ())
        assert (result.compared, result.excluded) == (2000 - excluded, excluded)
    end = compare(sweep, END - 70_000, END)
    assert (end.mismatches, end.compared) == (0, 0 if nans else 70_000)
    across = compare(sweep, SIGN - 1000, SIGN + 1000)
    assert (across.mismatches, across.compared) == (0, 1000 if nans else 2000)


# What they find


def put_rounding(patch: pytest.MonkeyPatch, name: str, wrong: Callable[..., None]) -> None:
    patch.setitem(rules.ROUNDINGS, name, wrong)  # type: ignore[arg-type]


def put_scale_rule(patch: pytest.MonkeyPatch, name: str, wrong: Callable[..., Tensor]) -> None:
    patch.setitem(rules.SCALE_RULES, name, wrong)  # type: ignore[arg-type]


def test_finds_ties_away_from_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    put_rounding(monkeypatch, "even", rules.ROUNDINGS["away"])
    result = compare(Sweep(format="fp8_e4m3"), 0x3A00_0000, 0x3C80_0000)
    # Four of the eight ties between subnormals: 0.5, 2.5, 4.5 and 6.5 times 2^-9.
    assert [diff.bits for diff in result.first] == [0x3A80_0000, 0x3BA0_0000, 0x3C10_0000, 0x3C50_0000]
    assert result.mismatches == 4
    assert str(result.first[0]) == "input 3a800000: got code 01, expected code 00"


def test_finds_a_single_wrong_input(monkeypatch: pytest.MonkeyPatch) -> None:
    right = rules.ROUNDINGS["even"]

    def wrong(values: Tensor, binade: Tensor, bits: int, random: Tensor | None) -> None:
        tie = values == -5.0
        right(values, binade, bits, random)
        values[tie] = -6.0

    put_rounding(monkeypatch, "even", wrong)
    result = compare(Sweep(format="fp4_e2m1"), SIGN + 0x4000_0000, SIGN + 0x4200_0000)
    assert result.mismatches == 1
    assert str(result.first[0]) == "input c0a00000: got code 0f, expected code 0e"


def test_finds_flushed_subnormals(monkeypatch: pytest.MonkeyPatch) -> None:
    right = rules.ROUNDINGS["even"]

    def wrong(values: Tensor, binade: Tensor, bits: int, random: Tensor | None) -> None:
        right(values, binade, bits, random)
        values[values.abs() < 2.0**-6] = 0.0  # below the smallest normal number of E4M3

    put_rounding(monkeypatch, "even", wrong)
    sweep = Sweep(format="fp8_e4m3")
    result = compare(sweep, 0x3A00_0000, 0x3D00_0000)
    # All that is rounded to a subnormal: above half the smallest, below the tie with the smallest normal one.
    assert str(result.first[0]) == "input 3a800001: got code 00, expected code 01"
    assert result.mismatches == 0x3C70_0000 - 0x3A80_0001
    assert compare(sweep, SIGN + 0x3A00_0000, SIGN + 0x3D00_0000).first[0].bits == SIGN + 0x3A80_0001


def test_finds_a_wrong_scale_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    put_scale_rule(monkeypatch, "rceil", rules.SCALE_RULES["floor"])
    result = compare(Sweep(format="fp8_e4m3", scale_rule="rceil"), 0x3F80_0000, 0x4000_0000)
    # 1.75 is the largest significand of E4M3: from there on rceil takes the next scale, floor does not.
    assert str(result.first[0]) == "input 3fe00001: got scale 77, code 7e, expected scale 78, code 76"
    assert result.mismatches == 0x4000_0000 - 0x3FE0_0001


def test_finds_one_wrong_amax(monkeypatch: pytest.MonkeyPatch) -> None:
    right = rules.SCALE_RULES["ceil"]

    def wrong(amax: Tensor, element: ElementFormat) -> Tensor:
        return right(amax, element) - (amax == 0x7E80_0001).int()

    put_scale_rule(monkeypatch, "ceil", wrong)
    for sign in (0, SIGN):
        result = compare(Sweep(format="fp4_e3m0", scale_rule="ceil"), sign + 0x7E80_0000, sign + 0x7E90_0000)
        assert (result.mismatches, result.first[0].bits) == (1, sign + 0x7E80_0001)


def test_finds_a_poisoned_block_with_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN and Inf are compared as well: scale FF, code 0."""
    right = bit_sweep.quantize_eager

    def wrong(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        codes, scales = right(x, spec)[:2]
        return codes.masked_fill_(x.isinf(), 1), scales

    monkeypatch.setattr(bit_sweep, "quantize_eager", wrong)
    result = compare(Sweep(format="fp6_e2m3", scale_rule="floor"), INF - 9, INF + 9)
    assert [str(diff) for diff in result.first] == [
        "input 7f800000: got scale ff, code 01, expected scale ff, code 00"
    ]


def test_any_nan_code_will_do_but_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, bits = Sweep(format="fp8_e5m2"), (INF - 1, INF + 3)
    for code, mismatches in ((0x7D, 0), (0x7F, 0), (0xFE, 0), (0x7C, 2), (0x7B, 2)):
        kernel = partial(_with_nan, code=code)
        monkeypatch.setattr(bit_sweep, "cast_elements", kernel)
        assert compare(sweep, *bits).mismatches == mismatches, hex(code)


def _with_nan(values: Tensor, element: ElementFormat, rounding: str, *, code: int) -> Tensor:
    del element, rounding
    return torch.where(values.isnan(), code, 0x7B).to(torch.uint8)


def test_the_first_differences_are_those_of_the_smallest_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    put_rounding(monkeypatch, "even", rules.ROUNDINGS["zero"])
    small = partial(run, [Sweep(format="fp8_e4m3")], span=range(0x3F80_0000, 0x3FA0_0000))
    (whole,), (parts,) = small(), small(chunk=1 << 12)
    assert without_time([whole]) == without_time([parts])
    assert [diff.bits for diff in whole.first] == list(range(0x3F88_0001, 0x3F88_0009))


# How they go on

SPAN, CHUNK = range(0x3F86_0000, 0x3F8A_0000), 1 << 16  # 17/16 is in the middle of it, a tie of E4M3
CHOSEN = [Sweep(format="fp8_e4m3"), Sweep(format="mxint8", scale_rule="floor")]
small_run = partial(run, CHOSEN, span=SPAN, chunk=CHUNK)


class StoppedError(Exception):
    """As if somebody had pressed Ctrl-C."""


def stop_after(chunks: int) -> Callable[[Sweep, int, int], None]:
    def progress(sweep: Sweep, done: int, total: int) -> None:
        del sweep
        assert total == 8
        if done == chunks:
            raise StoppedError

    return progress


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The chunks that are compared, as they are."""
    seen: list[tuple[str, int]] = []

    def counted(sweep: Sweep, start: int, stop: int, device: str = "cpu") -> SweepResult:
        seen.append((sweep.name, start))
        return compare(sweep, start, stop, device)

    monkeypatch.setattr(sweep_run, "compare", counted)
    return seen


@pytest.mark.parametrize("chunks", [1, 3, 4, 7])
def test_goes_on_where_it_was_stopped(
    chunks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starts: list[tuple[str, int]]
) -> None:
    put_rounding(monkeypatch, "even", rules.ROUNDINGS["zero"])  # so that there is something to add up
    whole = small_run()
    assert all(one.mismatches for one in whole)
    expected, path = starts.copy(), tmp_path / "deep" / "state.json"
    starts.clear()
    with pytest.raises(StoppedError):
        small_run(state_path=path, progress=stop_after(chunks))
    assert starts == expected[:chunks]
    seen: list[int] = []
    again = small_run(state_path=path, progress=lambda _sweep, done, _total: seen.append(done))
    assert starts == expected
    assert seen == list(range(chunks, 9))
    assert without_time(again) == without_time(whole)
    starts.clear()
    assert without_time(small_run(state_path=path)) == without_time(whole)
    assert starts == []


def test_keeps_what_other_formats_have_finished(tmp_path: Path, starts: list[tuple[str, int]]) -> None:
    path = tmp_path / "state.json"
    for chosen in (CHOSEN[:1], CHOSEN[1:], CHOSEN):
        run(chosen, span=SPAN, chunk=CHUNK, state_path=path)
    assert len(starts) == len(set(starts)) == 8


def test_two_processes_find_what_one_does(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    assert without_time(small_run(jobs=2, state_path=path)) == without_time(small_run())
    assert [len(entry["chunks"]) for entry in json.loads(path.read_text())["sweeps"]] == [4, 4]


def test_other_sources_start_over(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    starts: list[tuple[str, int]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "state.json"
    small_run(state_path=path)
    monkeypatch.setattr(sweep_run, "sweep_sources_digest", lambda: "another")
    with caplog.at_level(logging.WARNING):
        small_run(state_path=path)
    assert caplog.messages == [f"mxcheck: {path} is of other sources: starting over"]
    assert len(starts) == 16
    small_run(state_path=path)
    assert len(starts) == 16


def test_the_digest_is_that_of_the_code(tmp_path: Path) -> None:
    for name in SOURCES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    digest = sweep_sources_digest()
    assert sweep_sources_digest(tmp_path) == digest
    for name in SOURCES:
        path = tmp_path / name
        text = path.read_text()
        comment = "# and a comment\n" if path.suffix == ".py" else "  // and a comment\n"
        path.write_text(text.replace('"""', '"""Another docstring. ', 1) + comment)
        assert sweep_sources_digest(tmp_path) == digest
        path.write_text(f"{text}\n_another = 1\n")
        assert sweep_sources_digest(tmp_path) != digest
        path.write_text(text)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda text: text[:-20], id="cut-off"),
        pytest.param(lambda _: "[]", id="another-file"),
        pytest.param(lambda _: "", id="empty"),
        pytest.param(lambda text: text.replace('"compared"', '"compered"'), id="no-count"),
        pytest.param(lambda text: text.replace('"rounding"', '"rouding"'), id="no-such-field"),
        pytest.param(lambda text: text.replace("[0, 1", "[0, 4"), id="no-such-chunk"),
        pytest.param(lambda text: text.replace("131072", "131071"), id="no-such-sum"),
    ],
)
def test_a_damaged_state_is_refused(damage: Callable[[str], str], tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    with pytest.raises(StoppedError):
        small_run(state_path=path, progress=stop_after(2))
    text = path.read_text()
    path.write_text(damage(text))
    assert path.read_text() != text
    with pytest.raises(ValueError, match=r"state\.json is no state of .* delete it to start over") as refused:
        small_run(state_path=path)
    assert "\n" not in str(refused.value)


def test_two_runs_do_not_share_a_state(tmp_path: Path) -> None:
    path = tmp_path / "state.json"

    def second(sweep: Sweep, done: int, total: int) -> None:
        del sweep, total
        if done == 1:
            with pytest.raises(ValueError, match="another exhaustive run is writing"):
                small_run(state_path=path)

    small_run(state_path=path, progress=second)


# The command

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command on a small span."""
    monkeypatch.setattr(sweep_run, "run", partial(run, span=SPAN, chunk=CHUNK))


@pytest.mark.usefixtures("short")
def test_command(tmp_path: Path, capsys: Capture) -> None:
    words = ["exhaustive", "--format", "fp4_e2m1,mxint8", "--device", "cpu"]
    words += ["--state", str(tmp_path / "state.json"), "--summary", str(tmp_path / "docs" / "sweeps.md")]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "fp4_e2m1-block-rceil" in out
    assert "mxint8-element-zero" in out
    text = (tmp_path / "docs" / "sweeps.md").read_text()
    assert "**3,407,872 inputs in 13 sweeps, 0 mismatches.**" in text
    assert "| fp4_e2m1-block-even | 262,144 | 0 | 0 | " in text
    data = json.loads((tmp_path / "docs" / "sweeps.json").read_text())
    assert data["sources"] == sweep_sources_digest()
    assert [row["inputs"] for row in data["sweeps"]] == [262_144] * 13


@pytest.mark.usefixtures("short")
def test_command_tells_what_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    put_scale_rule(monkeypatch, "rceil", lambda amax, element: rules.SCALE_RULES["floor"](amax, element) + 1)
    words = ["exhaustive", "--format", "fp4_e2m1", "--device", "cpu", "--summary", str(tmp_path / "x.md")]
    assert main(words) == 1
    lines = [
        "mxcheck: fp4_e2m1-block-rceil: 262,144 of 262,144 inputs differ; the first:",
        "  input 3f860000: got scale 7e, code 04, expected scale 7d, code 06",
        "  input 3f860001: got scale 7e, code 04, expected scale 7d, code 06",
    ]
    for text in (capsys.readouterr().out, (tmp_path / "x.md").read_text()):
        assert "\n".join(lines) in text
        assert "mxcheck explain fp4_e2m1 --hex 3f860000 --block-size 1 --scale-rule rceil --kernel" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["--format", "fp9"], "unknown format 'fp9'", id="format"),
        pytest.param(["--device", "gpu"], "unknown --device 'gpu'; allowed: auto, cpu, cuda", id="device"),
        pytest.param(["--jobs", "0"], "--jobs must be at least 1, got 0", id="jobs"),
        pytest.param(["--summary", "x.json"], "--summary names the Markdown file", id="summary"),
    ],
)
def test_command_refuses(words: list[str], message: str, capsys: Capture) -> None:
    assert main(["exhaustive", *words]) == 2
    assert message in capsys.readouterr().err
