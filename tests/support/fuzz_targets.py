"""Every kind of file that mxcheck reads: a valid one, and its reader."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from hostile_files import hostile, json_bytes, toml_bytes
from hypothesis.strategies import SearchStrategy
from sample_record import NOISE, build_full_record
from sample_shards import CASES, build_result, build_shard, put

from mxcheck.gate.baseline import BaselineError, encode, read, seal_of
from mxcheck.gate.bounds_tables import load_bounds
from mxcheck.gate.case import case_of

#: The longest refusal, in characters: it may list what is allowed, and a path.
LONGEST = 4000
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One kind of file.

    Attributes:
        kind: what it is called in tables.
        files: draws the bytes of one.
        read: takes them and an empty folder, writes the file there and reads it as mxcheck does.
        refusals: what the reader raises for a file that it refuses.
    """

    kind: str
    files: Callable[[], SearchStrategy[bytes]]
    read: Callable[[bytes, Path], object]
    refusals: tuple[type[Exception], ...] = (ValueError,)


class WrongRefusalError(AssertionError):
    """A refusal that is not one printable line of bounded length."""


def outcome(target: Target, data: bytes, folder: Path) -> str:
    """Empty where the file is accepted, else what its refusal says. Raises WrongRefusalError for a refusal
    that cannot be shown, and whatever else the reader raises."""
    try:
        target.read(data, folder)
    except target.refusals as error:
        said = str(error)
        if not said or not said.isprintable() or len(said) > LONGEST:
            raise WrongRefusalError(f"{target.kind}: {said[:500]!r} ({len(said)} characters)") from error
        return said
    return ""


