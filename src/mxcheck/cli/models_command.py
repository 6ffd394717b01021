"""`mxcheck models`: facts about each model that are known before loading."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from mxcheck.models.zoo.cards import CARDS, DEVICE_BYTES, ModelCard
from mxcheck.models.zoo.known_models import MADE, MADE_MODELS, REFERENCE_MODELS, model_source
from mxcheck.models.zoo.weight_files import CONFIG, read_json, stored_tensors
from mxcheck.reporting.models_table import Memory, ModelRow, models_table
from mxcheck.reporting.screen import console, say

#: Least width at which no cell is cut.
WIDTH = 180


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "models", help="list the reference models and the known models: origin and memory needed"
    )
    command.set_defaults(run=_models)


def _models(options: argparse.Namespace) -> int:
    del options
    output = console(at_least=WIDTH)
    embedded = [_embedded(name) for name in REFERENCE_MODELS]
    output.print(models_table(embedded, [_card(card) for card in CARDS.values()], device_bytes=DEVICE_BYTES))
    for card in CARDS.values():
        if card.notes:
            say(f"{card.name}: {card.notes}")
    for name, target in MADE_MODELS.items():
        say(f"{name}: `{target}` writes it to {MADE / name}")
    return 0


def _embedded(name: str) -> ModelRow:
    source = model_source(name)
    folder = Path(source.location)
    config = read_json(folder / CONFIG)
    return ModelRow(
        name=name,
        architecture=config["architectures"][0],
        dtype=source.dtype,
        parameters=sum(
            math.prod(one.shape) for one in stored_tensors(sorted(folder.glob("model*.safetensors")))
        ),
    )


def _card(card: ModelCard) -> ModelRow:
    sixteen = card.dtype if card.dtype != "float32" else "bfloat16"
    return ModelRow(
        name=card.name,
        hub_id=card.hub_id,
        revision=card.revision,
        architecture=card.architecture,
        dtype=card.dtype,
        parameters=card.parameters,
        batch=(card.batch_size, card.sequence_length),
        memory=(_memory(card, sixteen), _memory(card, "float32")),
        gated=card.gated,
        safetensors=card.safetensors,
    )


def _memory(card: ModelCard, dtype: str) -> Memory:
    return Memory(
        alone=card.bytes_needed(dtype),
        devices=card.devices(dtype),
        each=card.bytes_per_device(dtype),
    )
