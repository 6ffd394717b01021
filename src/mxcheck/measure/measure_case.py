"""Measure a case to its record."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from mxcheck.extras import require_models
from mxcheck.gate.case import Case
from mxcheck.gate.case_cost import Cost
from mxcheck.gate.figures import check_figures
from mxcheck.gate.record import Record
from mxcheck.measure.model_session import ModelSession
from mxcheck.measure.passive_threads import load_torch
from mxcheck.models.zoo.refusal import is_out_of_memory

if TYPE_CHECKING:
    import torch

    from mxcheck.evaluation.layer_states import LayerStates
    from mxcheck.evaluation.sublayer_errors import SublayerErrors
    from mxcheck.models.recipes.recipe import Recipe


def measure_case(session: ModelSession, case: Case) -> Record:
    """Measure one case. Loads its model unless it is resident.

    If memory runs out, try once more with whole devices, if the session's host has more to give. Torch and
    numpy have their usual settings meanwhile.

    Raises ValueError, in one line, for what the user can mend, and if the record contradicts itself;
    UnavailableError if the case's library cannot run here or on this model; torch's error if memory runs out.
    `ModelSession.checks` says whether this process measures right.
    """
    session.cost = None
    load_torch()
    require_models("measuring a model")
    from mxcheck.kernels.usual_settings import check_subnormals, usual_settings

    with usual_settings(threads=session.threads):
        check_subnormals()
        return _measured_whole(session, case)


def _measured_whole(session: ModelSession, case: Case) -> Record:
    from mxcheck.measure.kernel_check import check_named
    from mxcheck.measure.kernel_domain import check_kernel_domain
    from mxcheck.models.conversion.convert import UnavailableError

    recipe = session.measuring.recipe_of(case)
    if (reason := session.unavailable(recipe)) is not None:
        raise UnavailableError(reason)
    check_named(recipe)
    try:
        session.kernel_cells(recipe)  # first, so that they are reported whatever becomes of the case
        check_kernel_domain(session.measuring, case, recipe, session.device)
        return _checked(session, case, recipe)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        failure = error.with_traceback(None)  # its traceback holds what did not fit
    # Only once: after that it has whole devices, and nothing more to wait for.
    if not session.enlarge(case.model):
        raise failure
    return _checked(session, case, recipe)


def _checked(session: ModelSession, case: Case, recipe: Recipe) -> Record:
    """Measure the record, after the smoke check of its process. Raises ValueError if it contradicts
    itself. For the first record of a process that casts, also test that it was measured now."""
    from mxcheck.measure.smoke_check.measured_now import stale

    session.run_smoke_check()
    record = _measured(session, case, recipe)
    check_figures(record)
    if not session.live and recipe.operands and recipe.library is None:
        resident = session.resident(case.model)
        found = stale(record, resident, lambda other: _measured(session.with_resident(other), case, recipe))
        session.broken = session.broken or found or ""
        session.live = found is not None
    return record


def _measured(session: ModelSession, case: Case, recipe: Recipe) -> Record:
    from mxcheck.evaluation.metrics import resolve_metrics
    from mxcheck.evaluation.spent import spending
    from mxcheck.evaluation.tokens import fingerprint
    from mxcheck.kernels.usual_settings import check_subnormals
    from mxcheck.measure.emulation import emulate
    from mxcheck.measure.kernel_check import check_model_kernel

    measuring = session.measuring
    resident = session.resident(case.model)
    model, reference, tokens = resident.loaded.model, resident.reference, resident.text.tokens
    states = None if isinstance(resident.states, str) else resident.states
    if recipe.operands:
        check_model_kernel(recipe, like=next(model.parameters()))
        check_subnormals()  # loading the kernel may have loaded code that flushes them
    cells = session.kernel_cells(recipe)
    together = recipe.sequences_a_pass or measuring.batch_size_of(case.model)
    session.tell({"do": "step", "what": f"{case.id} converting"})
    scored = tokens.shape[0] * (tokens.shape[1] - 1)
    session.forget_peak()
    with spending() as seconds:
        found = emulate(
            model,
            recipe,
            tokens,
            reference,
            states,
            batch_size=together,
            metrics=resolve_metrics(measuring.metrics),
            begin=lambda: session.progress(case.id, tokens, together),
            held=session.held,
            memory=measuring.memory,
        )
    session.cost = Cost(
        device=session.device_class, tokens=scored, seconds=seconds, peak_bytes=session.peak_bytes
    )
    result = found.result
    assert result.kl is not None
    assert result.sequence_kl is not None
    assert result.top1_agreement is not None
    assert result.bit_equal is not None
    return Record(
        kind=case.kind,
        subject=case.subject,
        model=case.model,
        precision=case.precision,
        tier=case.tier,
        options=list(case.options),
        recipe=recipe.as_dict(),
        changes_bits=found.changes_bits,
        fingerprints={
            "weights": resident.loaded.weights_fingerprint,
            "tokenizer": resident.loaded.tokenizer_fingerprint,
            "tokens": fingerprint(tokens),
            **resident.text.fingerprints,
            **({} if states is None else {"states": states.digest}),
        },
        arithmetic=session.arithmetic(found.dtype),
        environment=session.environment
        | {"batch_size": str(together)}
        | ({"kernel": recipe.kernel} if cells else {})  # `Measuring.recipes` may name another one
        | ({} if found.memory == "kept" else {"memory": found.memory})
        | _dtype(next(model.parameters()).dtype)
        | _version(recipe.library)
        | _refused(found.refused),
        replaced=found.replaced,
        unconverted=found.unconverted,
        weight_bytes=found.weight_bytes,
        original_bytes=found.original_bytes,
        digests=found.digests,
        unsteady=found.unsteady,
        kernel_cells=cells,
        corpus=resident.text.facts,
        scored_tokens=scored,
        reference_cross_entropy=reference.cross_entropy,
        reference_entropy=reference.entropy,
        reference_losses=reference.sequence_losses,
        reference_entropies=reference.sequence_entropies,
        bit_equal=result.bit_equal,
        cross_entropy=result.cross_entropy,
        perplexity=result.perplexity,
        entropy=result.entropy,
        kl=result.kl,
        top1_agreement=result.top1_agreement,
        sequence_losses=result.sequence_losses,
        sequence_kl=result.sequence_kl,
        predictions=result.predictions,
        sublayers=None if found.sublayers is None else found.sublayers.errors or None,
        counters=found.counters,
        metrics=result.metrics,
        absent=_absent(resident.states, found.sublayers),
    )


def _absent(states: LayerStates | str, layers: SublayerErrors | None) -> dict[str, str]:
    """Return why a figure, or a part of one, is missing."""
    if layers is None:
        return {"sublayers": str(states)}
    parts = {f"sublayers: {place}": reason for place, reason in layers.absent.items()}
    return parts if layers.errors else {"sublayers": "no part of a layer can be measured", **parts}


def _dtype(dtype: torch.dtype) -> dict[str, str]:
    """Return the dtype that the model was loaded in, if it is not the usual one."""
    name = str(dtype).removeprefix("torch.")
    return {} if name == "float32" else {"dtype": name}


def _refused(kinds: dict[str, str]) -> dict[str, str]:
    """Return further inputs that the kernel was tried on and refused: no fault of a case, which needs none of
    them."""
    return (
        {"refused by the kernel": "; ".join(f"{kind}: {why}" for kind, why in kinds.items())} if kinds else {}
    )


def _version(library: str | None) -> dict[str, str]:
    return {} if library in (None, "torch") else {str(library): version(str(library))}