def emptied(folder: Path) -> Path:
    """The folder with nothing in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


# --- records and bounds


def _sealed(data: Any) -> bytes:
    """As somebody would who knows how the seal is made."""
    if isinstance(data, dict):
        with suppress(ValueError, RecursionError):  # what has no seal keeps the one that it had
            data = {**data, "seal": seal_of({name: value for name, value in data.items() if name != "seal"})}
    return json_bytes(data)


def _record(data: bytes, folder: Path) -> None:
    (folder / "x.json").write_bytes(data)
    record = read(folder / "x.json")
    encode(replace(record, noise=NOISE))


def _model_bounds(data: bytes, folder: Path) -> None:
    (folder / "ref-llama").mkdir()
    (folder / "ref-llama" / "bounds.toml").write_bytes(data)
    load_bounds(baselines=folder).find(case_of("ref-llama", "mxfp8_e4m3-B"))


def _user_bounds(data: bytes, folder: Path) -> None:
    (folder / "mine.toml").write_bytes(data)
    load_bounds.cache_clear()
    load_bounds(str(folder / "mine.toml"), models=("ref-llama",)).find(case_of("ref-llama", "mxfp8_e4m3-B"))


_BOUNDS = {"kl": 0.5, "rise": 0.25, "reason": "a small model"}
_USER_BOUNDS = {
    "default": {"mxfp8_e4m3-B": {"kl": 0.5, "rise": 0.2}},
    "models": {"ref-llama": {"bf16": {"kl": 0.1}, "mxfp8_e4m3-B+attention": {"kl": 1}}},
}


# --- runs


@cache
def _shard_data() -> Any:
    from mxcheck.distributed.shard_file import encode as encode_shard

    failed = replace(build_result(CASES[0]), record=build_full_record(model="ref-llama"))
    return json.loads(encode_shard(build_shard(1, results=(failed, build_result(CASES[1])))))


def _shard(data: bytes, folder: Path) -> None:
    from mxcheck.distributed.merge import merge_folder
    from mxcheck.distributed.merged_tables import as_json, markdown, text

    put(folder, build_shard(2))
    (folder / "shard-1-of-2.json").write_bytes(data)
    merged = merge_folder(folder)
    as_json(merged)
    shown = text(merged, color=False).replace("\n", "").replace("\t", "")
    if not shown.isprintable():
        raise WrongRefusalError(f"the terminal would obey {shown!r}")
    _check_markdown(markdown(merged))


def _check_markdown(page: str) -> None:
    """Outside of fences, headings are ours, and nothing of HTML, images or control characters is there."""
    fence = ""
    for line in page.split("\n"):
        if fence:
            fence = "" if line == fence else fence
        elif line.startswith("```"):
            fence = line.removesuffix("text")
        else:
            bare = line.replace("\\<", "").replace("\\[", "").replace("\\`", "")
            heading = line.startswith("#") and not line.startswith(("## mxcheck: ", "### "))
            if heading or not line.isprintable() or "<" in bare or "![" in bare:
                raise WrongRefusalError(f"Markdown: {line!r}")


def _ledger_data() -> Any:
    from mxcheck.scheduling.leases import Lease
    from mxcheck.scheduling.ledger_file import State, Waiting

    lease = Lease(holder="1-0123abcd", what="ref-llama", bytes_of={"GPU-0": 10}, slots_of={"GPU-0": 1})
    queue = [Waiting(ticket=3, holder="2-0123abcd", devices=("GPU-0",))]
    return json.loads(State(next_ticket=4, leases=[lease], queue=queue, others={"GPU-0": 5}).text())


def _ledger(data: bytes, folder: Path) -> None:
    """Nothing outside the ledger's folder is touched: files of a lock's name lie in those around it."""
    from mxcheck.cli import main
    from mxcheck.scheduling.ledger import Ledger

    inside = folder / "a" / "leases"
    inside.mkdir(parents=True)
    outside = [folder / "x.lock", folder / "a" / "x.lock", inside / "holder-x.lock"]
    for one in outside:
        one.write_text("")
    (inside / "leases.json").write_bytes(data)
    ledger = Ledger(inside, used=lambda _: {})
    try:
        ledger.leases()
        ledger.waiting()
        (inside / "leases.json").write_bytes(data)
        main(["leases", "--leases", str(inside)])
    finally:
        if not all(one.is_file() for one in outside):
            raise WrongRefusalError("a file of somebody else was deleted")


# --- a model's files


@cache
def _checkpoint() -> Mapping[str, bytes]:
    """The files of a sound one, in two shards."""
    import tempfile

    from broken_checkpoints import save_sound, shards

    with tempfile.TemporaryDirectory() as name:
        save_sound(Path(name))
        whole = (Path(name) / _WEIGHTS).read_bytes()
        shards(Path(name))
        return {_WEIGHTS: whole, **{one.name: one.read_bytes() for one in Path(name).iterdir()}}


def _checkpoint_with(name: str, data: bytes, folder: Path, *, whole: bool) -> None:
    from mxcheck.models.zoo.checkpoint import inspect
    from mxcheck.models.zoo.footprint import footprint
    from mxcheck.models.zoo.known_models import ModelSource

    unused = ("model-0", _INDEX) if whole else (_WEIGHTS + "\0",)
    for one, content in _checkpoint().items():
        if not one.startswith(unused) and (whole or one != _WEIGHTS):
            (folder / one).write_bytes(content)
    (folder / name).write_bytes(data)
    source = ModelSource(name="m", location=str(folder), is_directory=True)
    footprint(source, dtype=None, sequences=2, length=16, batch_size=4)
    inspect(source, folder)


def _reader_of(name: str, *, whole: bool) -> Callable[[bytes, Path], None]:
    return lambda data, folder: _checkpoint_with(name, data, folder, whole=whole)


def _tensors(data: Any) -> bytes:
    """A safetensors file of a header and its bytes, as latin-1."""
    if not isinstance(data, dict) or not isinstance(body := data.get("body"), str):
        return json_bytes(data)
    header = json_bytes(data.get("header"))
    return len(header).to_bytes(8, "little") + header + body.encode("latin-1", "replace")


def _taken_apart(data: bytes) -> Any:
    size = int.from_bytes(data[:8], "little")
    return {"header": json.loads(data[8 : 8 + size]), "body": data[8 + size :].decode("latin-1")}


@cache
def _token_file() -> bytes:
    import torch
    from safetensors.torch import save

    return save({"tokens": torch.arange(12, dtype=torch.int32).view(3, 4)})


def _tokens(data: bytes, folder: Path) -> None:
    from mxcheck.evaluation.tokens import load_tokens

    (folder / "tokens.safetensors").write_bytes(data)
    load_tokens(folder / "tokens.safetensors")


@cache
def _states_file() -> bytes:
    import tempfile

    import torch

    from mxcheck.evaluation.layer_states import LayerStates, save_states

    layers = {f"layers.{number}": torch.ones(1, 4, 8, dtype=torch.bfloat16) for number in range(2)}
    states = LayerStates(tokens=torch.arange(4).view(1, 4), layers=layers)
    with tempfile.TemporaryDirectory() as name:
        save_states(states, Path(name) / "s.safetensors", weights="a" * 64)
        return (Path(name) / "s.safetensors").read_bytes()


def _states(data: bytes, folder: Path) -> None:
    from mxcheck.evaluation.layer_states import load_states

    (folder / "s.safetensors").write_bytes(data)
    load_states(folder / "s.safetensors", weights="a" * 64)


# --- texts


def _corpus(name: str) -> Callable[[bytes, Path], None]:
    def documents(data: bytes, folder: Path) -> None:
        from mxcheck.evaluation.corpus_names import corpus_choice
        from mxcheck.evaluation.documents import open_documents

        (folder / name).write_bytes(data)
        (corpus,) = corpus_choice([name], folder).corpora
        for number, document in enumerate(open_documents(corpus)[1]):
            document.encode()
            if number > 1000:
                break

    return documents


_ROWS = [{"text": f"A line of some words, number {number}.", "n": number} for number in range(3)]


def _json_lines(data: Any) -> bytes:
    rows = data if isinstance(data, list) else [data]
    return b"".join(json_bytes(row) + b"\n" for row in rows)


def _compressed(data: Any) -> bytes:
    import zstandard

    return zstandard.compress(_json_lines(data))


def _parquets() -> tuple[bytes, ...]:
    import pyarrow
    import pyarrow.parquet

    made = []
    for columns in (
        {"text": [row["text"] for row in _ROWS], "n": [1, 2, 3]},
        {"text": [1, 2, 3]},
        {"text": [["a"], ["b"], None]},
        {"words": ["a"]},
    ):
        file = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.table(columns), file)
        made.append(file.getvalue())
    return tuple(made)


# --- cases for a program, and its results


@cache
def _case_file() -> bytes:
    import torch

    from mxcheck.conformance.cases.cells import Cell
    from mxcheck.conformance.cases.generator import example
    from mxcheck.conformance.programs.case_files import write_cases

    cell, file = Cell(format="fp8_e4m3", scale_rule="floor"), io.BytesIO()
    x = torch.arange(80.0).view(2, 40) - 40
    cases = [example("a", x, cell), example("b", x.bfloat16().view(2, 20, 2), cell, axis=1, block_size=16)]
    write_cases(file, cell, "quick", cases)
    return file.getvalue()


def _whole_numbers(data: bytes, heads: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """A file as its bytes, as latin-1, and the whole numbers of some stretches of it, by their places."""
    places = [at for start, end in heads for at in range(start, end, 8)]
    numbers = {str(at): int.from_bytes(data[at : at + 8], "little") for at in places}
    return {"bytes": data.decode("latin-1"), "numbers": numbers}


def _with_numbers(data: Any) -> bytes:
    """The bytes of it, with these numbers."""
    if not isinstance(data, dict) or not isinstance(text := data.get("bytes"), str):
        return json_bytes(data)
    made = bytearray(text.encode("latin-1", "replace"))
    numbers = data.get("numbers")
    for at, number in numbers.items() if isinstance(numbers, dict) else ():
        if at.isascii() and at.isdigit() and type(number) is int:
            made[int(at) % 4096 : int(at) % 4096 + 8] = (number % 2**64).to_bytes(8, "little")
    return bytes(made)


def _sealed_cases(data: Any) -> bytes:
    """As somebody would who knows how the digest is made."""
    from case_programs import sealed

    return sealed(_with_numbers(data))


def _cases(data: bytes, folder: Path) -> None:
    from mxcheck.conformance.programs.case_files import open_cases

    (folder / "cases.bin").write_bytes(data)
    for one in open_cases(folder / "cases.bin").examples():
        one.group.encode()


def _results(data: bytes, folder: Path) -> None:
    from mxcheck.conformance.failure_text import describe
    from mxcheck.conformance.programs.answers import compare_results, cut_examples
    from mxcheck.conformance.programs.case_files import open_cases
    from mxcheck.conformance.programs.case_results import ResultsReader

    (folder / "cases.bin").write_bytes(_case_file())
    cases = open_cases(folder / "cases.bin")
    held = compare_results(cases, ResultsReader(file=io.BytesIO(data), name="r", header=cases.header))
    said = [*held.refused, *(line for one in cut_examples(held) for line in describe(*one, None))]
    if not all(line.isprintable() for line in said):
        raise WrongRefusalError(f"the terminal would obey {said!r}")


def _results_data() -> Any:
    from case_programs import answered

    results = answered(_case_file())
    return _whole_numbers(results, [(8, 16), (48, 80), (164, 188)])


# --- a project's and our own


_RECIPES = {
    "tool": {
        "mxcheck": {
            "recipes": {
                "w4a8": {
                    "mlp": {
                        "weights": "fp4_e2m1",
                        "activations": {"format": "fp8_e4m3", "scale_rule": "even"},
                    },
                    "attention": {"weights": "fp8_e4m3", "activations": "fp8_e4m3"},
                    "attention_products": {"format": "mxint8", "block_size": 16, "rounding": "away"},
                    "outputs": False,
                }
            }
        }
    }
}


def _recipes(data: bytes, folder: Path) -> None:
    from mxcheck.run.own_recipes import own_recipes

    (folder / "pyproject.toml").write_bytes(data)
    for recipe in own_recipes(folder / "pyproject.toml", kernel="eager").values():
        recipe.as_dict()


def _text(data: bytes) -> str:
    """What a file of the package's own is read from is text already."""
    return data.decode("utf-8", "replace")


