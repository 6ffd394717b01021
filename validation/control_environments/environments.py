"""Control environments: every setting that may differ between two people who run the same gate."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from mxcheck.files.printed import WORDS, one_line

#: MKL has its own code paths for Intel's processors; this shim selects them on other processors. Both names
#: are needed: releases differ in the one that they query.
_AS_INTEL = "int mkl_serv_intel_cpu_true(void) { return 1; }\nint mkl_serv_intel_cpu(void) { return 1; }\n"

_INT8_WRONG = "torch multiplies int8 matrices wrongly"
_WHY = (
    "on a processor with AVX-512 torch 2.13.0 multiplies int8 matrices wrongly where oneDNN is held below "
    "AVX512_CORE_VNNI; the step tests that first and says so"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """A set of settings under which the same gate runs.

    Attributes:
        settings: environment variables.
        as_intel: whether MKL is told that it runs on an Intel processor.
        workers: `-n`.
        batch_size: `--mx-batch-size`; None is the default.
        plugin: a pytest plugin that changes the process further.
        words: further arguments of pytest. `{folder}` in them, and in the settings, stands for the run's own
            folder.
        needs: a required package beyond those of mxcheck.
        other_torch: whether it uses the interpreter with another release of torch.
    """

    settings: Mapping[str, str] = field(default_factory=dict)
    as_intel: bool = False
    workers: int = 0
    batch_size: int | None = None
    plugin: str = ""
    words: tuple[str, ...] = ()
    needs: str = ""
    other_torch: bool = False

    @property
    def name(self) -> str:
        """The settings that are not the default, in words: also the name of its file."""
        words = ["torch-other"] if self.other_torch else []
        words += ["as-intel"] if self.as_intel else []
        words += [f"{key}={value}" for key, value in self.settings.items()]
        words += [f"batch-{self.batch_size}"] if self.batch_size else []
        words += [self.plugin.rpartition(".")[2]] if self.plugin else []
        return " ".join([*words, *self.words, f"-n {self.workers}"]).replace("{folder}/", "")

    @property
    def breaks(self) -> Mapping[str, tuple[str, str]]:
        """Precisions of the ladder that are really broken there: the gate's message, and the reason."""
        below = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE")
        return {"bnb_int8": (_INT8_WRONG, _WHY)} if self.settings.get("ONEDNN_MAX_CPU_ISA") in below else {}

    def arguments(self, folder: Path) -> list[str]:
        """Return pytest's arguments."""
        batch = [f"--mx-batch-size={self.batch_size}"] if self.batch_size else []
        further = [word.replace("{folder}", str(folder)) for word in self.words]
        return [f"-n{self.workers}", *batch, *(["-p", self.plugin] if self.plugin else []), *further]

    def variables(self, folder: Path) -> dict[str, str]:
        """Return the environment variables of a run in this folder."""
        return {name: value.replace("{folder}", str(folder)) for name, value in self.settings.items()}


_DETERMINISTIC = "validation.control_environments.deterministic"
_REVERSED = "validation.control_environments.reversed_order"
_DEFAULTS = "validation.control_environments.other_defaults"


def _aten(value: str) -> dict[str, str]:
    return {"ATEN_CPU_CAPABILITY": value}


def _cbwr(value: str) -> dict[str, str]:
    return {"MKL_CBWR": value}


def _mkl(value: str) -> dict[str, str]:
    return {"MKL_ENABLE_INSTRUCTIONS": value}


def _onednn(value: str) -> dict[str, str]:
    return {"ONEDNN_MAX_CPU_ISA": value}


