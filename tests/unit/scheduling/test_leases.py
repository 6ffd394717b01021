"""The rules of the ledger on plain data."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxcheck.scheduling.devices import Device
from mxcheck.scheduling.leases import Lease, Request, check, grant, others_hold

GIB = 2**30
GPUS = [Device(name=f"GPU-{n}", index=n, slots=2, total_bytes=80 * GIB) for n in range(3)]
CPU = Device(name="cpu", index=0, slots=4, total_bytes=16 * GIB)


def held(device: str, gib: float, slots: int = 1) -> Lease:
    return Lease(holder="x", what="m", bytes_of={device: int(gib * GIB)}, slots_of={device: slots})


def ask(
    request: Request, *leases: Lease, others: dict[str, int] | None = None, ratio: float = 0.0
) -> Lease | str:
    return grant(request, GPUS, leases, others or {}, holder="me", min_free_ratio=ratio)


def names(answer: Lease | str) -> list[str]:
    assert isinstance(answer, Lease), answer
    return sorted(answer.bytes_of)


def test_the_least_taken_device() -> None:
    request = Request(what="m", bytes_each=10 * GIB)
    assert names(ask(request)) == ["GPU-0"]
    assert names(ask(request, held("GPU-0", 10))) == ["GPU-1"]
    assert names(ask(request, held("GPU-0", 10), held("GPU-1", 10), held("GPU-2", 5))) == ["GPU-2"]


def test_where_it_has_been_before() -> None:
    request = Request(what="m", bytes_each=10 * GIB)
    answer = grant(request, GPUS, [held("GPU-2", 10)], {}, holder="me", prefer={"GPU-2"})
    assert names(answer) == ["GPU-2"]


def test_a_share_of_a_device_by_slots_and_memory() -> None:
    request = Request(what="m", devices=3, bytes_each=50 * GIB)
    assert ask(request, held("GPU-1", 31)) == "49.0 of 50.0 GiB is free on device 1"
    assert ask(request, held("GPU-1", 1), held("GPU-1", 1)) == "device 1 is taken"
    assert names(ask(request, held("GPU-1", 30))) == ["GPU-0", "GPU-1", "GPU-2"]


def test_all_or_nothing() -> None:
    answer = ask(Request(what="m", devices=2, bytes_each=60 * GIB), held("GPU-0", 30), held("GPU-1", 30))
    assert answer == "50.0 of 60.0 GiB is free on device 0; 50.0 of 60.0 GiB is free on device 1"


def test_whole_devices() -> None:
    whole = Request(what="m", bytes_each=None)
    answer = ask(whole, held("GPU-0", 1), held("GPU-2", 1), others={"GPU-1": 5 * GIB})
    assert isinstance(answer, Lease)
    assert (dict(answer.bytes_of), dict(answer.slots_of)) == ({"GPU-1": 75 * GIB}, {"GPU-1": 2})
    assert ask(whole, *(held(gpu.name, 1) for gpu in GPUS)) == "; ".join(
        f"device {n} is taken" for n in range(3)
    )


def test_a_device_that_others_use_is_left_alone() -> None:
    request = Request(what="m", bytes_each=1 * GIB)
    others = {"GPU-0": 41 * GIB, "GPU-1": 41 * GIB, "GPU-2": 40 * GIB}
    assert names(ask(request, others=others, ratio=0.5)) == ["GPU-2"]
    assert names(ask(request, others=others)) == ["GPU-0"]
    others["GPU-2"] += 1
    answer = ask(request, others=others, ratio=0.5)
    assert isinstance(answer, str)
    assert "others hold 41.0 of 80.0 GiB of device 0, and --mx-min-free-ratio is 0.5" in answer


def test_others_count_against_the_memory() -> None:
    request = Request(what="m", devices=3, bytes_each=50 * GIB)
    assert ask(request, others={"GPU-2": 36 * GIB}) == "44.0 of 50.0 GiB is free on device 2"


def test_what_others_hold() -> None:
    gpu = GPUS[0]
    leases = [held("GPU-0", 30), held("GPU-0", 20), held("GPU-1", 60)]
    # None of ours on it: all that is used.
    assert others_hold(gpu, [], {"GPU-0": 7 * GIB}, {"GPU-0": 70 * GIB}) == 7 * GIB
    # Leased and not yet taken: what is used may be ours, so what was seen before stands.
    assert others_hold(gpu, leases, {"GPU-0": 12 * GIB}, {"GPU-0": 7 * GIB}) == 7 * GIB
    # More than all leases: somebody has come since.
    assert others_hold(gpu, leases, {"GPU-0": 65 * GIB}, {"GPU-0": 7 * GIB}) == 15 * GIB
    # Nothing tells.
    assert others_hold(gpu, [], {}, {"GPU-0": 7 * GIB}) == 7 * GIB


def test_a_little_less_than_asked_for_where_nobody_of_ours_is() -> None:
    """What is in use of an empty device may be the asker's own context: it would wait for itself."""
    request = Request(what="m", devices=3, bytes_each=79 * GIB)
    answer = ask(request, others={"GPU-1": 4 * GIB})
    assert isinstance(answer, Lease)
    assert answer.bytes_of == {"GPU-0": 79 * GIB, "GPU-1": 76 * GIB, "GPU-2": 79 * GIB}
    assert ask(request, others={"GPU-1": 6 * GIB}) == "74.0 of 79.0 GiB is free on device 1"
    assert ask(request, held("GPU-1", 2)) == "78.0 of 79.0 GiB is free on device 1"