def _findings(data: bytes, _: Path) -> None:
    from mxcheck.conformance.findings import read_findings

    for finding in read_findings(_text(data)):
        finding.shows_in("mxfp8_e4m3-floor")


def _known(data: bytes, _: Path) -> None:
    from mxcheck.conformance.findings import read_known

    read_known(_text(data))


_KNOWN = {"torchao": {"version": "0.18", "cells": {"mxfp8_e4m3-floor": {"quick": {"zero": {"code": 3}}}}}}
_FINDING = {
    "name": "flushed", "implementation": "torchao", "versions": ["0.18"], "formats": ["fp8_e4m3"],
    "rules": ["floor"], "kinds": ["code"], "open": True, "cause": "it flushes",
    "counterexample": {"format": "fp8_e4m3", "rule": "floor", "input": ["00000001"]},
}  # fmt: skip


def _cards(data: bytes, _: Path) -> None:
    from mxcheck.models.zoo.cards import read_cards

    for card in read_cards(_text(data)).values():
        card.bytes_needed()


def _card() -> dict[str, Any]:
    import tomllib

    cards = tomllib.loads((files("mxcheck.models.zoo") / "zoo.toml").read_text())
    return dict(list(cards.items())[:1])


_SWEEP_IDENTITY = {"span": [0, 64], "chunk": 16, "sources": "a"}
_SWEEPS = {
    "identity": _SWEEP_IDENTITY,
    "sweeps": [
        {
            "sweep": {"format": "fp8_e4m3", "rounding": "even", "scale_rule": None},
            "chunks": [0, 1],
            "result": {
                "compared": 30, "excluded": 2, "mismatches": 1,
                "first": [["00000001", [1], [0]]], "seconds": 0.5,
            },
        }
    ],
}  # fmt: skip


