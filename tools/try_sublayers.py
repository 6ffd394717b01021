"""Whether the layer statistics tell faults from other arithmetic: accepted here, held in child processes that
multiply by other instructions. Casts' digests, losses and KL are not looked at.

Prints Markdown: what other arithmetic moved, which faults were seen in it, and which faults cannot be seen by
value at all. Takes some minutes on a model of 135M parameters.

    PYTHONPATH=. python tools/try_sublayers.py MODEL TOKENS [--precision fp8_e4m3 …] [--environments 10]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from transformers import PreTrainedModel

from mxcheck.evaluation.arithmetic import product_digest
from mxcheck.evaluation.layer_states import LayerStates, load_states, reference_states, save_states
from mxcheck.evaluation.sublayer_errors import sublayer_errors
from mxcheck.evaluation.tokens import load_tokens
from mxcheck.gate.sublayer_drift import (
    FIGURES,
    SublayerError,
    SublayerNoise,
    check_sublayers,
    moves,
    sublayer_error_from_dict,
    sublayer_noise,
)
from mxcheck.measure.measured_noise import ENVIRONMENTS as NOISE_ENVIRONMENTS
from mxcheck.models.conversion.casts import activation_cast, cast_weight, identity
from mxcheck.models.conversion.classify import reduction_axis
from mxcheck.models.conversion.convert import Conversion, convert
from mxcheck.models.conversion.elementwise import elementwise_modules
from mxcheck.models.recipes.ladder import WHOLE_MODEL
from mxcheck.models.recipes.recipe import Recipe, recipe
from mxcheck.models.zoo.load import load
from validation.control_environments.environments import ENVIRONMENTS, intel_shim

Errors = dict[str, SublayerError]

#: A scale rule that rounds up, under which no element of a block saturates.
ROUND_UP = "rceil"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is wrong, under which scale rule (None: the format's own), and how it is put in."""

    what: str
    scale_rule: str | None
    convert: Callable[[PreTrainedModel, Recipe, str], Conversion]


def _ties_away(model: PreTrainedModel, made: Recipe, _layer: str) -> Conversion:
    return convert(model, recipe(made.precision, tier=made.tier, rounding="away"))


def _skipped_activations(model: PreTrainedModel, made: Recipe, layer: str) -> Conversion:
    conversion = convert(model, made)
    for name, module in conversion.modules.items():
        if name.startswith(f"{layer}."):
            module.cast = identity  # type: ignore[attr-defined]
    return conversion


def _weights_along_the_wrong_axis(model: PreTrainedModel, made: Recipe, layer: str) -> Conversion:
    inside = {*model.get_submodule(layer).modules()}
    wrong = {-1: -2, -2: -1}

    def axis(module: nn.Module) -> int:
        return wrong[reduction_axis(module)] if module in inside else reduction_axis(module)

    with patch("mxcheck.models.conversion.linear.reduction_axis", axis):
        return convert(model, made)


def _activations_along_the_wrong_axis(model: PreTrainedModel, made: Recipe, layer: str) -> Conversion:
    conversion = convert(model, made)
    for name, module in conversion.modules.items():
        if name.startswith(f"{layer}."):
            operand = made.roles[conversion.replaced[name]].activations
            module.cast = activation_cast(operand, made.kernel, axis=-2)  # type: ignore[attr-defined]
    return conversion


def _norm_of(model: PreTrainedModel, layer: str) -> str:
    """The last norm of a layer that has a weight."""
    norms = [name for name, kind in elementwise_modules(model).items() if kind == "norm"]
    return [name for name in norms if name.startswith(f"{layer}.")][-1]


FAULTS = (
    Fault(what="ties away from zero, all layers", scale_rule=None, convert=_ties_away),
    Fault(what="activations not cast, one layer", scale_rule=None, convert=_skipped_activations),
    Fault(what="weight of one norm 1 % larger", scale_rule=None, convert=lambda m, r, _: convert(m, r)),
    Fault(
        what="weights along the wrong axis, one layer", scale_rule=None, convert=_weights_along_the_wrong_axis
    ),
    Fault(
        what="activations along the wrong axis, one layer",
        scale_rule=None,
        convert=_activations_along_the_wrong_axis,
    ),
    Fault(
        what=f"weights along the wrong axis, one layer, {ROUND_UP}",
        scale_rule=ROUND_UP,
        convert=_weights_along_the_wrong_axis,
    ),
)
_NORM_FAULT = FAULTS[2]


