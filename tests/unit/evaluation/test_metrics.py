"""Metrics of the user's own: names, how they are found, what they may return."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from mxcheck.evaluation import metrics as module
from mxcheck.evaluation.measure import Measurement, evaluate
from mxcheck.evaluation.metrics import TAKEN, Metric, as_metrics, check_metrics, metric, resolve_metrics
from mxcheck.gate.record import Record

THEIRS = """
import torch


def reverse_kl(log_p, targets, reference_log_p):
    return (log_p.exp() * (log_p - reference_log_p)).sum(-1)


def rank(log_p, targets, reference_log_p):
    return (log_p > log_p.gather(-1, targets[:, None])).sum(-1)


no_function = 3
"""


def reverse_kl(log_p: Tensor, _targets: Tensor, reference_log_p: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - reference_log_p)).sum(-1)


@pytest.fixture(autouse=True)
def _no_metric_of_another_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_DECORATED", {})


@pytest.fixture
def their_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "their_metrics.py").write_text(THEIRS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "their_metrics", raising=False)
    return "their_metrics"


def offer(monkeypatch: pytest.MonkeyPatch, *entries: tuple[str, str]) -> None:
    """Installed packages that offer these metrics."""

    def entry_points(*, group: str) -> list[EntryPoint]:
        return [EntryPoint(name, value, group) for name, value in entries if group == "mxcheck.metrics"]

    monkeypatch.setattr("mxcheck.kernels.registry.entry_points", entry_points)


@pytest.fixture
def measured(tiny_llama: LlamaForCausalLM, random_tokens: Tensor) -> tuple[LlamaForCausalLM, Measurement]:
    """A model, changed since its reference was measured."""
    reference = evaluate(tiny_llama, random_tokens, keep_log_probabilities=True)
    tiny_llama.model.layers[1].mlp.down_proj.weight.mul_(1.5)
    return tiny_llama, reference


def test_a_metric_is_averaged_over_the_tokens_of_each_sequence(
    measured: tuple[LlamaForCausalLM, Measurement], random_tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, reference = measured
    result = evaluate(
        model,
        random_tokens,
        reference=reference,
        metrics={"reverse_kl": reverse_kl, "nll": nll, "rank": rank},
    )
    assert reference.logits is not None
    log_r = torch.stack([reference.logits.rows(i, slice(None)) for i in range(7)]).double().log_softmax(-1)
    with torch.no_grad():
        log_p = model(input_ids=random_tokens).logits[:, :-1].double().log_softmax(-1)

    assert list(result.metrics) == ["reverse_kl", "nll", "rank"]
    assert result.metrics["reverse_kl"] == pytest.approx(
        (log_p.exp() * (log_p - log_r)).sum(-1).mean(-1).tolist(), rel=1e-12
    )
    assert result.metrics["nll"] == result.sequence_losses
    assert result.metrics["reverse_kl"] != pytest.approx(result.sequence_kl, rel=1e-3)
    # of integers: the mean over 11 tokens of how many of 95 others are more likely
    place = log_p.argsort(-1, descending=True).argsort(-1).gather(-1, random_tokens[:, 1:, None])[..., 0]
    assert result.metrics["rank"] == pytest.approx(place.double().mean(-1).tolist(), rel=1e-12)

    monkeypatch.setattr("mxcheck.evaluation.logits.CHUNK", 3 * 96)
    in_chunks = evaluate(
        model, random_tokens, reference=reference, metrics=[Metric(name="rank", function=rank)]
    )
    assert in_chunks.metrics == {"rank": result.metrics["rank"]}


def nll(log_p: Tensor, targets: Tensor, reference_log_p: Tensor) -> Tensor:
    assert log_p.dtype == reference_log_p.dtype == torch.float64
    assert targets.dtype == torch.int64
    assert log_p.shape == reference_log_p.shape == (len(targets), 96)
    return -log_p.gather(-1, targets[:, None])[:, 0]


def rank(log_p: Tensor, targets: Tensor, _reference: Tensor) -> Tensor:
    return (log_p > log_p.gather(-1, targets[:, None])).sum(-1)


def test_a_metric_that_works_in_place_changes_nothing_else(
    measured: tuple[LlamaForCausalLM, Measurement], random_tokens: Tensor
) -> None:
    model, reference = measured

    def spoil(log_p: Tensor, targets: Tensor, reference_log_p: Tensor) -> Tensor:
        reference_log_p.zero_()
        targets.zero_()
        return log_p.zero_().sum(-1)

    both = {"spoil": spoil, "reverse_kl": reverse_kl}
    result = evaluate(model, random_tokens, reference=reference, metrics=both)
    again = evaluate(model, random_tokens, reference=reference, metrics={"reverse_kl": reverse_kl})

    assert result.metrics["reverse_kl"] == again.metrics["reverse_kl"]
    assert (result.sequence_kl, result.sequence_losses) == (again.sequence_kl, again.sequence_losses)


def fails(*_: Tensor) -> Tensor:
    raise IndexError("row 3\nis not\x1b[2J there")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        pytest.param(lambda *given: given[0], r"shape \[11\], got torch.float64 \[11, 96\]", id="matrix"),
        pytest.param(lambda *given: given[0].sum(), r"shape \[11\], got torch.float64 \[\]", id="scalar"),
        pytest.param(lambda *_: 1.0, r"one real number a row, .* \[11\], got float", id="no-tensor"),
        pytest.param(lambda *_: None, r"shape \[11\], got NoneType", id="nothing"),
        pytest.param(lambda *given: given[1] * 1j, r"got torch.complex\d+ \[11\]", id="complex"),
        pytest.param(lambda *given: given[0][:, 0] / 0, "not finite: -inf in row 0 of its chunk", id="inf"),
        pytest.param(lambda *given: given[1] / (given[1] * 0), "is not finite: (inf|nan) in row", id="nan"),
        pytest.param(fails, r"raised IndexError: row 3 is not\\x1b\[2J there$", id="raises"),
    ],
)
def test_a_metric_at_fault_is_named(
    function: module.MetricFunction,
    message: str,
    measured: tuple[LlamaForCausalLM, Measurement],
    random_tokens: Tensor,
) -> None:
    model, reference = measured
    with pytest.raises(ValueError, match=f"^metric 'mine' .*{message}") as caught:
        evaluate(model, random_tokens, reference=reference, metrics={"mine": function})
    assert "\n" not in str(caught.value)


def test_a_metric_needs_a_reference(tiny_llama: LlamaForCausalLM, random_tokens: Tensor) -> None:
    with pytest.raises(ValueError, match="metric 'reverse_kl' compares with a reference, got none"):
        evaluate(tiny_llama, random_tokens, metrics={"reverse_kl": reverse_kl})


@pytest.mark.parametrize("name", ["", "reverse-kl", "a.b", "2x", "pkg:f"])
def test_a_name_that_is_no_identifier(name: str) -> None:
    for give in (lambda: metric(name), lambda: as_metrics({name: reverse_kl})):
        with pytest.raises(ValueError, match=f"must be an identifier, got '{name}'"):
            give()


@pytest.mark.parametrize("name", sorted(TAKEN))
def test_a_name_of_a_built_in_figure(name: str) -> None:
    for give in (lambda: metric(name), lambda: check_metrics([f"their_metrics:{name}"])):
        with pytest.raises(ValueError, match=f"must be none of .*, got '{name}'; give another name"):
            give()


def test_every_figure_is_a_name_that_is_taken() -> None:
    """`reference_loss` is a name of `evaluate`'s own, in which metrics are collected too."""
    numbers = {"float", "float | None", "list[float]", "list[float] | None", "bool | None", "bool"}
    for data in (Measurement, Record):
        figures = {field.name for field in dataclasses.fields(data) if field.type in numbers}
        assert figures - TAKEN == set()
    assert {"loss", "reference_loss", "metrics", "perplexity"} < TAKEN


