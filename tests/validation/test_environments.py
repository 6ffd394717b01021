"""The list of control environments is what its README line says it is."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from validation.control_environments.environments import (
    ENVIRONMENTS,
    Environment,
    environment_named,
    intel_shim,
    left_out,
)


def values_of(variable: str) -> set[str]:
    return {one.settings[variable] for one in ENVIRONMENTS if variable in one.settings}


def test_at_least_forty_and_no_two_alike() -> None:
    assert len(ENVIRONMENTS) >= 40
    assert len({one.name for one in ENVIRONMENTS}) == len(ENVIRONMENTS)


def test_every_kind_of_difference_occurs() -> None:
    assert values_of("ATEN_CPU_CAPABILITY") == {"default", "avx2", "avx512"}
    assert values_of("MKL_CBWR") >= {"AUTO", "COMPATIBLE", "SSE2", "SSE4_2", "AVX", "AVX2", "AVX512"}
    assert values_of("MKL_ENABLE_INSTRUCTIONS") == {"SSE4_2", "AVX", "AVX2", "AVX512", "AVX512_E1"}
    assert values_of("ONEDNN_MAX_CPU_ISA") >= {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE"}
    assert values_of("OMP_NUM_THREADS") == {"2"}  # one is the default
    assert len(values_of("PYTHONHASHSEED")) >= 2
    assert {one.workers for one in ENVIRONMENTS} == {0, 1, 2, 4}
    assert {one.batch_size for one in ENVIRONMENTS} >= {None, 1, 2, 64}
    assert {one.plugin.rpartition(".")[2] for one in ENVIRONMENTS} == {
        "",
        "deterministic",
        "reversed_order",
        "other_defaults",
    }
    assert any(one.other_torch for one in ENVIRONMENTS)


def test_only_onednn_below_vnni_breaks_anything() -> None:
    broken = {one.settings["ONEDNN_MAX_CPU_ISA"] for one in ENVIRONMENTS if one.breaks}
    assert broken == {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE"}


def test_the_first_is_the_accepting_one() -> None:
    """So that a table begins with zeros, or shows that this machine is another."""
    assert ENVIRONMENTS[0].name == "-n 0"
    assert not ENVIRONMENTS[0].settings


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda one: one.name.replace(" ", "_"))
def test_found_by_its_name(environment) -> None:
    assert environment_named(environment.name) is environment


def test_an_unknown_name_says_which_there_are() -> None:
    with pytest.raises(ValueError, match=r"no environment is called 'woodpecker'; allowed: '-n 0'; "):
        environment_named("woodpecker")


def test_the_shim_says_that_it_is_intel(tmp_path: Path) -> None:
    library = ctypes.CDLL(str(intel_shim(tmp_path)))
    assert library.mkl_serv_intel_cpu_true() == 1
    assert library.mkl_serv_intel_cpu() == 1


def test_folders_of_a_run_are_in_its_words_and_settings_and_not_in_its_name(tmp_path: Path) -> None:
    one = Environment(words=("--junitxml={folder}/junit.xml",), settings={"CACHE": "{folder}/c"})
    assert one.name == "CACHE=c --junitxml=junit.xml -n 0"
    assert one.arguments(tmp_path) == ["-n0", f"--junitxml={tmp_path}/junit.xml"]
    assert one.variables(tmp_path) == {"CACHE": f"{tmp_path}/c"}


def test_what_cannot_run_here_says_why() -> None:
    other, woodpecker = Environment(other_torch=True), Environment(words=("--peck",), needs="pytest_peck")
    able = Environment(needs="pytest")
    assert left_out([other, woodpecker, able], other_torch=False) == {
        "torch-other -n 0": "without --other-python",
        "--peck -n 0": "pytest-peck is not installed",
    }
    assert set(left_out([other, woodpecker, able], other_torch=True)) == {"--peck -n 0"}


@pytest.mark.parametrize("name", ["a b", "a:b"], ids=["space", "colon"])
def test_a_path_that_cannot_be_preloaded_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(
        ValueError, match=r"LD_PRELOAD cannot name a path with spaces or colons; name another"
    ):
        intel_shim(tmp_path / name)


def test_without_a_compiler_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"need a C compiler \(cc\); install one"):
        intel_shim(tmp_path)
