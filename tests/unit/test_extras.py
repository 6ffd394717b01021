"""Which extra installs what, and that an absent package is told in one line with its extra."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import mxcheck
from mxcheck.extras import EXTRA_OF, NotInstalledError, install, missing, named, require, require_models

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "mxcheck"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: Distributions whose package has another name.
PACKAGES = {"pytest-xdist": "xdist", "nvidia-ml-py": "pynvml"}
#: Imported, and of no extra: the peers of the kernel suite, what pytest, torch, Transformer Engine bring.
OTHERS = {
    *("compressed_tensors", "gfloat", "ml_dtypes", "mx", "torchao", "transformer_engine_torch"),
    *("_pytest", "triton"),
}
#: Rooms whose modules may import a package of an extra when they are imported.
NEED_EXTRAS = ("distributed", "evaluation", "measure", "models", "pytest_plugin/xdist/xdist_scheduling.py")


def packages(requirements: list[str]) -> set[str]:
    names = [re.split(r"[\[<>=]", one)[0] for one in requirements]
    return {PACKAGES.get(name, name) for name in names} - {"mxcheck"}  # another extra of its own


def imported(path: Path, *, at_import: bool) -> Iterator[str]:
    """Top-level packages that a file imports: anywhere, or when it is imported itself."""

    def within(body: list[ast.stmt]) -> Iterator[ast.AST]:
        for node in body:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                continue
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield node
            for inner in ("body", "orelse", "handlers", "finalbody"):
                if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield from within(getattr(node, inner, []))

    tree = ast.parse(path.read_text())
    for node in within(tree.body) if at_import else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def test_every_extra_installs_what_it_is_asked_for() -> None:
    extras = PROJECT["optional-dependencies"]
    for package, extra in EXTRA_OF.items():
        if package not in ("huggingface_hub", "tokenizers"):  # of transformers
            assert package in packages(extras[extra])
    for extra in set(extras) - {"all", "dev"}:
        assert all(EXTRA_OF[package] == extra for package in packages(extras[extra]))


def test_everything_imported_is_installed_by_the_base_or_an_extra() -> None:
    known = packages(PROJECT["dependencies"]) | set(EXTRA_OF) | OTHERS | {"mxcheck"}
    known |= set(sys.stdlib_module_names)
    found = {
        f"{path.relative_to(SOURCE)}: {name}"
        for path in SOURCE.rglob("*.py")
        for name in imported(path, at_import=False)
        if name not in known
    }
    assert found == set()


def test_the_rooms_of_the_kernel_suite_import_no_extra() -> None:
    found = {
        f"{relative}: {name}"
        for path in SOURCE.rglob("*.py")
        if not (relative := path.relative_to(SOURCE).as_posix()).startswith(NEED_EXTRAS)
        for name in imported(path, at_import=True)
        if name in EXTRA_OF
    }
    assert found == set()
    assert "transformers" in imported(SOURCE / "models" / "zoo" / "load.py", at_import=True)


def test_an_absent_package_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    line = "datasets is not installed: pip install 'mxcheck[models]'"
    assert missing("datasets") == line
    with pytest.raises(
        NotInstalledError,
        match=r"^corpus 'pile' needs datasets, which is not installed: pip install 'mxcheck\[models\]'$",
    ):
        require("datasets", "corpus 'pile'")


def test_a_package_that_is_there() -> None:
    assert missing("transformers") is None
    require("transformers", "the model suite")


@pytest.mark.parametrize("absent", ["transformers", "safetensors"])
def test_half_an_extra_is_told_too(monkeypatch: pytest.MonkeyPatch, absent: str) -> None:
    require_models("the model suite")
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(
        NotInstalledError, match=rf"^the model suite needs {absent}, which is not installed: "
    ):
        require_models("the model suite")


def test_transformer_engine_is_compiled_against_the_torch_that_is_there() -> None:
    assert install("transformer_engine").startswith(
        "pip install --no-build-isolation 'mxcheck[te]', with the CUDA"
    )


@pytest.mark.parametrize("name", ["my_casts", "transformers.no_such_module"])
def test_an_error_of_another_import_goes_through(name: str) -> None:
    """So does that of a release which lacks a module: its package is installed."""
    error = ModuleNotFoundError(f"No module named {name!r}", name=name)
    with pytest.raises(ModuleNotFoundError) as caught:
        raise named(error, "this command")
    assert caught.value is error


def test_a_name_of_python_without_its_extra() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.modules['transformers'] = None; from mxcheck import load"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.splitlines()[-1] == (
        "mxcheck.extras.NotInstalledError: mxcheck.load needs transformers, which is not installed: "
        "pip install 'mxcheck[models]'"
    )


def test_measuring_a_case_without_models_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mxcheck.extras.find_spec", lambda _: None)
    session = mxcheck.ModelSession(mxcheck.Measuring())
    with pytest.raises(NotInstalledError, match=r"^measuring a model needs transformers, which is not inst"):
        mxcheck.measure_case(session, mxcheck.Case(model="nowhere", precision="fp32"))
