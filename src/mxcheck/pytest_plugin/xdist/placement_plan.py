"""The controller's part of placement: estimate the costs of the run's cases, and check that this host can
hold its workers."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from mxcheck.gate.case import Case
from mxcheck.gate.result import CaseResult
from mxcheck.models.zoo.cards import GIB
from mxcheck.models.zoo.footprint import Footprint
from mxcheck.pytest_plugin.fixtures.leasing import host_devices, looks_for_gpus, request_for
from mxcheck.pytest_plugin.options.neighbours import is_update
from mxcheck.pytest_plugin.options.read_settings import settings
from mxcheck.run.cost import UNKNOWN, case_seconds, estimated, scaled, stored_key
from mxcheck.run.settings import Settings
from mxcheck.scheduling.devices import CPU, Device
from mxcheck.scheduling.ledger import Ledger
from mxcheck.scheduling.placement import Group, Item, Placement

if TYPE_CHECKING:
    from mxcheck.reporting.progress import Expected

#: Key of earlier runs' durations, in seconds, in pytest's cache.
_DURATIONS, _LOADS = "mxcheck/durations", "mxcheck/loads"


def case_of(node_id: str, cases: Mapping[str, Case]) -> Case | None:
    """Return the case of a node id from `cases`, which maps ids to cases; None for another test."""
    name = parameter_of(node_id)
    return None if name is None else cases.get(name)


def parameter_of(node_id: str) -> str | None:
    """Return the parameter in brackets of a test of the model suite; None for any other test."""
    function, bracket, parameter = node_id.rpartition("::")[2].partition("[")
    return parameter.removesuffix("]") if bracket and function == "test_accuracy" else None


def selected_cases(config: pytest.Config, node_ids: Sequence[str]) -> list[Case]:
    """Return the cases among a run's tests. Our options are read only where a case is possible: other
    people's runs have none."""
    if all(parameter_of(node_id) is None for node_id in node_ids):
        return []
    cases = {case.id: case for case in settings(config).cases}
    return [case for node_id in node_ids if (case := case_of(node_id, cases)) is not None]


def worker_slots(settings: Settings) -> int:
    """Return the number of workers that fit on this host: devices times workers per device (on a CPU, cores
    instead of devices), limited by memory; at least one. Raises pytest.UsageError for GPUs that cannot be
    distinguished."""
    try:
        devices = host_devices(settings, on_gpu=looks_for_gpus(settings))
    except ValueError as error:
        raise pytest.UsageError(f"mxcheck: {error}") from error
    slots = sum(device.slots for device in devices)
    smallest = _smallest(settings, settings.models, twice=False)
    return slots if smallest is None else max(1, min(slots, _room(devices, smallest[0])))


def _smallest(settings: Settings, labels: Iterable[str], *, twice: bool) -> tuple[int, str] | None:
    """Return the least bytes that a worker needs, and the model that needs them; None where no model is
    known."""
    needs = [
        ((2 if twice else 1) * known.bytes_needed, label)
        for label in dict.fromkeys(labels)
        if (known := estimated(settings, label)) is not None
    ]
    return min(needs, default=None)


