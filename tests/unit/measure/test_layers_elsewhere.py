"""On other arithmetic, with the casts' digests switched off: what the layers' figures alone see."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from gate_project import WITH_VALIDATION

from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.case import Case
from mxcheck.gate.record import Record, record_from_dict
from mxcheck.gate.verdict import judge
from mxcheck.measure.measure_case import measure_case
from mxcheck.measure.measured_noise import ENVIRONMENTS, noise_of
from mxcheck.measure.model_session import ModelSession
from mxcheck.models.recipes.recipe import recipe
from mxcheck.reporting.failure import failure_message
from mxcheck.run.measurement_settings import Measuring

pytestmark = pytest.mark.slow

CASE = Case(model="ref-llama", precision="mxfp8_e4m3", tier="B")
BOUNDS = Bounds(kl=1.0, rise=1.0)
SEQUENCES, LENGTH = 4, 64

#: The same case in a process of its own: healthy, then with every tie rounded away from zero.
_CHILD = """
import json, sys
from pathlib import Path
from mxcheck.gate.case import Case
from mxcheck.measure.measure_case import measure_case
from mxcheck.measure.model_session import ModelSession
from mxcheck.run.measurement_settings import Measuring
from validation.faults.catalogued import catalogue
from validation.faults.fault import applied

folder, sequences, length = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
case = Case(model="ref-llama", precision="mxfp8_e4m3", tier="B")
measuring = Measuring(max_samples=sequences, sequence_length=length, baselines=folder, device="cpu")
with ModelSession(measuring) as session:
    healthy = measure_case(session, case)
    with applied(catalogue()["ties_away_from_zero"]):
        faulty = measure_case(session, case)
print(json.dumps([healthy.as_dict(), faulty.as_dict()]))
"""


@pytest.fixture(scope="module")
def accepted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, Path]:
    """The case as it is accepted here, and the folder with what its layers start from."""
    folder = tmp_path_factory.mktemp("baselines")
    measuring = Measuring(
        recipes={CASE: recipe("mxfp8_e4m3", tier="B")},
        max_samples=SEQUENCES,
        sequence_length=LENGTH,
        baselines=folder,
        device="cpu",
    )
    with ModelSession(measuring) as session:
        record = measure_case(session, CASE)
        session.keep_states(CASE.model)
        return replace(record, noise=noise_of(session, record, {CASE.id: CASE}, gpus=())), folder


@pytest.fixture(scope="module")
def elsewhere(accepted: tuple[Record, Path]) -> tuple[Record, Record]:
    """The healthy record and the faulty one of a process with the oldest instructions."""
    arguments = [str(accepted[1]), str(SEQUENCES), str(LENGTH)]
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, *arguments],
        env={
            **os.environ,
            **ENVIRONMENTS["cpu"]["default"],
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": WITH_VALIDATION,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    healthy, faulty = json.loads(done.stdout.splitlines()[-1])
    return record_from_dict(healthy), record_from_dict(faulty)


def test_other_arithmetic_alone_is_green(
    accepted: tuple[Record, Path], elsewhere: tuple[Record, Record]
) -> None:
    baseline, healthy = accepted[0], elsewhere[0]
    assert healthy.reference_losses != baseline.reference_losses, "the environment changed nothing"
    assert healthy.fingerprints == baseline.fingerprints, "both start from the stored states"
    assert [check.message for check in judge(healthy, baseline, BOUNDS).failures] == []


def test_ties_away_are_seen_by_the_layers_alone(
    accepted: tuple[Record, Path], elsewhere: tuple[Record, Record]
) -> None:
    """Every other figure is the healthy one's: nothing but the layers can be red, and they are."""
    baseline, (healthy, faulty) = accepted[0], elsewhere
    assert faulty.digests != baseline.digests, "the fault changes no cast"
    blind = replace(healthy, sublayers=faulty.sublayers)
    verdict = judge(blind, baseline, BOUNDS)
    keys = [check.key for check in verdict.failures]
    assert {"layers: gain", "layers: sketch"} <= set(keys)
    assert all(key.startswith("layers: ") for key in keys)
    message = failure_message(blind, baseline, verdict, accept="pytest --snapshot-update")
    assert "step 6 (drift): layers: signed gain" in message


def test_and_in_the_whole_record_once_digests_are_off(
    accepted: tuple[Record, Path], elsewhere: tuple[Record, Record]
) -> None:
    baseline, faulty = accepted[0], elsewhere[1]
    verdict = judge(replace(faulty, digests=baseline.digests), baseline, BOUNDS)
    assert 4 not in verdict.failed_steps
    assert {"layers: gain", "layers: sketch"} <= {check.key for check in verdict.failures}