#: Every value of the four instruction set variables occurs (except a few that repeat others' effects: MKL's
#: SSSE3 and SSE4_1, variants of AVX-512 and AMX), and so do threads, workers, batch sizes, hash seeds,
#: deterministic mode and the other torch. MKL's variables affect only Intel's processors (except
#: MKL_CBWR=COMPATIBLE), so most of theirs use the shim. First come the environments most likely to multiply
#: differently, so that an interrupted run has seen the most. Last come those that leave the arithmetic
#: unchanged: pytest's own options, other people's plugins, and settings that their conftest may have changed.
ENVIRONMENTS: Sequence[Environment] = (
    Environment(),
    Environment(settings=_aten("default")),
    Environment(as_intel=True),
    Environment(as_intel=True, settings=_mkl("AVX2")),
    Environment(settings=_cbwr("COMPATIBLE")),
    Environment(settings=_onednn("AVX2")),
    Environment(settings=_aten("avx2")),
    Environment(as_intel=True, settings=_aten("avx2") | _cbwr("AVX2") | _onednn("AVX2")),
    Environment(settings=_aten("default") | _cbwr("COMPATIBLE") | _onednn("SSE41")),
    Environment(other_torch=True),
    Environment(as_intel=True, settings=_aten("default") | _cbwr("SSE2")),
    Environment(as_intel=True, settings=_aten("default") | _mkl("AVX2") | _onednn("AVX2_VNNI"), batch_size=7),
    Environment(settings=_onednn("SSE41")),
    Environment(other_torch=True, as_intel=True, settings=_aten("avx2") | _mkl("AVX2")),
    Environment(as_intel=True, settings=_aten("avx2") | _cbwr("SSE4_2")),
    Environment(as_intel=True, settings=_aten("default") | _cbwr("AVX") | _onednn("AVX2_VNNI_2")),
    Environment(settings={"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}),
    Environment(workers=4, batch_size=1),
    Environment(plugin=_DETERMINISTIC),
    Environment(plugin=_REVERSED, settings={"MALLOC_PERTURB_": "165"}, workers=1),
    Environment(as_intel=True, settings=_mkl("SSE4_2") | _onednn("AVX"), batch_size=2),
    Environment(as_intel=True, settings=_mkl("AVX") | _onednn("AVX512_CORE"), batch_size=3),
    Environment(as_intel=True, settings=_mkl("AVX512") | _onednn("AVX512_CORE_VNNI"), workers=1),
    Environment(as_intel=True, settings=_mkl("AVX512_E1") | _onednn("AVX512_CORE_BF16"), batch_size=16),
    Environment(as_intel=True, settings=_cbwr("AVX512") | _onednn("AVX512_CORE_FP16"), batch_size=32),
    Environment(as_intel=True, settings=_cbwr("AVX512_E1") | _onednn("AVX512_CORE_AMX"), batch_size=64),
    Environment(as_intel=True, settings=_cbwr("AVX2,STRICT") | _aten("avx512") | {"PYTHONHASHSEED": "1"}),
    Environment(as_intel=True, settings=_cbwr("AVX512,STRICT") | {"PYTHONHASHSEED": "2"}, workers=2),
    Environment(settings=_cbwr("AUTO") | _onednn("AVX10_1_512"), workers=2, batch_size=5),
    Environment(
        as_intel=True, settings=_mkl("AVX2") | {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}
    ),
    Environment(words=("--junitxml={folder}/junit.xml",), workers=2),
    Environment(settings={"PYTHONOPTIMIZE": "1"}, workers=2),
    Environment(words=("--assert=plain",), settings={"LC_ALL": "C.UTF-8", "TZ": "America/St_Johns"}),
    # No compiled bytecode, so that warnings of the compiler appear.
    Environment(settings={"PYTHONPYCACHEPREFIX": "{folder}/bytecode"}, workers=2),
    Environment(words=("--dist=loadfile",), workers=2),
    Environment(words=("--dist=worksteal",), workers=2),
    Environment(words=("--import-mode=importlib",)),
    Environment(plugin=_DEFAULTS),
    Environment(plugin=_DEFAULTS, settings={"LC_ALL": "C", "TZ": "Asia/Kathmandu"}, workers=2),
    Environment(words=("--cov=mxcheck", "--cov-report="), needs="pytest_cov", workers=2),
    Environment(words=("--timeout=3000",), needs="pytest_timeout", workers=2),
    Environment(words=("--reruns=1",), needs="pytest_rerunfailures", workers=2),
)


def environment_named(name: str) -> Environment:
    """Return the environment of that name. Raises ValueError where there is none."""
    for environment in ENVIRONMENTS:
        if environment.name == name:
            return environment
    names = "; ".join(repr(one.name) for one in ENVIRONMENTS)
    raise ValueError(f"no environment is called {name!r}; allowed: {names}")


def left_out(environments: Sequence[Environment], *, other_torch: bool) -> dict[str, str]:
    """Return by name the environments that cannot run here, and why."""
    found = {}
    for one in environments:
        if one.other_torch and not other_torch:
            found[one.name] = "without --other-python"
        elif one.needs and find_spec(one.needs) is None:
            found[one.name] = f"{one.needs.replace('_', '-')} is not installed"
    return found


def intel_shim(folder: Path) -> Path:
    """Build a library that, loaded before MKL, makes it use its paths for Intel's processors (Linux).

    Raises ValueError where it would have no effect, and where there is no C compiler.
    """
    if sys.platform != "linux":
        raise ValueError(
            f"environments as on an Intel processor preload a library, which {sys.platform} does not do as "
            f"Linux does; name others with --environment"
        )
    if re.search(r"[\s:]", str(folder.absolute())):
        raise ValueError(
            f"--state {folder}: LD_PRELOAD cannot name a path with spaces or colons; name another directory"
        )
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise ValueError("environments as on an Intel processor need a C compiler (cc); install one")
    source, library = folder / "as_intel.c", folder / "as_intel.so"
    source.write_text(_AS_INTEL)
    words = [compiler, "-shared", "-fPIC", "-o", str(library), str(source)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise ValueError(f"{compiler} cannot make {library}: {one_line(done.stderr, WORDS)}")
    return library
