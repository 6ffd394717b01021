"""`mxcheck models` and `mxcheck ladder`: what they print, and what they load to do so."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence

import pytest
from rich.table import Table

from mxcheck.cli import main
from mxcheck.models.backends.backend import BACKEND_PRECISIONS, backend
from mxcheck.models.recipes.ladder import LADDER, MIXED_TIERS, TIERS, WHOLE_MODEL
from mxcheck.models.zoo.cards import CARDS
from mxcheck.models.zoo.known_models import REFERENCE_MODELS, model_source
from mxcheck.models.zoo.load import load
from mxcheck.reporting.models_table import Memory, ModelRow, PrecisionRow, ladder_table, models_table, reasons

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


def printed(capsys: Capture, *arguments: str) -> str:
    """What a command prints. Nothing is cut, however narrow a terminal would be."""
    assert main(list(arguments)) == 0
    output = capsys.readouterr().out
    assert "…" not in output
    return output


def rows(output: str, names: Sequence[str]) -> dict[str, str]:
    """The lines of a table whose first cell is one of `names`, with single spaces."""
    found = [" ".join(line.split()) for line in output.splitlines() if line.startswith(" ")]
    return {line.split()[0]: line for line in found if line and line.split()[0] in names}


# Models


def test_every_model_is_a_row(capsys: Capture) -> None:
    names = [*REFERENCE_MODELS, *CARDS]
    assert list(rows(printed(capsys, "models"), names)) == names


def test_a_model_that_is_made_is_told(capsys: Capture) -> None:
    line = (
        "smollm2-135m-instruct-q4: `make real-model` writes it to build/real-model/smollm2-135m-instruct-q4"
    )
    assert printed(capsys, "models").splitlines()[-1] == line


@pytest.mark.parametrize("name", CARDS)
def test_a_card_in_figures(capsys: Capture, name: str) -> None:
    card = CARDS[name]
    row = rows(printed(capsys, "models"), [name])[name]
    revision = card.revision if card.revision == "main" else card.revision[:12]
    assert row.startswith(f"{name} {card.hub_id} {revision} {card.architecture} {card.dtype} ")
    assert f" {card.batch_size} of {card.sequence_length} " in row
    for dtype in ("bfloat16", "float32"):
        alone, each = (f"{found(dtype) / 2**30:.1f}" for found in (card.bytes_needed, card.bytes_per_device))
        assert f" {alone} {card.devices(dtype)} of {each}" in row
    assert row.endswith(" gated") == card.gated
    assert row.endswith(" *.bin only") != card.safetensors


def test_llama_as_a_reader_sees_it(capsys: Capture) -> None:
    """Worked out by hand: 2 x 8.03e9 weights of 2 bytes are 29.9 GiB, logits 8 x 2048 x 128256 x 2 bytes 3.9,
    scores 8 x 32 x 2048^2 x 8 bytes 8.0, and 2 GiB besides."""
    row = rows(printed(capsys, "models"), ["llama-3.1-8b"])["llama-3.1-8b"]
    assert row.endswith("LlamaForCausalLM bfloat16 8.03 B 8 of 2048 43.8 1 of 43.8 81.7 2 of 51.7 gated")


@pytest.mark.parametrize("name", REFERENCE_MODELS)
def test_a_reference_model_is_counted_as_it_is_loaded(capsys: Capture, name: str) -> None:
    model = load(name).model
    parameters = sum(value.numel() for value in model.parameters()) / 1e6
    assert rows(printed(capsys, "models"), [name])[name] == (
        f"{name} {type(model).__name__} {model_source(name).dtype} {parameters:.2f} M embedded"
    )


def test_notes_follow_in_full(capsys: Capture) -> None:
    output = printed(capsys, "models").splitlines()
    for card in CARDS.values():
        assert (f"{card.name}: {card.notes}" in output) == bool(card.notes)


def cells(table: Table) -> list[list[str]]:
    """The table's cells, row by row."""
    return [list(row) for row in zip(*(map(str, column.cells) for column in table.columns), strict=True)]