@contextmanager
def _larger_norm(model: PreTrainedModel, layer: str, fault: Fault | None) -> Iterator[None]:
    weight = model.get_submodule(_norm_of(model, layer)).get_parameter("weight")
    before = weight.data
    if fault is _NORM_FAULT:
        weight.data = before * 1.01
    try:
        yield
    finally:
        weight.data = before


def _recipe(precision: str, scale_rule: str | None) -> Recipe:
    return recipe(precision, tier=None if precision in WHOLE_MODEL else "B", scale_rule=scale_rule)


def _measure(
    model: PreTrainedModel, states: LayerStates, made: Recipe, layer: str, fault: Fault | None = None
) -> Errors:
    with _larger_norm(model, layer, fault):
        conversion = fault.convert(model, made, layer) if fault else convert(model, made)
        try:
            return sublayer_errors(conversion, states).errors
        finally:
            conversion.undo()


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one child process measured: by precision without a fault, and of the first one by fault."""

    arithmetic: str
    healthy: dict[str, Errors]
    faults: dict[str, Errors]


def _child(request: Path, answer: Path) -> None:
    job = json.loads(request.read_text())
    model = load(job["model"], dtype=job["dtype"]).model
    states = load_states(Path(job["states"]), weights=job["weights"])
    layer = job["layer"]
    found = {
        "arithmetic": product_digest(next(model.parameters()).dtype),
        "healthy": {
            one: _plain(_measure(model, states, _recipe(one, None), layer)) for one in job["precisions"]
        },
        "faults": {
            fault.what: _plain(
                _measure(model, states, _recipe(job["precisions"][0], fault.scale_rule), layer, fault)
            )
            for fault in FAULTS
            if job["faults"]
        },
    }
    answer.write_text(json.dumps(found))


def _plain(errors: Errors) -> dict[str, Any]:
    return {place: error.as_dict() for place, error in errors.items()}


def _errors(data: Mapping[str, Any]) -> Errors:
    return {place: sublayer_error_from_dict(fields, where=place) for place, fields in data.items()}


def _run_child(
    folder: Path, job: Mapping[str, Any], settings: Mapping[str, str], *, faults: bool = False
) -> Found:
    request, answer = folder / "request.json", folder / "answer.json"
    request.write_text(json.dumps({**job, "faults": faults}))
    command = [sys.executable, __file__, "--child", str(request), str(answer)]
    variables = {**os.environ, **settings}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(f"a child process with {dict(settings)} failed:\n{done.stderr[-2000:]}")
    data = json.loads(answer.read_text())
    return Found(
        arithmetic=data["arithmetic"],
        healthy={one: _errors(table) for one, table in data["healthy"].items()},
        faults={what: _errors(table) for what, table in data["faults"].items()},
    )


def _controls(folder: Path, count: int) -> Iterator[tuple[str, dict[str, str]]]:
    """Environments that a fresh process can run in, by name. Batch sizes are left out: the statistics are
    taken from one sequence."""
    threads = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}
    yield "2 threads", threads
    chosen = [one for one in ENVIRONMENTS if one.settings and not one.other_torch and not one.plugin]
    shim = str(intel_shim(folder))
    for one in [one for one in chosen if "512" not in one.name and "OMP_NUM" not in one.name][: count - 1]:
        name = one.name.removesuffix(f" -n {one.workers}").removesuffix(f" batch-{one.batch_size}")
        yield name, {**one.settings, **({"LD_PRELOAD": shim} if one.as_intel else {})}


def _same(found: Found, now: Errors, then: Errors, arithmetic: str) -> bool:
    """As the gate tells it: equal products, and a reference that is equal to the bit."""
    return found.arithmetic == arithmetic and all(now[one].size == then[one].size for one in then)


def _row(name: str, now: Errors, then: Errors, *, same: bool, noise: SublayerNoise) -> tuple[str, list[str]]:
    cells = []
    for figure in FIGURES:
        change = moves(now, then, figure).values()
        cells.append(f"{median(change):.1e} / {max(change):.1e}")
    red = [check for check in check_sublayers(now, then, same_arithmetic=same, noise=noise) if not check[1]]
    verdict = "red: " + ", ".join(key for key, _, _ in red) if red else "green"
    arithmetic = "equal" if same else "other"
    return f"| {' | '.join([name, arithmetic, *cells, verdict])} |", [m for _, _, m in red]


def _table(first: str) -> None:
    print(f"\n| {first} | arithmetic | {' | '.join(FIGURES)} | verdict |")
    print(f"|---|---|{'---|' * len(FIGURES)}---|")


def _by_value(model: PreTrainedModel, precision: str, layer: str) -> None:
    """How many of a layer's weights a wrong axis moves at all, by scale rule."""
    print(
        "\n| scale rule | values moved by the wrong axis | by quantizing the quantized tensor's transpose |"
    )
    print("|---|---|---|")
    conversion = convert(model, _recipe(precision, None))
    names = [name for name in conversion.modules if name.startswith(f"{layer}.")]
    conversion.undo()
    weights = [model.get_submodule(name).get_parameter("weight").detach() for name in names]
    for rule in ("floor", "even", "ceil", ROUND_UP):
        operand = _recipe(precision, rule).roles["mlp"].weights
        wrong = again = total = 0
        for weight in weights:
            right = cast_weight(weight, operand, "eager", axis=-1).values
            wrong += int((cast_weight(weight, operand, "eager", axis=-2).values != right).sum())
            again += int((cast_weight(right, operand, "eager", axis=-2).values != right).sum())
            total += weight.numel()
        print(f"| {rule} | {wrong / total:.4%} | {again / total:.4%} |")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a name of the zoo, a directory or a hub id")
    parser.add_argument("tokens", type=Path, help="a tokens file")
    parser.add_argument("--precision", nargs="+", default=["fp8_e4m3"], help="the first one bears the faults")
    parser.add_argument("--environments", type=int, default=10)
    parser.add_argument("--dtype", help="default: the model's")
    parser.add_argument("--no-faults", action="store_true", help="only the control environments")
    chosen = parser.parse_args(arguments)
    loaded = load(chosen.model, dtype=chosen.dtype)
    model = loaded.model
    arithmetic = product_digest(next(model.parameters()).dtype)
    states = reference_states(model, load_tokens(chosen.tokens))
    layer = list(states.layers)[len(states.layers) // 2]
    accepted = {one: _measure(model, states, _recipe(one, None), layer) for one in chosen.precision}
    with tempfile.TemporaryDirectory(prefix="mxcheck-sublayers-") as name:
        folder = Path(name)
        save_states(states, folder / "states.safetensors", weights=loaded.weights_fingerprint)
        job = {
            "model": chosen.model,
            "dtype": chosen.dtype,
            "states": str(folder / "states.safetensors"),
            "weights": loaded.weights_fingerprint,
            "layer": layer,
            "precisions": chosen.precision,
        }
        print(f"{chosen.model}: {len(states.layers)} layers; faults of one layer are in {layer}", flush=True)
        settings = NOISE_ENVIRONMENTS["cpu"]
        trials = {one: _run_child(folder, job, settings[one]) for one in settings}
        noise = {
            one: sublayer_noise(accepted[one], [trial.healthy[one] for trial in trials.values()])
            for one in chosen.precision
        }
        _table("environment (median / worst place)")
        red = 0
        for environment, variables in _controls(folder, chosen.environments):
            found = _run_child(folder, job, variables)
            for one, now in found.healthy.items():
                same = _same(found, now, accepted[one], arithmetic)
                line, messages = _row(
                    f"{environment}, {one}", now, accepted[one], same=same, noise=noise[one]
                )
                red += bool(messages)
                print(line, *messages, sep="\n", flush=True)
        print(f"\n{red} red in {chosen.environments} environments of {len(chosen.precision)} precisions")
        if chosen.no_faults:
            return
        first = chosen.precision[0]
        faulty = _run_child(folder, {**job, "precisions": [first]}, settings["default"], faults=True).faults
        round_up = _measure(model, states, _recipe(first, ROUND_UP), layer)
        _table(f"fault under {first}, held where ATen, MKL and oneDNN use the oldest instructions")
        told = []
        for fault in FAULTS:
            then = accepted[first] if fault.scale_rule is None else round_up
            line, messages = _row(fault.what, faulty[fault.what], then, same=False, noise=noise[first])
            print(line)
            told += [
                f"\n{fault.what}:\n\n" + "\n".join(f"- {message}" for message in messages or ["nothing"])
            ]
        print(*told, sep="\n")
        _by_value(model, first, layer)


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if sys.argv[1:2] == ["--child"]:
        _child(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