def _room(devices: Sequence[Device], each: int) -> int:
    return sum(device.total_bytes // each for device in devices)


def _nominal(settings: Settings, cases: Sequence[Case]) -> dict[Case, float]:
    known = {label: estimated(settings, label) for label in dict.fromkeys(case.model for case in cases)}
    return {case: case_seconds(known[case.model], settings.recipes[case]) for case in cases}


def seconds_of(config: pytest.Config, settings: Settings, cases: Sequence[Case]) -> dict[Case, float]:
    """Return the expected duration of each case without loading: the last measured one, here or in the named
    report of an earlier run, else an estimate. Where some were measured, the other estimates are scaled
    accordingly."""
    stored = {
        case: settings.durations.cases[case.id] for case in cases if case.id in settings.durations.cases
    }
    cached: dict[str, float] = _cached(config, _DURATIONS)
    stored |= {case: cached[key] for case in cases if (key := stored_key(settings, case)) in cached}
    return scaled(_nominal(settings, cases), stored)


def expected_of(config: pytest.Config, settings: Settings, cases: Sequence[Case]) -> Expected:
    """Return expected durations for the live display, including work done once for all cases of a model:
    loading it, and in a run that accepts measuring them again in each environment for the noise."""
    from mxcheck.measure.measured_noise import ENVIRONMENTS
    from mxcheck.reporting.progress import Expected

    seconds = seconds_of(config, settings, cases)
    nominal = _nominal(settings, cases)
    scale = sum(seconds.values()) / (sum(nominal.values()) or 1.0)
    times = len(ENVIRONMENTS["cpu"]) if is_update(config) else 0
    stored = _loads(config, settings)
    shared = {}
    for label in dict.fromkeys(case.model for case in cases):
        estimate = (estimated(settings, label) or UNKNOWN).load_seconds * scale
        load = stored.get(label, estimate)
        shared[label] = load + times * (load + sum(seconds[case] for case in cases if case.model == label))
    return Expected(
        cases={case.id: expected for case, expected in seconds.items()},
        shared=shared,
        models={case.id: case.model for case in cases},
    )


def placement_of(config: pytest.Config, node_ids: Sequence[str]) -> Placement[Any] | None:
    """Return the placement of a run's tests on workers; None where it has no case of ours."""
    cases = selected_cases(config, node_ids)
    if not cases:
        return None
    run = settings(config)
    seconds = seconds_of(config, run, cases)
    loads = _loads(config, run)
    by_id = {case.id: case for case in cases}
    items = []
    for node_id in node_ids:
        case = case_of(node_id, by_id)
        items.append(Item() if case is None else Item(group=case.model, seconds=seconds[case]))
    devices = host_devices(run, on_gpu=looks_for_gpus(run))
    groups = {}
    for label in dict.fromkeys(case.model for case in cases):
        known = estimated(run, label)
        estimate = (known or UNKNOWN).load_seconds
        groups[label] = Group(
            load_seconds=loads.get(label, estimate),
            slots=_slots(label, known, devices, twice=is_update(config)),
        )
    return Placement(items, groups, sum(device.slots for device in devices))


def _slots(label: str, known: Footprint | None, devices: list[Device], *, twice: bool) -> int:
    try:
        request = request_for(label, known, devices, on_gpu=devices[0].name != CPU, twice=twice)
    except ValueError:
        return 1  # larger than the host: its cases report it
    if request.bytes_each is None:
        return devices[0].slots
    return request.slots * request.devices


def check_host(config: pytest.Config, node_ids: Sequence[str], workers: int) -> None:
    """Refuse, before anything is loaded, an impossible run: an unusable ledger, or more workers than memory
    can hold. Raises pytest.UsageError."""
    cases = selected_cases(config, node_ids)
    if not cases:
        return
    run = settings(config)
    try:
        Ledger(run.leases).check_usable()
        devices = host_devices(run, on_gpu=looks_for_gpus(run))
    except ValueError as error:
        raise pytest.UsageError(f"mxcheck: {error}") from error
    smallest = _smallest(run, [case.model for case in cases], twice=is_update(config))
    if smallest is None:
        return
    least, label = smallest
    total, room = sum(device.total_bytes for device in devices), _room(devices, least)
    if workers > room > 0:
        raise pytest.UsageError(
            f"mxcheck: -n {workers}: even {label}, the smallest model of the run, needs about "
            f"{least / GIB:.1f} GiB a worker, and this host has {total / GIB:.1f} GiB; give at most -n {room}"
        )


def remember(config: pytest.Config, settings: Settings, results: Mapping[str, CaseResult]) -> None:
    """Store the durations of this run's cases for the next run."""
    cache: Any = getattr(config, "cache", None)
    if cache is None or is_update(config):  # these durations include the noise of all of a model's cases
        return
    durations, loads = _cached(config, _DURATIONS), _cached(config, _LOADS)
    for case in settings.cases:
        result = results.get(case.id)
        if result is None or result.record is None or result.seconds is None:
            continue
        loading = result.load_seconds or 0.0
        durations[stored_key(settings, case)] = round(result.seconds - loading, 3)
        if loading:
            loads[f"{case.model} on {settings.device}"] = loading
    with warnings.catch_warnings():
        # Only an estimate is lost; pytest, which writes to the same cache, reports the error itself.
        warnings.simplefilter("ignore", pytest.PytestCacheWarning)
        cache.set(_DURATIONS, durations)
        cache.set(_LOADS, loads)


def _loads(config: pytest.Config, settings: Settings) -> dict[str, float]:
    """Return the measured seconds of loading, by label: here, else in the report of an earlier run."""
    cached: dict[str, float] = _cached(config, _LOADS)
    here = {
        label: cached[key] for label in settings.models if (key := f"{label} on {settings.device}") in cached
    }
    return {**settings.durations.loads, **here}


def _cached(config: pytest.Config, key: str) -> dict[str, float]:
    cache: Any = getattr(config, "cache", None)
    found = None if cache is None else cache.get(key, None)
    return dict(found) if isinstance(found, dict) else {}
