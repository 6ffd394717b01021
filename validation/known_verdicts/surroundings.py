"""Examples of statistics, baseline files, names of cases, and bounds."""

from __future__ import annotations

import re
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mxcheck.gate.baseline import BaselineError, baseline_paths, decode, encode
from mxcheck.gate.bounds_tables import BoundsTables, load_bounds
from mxcheck.gate.case import Case, case_of
from mxcheck.gate.statistics import UPPER_95, differences, largest, mean_and_error, median_abs, rms
from validation.known_verdicts.expectation import expect
from validation.known_verdicts.healthy import HEALTHY


def _rounded(value: float) -> float:
    return round(value, 12)


STATISTICS = (
    expect("differences", "after less before", lambda: differences([3.0, 5.0], [1.0, 9.0]), [2.0, -4.0]),
    expect(
        "mean",
        "mean and standard error",
        lambda: [*map(_rounded, mean_and_error([1.0, 2.0, 3.0, 6.0]))],
        [3.0, 1.080123449735],
    ),
    expect("mean-of-one", "a single value has no error", lambda: str(mean_and_error([1.0])), "(1.0, inf)"),
    expect(
        "mean-not-a-number",
        "a NaN is not left out",
        lambda: str(mean_and_error([1.0, float("nan"), 2.0])),
        "(nan, nan)",
    ),
    expect("rms", "root mean square", lambda: _rounded(rms([3.0, -4.0])), 3.535533905933),
    expect(
        "typical",
        "median of the absolute values",
        lambda: (median_abs([1.0, -3.0, 8.0]), str(median_abs([float("nan"), 1.0, 2.0]))),
        (3.0, "nan"),
    ),
    expect(
        "largest", "largest absolute value", lambda: (largest([1.0, -3.0]), largest([2.0, -1.0])), (3.0, 2.0)
    ),
    expect("upper-95", "quantile of the upper bound", lambda: _rounded(UPPER_95), 1.644853626951),
)


def _read(text: str) -> str:
    """Return why a baseline's text is refused, in a word; or "taken"."""
    try:
        decode(text, where="example")
    except BaselineError as error:
        return next((word for word in ("format version", "seal") if word in str(error)), str(error))
    return "taken"


def _edited(pattern: str, new: str) -> str:
    return _read(re.sub(pattern, new, encode(HEALTHY), count=1))


FILES = (
    expect(
        "file",
        "a baseline is read as it was written",
        lambda: decode(encode(HEALTHY), where="example") == HEALTHY,
        True,
    ),
    expect(
        "file-last-digit",
        "and to the last bit",
        lambda: decode(encode(replace(HEALTHY, entropy=1 / 3)), where="example").entropy == 1 / 3,
        True,
    ),
    expect(
        "file-seal",
        "a digit of the noise was changed",
        partial(_edited, '"loss_rms": 0.01', '"loss_rms": 0.09'),
        "seal",
    ),
    expect("file-seal-loss", "a digit of a loss was changed", partial(_edited, "2\\.106", "2.107"), "seal"),
    expect(
        "file-no-seal",
        "the seal was taken out",
        partial(_edited, '"seal": "[0-9a-f]*"', '"seal": null'),
        "seal",
    ),
    expect(
        "file-version",
        "another format version",
        partial(_edited, '"format_version": [0-9]+', '"format_version": 999'),
        "format version",
    ),
)


def _places(device: str, *overrides: str) -> tuple[str, str]:
    """Return the paths that are read and would be written on a device, with the common file and these
    overrides present."""
    case = Case(model="example", precision="bf16")
    with tempfile.TemporaryDirectory(prefix="mxcheck-example-") as folder:
        common = Path(folder) / case.baseline
        common.parent.mkdir(exist_ok=True)
        for name in ("bf16", *(f"bf16@{one}" for one in overrides)):
            common.with_name(f"{name}.json").touch()
        read, write = baseline_paths(Path(folder), case, device)
    return read.stem, write.stem


_GPU = "cuda-sm90"
OVERRIDES = (
    expect("place-cpu", "on a CPU", lambda: _places("cpu"), ("bf16", "bf16")),
    expect("place-cpu-beside", "and a GPU's own is there", lambda: _places("cpu", _GPU), ("bf16", "bf16")),
    expect("place-cpu-own", "and its own is there", lambda: _places("cpu", "cpu"), ("bf16@cpu", "bf16@cpu")),
    expect("place-gpu", "on a GPU", lambda: _places(_GPU), ("bf16", f"bf16@{_GPU}")),
    expect(
        "place-gpu-own", "and its own is there", lambda: _places(_GPU, _GPU), (f"bf16@{_GPU}", f"bf16@{_GPU}")
    ),
    expect(
        "place-gpu-other",
        "and another GPU's is there",
        lambda: _places(_GPU, "cuda-sm80"),
        ("bf16", f"bf16@{_GPU}"),
    ),
)

