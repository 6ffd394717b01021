"""`mxcheck sample`: evaluation tokens from the user's own model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mxcheck.gate.case import named_model
from mxcheck.gate.shipped import BASELINES
from mxcheck.models.zoo.known_models import REFERENCE_MODELS, model_source
from mxcheck.models.zoo.weight_files import TOKENS
from mxcheck.reporting.screen import Screen, say
from mxcheck.run.option_choices import DTYPES


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    sample = commands.add_parser("sample", help="sample evaluation tokens from a model")
    sample.add_argument(
        "model", help="directory, hub id (org/name@revision) or name of a known model; NAME=PATH gives a name"
    )
    sample.add_argument(
        "--baselines", type=Path, default=BASELINES, help=f"directory to write to (default: {BASELINES})"
    )
    sample.add_argument("--sequences", type=int, default=64)
    sample.add_argument("--length", type=int, default=256, help="tokens per sequence, including the first")
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument(
        "--dtype",
        choices=tuple(DTYPES),
        help="load the model in this type (as --mx-dtype; default: the model card's, else fp32)",
    )
    sample.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    sample.add_argument(
        "--trust-remote-code", action="store_true", help="let the checkpoint run its own Python code"
    )
    sample.set_defaults(run=_sample)


def _sample(options: argparse.Namespace) -> int:
    from mxcheck.evaluation.sampling import sample_tokens
    from mxcheck.evaluation.tokens import save_tokens
    from mxcheck.kernels.usual_settings import check_subnormals
    from mxcheck.models.zoo.load import load

    label, name = named_model(options.model)
    if label in REFERENCE_MODELS or name in REFERENCE_MODELS:
        raise ValueError(
            f"{options.model} ships with its tokens; name a directory, a hub id or a model of the zoo"
        )
    if options.length < 2 or options.sequences < 1:
        raise ValueError(
            f"nothing to score in {options.sequences} sequences of {options.length} tokens; "
            f"give at least one sequence of two"
        )
    source = model_source(name)
    target = options.baselines / label / TOKENS
    if target.exists():
        raise ValueError(
            f"{target} exists already, and accepted baselines may rest on it; delete it to sample anew"
        )
    check_subnormals()
    loaded = load(
        source.name,
        device=options.device,
        dtype=DTYPES.get(options.dtype),
        trust_remote_code=options.trust_remote_code,
    )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed} tokens"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Screen(stderr=True)) as progress:
        task = progress.add_task(f"sampling {label}", total=options.sequences * (options.length - 1))
        tokens = sample_tokens(
            loaded.model,
            sequences=options.sequences,
            length=options.length,
            seed=options.seed,
            progress=lambda count: progress.advance(task, count),
            tell=lambda what: progress.console.print(what, soft_wrap=True),
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    save_tokens(tokens, target)
    say(f"{target}: {options.sequences} sequences of {options.length} tokens")
    return 0
