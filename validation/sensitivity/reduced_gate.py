"""The runs under a fault: the reduced model suite, the kernel suite, and the full gate for survivors."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from mxcheck.files.write import write_text
from mxcheck.gate.bounds_tables import bounds_path, load_bounds
from mxcheck.gate.case import Case
from mxcheck.gate.shipped import adopt
from mxcheck.models.recipes.ladder import ALL_LINEARS, LADDER, MIXED_TIERS
from mxcheck.models.recipes.ladder import TIERS as LADDER_TIERS
from mxcheck.models.recipes.ladder import WHOLE_MODEL as LADDER_WHOLE_MODEL
from mxcheck.models.zoo.known_models import REFERENCE_MODELS
from mxcheck.run.default_gate import FEW_PRECISIONS, is_run_with
from mxcheck.run.ladder_cases import Changes, changed_recipe
from mxcheck.run.measurement_settings import Measuring
from validation.faults.fault import Fault

#: The reduced gate: a dense model, one with experts, and models that cover the remaining code.
MODELS = ("ref-llama", "ref-moe", *FEW_PRECISIONS)
SEQUENCES = 16
#: Always run: the reference itself, and the dtype of loading, which changes nothing else.
WHOLE_MODEL = ("fp32", "bf16")
TIERS = ("A", "B", "C", "D")  # the last two apply to `mixed` only
#: Everything runs on the CPU: the committed baselines are a CPU's, and forks cannot share CUDA.
_CPU = ("--mx-device", "cpu")
#: Options that cost more than the precisions for which our bounds are made, and the factor on the bounds.
_COSTLY: dict[tuple[str, ...], float] = {
    ("--mx-rounding", "zero"): 8.0,
    ("--mx-scale-rule", "ceil"): 2.0,
    ("--mx-datasets", "prose"): 2.0,
}
_MODEL_SUITE = ("--pyargs", "mxcheck.suite.models", *_CPU)
#: The full gate, without its baselines: every installed precision, until a case is red.
FULL_GATE = (*_MODEL_SUITE, "--mx-models", ",".join(REFERENCE_MODELS), "--mx-tier", "A,B", "-x")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReducedGate:
    """The reduced model suite: options of the run, and precisions of the ladder."""

    options: tuple[str, ...]
    precisions: tuple[str, ...]

    @property
    def key(self) -> str:
        """Name of its files."""
        text = " ".join([*self.options, *self.precisions])
        words = re.findall(r"\w+", " ".join(self.options).replace("--mx-", "")) or ["plain"]
        return "-".join([*words, sha256(text.encode()).hexdigest()[:8]])

    @property
    def models(self) -> tuple[str, ...]:
        """The models of its runs. With options only models with every precision: the others have bounds only
        for their few."""
        return tuple(name for name in MODELS if not (self.options and name in FEW_PRECISIONS))

    def let_in(self, accepted: Path) -> None:
        """Write bounds of the models' own into the folder of baselines, where the options cost more, and
        where a model's table has only lines for whole texts."""
        ours = load_bounds(baselines=accepted)
        for model in FEW_PRECISIONS:
            if model not in self.models:
                continue
            lines = []
            for case in self._cases(model):
                whole = ours.of(replace(case, options=()))
                lines.append(f'"{case.name}" = {{ kl = {whole.kl!r}, rise = {whole.rise!r} }}\n')
            adopt(accepted, model)
            path = bounds_path(accepted / model)
            table = path.read_text("utf-8")
            if lines[0] not in table:
                write_text(path, table + "".join(lines))
        factor = _COSTLY.get(self.options)
        if factor is None:
            return
        for model in self.models:
            lines = []
            for name in self.precisions:
                for tier in _tiers_of(name, TIERS):
                    case = Case(model=model, precision=name, tier=tier)
                    stage = replace(case, options=(self.options[-1], f"samples{SEQUENCES}")).name
                    lines.append(f'"{stage}" = {{ kl = {factor * ours.of(case).kl:.3g} }}\n')
            write_text(bounds_path(accepted / model), "".join(lines))

    def _cases(self, model: str) -> list[Case]:
        """Return a model's cases without an option of the run."""
        few = (f"samples{SEQUENCES}",)
        return [
            Case(model=model, precision=name, tier=tier, options=few)
            for name in self.precisions
            for tier in _tiers_of(name, TIERS)
            if is_run_with(model, name, tier)
        ]

    def arguments(self, accepted: Path, *, update: bool = False) -> list[str]:
        """Return pytest's arguments. `accepted` is the folder of baselines."""
        return [
            *_MODEL_SUITE,
            *("--mx-models", ",".join(self.models)),
            *("--mx-max-samples", str(SEQUENCES)),
            *("--mx-precision", ",".join(self.precisions)),
            # every linear replaces a tier
            *(() if "--mx-all-linears" in self.options else ("--mx-tier", ",".join(TIERS))),
            f"--mx-baselines={accepted}",
            *self.options,
            *(["--snapshot-update"] if update else []),
        ]

    def measuring(self, accepted: Path) -> Measuring | None:
        """Return the same cases without pytest; None where only pytest's plugin knows an option."""
        models = self.models
        tiers: tuple[str, ...] = TIERS
        changes = Changes()
        words = iter(self.options)
        for word in words:
            if word == "--mx-all-linears":
                tiers = (ALL_LINEARS,)
            elif word == "--mx-models":
                models = (
                    *models,
                    *next(words).split(","),
                )  # in addition to ours, as the option adds them for pytest
            elif word == "--mx-attention":
                changes = replace(changes, attention=True)
            elif word == "--mx-quantize-outputs":
                changes = replace(changes, outputs=True)
            elif word == "--mx-rounding":
                changes = replace(changes, rounding=next(words))
            elif word == "--mx-block-size":
                changes = replace(changes, block_size=int(next(words)))
            else:
                return None
        recipes = {}
        for model in models:
            for name in self.precisions:
                for tier in _tiers_of(name, tiers):
                    if not is_run_with(model, name, tier):
                        continue
                    labels, made = changed_recipe(name, tier, changes)
                    options = (*labels, f"samples{SEQUENCES}")
                    recipes[Case(model=model, precision=name, tier=tier, options=options)] = made
        return Measuring(
            models={name: name for name in models},
            recipes=recipes,
            max_samples=SEQUENCES,
            device="cpu",
            baselines=accepted,
        )


