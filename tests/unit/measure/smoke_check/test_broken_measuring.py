"""The smoke test of what measures: silent on this code, loud on code with a fault."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.case import Case
from mxcheck.gate.decision import Accepted, decide
from mxcheck.gate.update import Update
from mxcheck.measure.measure_case import measure_case
from mxcheck.measure.model_session import ModelSession
from mxcheck.measure.smoke_check import broken_measuring as module
from mxcheck.measure.smoke_check import measured_now
from mxcheck.measure.smoke_check.broken_measuring import broken_measuring, smoke_checks
from mxcheck.models.conversion.convert import convert
from mxcheck.models.recipes.recipe import recipe
from mxcheck.run.measurement_settings import Measuring
from validation.faults.catalogued import catalogue
from validation.faults.fault import Fault, Rewrite, applied
from validation.faults.fault_place import argument, call

CASE = Case(model="ref-llama", precision="mxfp8_e4m3", tier="A")
WIDE = Bounds(kl=1.0, rise=1.0)
SHORT = Measuring(max_samples=2, sequence_length=32)

#: Faults of the catalogue, and a word of what is told of each.
SEEN = {
    "top5_for_top1": "top-1 (model whole)",
    "top1_against_the_text": "top-1 (model whole)",
    "loss_against_argmax": "losses (reference whole)",
    "kl_reversed": "KL (model whole)",
    "entropy_of_the_likeliest_tokens": "entropies (reference whole)",
    "entropy_in_base_2": "entropies (reference whole)",
    "last_batch_dropped": "tokens were scored",
    "token_lost_at_a_chunk_s_border": "tokens were scored",
    "targets_of_the_first_chunk": "losses (reference by chunks)",
    "k3_of_the_reciprocal": "k3 (model whole)",
    "parts_of_a_sequence_swapped": "KL by position (model whole)",
    "documents_run_together": "a text with BOS",
    "token_twice_at_a_chunk_s_border": "tokens were scored",
    "head_one_chunk_late": "losses (reference by chunks)",
    "last_chunk_dropped": "tokens were scored",
    "scales_not_weighed": "bytes of mxfp8_e4m3-A, tied head",
    "tied_head_weighed_twice": "bytes of fp32, tied head",
    "codes_not_packed": "bytes of mxfp6_e3m2-A, tied head",
    "text_without_its_bos": "a text with BOS",
    "last_document_dropped": "a text with BOS",
}


def test_this_code_measures_right() -> None:
    assert broken_measuring() == ""


@pytest.mark.parametrize("name", SEEN)
def test_a_fault_is_seen(name: str) -> None:
    with applied(catalogue()[name]):
        said = broken_measuring()
    assert SEEN[name] in said
    assert said.startswith("mxcheck measures a known result wrong: ")
    assert "\n" not in said


def test_each_trial_raises_nothing_where_it_is_told() -> None:
    def scored() -> Iterator[tuple[str, str]]:
        raise RuntimeError("two\nlines")
        yield "", ""

    said = broken_measuring([scored, *smoke_checks()])
    assert "known result wrong: scored: raised RuntimeError: two lines; mxcheck itself" in said


@pytest.mark.parametrize("default", ["dtype", "device"])
def test_what_torch_has_for_defaults_does_not_matter(default: str) -> None:
    if default == "device":
        with torch.device("meta"):
            assert broken_measuring() == ""
        return
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert broken_measuring() == ""
    finally:
        torch.set_default_dtype(before)


def test_it_leaves_the_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    broken_measuring()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_every_case_of_a_process_that_measures_wrong_fails() -> None:
    with applied(catalogue()["top5_for_top1"]), ModelSession(SHORT) as session:
        record = measure_case(session, CASE)
        (failed,) = session.checks()
    decision = decide(record, Accepted(record=record), WIDE, Update(changed=True), absolute=[failed])
    assert decision.result.word == "FAIL step 2"
    assert decision.write == ""
    assert "mxcheck itself is broken" in failed.message
    with ModelSession(SHORT) as session:
        assert session.checks() == ()


def test_one_digest_for_products_of_two_types_fails_every_case() -> None:
    with applied(catalogue()["arithmetic_of_another_type"]), ModelSession(SHORT) as session:
        (failed,) = session.checks()
    assert failed.message.startswith("matrix products in fp32 and in bf16 have the same digest")


def kept(what: str) -> Fault:
    """A field of the record is kept by model and recipe."""
    change = Rewrite(
        target="mxcheck.measure.measure_case:_measured",
        at=(call("Record"), argument(what)),
        to="measure_case.__dict__.setdefault((case.model, str(recipe), 'kept'), it)",
    )
    return Fault(name="kept", group="gate", what="Kept.", source="this test", changes=(change,))


@pytest.mark.parametrize(("what", "words"), [("digests", "digests of"), ("sequence_losses", "losses of")])
def test_what_is_kept_by_model_and_recipe_is_seen(what: str, words: str) -> None:
    from mxcheck.measure import measure_case as module

    with applied(kept(what)), ModelSession(SHORT) as session:
        measure_case(session, CASE)
        (failed,) = session.checks()
    assert failed.message.startswith("mxcheck does not measure what it shows: one weight of ")
    assert words in failed.message
    vars(module.measure_case).clear()


def test_a_check_of_the_bench_leaves_it_as_it_was() -> None:
    with ModelSession(SHORT) as session:
        first = measure_case(session, CASE)
        model = session.resident("ref-llama").loaded.model
        assert session.live
        assert measure_case(session, CASE) == first
        convert(model, recipe("mxfp8_e4m3", tier="A")).undo()
    with ModelSession(SHORT) as session:
        before = {
            name: value.clone()
            for name, value in session.resident("ref-llama").loaded.model.state_dict().items()
        }
        measure_case(session, CASE)
        after = session.resident("ref-llama").loaded.model.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("how", ["one parameter", "one memory"])
def test_a_weight_that_two_modules_share_is_left_alone(how: str) -> None:
    with ModelSession(SHORT) as session:
        attention = session.resident("ref-llama").loaded.model.get_submodule("model.layers.0.self_attn")
        keys: Any = attention.get_submodule("k_proj")
        values: Any = attention.get_submodule("v_proj")
        keys.weight = (
            values.weight
            if how == "one parameter"
            else torch.nn.Parameter(values.weight.data, requires_grad=False)
        )
        measure_case(session, replace(CASE, tier="B"))
        assert session.live
        assert session.checks() == ()


def test_nothing_is_tried_where_all_weights_are_shared() -> None:
    with ModelSession(SHORT) as session:
        model = session.resident("ref-llama").loaded.model
        record = measure_case(session, CASE)
        assert measured_now._chosen(record, model) in record.digests
        held = [torch.nn.Module() for _ in record.digests]
        for other, name in zip(held, record.digests, strict=True):
            other.register_parameter("other", model.get_submodule(name).get_parameter("weight"))
        model.add_module("others", torch.nn.ModuleList(held))
        assert measured_now._chosen(record, model) is None


@pytest.mark.parametrize("length", [2, 3, 16])
def test_a_short_text_and_a_weight_that_it_does_not_feel(length: int) -> None:
    with ModelSession(Measuring(max_samples=1, sequence_length=length)) as session:
        model = session.resident("ref-llama").loaded.model
        model.get_submodule("model.layers.0.self_attn.o_proj").get_parameter("weight").zero_()
        measure_case(session, replace(CASE, tier="B"))
        assert session.live
        assert session.checks() == ()


def test_the_smoke_check_runs_before_the_first_case(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(module, "broken_measuring", lambda: order.append("smoke check") or "")
    with ModelSession(SHORT, tell=lambda told: order.append(str(told["do"]))) as session:
        measure_case(session, CASE)
    assert order[0] == "smoke check"
    assert order.count("smoke check") == 1
    assert "measure" in order


class Host:
    """A host that has more to give, once."""

    def __init__(self) -> None:
        self.whole: list[bool] = []

    def pin(self) -> None: ...

    def take(self, label: str, *, device: str, whole: bool) -> dict[int, int]:  # noqa: ARG002
        self.whole.append(whole)
        return {0: 100}

    def can_give_more(self, label: str) -> bool:  # noqa: ARG002
        return True

    def give_back(self) -> None: ...


@pytest.mark.parametrize(
    "place", [(module, "broken_measuring"), (measured_now, "stale")], ids=["smoke-check", "measured-now"]
)
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_memory_that_runs_out_in_a_check_is_asked_for_once_more(
    place: tuple[Any, str], error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = iter([error])

    def once(*_: object) -> str:
        for one in failing:
            raise one
        return ""

    monkeypatch.setattr(*place, once)
    host = Host()
    with ModelSession(SHORT, host=host) as session:
        measure_case(session, CASE)
        assert session.checks() == ()
    assert host.whole[-1]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_memory_that_runs_out_in_a_smoke_check_is_no_fault_of_ours(error: Exception) -> None:
    def scored() -> Iterator[tuple[str, str]]:
        raise error
        yield "", ""

    with pytest.raises(type(error)):
        broken_measuring([scored])
