import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from mxcheck.evaluation.measure import Measurement, evaluate
from mxcheck.evaluation.tokens import load_tokens
from mxcheck.gate.case import Case
from mxcheck.gate.noise import Trial
from mxcheck.measure import measured_noise
from mxcheck.measure.measure_case import measure_case
from mxcheck.measure.measured_noise import ENVIRONMENTS, OTHERWISE, Job, measure_noise, noise_of
from mxcheck.measure.model_session import ModelSession
from mxcheck.models.conversion.convert import convert
from mxcheck.models.recipes.recipe import Recipe, recipe
from mxcheck.models.zoo.load import LoadedModel
from mxcheck.run.measurement_settings import Measuring

pytestmark = pytest.mark.slow

#: Two precisions whose results lie far apart, so that trials given to the wrong recipe are seen.
RECIPES = (recipe("mxint8", tier="A"), recipe("mxfp4_e2m1", tier="B"))
SAMPLES = 2
LENGTH = 48

#: DESIGN section 5: another instruction set moved a sequence's loss by 2e-3 at most. Five times that.
QUANTIZED = 0.01
#: Unquantized there is only the rounding of fp32: 2^-24 on sums of 344 terms, in four layers.
REFERENCE = 1e-4


def plain(one: Recipe) -> dict[str, object]:
    return {**one.as_dict(), "kernel": one.kernel}


def job(loaded: LoadedModel, **changes: object) -> Job:
    fields = {
        "model": loaded.source.name,
        "recipes": [plain(r) for r in RECIPES],
        "tokens": str(loaded.source.tokens),
        "max_samples": SAMPLES,
        "length": LENGTH,
        "batch_size": 2,
        "threads": 1,
    }
    return Job(**(fields | changes))


@pytest.fixture(scope="module")
def ref_llama(reference_model: Callable[[str], LoadedModel]) -> LoadedModel:
    return reference_model("ref-llama")


@pytest.fixture(scope="module")
def ref_moe(reference_model: Callable[[str], LoadedModel]) -> LoadedModel:
    return reference_model("ref-moe")


@pytest.fixture(scope="module")
def here(ref_llama: LoadedModel) -> tuple[Measurement, list[Measurement]]:
    """The reference and each recipe, measured in this process."""
    assert ref_llama.source.tokens is not None
    tokens = load_tokens(ref_llama.source.tokens)[:SAMPLES, :LENGTH].contiguous()
    reference = evaluate(ref_llama.model, tokens, batch_size=2, keep_log_probabilities=True)
    results = []
    for one in RECIPES:
        conversion = convert(ref_llama.model, one)
        results.append(evaluate(ref_llama.model, tokens, reference=reference, batch_size=2))
        conversion.undo()
    return reference, results


@pytest.fixture(scope="module")
def trials(ref_llama: LoadedModel) -> list[list[Trial]]:
    """What one child process finds with the plainest instruction set."""
    return measure_noise(job(ref_llama), {"default": ENVIRONMENTS["cpu"]["default"]})


def test_each_recipe_has_a_trial_in_each_environment_one_value_a_sequence(trials: list[list[Trial]]) -> None:
    assert [[trial.environment for trial in of_recipe] for of_recipe in trials] == [["default"], ["default"]]
    for (trial,) in trials:
        assert len(trial.reference_losses) == len(trial.sequence_losses) == len(trial.sequence_kl) == SAMPLES


@pytest.mark.parametrize("index", [0, 1], ids=["mxint8", "fp4_e2m1"])
def test_another_instruction_set_moves_results_a_little(
    index: int, trials: list[list[Trial]], here: tuple[Measurement, list[Measurement]]
) -> None:
    reference, results = here
    trial = trials[index][0]

    assert trial.reference_losses == pytest.approx(reference.sequence_losses, abs=REFERENCE)
    assert trial.sequence_losses == pytest.approx(results[index].sequence_losses, abs=QUANTIZED)
    assert trial.sequence_kl == pytest.approx(results[index].sequence_kl, abs=QUANTIZED)
    # and the other recipe's are not within these bounds
    assert trial.sequence_kl != pytest.approx(results[1 - index].sequence_kl, abs=QUANTIZED)