def _tiers_of(name: str, tiers: Iterable[str]) -> tuple[str | None, ...]:
    if name in LADDER_WHOLE_MODEL:
        return (None,)
    own = MIXED_TIERS if name == "mixed" else (*LADDER_TIERS, ALL_LINEARS)
    return tuple(tier for tier in tiers if tier in own)


def gate_of(fault: Fault) -> ReducedGate:
    """Return the reduced model suite for a fault."""
    return ReducedGate(options=fault.options, precisions=_in_order([*WHOLE_MODEL, *fault.precisions]))


def accepting_gates(faults: Iterable[Fault]) -> dict[tuple[str, ...], ReducedGate]:
    """Return by options the suite with every precision that the faults with these options need: it is
    accepted once."""
    needed: dict[tuple[str, ...], list[str]] = {}
    for fault in faults:
        needed.setdefault(fault.options, [*WHOLE_MODEL]).extend(fault.precisions)
    return {
        options: ReducedGate(options=options, precisions=_in_order(names))
        for options, names in needed.items()
    }


def _in_order(names: Iterable[str]) -> tuple[str, ...]:
    wanted = set(names)
    return tuple(name for name in LADDER if name in wanted)


def kernel_arguments(formats: Iterable[str]) -> list[str]:
    """Return pytest's arguments: the cells and products of some formats, and all tests of layouts, which do
    not depend on the format."""
    return [
        *("--pyargs", "mxcheck.suite.kernels", *_CPU),
        *("--mx-kernel", "eager,eager_values", "--mx-level", "quick"),
        *(
            "-k",
            " or ".join([*dict.fromkeys(formats), "test_layouts", "test_code_tables", "test_many_calls"]),
        ),
    ]
