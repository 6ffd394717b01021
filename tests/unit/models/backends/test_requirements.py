"""What a library needs, as facts and as real imports in a process of their own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mxcheck.models.backends.backend import BACKEND_PRECISIONS, backend
from mxcheck.models.backends.requirements import broken, cuda_capability, unfit_device


def answer(expression: str, *, before: str) -> list[str | None]:
    """The value of an expression over `backend`, in a fresh process."""
    program = (
        f"import json, sys\n{before}\n"
        f"from mxcheck.models.backends.backend import backend\n"
        f"print(json.dumps({expression}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    said: list[str | None] = json.loads(done.stdout.splitlines()[-1])
    return said


def broken_package(folder: Path, name: str, error: str) -> Path:
    """A package that cannot be imported, as one whose binary does not fit."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(f"raise {error}\n")
    return folder


def test_a_module_that_can_be_imported_is_not_broken() -> None:
    assert broken("torch") is None


@pytest.mark.parametrize(
    ("error", "told"),
    [
        pytest.param(
            "ImportError('/x/lib.so: undefined symbol: _ZN3c10')",
            "ImportError: /x/lib.so: undefined symbol: _ZN3c10",
            id="undefined_symbol",
        ),
        pytest.param("RuntimeError('no CUDA\\n at all')", "RuntimeError: no CUDA at all", id="runtime_error"),
        pytest.param("OSError('libcudart.so.12')", "OSError: libcudart.so.12", id="no_shared_object"),
        pytest.param("AssertionError('versions')", "AssertionError: versions", id="version_mismatch"),
        pytest.param("AttributeError('torch._x')", "AttributeError: torch._x", id="no_such_name"),
    ],
)
def test_a_package_that_cannot_be_imported_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, error: str, told: str
) -> None:
    name = f"broken_{request.node.callspec.id}"  # answers are kept by name
    monkeypatch.syspath_prepend(broken_package(tmp_path, name, error))
    assert broken(f"{name}.part") == (
        f"{name} is installed but broken: importing {name}.part raises {told}; "
        f"install a build of it for torch {torch.__version__}"
    )


def test_an_error_that_is_no_sign_of_a_bad_binary_goes_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(broken_package(tmp_path, "odd_package", "ZeroDivisionError('odd')"))
    with pytest.raises(ZeroDivisionError, match="odd"):
        broken("odd_package")


#: Each library's own question, on a device that would do.
ASKED = {
    "bitsandbytes": "backend('bnb_int8').missing('cpu')",
    "transformer_engine": "backend('te_mxfp8').unmet('cuda', (10, 0))",
}
UNFIT = [
    f"backend('te_fp8_delayed').unmet({asked})" for asked in ("'cpu', None", "'cuda', None", "'cuda', (8, 0)")
]


def test_absent_libraries_are_not_installed() -> None:
    before = f"sys.modules.update(dict.fromkeys({list(ASKED)}))"
    said = answer(f"[{', '.join(ASKED.values())}]", before=before)
    for library, reason in zip(ASKED, said, strict=True):
        assert reason is not None
        assert reason.startswith(f"{library} is not installed: pip install ")


def test_broken_libraries_are_told_from_absent_ones_and_after_an_unfit_device(tmp_path: Path) -> None:
    for library in ASKED:
        broken_package(tmp_path, library, "ImportError('undefined symbol: _ZN3c10')")
    expressions = [*ASKED.values(), *UNFIT]
    said = answer(f"[{', '.join(expressions)}]", before=f"sys.path.insert(0, {str(tmp_path)!r})")
    for library, reason in zip(ASKED, said[: len(ASKED)], strict=True):
        assert reason is not None
        assert reason.startswith(f"{library} is installed but broken: importing {library}")
        assert "raises ImportError: undefined symbol: _ZN3c10; " in reason
    for reason in said[len(ASKED) :]:
        assert reason is not None
        assert reason.startswith("needs a CUDA device of compute capability 8.9 or later, and ")


@pytest.mark.parametrize(
    ("device", "capability", "below", "expected"),
    [
        pytest.param("cuda", (8, 9), None, None, id="least"),
        pytest.param("cuda:1", (12, 0), None, None, id="later"),
        pytest.param("cuda", (8, 6), None, "8.9 or later, and cuda has 8.6", id="earlier"),
        pytest.param("cuda", None, None, "8.9 or later, and torch sees no CUDA device", id="none"),
        pytest.param("cpu", None, None, "8.9 or later, and the model is on cpu", id="cpu"),
        pytest.param("cuda", (9, 0), (10, 0), None, id="inside"),
        pytest.param(
            "cuda", (10, 0), (10, 0), "8.9 up to, not including, 10.0, and cuda has 10.0", id="above"
        ),
    ],
)
def test_the_range_of_compute_capabilities(
    device: str, capability: tuple[int, int] | None, below: tuple[int, int] | None, expected: str | None
) -> None:
    said = unfit_device(device, capability, at_least=(8, 9), below=below)
    assert said == (None if expected is None else f"needs a CUDA device of compute capability {expected}")


def test_the_cpu_has_no_compute_capability() -> None:
    assert cuda_capability("cpu") is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a CUDA device here")
@pytest.mark.parametrize("precision", BACKEND_PRECISIONS)
def test_without_cuda_every_stage_has_a_reason_on_cuda(precision: str) -> None:
    said = backend(precision).missing("cuda")
    assert said is not None
    assert "needs a CUDA device" in said or "is not installed: " in said
    assert "\n" not in said


@pytest.mark.parametrize("precision", BACKEND_PRECISIONS)
def test_a_backend_has_the_name_of_its_precision(precision: str) -> None:
    assert backend(precision).name == precision


def test_a_precision_without_a_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="'fp8_e4m3'; allowed: bnb_int8, "):
        backend("fp8_e4m3")


def test_naming_the_backends_imports_neither_torch_nor_a_library() -> None:
    heavy = "{'torch', 'numpy', 'transformers', 'bitsandbytes'}"
    program = f"import sys, mxcheck.models.backends.backend; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
    loaded = subprocess.run(
        [sys.executable, "-c", f"import torch; {program}"], capture_output=True, text=True, check=True
    )
    assert "'torch'" in loaded.stdout  # the check can fail
