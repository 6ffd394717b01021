"""What a model's task asks of a node, and whether any node has it."""

from __future__ import annotations

import pytest

from mxcheck.distributed.demand import Demand, check_feasible, demand
from mxcheck.distributed.run_plan import PlannedModel
from mxcheck.models.zoo.cards import GIB
from mxcheck.models.zoo.footprint import Footprint


def planned(*, cases: tuple[str, ...] = ("big-fp32",), weights: int = 100, working: int = 4) -> PlannedModel:
    footprint = Footprint(
        weight_bytes=weights * GIB, working_bytes=working * GIB, case_seconds=1.0, load_seconds=1.0
    )
    return PlannedModel(label="big", shard=1, cases=cases, footprint=footprint)


@pytest.mark.parametrize(("gib", "gpus"), [(104, 1), (103, 2), (54, 2), (53, 3), (24, 5)])
def test_on_gpus_as_many_as_hold_a_share_of_the_weights(gib: int, gpus: int) -> None:
    wanted = demand(planned(), on_gpus=True, device_bytes=gib * GIB)
    assert wanted == Demand(cpus=1, gpus=gpus, memory=0)


def test_without_gpus_a_core_and_its_bytes() -> None:
    wanted = demand(planned(), on_gpus=False, device_bytes=1)
    assert wanted == Demand(cpus=1, gpus=0, memory=104 * GIB)
    assert str(wanted) == "1 CPU, 104.0 GiB of memory"


@pytest.mark.parametrize("on_gpus", [False, True])
def test_a_model_of_which_nothing_is_selected_asks_for_the_kind_of_device_alone(on_gpus: bool) -> None:
    wanted = demand(planned(cases=()), on_gpus=on_gpus, device_bytes=1)
    assert wanted == Demand(cpus=1, gpus=int(on_gpus), memory=0)


def test_a_gpu_that_does_not_hold_what_is_beside_the_weights_is_told() -> None:
    with pytest.raises(ValueError, match=r"^big: needs 4\.0 GiB beside .* with --device-gib$"):
        demand(planned(), on_gpus=True, device_bytes=4 * GIB)


@pytest.mark.parametrize(
    ("resources", "fits"),
    [
        ({"CPU": 1.0, "GPU": 2.0, "memory": 3.0 * GIB}, True),
        ({"CPU": 0.0, "GPU": 2.0, "memory": 3.0 * GIB}, False),
        ({"CPU": 8.0, "GPU": 1.0, "memory": 3.0 * GIB}, False),
        ({"CPU": 8.0, "GPU": 2.0, "memory": 2.9 * GIB}, False),
        ({"CPU": 8.0, "memory": 3.0 * GIB}, False),
    ],
)
def test_one_node_has_to_have_all_of_it(resources: dict[str, float], fits: bool) -> None:
    wanted = Demand(cpus=1, gpus=2, memory=3 * GIB)
    assert wanted.fits(resources) is fits
    others = [{"CPU": 8.0}, {"GPU": 8.0}]
    if fits:
        check_feasible({"small": Demand(cpus=1, gpus=0, memory=0), "big": wanted}, [*others, resources])
    else:
        with pytest.raises(
            ValueError, match=r"^big needs 1 CPU, 2 GPUs, 3\.0 GiB of memory on one node, and"
        ):
            check_feasible({"small": Demand(cpus=1, gpus=0, memory=0), "big": wanted}, [*others, resources])


def test_the_error_says_what_there_is() -> None:
    wanted = {"big": Demand(cpus=1, gpus=4, memory=0)}
    there = r"the most that one has: 8 CPU, 2 GPU, 1\.5 GiB of memory; add a node, or leave the model out$"
    with pytest.raises(ValueError, match=there):
        check_feasible(wanted, [{"CPU": 8.0, "memory": 1.5 * GIB}, {"CPU": 1.0, "GPU": 2.0}])
    with pytest.raises(ValueError, match=r"has: 0 CPU, 0 GPU, 0\.0 GiB"):
        check_feasible(wanted, [])