def _sweep_state(data: bytes, folder: Path) -> None:
    from mxcheck.reporting.table import render
    from validation.sweeps.sweep import sweeps
    from validation.sweeps.sweep_state import SweepState
    from validation.sweeps.sweep_tables import markdown, sweeps_table

    (folder / "state.json").write_bytes(data)
    state = SweepState(folder / "state.json", _SWEEP_IDENTITY)
    results = [state.result(one) for one in sweeps(["fp8_e4m3"])]
    render(sweeps_table(results), color=False)
    markdown(results, {})


def _sensitivity_identity(data: bytes, folder: Path) -> None:
    from validation.sensitivity.sensitivity_state import locked_state

    (folder / "identity.json").write_bytes(data)
    with locked_state(folder, {"sources": "a", "torch": "2"}):
        pass


def _sensitivity_clock(data: bytes, folder: Path) -> None:
    from validation.sensitivity.sensitivity_state import seconds_spent

    (folder / "seconds").write_bytes(data)
    seconds_spent(folder)


def _suite_run_data() -> Any:
    from validation.sensitivity.suite_run import SuiteRun

    run = SuiteRun(
        results=[build_result(case) for case in CASES[:2]], cells=[{"cell": "a"}], tests={"t": [0, 1]},
        messages=["red"], seconds=1.5,
    )  # fmt: skip
    return json.loads(json.dumps(run.as_dict()))


def _suite_run(data: bytes, folder: Path) -> None:
    from validation.sensitivity.children import read_result

    (folder / "result.json").write_bytes(data)
    read_result(folder / "result.json").as_dict()


def _gate_run_data() -> Any:
    rows = [json.loads(json.dumps(build_result(case).as_dict())) for case in CASES[:2]]
    return {"environment": "AVX2", "identity": {"a": "b"}, "exit_code": 0, "seconds": 2.5, "rows": rows}


def _gate_run(data: bytes, folder: Path) -> None:
    from validation.control_environments.false_alarms import summarise

    (folder / "run.json").write_bytes(data)
    summarise(folder / "run.json", folder / "baselines")