def test_on_a_cpu_the_first_is_let_in() -> None:
    """A desktop's memory does not shrink because somebody waits for it."""
    request = Request(what="m", slots=2, bytes_each=2 * GIB)
    full = {"cpu": 15 * GIB}
    assert isinstance(grant(request, [CPU], [], full, holder="me", min_free_ratio=0.9), Lease)
    answer = grant(request, [CPU], [held("cpu", 1)], full, holder="me")
    assert answer == "0.0 of 2.0 GiB is free on device 0"
    assert grant(request, [CPU], [held("cpu", 1, slots=3)], {}, holder="me") == "device 0 is taken"


@pytest.mark.parametrize(
    ("request_", "devices", "message"),
    [
        (Request(what="big", devices=4), GPUS, "big needs 4 devices, this host has 3"),
        (
            Request(what="big", bytes_each=81 * GIB),
            GPUS,
            "big needs about 81.0 GiB, its devices have 80.0, 80.0, 80.0 GiB; lower --mx-batch-size",
        ),
        (
            Request(what="big", devices=2, bytes_each=81 * GIB),
            GPUS,
            "big needs about 81.0 GiB on each of 2 devices, its devices have",
        ),
        (Request(what="big", bytes_each=17 * GIB), [CPU], "big needs about 17.0 GiB, this host has 16.0 GiB"),
        (Request(what="big", slots=5), [CPU], "big needs 5 threads, this host has 4"),
    ],
)
def test_what_the_host_could_never_give(request_: Request, devices: list[Device], message: str) -> None:
    with pytest.raises(ValueError, match="big needs") as raised:
        check(request_, devices)
    assert str(raised.value).startswith(message)


@given(
    sizes=st.lists(st.tuples(st.integers(1, 3), st.one_of(st.none(), st.integers(1, 80))), max_size=12),
    others=st.lists(st.integers(0, 80), min_size=3, max_size=3),
    ratio=st.floats(0, 1),
)
def test_never_more_than_there_is(
    sizes: list[tuple[int, int | None]], others: list[int], ratio: float
) -> None:
    foreign = {gpu.name: gib * GIB for gpu, gib in zip(GPUS, others, strict=True)}
    leases: list[Lease] = []
    for devices, gib in sizes:
        request = Request(what="m", devices=devices, bytes_each=None if gib is None else gib * GIB)
        answer = grant(request, GPUS, leases, foreign, holder="me", min_free_ratio=ratio)
        if isinstance(answer, Lease):
            assert len(answer.bytes_of) == devices
            leases.append(answer)
    for gpu in GPUS:
        assert sum(lease.slots_of.get(gpu.name, 0) for lease in leases) <= gpu.slots
        leased = sum(lease.bytes_of.get(gpu.name, 0) for lease in leases)
        assert not leased or leased + foreign[gpu.name] <= gpu.total_bytes
        assert not leased or gpu.total_bytes - foreign[gpu.name] >= ratio * gpu.total_bytes