def test_a_decorated_function_is_found_by_its_name() -> None:
    assert metric("reverse_kl")(reverse_kl) is reverse_kl
    assert check_metrics(["reverse_kl"]) == ("reverse_kl",)
    assert resolve_metrics(["reverse_kl"]) == (Metric(name="reverse_kl", function=reverse_kl),)


def test_a_module_may_be_imported_twice_and_no_other_may_take_the_name() -> None:
    metric("mine")(reverse_kl)
    metric("mine")(reverse_kl)
    with pytest.raises(
        ValueError, match=r"metric 'mine' is registered already, by .*:reverse_kl; give another"
    ):
        metric("mine")(rank)


def test_an_entry_point_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch, their_package: str) -> None:
    offer(monkeypatch, ("backwards", f"{their_package}:reverse_kl"))
    assert check_metrics(["backwards"]) == ("backwards",)
    (found,) = resolve_metrics(["backwards"])

    assert (found.name, found.function.__module__) == ("backwards", their_package)


def test_a_function_is_found_by_its_place(their_package: str) -> None:
    assert check_metrics([f"{their_package}:rank"]) == ("rank",)
    assert their_package not in sys.modules, "a check imports nothing"
    (found,) = resolve_metrics([f"{their_package}:rank"])

    assert (found.name, found.function.__qualname__) == ("rank", "rank")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere_at_all:f", "metric 'nowhere_at_all:f'.*there is no module 'nowhere_at_all'"),
        ("their_metrics:reverse", "module 'their_metrics':* 'reverse'.*did you mean 'reverse_kl'"),
        ("their_metrics:no_function", "metric 'their_metrics:no_function'.*is not callable"),
    ],
    ids=["module", "function", "callable"],
)
@pytest.mark.usefixtures("their_package")
def test_what_names_no_function(target: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        resolve_metrics([target])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["reverse_k", ":", "module:", ":function", ""])
def test_an_unknown_name_and_the_nearest(name: str) -> None:
    metric("reverse_kl")(reverse_kl)
    hint = "did you mean 'reverse_kl'" if name == "reverse_k" else ""
    with pytest.raises(
        ValueError, match=f"unknown metric '{name}'; allowed: reverse_kl, <package.mod.*{hint}"
    ):
        check_metrics([name])