_CASE = Case(model="example", precision="mxfp8_e4m3", tier="A", options=("rceil", "attention"))
NAMES = (
    expect(
        "path",
        "where a baseline lies",
        lambda: _CASE.baseline.as_posix(),
        "example/mxfp8_e4m3-A+rceil+attention.json",
    ),
    expect(
        "path-model",
        "another model's lies elsewhere",
        lambda: replace(_CASE, model="other").baseline.as_posix(),
        "other/mxfp8_e4m3-A+rceil+attention.json",
    ),
    expect(
        "path-precision",
        "another precision's does",
        lambda: replace(_CASE, precision="mxint8").baseline.as_posix(),
        "example/mxint8-A+rceil+attention.json",
    ),
    expect(
        "path-tier",
        "another tier's does",
        lambda: replace(_CASE, tier="B").baseline.as_posix(),
        "example/mxfp8_e4m3-B+rceil+attention.json",
    ),
    expect(
        "path-options",
        "that of other options does",
        lambda: replace(_CASE, options=()).baseline.as_posix(),
        "example/mxfp8_e4m3-A.json",
    ),
    expect(
        "bounds-key", "the line of the table of bounds", lambda: _CASE.bounds_key, "mxfp8_e4m3-A+attention"
    ),
    expect(
        "bounds-key-plain",
        "options that quantize no more have none",
        lambda: replace(_CASE, options=("rceil",)).bounds_key,
        "mxfp8_e4m3-A",
    ),
    expect(
        "bounds-key-all",
        "options that quantize more",
        lambda: replace(_CASE, options=("even", "attention", "outputs", "global-e4m3")).bounds_key,
        "mxfp8_e4m3-A+attention+outputs+global-e4m3",
    ),
)

_THEIRS = {"default": {"s": {"kl": 1.0}}, "models": {"m": {"t": {"kl": 2.0}}}}
_OURS = {
    "default": {
        "s": {"kl": 3.0},
        "s+attention": {"kl": 4.0},
        "t": {"kl": 5.0},
        "u": {"kl": 6.0, "rise": 7.0},
        "u+attention": {"kl": 8.0},
        "u+outputs": {"kl": 9.0},
    },
    "models": {"m": {"s": {"kl": 10.0}, "u": {"kl": 11.0, "rise": 0.5}}},
}


def _bounds(model: str, name: str) -> tuple[Any, ...]:
    return _numbers(BoundsTables([_THEIRS, _OURS]), case_of(model, name))


def _numbers(table: BoundsTables, case: Case) -> tuple[Any, ...]:
    try:
        found = table.of(case)
    except ValueError:
        return ("refused",)
    return found.kl, found.rise


def _loaded() -> tuple[Any, ...]:
    with tempfile.TemporaryDirectory(prefix="mxcheck-example-") as folder:
        path = Path(folder) / "bounds.toml"
        path.write_text('[default]\n"mxfp8_e4m3-A" = { kl = 0.75, rise = 0.5 }\n', encoding="utf-8")
        return _numbers(load_bounds(str(path)), case_of("ref-llama", "mxfp8_e4m3-A"))


BOUNDS = (
    expect("bounds-theirs", "the user's line comes before ours", lambda: _bounds("m", "s"), (1.0, 1.0)),
    expect("bounds-theirs-model", "the user's line of the model", lambda: _bounds("m", "t"), (2.0, 2.0)),
    expect("bounds-default", "another model has the common line", lambda: _bounds("n", "t"), (5.0, 5.0)),
    expect(
        "bounds-model", "the model's line comes before the common one", lambda: _bounds("m", "u"), (11.0, 0.5)
    ),
    expect("bounds-rise", "a rise has its own bound", lambda: _bounds("n", "u"), (6.0, 7.0)),
    expect("bounds-own", "a case name has its own line", lambda: _bounds("n", "u+attention"), (8.0, 8.0)),
    expect(
        "bounds-fewer",
        "else the largest of those with fewer options",
        lambda: _bounds("n", "u+attention+outputs"),
        (9.0, 9.0),
    ),
    expect(
        "bounds-none", "a case name without a line has no bounds", lambda: _bounds("n", "v"), ("refused",)
    ),
    expect("bounds-file", "the file of --mx-bounds comes before our table", _loaded, (0.75, 0.5)),
)

SURROUNDINGS = (*STATISTICS, *FILES, *OVERRIDES, *NAMES, *BOUNDS)
