"""What a model is estimated to take beside what it takes: the peak of a process that measures one case."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mxcheck.models.zoo import MADE_MODELS
from mxcheck.pytest_plugin.work import estimate

ROOT = Path(__file__).parents[3]
(REAL,) = MADE_MODELS
SAMPLES = 8
_MEASURE = """
import sys
from pathlib import Path
from mxcheck.gate.case import Case
from mxcheck.measure.measure_case import measure_case
from mxcheck.measure.session import Session
from mxcheck.models.recipe import recipe
from mxcheck.run.measuring import Measuring

label, name, samples = sys.argv[1], sys.argv[2], int(sys.argv[3])
case = Case(model=label, precision="fp8_e4m3", tier="B")
recipes = {case: recipe("fp8_e4m3", tier="B")}
measuring = Measuring(
    models={label: name}, recipes=recipes, max_samples=samples, device="cpu", baselines=Path(sys.argv[4])
)
with Session(measuring) as session:
    measure_case(session, case)
status = Path("/proc/self/status").read_text()
print(int(status.split("VmHWM:")[1].split()[0]) * 1024)
"""


@pytest.mark.parametrize("label", ["ref-llama", "ref-moe", "ref-neo", "wide-gpt2", REAL])
def test_the_estimate_is_near_the_measured_peak(label: str) -> None:
    """Llama, Mixtral, GPT-Neo and GPT-2 of a million parameters; 135 million where they have been made."""
    name = label if label != REAL else str(ROOT / "build" / "real-model" / REAL)
    if label == REAL and not Path(name).is_dir():
        pytest.skip(f"{name} is not there: `make real-model` makes it")
    known = estimate(
        name, dtype=None, samples=SAMPLES, length=None, batch_size=None, own=ROOT / "baselines" / label
    )
    assert known is not None
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, label, name, str(SAMPLES), str(ROOT / "baselines")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout.splitlines()[-1])
    assert 0.7 < known.bytes_needed / peak < 1.5, (known, peak)