def test_the_environment_is_applied(
    trials: list[list[Trial]], here: tuple[Measurement, list[Measurement]]
) -> None:
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("this process has the plainest instruction set already: nothing to compare with")

    # were it lost on the way, the child would multiply as this process does, and give the same bits
    assert trials[0][0].reference_losses != here[0].sequence_losses


def test_a_child_without_a_changed_environment_gives_this_processs_bits(
    ref_llama: LoadedModel, here: tuple[Measurement, list[Measurement]]
) -> None:
    ((trial,),) = measure_noise(job(ref_llama, recipes=[plain(RECIPES[1])]), {"same": {}})

    assert trial.reference_losses == here[0].sequence_losses
    assert trial.sequence_losses == here[1][1].sequence_losses
    assert trial.sequence_kl == here[1][1].sequence_kl


def test_a_child_tells_how_far_it_is(ref_llama: LoadedModel) -> None:
    told: list[str] = []
    measure_noise(job(ref_llama, recipes=[plain(one) for one in RECIPES[:2]]), {"same": {}}, tell=told.append)
    assert told == [f"noise under same, {count} of 2 cases" for count in (1, 2)]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="children are counted in Linux's /proc")
def test_a_child_ends_with_who_hears_it(ref_llama: LoadedModel) -> None:
    """A worker's channel that is closed, or a signal: the child would go on measuring for nobody."""

    def broken(_what: str) -> None:
        raise KeyboardInterrupt

    began = set(children(os.getpid()))
    recipes = [plain(RECIPES[0])] * 200
    with pytest.raises(KeyboardInterrupt):
        measure_noise(job(ref_llama, recipes=recipes), {"same": {}}, tell=broken)
    assert set(children(os.getpid())) <= began


def children(parent: int) -> list[int]:
    """Processes whose parent this is, from Linux's list of them."""
    listed = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [int(one) for one in listed.split()]


def test_a_failing_child_reports_its_environment_and_its_last_words(ref_llama: LoadedModel) -> None:
    recipes = [{**plain(RECIPES[1]), "elementwise": {"format": "fp9"}}]
    with pytest.raises(
        ValueError, match=r"(?s)of ref-llama in environment 'any' failed:.*unknown format 'fp9'"
    ):
        measure_noise(job(ref_llama, recipes=recipes), {"any": {}})


@pytest.mark.parametrize("name", ENVIRONMENTS["cpu"])
def test_every_environment_of_a_cpu_switches_all_libraries_that_multiply(name: str) -> None:
    libraries = {variable.partition("_")[0] for variable in ENVIRONMENTS["cpu"][name]}

    assert libraries >= {"ATEN", "MKL", "ONEDNN"}


ELSEWHERE = {**ENVIRONMENTS["cpu"], **OTHERWISE["cpu"]}


@pytest.mark.parametrize(
    ("kernel", "settings", "switch"),
    [
        *(("auto", settings, "0") for settings in ELSEWHERE.values()),
        ("auto", {}, None),
        ("auto", ENVIRONMENTS["cuda"]["cublaslt"], None),
        ("cpp", ELSEWHERE["avx2"], None),
    ],
)
def test_casts_run_by_the_instruction_set_of_the_environment(
    kernel: str, settings: Mapping[str, str], switch: str | None, ref_llama: LoadedModel
) -> None:
    """The compiled ones are built for this machine's instructions, and give its bits in any environment."""
    asked = job(ref_llama, recipes=[{**plain(RECIPES[0]), "kernel": kernel}])
    found = measured_noise._settings(asked, settings)
    assert found.pop("MXCHECK_COMPILED", None) == switch
    assert found == settings


#: A kernel that is wrong with the plainest instruction set alone, and not for the probe or the text.
FAULTY = """
import torch
from mxcheck.kernels.eager import quantize_eager
calls = 0
def faulty(x, spec):
    global calls
    calls += 1
    codes, scales = quantize_eager(x, spec)
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT" and {when}:
        codes.view(-1)[-1] ^= 1
    return codes, scales
"""


