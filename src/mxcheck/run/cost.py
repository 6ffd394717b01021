"""Costs of cases, as a pure function of the options: xdist's controller knows only node ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from mxcheck.models.recipes.recipe import Recipe
from mxcheck.models.zoo.footprint import Footprint, footprint, text_shape
from mxcheck.models.zoo.known_models import model_source
from mxcheck.models.zoo.weight_files import TOKENS
from mxcheck.run.measurement_settings import DEFAULT_BATCH_SIZE, DEFAULT_REFERENCE_CACHE, Measuring

if TYPE_CHECKING:
    from pathlib import Path

    from mxcheck.gate.case import Case
    from mxcheck.run.settings import Settings

T = TypeVar("T")

#: Footprint of a model of which nothing is known before loading: it is scheduled early, on a device for
#: itself.
UNKNOWN = Footprint(weight_bytes=0, working_bytes=0, case_seconds=600.0, load_seconds=600.0)
#: A converted model casts, which the reference does not; one sequence in a pass is slower by itself
#: (measured: 1.5 to 1.9 times on the reference models).
_CONVERTED, _ONE_BY_ONE = 1.2, 1.8


def estimate(
    name: str,
    *,
    dtype: str | None,
    samples: int,
    length: int | None,
    batch_size: int | None,
    own: Path | None = None,
    reference_cache: int = DEFAULT_REFERENCE_CACHE,
    memory: str = "kept",
) -> Footprint | None:
    """Return the estimated footprint of a model on its own text, or on a corpus (`own` is None); None if it
    cannot be known before loading. `own` is the folder of its baselines, which holds the text of a model that
    is not ours. `reference_cache` is in MiB."""
    source = model_source(name)
    usual = DEFAULT_BATCH_SIZE if source.card is None else source.card.batch_size
    text = None
    if own is not None and source.text is not None:
        text = source.text.sequences, source.text.length
    elif own is not None:
        text = text_shape(source.tokens or own / TOKENS)
    return footprint(
        source,
        dtype=dtype,
        sequences=samples,
        length=length,
        batch_size=batch_size or usual,
        text=text,
        reference_cache=reference_cache * 2**20,
        memory=memory,
    )


def estimated(settings: Measuring, label: str) -> Footprint | None:
    """Return the estimated footprint of a model of the run."""
    return estimate(
        settings.models[label],
        dtype=settings.dtype,
        samples=settings.max_samples,
        length=settings.sequence_length,
        batch_size=settings.batch_size,
        own=settings.baselines / label if settings.corpus.is_self else None,
        reference_cache=settings.reference_cache,
        memory=settings.memory,
    )


def case_seconds(known: Footprint | None, recipe: Recipe) -> float:
    """Return a case's nominal seconds once its model is loaded."""
    factor = _ONE_BY_ONE if recipe.sequences_a_pass else _CONVERTED
    return (known or UNKNOWN).case_seconds * factor


def scaled(nominal: Mapping[T, float], measured: Mapping[T, float]) -> dict[T, float]:
    """Return the expected seconds of each item: measured where they are, else nominal, scaled by the ratio of
    both where both are known."""
    told = sum(nominal[one] for one in measured)
    scale = sum(measured.values()) / told if told else 1.0
    return {one: measured.get(one, seconds * scale) for one, seconds in nominal.items()}


def expected_seconds(settings: Settings) -> dict[str, float]:
    """Return the expected seconds of each model of the run, with its loading: the same on every machine, as
    they depend on the options and the named report of an earlier run alone."""
    known = {label: estimated(settings, label) for label in settings.models}
    earlier = settings.durations
    nominal = {case: case_seconds(known[case.model], made) for case, made in settings.recipes.items()}
    cases = scaled(nominal, {case: earlier.cases[case.id] for case in nominal if case.id in earlier.cases})
    loads = scaled(
        {label: (known[label] or UNKNOWN).load_seconds for label in known},
        {label: earlier.loads[label] for label in known if label in earlier.loads},
    )
    return {
        label: loads[label] + sum(seconds for case, seconds in cases.items() if case.model == label)
        for label in known
    }


def stored_key(settings: Measuring, case: Case) -> str:
    """Return the cache key of a case's duration, which applies to one kind of device only."""
    return f"{case.id} on {settings.device}"