def test_models_table_of_plain_data() -> None:
    table = models_table(
        [ModelRow(name="tiny", architecture="A", dtype="float32", parameters=1_234_567)],
        [
            ModelRow(
                name="large",
                hub_id="org/large",
                revision="0123456789abcdef" * 2 + "01234567",
                architecture="B",
                dtype="bfloat16",
                parameters=70_000_000_000,
                batch=(2, 64),
                memory=(
                    Memory(alone=3 * 2**30, devices=1, each=2**30),
                    Memory(alone=9 * 2**30, devices=4, each=5 * 2**29),
                ),
                gated=True,
                safetensors=False,
            )
        ],
        device_bytes=72 * 2**30,
    )
    assert cells(table) == [
        ["tiny", "", "", "A", "float32", "1.23 M", "", "", "", "", "", "embedded"],
        [
            *("large", "org/large", "0123456789ab", "B", "bfloat16", "70.00 B", "2 of 64"),
            *("3.0", "1 of 1.0", "9.0", "4 of 2.5", "gated, *.bin only"),
        ],
    ]


# The ladder


def test_every_step_is_a_row(capsys: Capture) -> None:
    assert list(rows(printed(capsys, "ladder", "--device", "cpu"), list(LADDER))) == list(LADDER)


@pytest.mark.parametrize("name", LADDER)
def test_a_step_says_its_tiers_and_whether_it_runs(capsys: Capture, name: str) -> None:
    row = rows(printed(capsys, "ladder", "--device", "cpu"), [name])[name]
    tiers = " ".join(MIXED_TIERS if name == "mixed" else (*TIERS, "linears"))
    if name in WHOLE_MODEL:
        tiers = "-"
    missing = name in BACKEND_PRECISIONS and backend(name).missing("cpu") is not None
    assert f" {tiers} {LADDER[name].needs[:30]}" in row
    assert row.endswith(" no" if missing else " runs")


def test_the_reason_is_the_backends_own(capsys: Capture) -> None:
    output = printed(capsys, "ladder", "--device", "cpu").splitlines()
    for name in BACKEND_PRECISIONS:
        told = [line.partition(": ")[2] for line in output if re.match(rf"(\w+, )*{name}(, \w+)*: ", line)]
        reason = backend(name).missing("cpu")
        assert told == ([] if reason is None else [reason])


def test_ladder_table_of_plain_data() -> None:
    steps = [
        PrecisionRow(name="a", what="x", tiers=(), needs="nothing else"),
        PrecisionRow(name="b", what="y", tiers=("A", "B"), needs="a GPU", reason="there is none"),
        PrecisionRow(name="c", what="z", tiers=("C",), needs="a GPU", reason="there is none"),
    ]
    assert cells(ladder_table(steps, device="cuda")) == [
        ["a", "x", "-", "nothing else", "runs"],
        ["b", "y", "A B", "a GPU", "no"],
        ["c", "z", "C", "a GPU", "no"],
    ]
    assert reasons(steps) == ["b, c: there is none"]


def test_an_unknown_device_is_refused(capsys: Capture) -> None:
    assert main(["ladder", "--device", "gpu"]) == 2
    assert capsys.readouterr().err == (
        "mxcheck: unknown --device 'gpu'; allowed: auto, cpu, cuda; did you mean 'cpu'?\n"
    )


# What they load

_SPY = """
import contextlib, io, sys
from mxcheck.cli import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main(sys.argv[1:])
print([name for name in ("torch", "numpy", "transformers") if name in sys.modules])
"""


def loaded(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _SPY, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize("arguments", [["--help"], ["ladder", "--help"], ["models"]], ids=" ".join)
def test_nothing_heavy_is_loaded(arguments: list[str]) -> None:
    assert loaded(*arguments) == "[]"


def test_the_test_above_can_fail() -> None:
    """Whether a library's precision runs here is asked of the library, and that takes torch."""
    assert "torch" in loaded("ladder", "--device", "cpu")
