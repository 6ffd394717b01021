"""A named kernel whose casts are others than the accepted ones: the oracle says who is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from sample_record import CASTS, build_record

from mxcheck.formats.spec import CastSpec
from mxcheck.gate.case import Case
from mxcheck.gate.check import Check
from mxcheck.gate.kernel_cells import KernelCell
from mxcheck.gate.record import Record
from mxcheck.gate.row_groups import RowGroups
from mxcheck.kernels.eager import fake_quantize_eager, quantize_eager
from mxcheck.measure.changed_casts import changed_casts
from mxcheck.measure.model_session import ModelSession
from mxcheck.models.recipes.recipe import recipe
from mxcheck.run.measurement_settings import Measuring

MODULE = "transformer.h.0.mlp.c_fc"
EXACT = {"mxfp8_e4m3-floor": KernelCell(verdict="exact")}
#: The first weight of row 7, as the kernel below knows it.
BITS: list[torch.Tensor] = []


def right(x: torch.Tensor, spec: CastSpec) -> Any:
    return quantize_eager(x, spec)


def wrong_of_a_weight(x: torch.Tensor, spec: CastSpec) -> Any:
    """Where these bits occur, which no quick cell has."""
    codes, scales = quantize_eager(x, spec)
    at = x.dim() == 2 and len(x) > 7 and torch.equal(x[7, :32], BITS[0])
    if at:
        scales[7, 0] += 1
    return codes, scales


def wrong_values_of_a_weight(x: torch.Tensor, spec: CastSpec) -> Any:
    values = fake_quantize_eager(x, spec)
    if x.dim() == 2 and torch.equal(x[7, :32], BITS[0]):
        values[7, 0] = -values[7, 0]
    return values


def wrong_of_the_probe(x: torch.Tensor, spec: CastSpec) -> Any:
    codes, scales = quantize_eager(x, spec)
    return codes ^ (len(x) == 32), scales


@pytest.fixture(scope="module")
def session() -> Iterator[ModelSession]:
    case = Case(model="ref-neo", precision="mxfp8_e4m3", tier="B")
    measuring = Measuring(max_samples=1, sequence_length=16, recipes={case: recipe("mxfp8_e4m3", tier="B")})
    with ModelSession(measuring) as made:
        weight = made.resident("ref-neo").loaded.model.get_submodule(MODULE).get_parameter("weight")
        BITS[:] = [weight[7, :32].detach().clone()]
        yield made


def records(kernel: Any, kinds: str = "scales") -> tuple[Record, Record]:
    """Of a case by a kernel, and the accepted one: of one module these digests are others."""
    digests = {MODULE: {kind: RowGroups(rows=512, groups=("a",)) for kind in ("codes", "scales", "operands")}}
    accepted = replace(build_record(), model="ref-neo", replaced={MODULE: "mlp"}, digests=digests)
    changed = {kind: RowGroups(rows=512, groups=("b",)) for kind in kinds.split()}
    now = replace(
        accepted,
        digests={MODULE: {**digests[MODULE], **changed}},
        kernel_cells=EXACT,
        environment=accepted.environment | {"kernel": f"{__name__}:{kernel.__name__}"},
    )
    return now, accepted


def found(session: ModelSession, kernel: Any, kinds: str = "scales") -> Check:
    (one,) = changed_casts(session, *records(kernel, kinds))
    assert (one.step, one.key) == (4, "kernel operands")
    return one


def test_a_kernel_that_is_wrong_of_a_weight_is_told_with_the_block(session: ModelSession) -> None:
    one = found(session, wrong_of_a_weight)
    assert not one.passed
    name = f"{__name__}:wrong_of_a_weight"
    assert one.message.startswith(
        f"the kernel {name} is wrong of weights of {MODULE}: 1 of 2,048 scales differ; the first, [7, 0]: "
    )
    assert "; its block: mxcheck explain fp8_e4m3 --hex " in one.message
    assert one.message.endswith(f" --shape 1x32 --kernel {name}")
    values = found(session, wrong_values_of_a_weight)
    assert "1 of 65,536 values differ; the first, [7, 0]: got " in values.message


def test_where_the_oracle_agrees_the_accepted_record_is_wrong(session: ModelSession) -> None:
    one = found(session, right)
    assert one.passed
    assert one.message.endswith(": the accepted record is wrong")
    one = found(session, wrong_of_a_weight, "operands")  # nothing is known of a weight that did not change
    assert one.passed
    assert one.message.endswith("the accepted record, or another input of products, is wrong")
    assert f"is wrong of the fixed probe as activations of {MODULE}: " in (
        found(session, wrong_of_the_probe, "operands").message
    )


def test_who_is_not_asked(session: ModelSession) -> None:
    """No kernel is named, its cells are red, the weights are others, or another recipe is."""
    now, accepted = records(wrong_of_a_weight)
    red = {"mxfp8_e4m3-floor": KernelCell(verdict="red", words="causes: 1 wrong")}
    for one in (
        replace(now, kernel_cells={}),
        replace(now, kernel_cells=red),
        replace(now, fingerprints={**now.fingerprints, "weights": "x"}),
        replace(now, recipe={**now.recipe, "roles": {"mlp": CASTS}}),
        accepted,
    ):
        assert [*changed_casts(session, one, accepted)] == []