def test_two_metrics_of_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    metric("reverse_kl")(reverse_kl)
    with pytest.raises(
        ValueError, match="metric 'theirs:reverse_kl': another is called 'reverse_kl' already"
    ):
        check_metrics(["reverse_kl", "theirs:reverse_kl"])
    with pytest.raises(ValueError, match="two metrics are called 'rank'"):
        as_metrics([Metric(name="rank", function=rank), Metric(name="rank", function=reverse_kl)])
    offer(monkeypatch, ("reverse_kl", "theirs:reverse_kl"))
    with pytest.raises(
        ValueError, match=r"entry point 'reverse_kl' .*theirs:reverse_kl.*: the name is taken"
    ):
        check_metrics(["reverse_kl"])
    monkeypatch.setattr(module, "_DECORATED", {})
    offer(monkeypatch, ("twice", "theirs:f"), ("twice", "others:g"))
    with pytest.raises(ValueError, match=r"entry point 'twice' .*others:g.*: the name is taken"):
        check_metrics(["twice"])


def python(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def install(folder: Path, *lines: str) -> None:
    """A distribution that offers metrics, as an installer would leave it."""
    metadata = folder / "their_metrics-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their-metrics\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("\n".join(["[mxcheck.metrics]", *lines, ""]))
    (folder / "their_metrics.py").write_text(THEIRS)


def test_a_metric_of_an_installed_package(tmp_path: Path) -> None:
    install(tmp_path, "reverse_kl = their_metrics:reverse_kl", "rank = their_metrics:rank")
    done = python(
        tmp_path,
        "import sys, torch\n"
        "from mxcheck.evaluation.metrics import resolve_metrics\n"
        "one, two = resolve_metrics(['reverse_kl', 'rank'])\n"
        "p = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log()\n"
        "r = torch.tensor([[0.25, 0.5, 0.25]], dtype=torch.float64).log()\n"
        "print(one(p, torch.tensor([1]), r).item(), two(p, torch.tensor([1]), r).item())",
    )

    assert done.returncode == 0, done.stderr
    reverse, place = map(float, done.stdout.split())
    assert reverse == pytest.approx(0.25 * torch.log(torch.tensor(2.0)).item(), rel=1e-6)
    assert place == 1.0


def test_names_are_checked_without_torch(tmp_path: Path) -> None:
    install(tmp_path, "reverse_kl = their_metrics:reverse_kl")
    check = (
        "import sys\n"
        "from mxcheck.evaluation.metrics import check_metrics, metric\n"
        "metric('mine')(lambda p, t, r: t)\n"
        "assert check_metrics(['reverse_kl', 'mine', 'a.b:rank']) == ('reverse_kl', 'mine', 'rank')\n"
        "{}sys.exit(sorted({{'torch', 'numpy', 'transformers', 'their_metrics'}} & set(sys.modules)) or 0)"
    )
    assert (done := python(tmp_path, check.format(""))).returncode == 0, done.stderr
    # and the check can fail
    resolved = "from mxcheck.evaluation.metrics import resolve_metrics; resolve_metrics(['reverse_kl'])\n"
    assert "torch" in python(tmp_path, check.format(resolved)).stderr