@pytest.mark.parametrize(
    ("when", "kind"),
    [
        ("x.numel() > 2**20", "a tensor of 1,0"),
        ("x.storage_offset() and x.dim() == 2 and x.shape[0] == 64", "a slice with a storage offset"),
        ("calls > 2000", "calls of one cast"),
    ],
    ids=["large", "slice", "calls"],
)
def test_a_cast_that_is_wrong_elsewhere_alone_fails_there(
    when: str, kind: str, ref_llama: LoadedModel, tmp_path: Path
) -> None:
    (tmp_path / "faulty_kernels.py").write_text(FAULTY.format(when=when))
    recipes = [{**plain(RECIPES[1]), "kernel": "faulty_kernels:faulty"}]
    environments = {"default": ENVIRONMENTS["cpu"]["default"]}
    if kind.startswith("a slice"):
        environments["same"] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        ((trial, *others),) = measure_noise(job(ref_llama, recipes=recipes), environments)
    assert trial.failure.startswith("its casts are wrong there: model.layers.")
    assert kind in trial.failure
    assert all(other.failure == "" for other in others)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_environments_are_those_of_the_job_s_device(
    device: str, ref_llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Mapping[str, str]] = {}

    def run_child(_job: Job, name: str, settings: Mapping[str, str], _tell: object) -> list[Trial]:
        seen[name] = settings
        return []

    monkeypatch.setattr(measured_noise, "_run_child", run_child)
    measure_noise(job(ref_llama, device=device))

    assert seen == ENVIRONMENTS[device]
    assert len(seen) >= 2


def test_a_recipe_that_cannot_run_there_says_why_and_the_others_run(ref_moe: LoadedModel) -> None:
    """No linear module of a library's kind in the MLP of a mixture of experts."""
    recipes = [plain(recipe("scaled_mm_fp8", tier="A")), plain(RECIPES[0])]
    found = measure_noise(job(ref_moe, recipes=recipes), {"same": {}})
    (cannot,), (runs,) = found
    assert cannot.unavailable.startswith("scaled_mm_fp8 converts none of the 3 modules")
    assert cannot.failure == ""
    assert (runs.environment, runs.failure, runs.unavailable) == ("same", "", "")


def test_a_recipe_that_fails_says_why_and_leaves_the_others_alone(
    ref_llama: LoadedModel, here: tuple[Measurement, list[Measurement]], tmp_path: Path
) -> None:
    """A kernel that cannot: the model is whole again for the next recipe."""
    (tmp_path / "noise_kernels.py").write_text(
        "def cannot(x, spec):\n    raise RuntimeError('no kernel image\\nis available')\n"
    )
    recipes = [{**plain(RECIPES[0]), "kernel": "noise_kernels:cannot"}, plain(RECIPES[1])]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        (failed,), (right,) = measure_noise(job(ref_llama, recipes=recipes), {"same": {}})
    assert failed == Trial(environment="same", failure=failed.failure)
    assert failed.failure.endswith("along axis -1: RuntimeError: no kernel image is available")
    assert right.failure == ""
    assert right.sequence_losses == here[1][1].sequence_losses


def test_a_child_is_asked_for_what_the_session_measures_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another count of threads is other arithmetic: the noise would be of two causes."""
    asked: list[Job] = []

    def measured(job: Job, **_: object) -> list[list[Trial]]:
        asked.append(job)
        return [[Trial(environment="another", failure="a test")]]

    monkeypatch.setattr(measured_noise, "measure_noise", measured)
    monkeypatch.setattr(ModelSession, "threads", 3)
    case = Case(model="ref-llama", precision="mxint8", tier="A")
    with ModelSession(Measuring(max_samples=1, sequence_length=16, batch_size=5), shared=tmp_path) as session:
        record = measure_case(session, case)
        with pytest.raises(ValueError, match="a test"):
            noise_of(session, record, {case.id: case}, gpus=())
    (job,) = asked
    assert (job.threads, job.batch_size, job.max_samples, job.length) == (3, 5, 1, 16)
    assert (job.model, job.device, len(job.recipes)) == ("ref-llama", "cpu", 1)
