"""What a model is estimated to take beside what it takes: the peak of a worker that comes to it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mxcheck.models.zoo.known_models import MADE_MODELS
from mxcheck.run.cost import estimate

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[4]
(REAL,) = MADE_MODELS
#: The other models of one worker, in its order.
SMALL = ("ref-moe", "wide-gpt2", "ref-neo", "ref-llama")
_MEASURE = """
import sys
from pathlib import Path
from mxcheck.gate.case import Case
from mxcheck.measure.measure_case import measure_case
from mxcheck.measure.model_session import ModelSession
from mxcheck.models.recipes.recipe import recipe
from mxcheck.run.measurement_settings import Measuring

baselines, samples = Path(sys.argv[1]), int(sys.argv[2])
models = dict(word.split("=") for word in sys.argv[3:])
cases = [Case(model=label, precision="mxfp8_e4m3", tier="B") for label in models]
recipes = {case: recipe("mxfp8_e4m3", tier="B") for case in cases}
measuring = Measuring(models=models, recipes=recipes, max_samples=samples, device="cpu", baselines=baselines)
with ModelSession(measuring) as session:
    for case in cases:
        measure_case(session, case)
status = Path("/proc/self/status").read_text()
print(int(status.split("VmHWM:")[1].split()[0]) * 1024)
"""


def peak(samples: int, *models: str) -> int:
    """Bytes that a worker takes which comes to these one after another, in a case each."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(ROOT / "baselines"), str(samples), *models],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def peak_of_all() -> int:
    return peak(1000, *(f"{label}={label}" for label in SMALL))


@pytest.mark.parametrize("label", [*SMALL, REAL])
def test_the_estimate_is_near_the_measured_peak(label: str, peak_of_all: int) -> None:
    """Mixtral, GPT-2, GPT-Neo and Llama of a million parameters: a lease on any of them holds a worker that
    had the others before. 135 million where they have been made."""
    name, samples, measured = label, 1000, peak_of_all
    if label == REAL:
        name, samples = str(ROOT / "build" / "real-model" / REAL), 8
        if not Path(name).is_dir():
            pytest.skip(f"{name} is not there: `make real-model` makes it")
        measured = peak(samples, f"{label}={name}")
    known = estimate(
        name, dtype=None, samples=samples, length=None, batch_size=None, own=ROOT / "baselines" / label
    )
    assert known is not None
    assert 0.7 < known.bytes_needed / measured < 1.5, (known, measured)
    if label != REAL:
        assert known.bytes_needed >= measured, "it would be granted less than it takes"
