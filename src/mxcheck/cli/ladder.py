"""`mxcheck ladder`: every precision, its requirements, and whether it can run here."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mxcheck.cli.console import console
from mxcheck.extras import missing
from mxcheck.formats.blocks import BLOCK_FORMATS
from mxcheck.kernels.device_choice import resolve_device
from mxcheck.models.backends.backend import backend
from mxcheck.models.ladder import ALL_LINEARS, LADDER, MIXED_TIERS, MX, Step, stages
from mxcheck.reporting.screen import say
from mxcheck.reporting.zoo import StepRow, ladder_table, reasons

#: Least width at which no cell is cut.
WIDTH = 140

#: A short description of each precision; the MX formats describe themselves.
_WHAT: Mapping[str, str] = MappingProxyType(
    {
        "fp32": "nothing: the model against itself",
        "bf16": "all parameters and all arithmetic in bfloat16",
        "bfp16": "operands rounded to bfloat16",
        "nvfp8_emu_e4m3": "operands in FP8 E4M3, an fp32 scale a tensor",
        "nvfp8_emu_e5m2": "operands in FP8 E5M2, an fp32 scale a tensor",
        "nvfp4": "operands in FP4 E2M1, scales by 16 and a tensor",
        "mixed": "\n".join(
            f"{tier}: {', '.join(f'{role} {name}' for role, name in formats.items())}"
            for tier, formats in MIXED_TIERS.items()
        ),
        "bnb_int8": "LLM.int8(): int8 products, outlier columns apart",
        "te_fp8_current": "FP8 products, a scale a tensor, of the tensor itself",
        "te_fp8_delayed": "FP8 products, a scale a tensor, of the first batch",
        "te_mxfp8": "MXFP8 products, E8M0 scales by 32",
        "scaled_mm_fp8": "FP8 E4M3 products, an fp32 scale a tensor",
        "scaled_mm_fp8_row": "FP8 E4M3 products, an fp32 scale a row",
    }
)


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "ladder", help="every precision: what it does, what it needs, if it runs here"
    )
    command.add_argument(
        "--device", default="auto", help="auto (default: cuda where there is one), cpu, cuda"
    )
    command.set_defaults(run=_ladder)


def _ladder(options: argparse.Namespace) -> int:
    device = resolve_device(options.device, option="--device", present=False)
    rows = [_row(step, device) for step in LADDER.values()]
    console(at_least=WIDTH).print(ladder_table(rows, device=device))
    for line in reasons(rows):
        say(line)
    return 0


def _row(step: Step, device: str) -> StepRow:
    tiers = tuple(tier for name, tier in stages() if name == step.name and tier is not None)
    return StepRow(
        name=step.name,
        what=_mx(step.name) if step.name in MX else _WHAT[step.name],
        tiers=(*tiers, ALL_LINEARS) if tiers and step.name != "mixed" else tiers,
        needs=step.needs,
        reason=_reason(step, device),
    )


def _reason(step: Step, device: str) -> str:
    """Return why a model cannot run in this precision here, or an empty string."""
    if (reason := missing("transformers")) is not None:
        return reason
    return "" if step.library is None else backend(step.name).missing(device) or ""


def _mx(name: str) -> str:
    block = BLOCK_FORMATS[name]
    return f"operands in blocks of {block.block_size}, {block.element.bits} bits an element"