def _plan_data() -> Any:
    from mxcheck.models.zoo.footprint import Footprint

    footprint = asdict(Footprint(weight_bytes=1, working_bytes=2, case_seconds=1.0, load_seconds=2.0))
    model = {"label": "ref-llama", "shard": 1, "cases": ["ref-llama-bf16"], "footprint": footprint}
    return {"models": [model], "device": "cpu", "report": "r", "shard": "", "updates": False}


def _plan(data: bytes, folder: Path) -> None:
    from mxcheck.distributed.run_plan import read_plan

    (folder / "plan.json").write_bytes(data)
    read_plan(folder / "plan.json")


def _report_data() -> Any:
    return [json.loads(json.dumps(build_result(case).as_dict())) for case in CASES[:2]]


def _report(data: bytes, folder: Path) -> None:
    from mxcheck.run.earlier_run import read_durations

    (folder / "accuracy.json").write_bytes(data)
    read_durations(folder / "accuracy.json")


def _target(
    kind: str,
    valid: Callable[[], Any],
    write: Callable[[Any], bytes] | None,
    read_file: Callable[[bytes, Path], object],
    *,
    examples: Callable[[], tuple[bytes, ...]] = tuple,
    refusals: tuple[type[Exception], ...] = (ValueError,),
) -> Target:
    return Target(
        kind=kind, files=lambda: hostile(valid(), write, examples()), read=read_file, refusals=refusals
    )


_RECORD = lambda: {**json.loads(encode(build_full_record()))}  # noqa: E731
_HUGGING = _reader_of("config.json", whole=True)

TARGETS: Mapping[str, Target] = {
    target.kind: target
    for target in (
        _target("record", _RECORD, _sealed, _record, refusals=(BaselineError,)),
        _target(
            "bounds of a model",
            lambda: {"mxfp8_e4m3-B": _BOUNDS, "bf16": {"kl": 1}},
            toml_bytes,
            _model_bounds,
        ),
        _target("bounds of a user", lambda: _USER_BOUNDS, toml_bytes, _user_bounds),
        _target("shard", _shard_data, json_bytes, _shard),
        _target("report", _report_data, json_bytes, _report),
        _target("ledger", _ledger_data, json_bytes, _ledger),
        _target("configuration", lambda: json.loads(_checkpoint()["config.json"]), json_bytes, _HUGGING),
        _target(
            "index", lambda: json.loads(_checkpoint()[_INDEX]), json_bytes, _reader_of(_INDEX, whole=False)
        ),
        _target(
            "weights",
            lambda: _taken_apart(_checkpoint()[_WEIGHTS]),
            _tensors,
            _reader_of(_WEIGHTS, whole=True),
        ),
        _target("tokens", lambda: _taken_apart(_token_file()), _tensors, _tokens),
        _target("reference states", lambda: _taken_apart(_states_file()), _tensors, _states),
        _target(
            "corpus, text",
            str,
            None,
            _corpus("a.txt"),
            examples=lambda: ("Some words of a German: größer.\n".encode(),),
        ),
        _target("corpus, JSON lines", lambda: _ROWS, _json_lines, _corpus("a.jsonl")),
        _target("corpus, compressed", lambda: _ROWS, _compressed, _corpus("a.jsonl.zst")),
        _target("corpus, Parquet", str, None, _corpus("a.parquet"), examples=_parquets),
        _target(
            "cases",
            lambda: _whole_numbers(_case_file(), [(8, 16), (48, 312)]),
            _sealed_cases,
            _cases,
        ),
        _target("results of a program", _results_data, _with_numbers, _results),
        _target("recipes", lambda: _RECIPES, toml_bytes, _recipes),
        _target("findings", lambda: {"finding": [_FINDING]}, toml_bytes, _findings),
        _target("known findings", lambda: _KNOWN, json_bytes, _known),
        _target("model cards", _card, toml_bytes, _cards),
        _target("sweep state", lambda: _SWEEPS, json_bytes, _sweep_state),
        _target(
            "sensitivity state", lambda: {"sources": "a", "torch": "2"}, json_bytes, _sensitivity_identity
        ),
        _target("sensitivity clock", str, None, _sensitivity_clock, examples=lambda: (b"12.5\n",)),
        _target("run under a fault", _suite_run_data, json_bytes, _suite_run),
        _target("run in an environment", _gate_run_data, json_bytes, _gate_run),
        _target("plan of a run", _plan_data, json_bytes, _plan),
    )
}
