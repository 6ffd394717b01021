"""The settings of a run that determine a record, as plain data. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mxcheck.evaluation.corpus_names import CorpusChoice, corpus_choice
from mxcheck.files.printed import got
from mxcheck.formats.choices import choose
from mxcheck.gate.case import Case
from mxcheck.gate.shipped import BASELINES
from mxcheck.kernels.device_choice import DEVICES
from mxcheck.kernels.registry import OWN, implementation
from mxcheck.models.recipes.recipe import Recipe, recipe
from mxcheck.models.zoo.known_models import model_source
from mxcheck.run.option_choices import DTYPES, MEMORIES

DEFAULT_SAMPLES = 1000
DEFAULT_LENGTH = 2048
DEFAULT_BATCH_SIZE = 8
#: MiB of the reference's logits that a process keeps.
DEFAULT_REFERENCE_CACHE = 512
#: The smallest of each number.
_LEAST = {"max_samples": 1, "sequence_length": 1, "batch_size": 1, "reference_cache": 0}


def _own_text() -> CorpusChoice:
    return corpus_choice(["self"], Path())


@dataclass(frozen=True, slots=True, kw_only=True)
class Measuring:
    """The settings that determine the record of a case.

    Attributes:
        models: label of a case's model -> a name of the zoo, a directory, a hub id; an unlisted label is a
            name itself.
        recipes: the recipe of a case; an unlisted case without options uses the ladder's.
        trusted: labels of models whose checkpoint may execute code.
        dtype: dtype of loading, by torch's name; None: the model card's, else fp32.
        corpus: the measured text.
        max_samples: maximum number of sequences.
        sequence_length: tokens in a sequence; None: as sampled, or the model's length, at most 2,048.
        batch_size: sequences in a forward pass; None: the model card's, else 8. It changes no result.
        reference_cache: most MiB of the reference's logits that are kept where they could be computed again
            (a large vocabulary's). It changes no result.
        memory: where quantized weights are: `kept`, `lean` (made at each forward) or `auto`, by what is free.
            It changes no result.
        metrics: names of the user's own metrics.
        kernel: name of the kernel that casts where `recipes` does not say.
        device: `auto`, `cpu` or `cuda`.
        baselines: folder with the tokens of models that are not ours.

    Raises ValueError, in one line, for a number, memory, kernel, device or dtype that is not allowed.
    """

    models: Mapping[str, str] = field(default_factory=dict)
    recipes: Mapping[Case, Recipe] = field(default_factory=dict)
    trusted: tuple[str, ...] = ()
    dtype: str | None = None
    corpus: CorpusChoice = field(default_factory=_own_text)
    max_samples: int = DEFAULT_SAMPLES
    sequence_length: int | None = None
    batch_size: int | None = None
    reference_cache: int = DEFAULT_REFERENCE_CACHE
    memory: str = "auto"
    metrics: tuple[str, ...] = ()
    kernel: str = "auto"
    device: str = "auto"
    baselines: Path = BASELINES

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            absent = value is None and name in ("sequence_length", "batch_size")
            if not absent and (type(value) is not int or value < least):
                raise ValueError(f"{name} must be a whole number from {least} on, got {got(value)}")
        choose("memory", self.memory, MEMORIES)
        choose("device", self.device, DEVICES)
        if self.dtype is not None:
            choose("dtype", self.dtype, DTYPES.values())
        if not isinstance(self.kernel, str):
            raise ValueError(f"kernel must be a name, or package.module:function, got {got(self.kernel)}")
        if self.kernel not in OWN:
            implementation(self.kernel)

    def name_of(self, label: str) -> str:
        """Return the model of a label, as it was given."""
        return self.models.get(label, label)

    def recipe_of(self, case: Case) -> Recipe:
        """Return a case's recipe. Raises ValueError, in one line, where neither `recipes` nor the ladder has
        it, and for a case of another kind."""
        if case.kind != "recipe":
            raise ValueError(
                f"{case.id} is a case of kind {case.kind}, which has no recipe; give one of kind recipe"
            )
        if case in self.recipes:
            return self.recipes[case]
        if case.options:
            raise ValueError(
                f"{case.id} has options and no recipe; give its recipe: Measuring(recipes={{case: recipe}})"
            )
        return recipe(case.precision, tier=case.tier, kernel=self.kernel)

    def batch_size_of(self, label: str) -> int:
        """Return the sequences in a forward pass of a model."""
        card = model_source(self.name_of(label)).card
        return self.batch_size or (DEFAULT_BATCH_SIZE if card is None else card.batch_size)
