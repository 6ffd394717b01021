"""Casts by name: which there are, which can be called here, and of which version."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from mxcheck.kernels import registry
from mxcheck.kernels.registry import MICROXCALING, Implementation, implementation, implementations

HOUSE = ("auto", "eager", "eager_values", "cpp", "cpp_values", "triton", "triton_values")
PEERS = ["torchao", "compressed_tensors", "gfloat", "ml_dtypes", "microxcaling", "transformer_engine"]


def offer(monkeypatch: pytest.MonkeyPatch, *entries: tuple[str, str]) -> None:
    """Installed packages that offer these casts."""

    def entry_points(*, group: str) -> list[EntryPoint]:
        assert group == "mxcheck.kernels"
        return [EntryPoint(name, value, group) for name, value in entries]

    monkeypatch.setattr(registry, "entry_points", entry_points)


def checkout(folder: Path, file: str = "mx_ops.py") -> Path:
    """A package `mx`, microxcaling's if it has that file."""
    (folder / "mx").mkdir(parents=True)
    (folder / "mx" / "__init__.py").write_text("raise RuntimeError('nobody has to import this')\n")
    (folder / "mx" / file).write_text("one = 1\n")
    return folder


@pytest.fixture
def no_mx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine has: no package `mx` yet."""
    monkeypatch.setattr(sys, "path", [one for one in sys.path if not (Path(one) / "mx").exists()])
    monkeypatch.delitem(sys.modules, "mx", raising=False)
    monkeypatch.setattr(sys, "path_importer_cache", {})


def test_ours_first_then_what_packages_offer_then_the_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, ("fused", "their_package.casts:fused"), ("another", "other:cast"))
    assert list(implementations()) == [*HOUSE, "fused", "another", *PEERS]
    found = implementation("fused")
    assert (found.name, found.target) == ("fused", "their_package.casts:fused")
    assert (found.missing(), found.version()) == (None, "")


@pytest.mark.parametrize("name", ["eager", "torchao"])
def test_a_name_that_is_taken(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    offer(monkeypatch, (name, "theirs:cast"))
    with pytest.raises(
        ValueError, match=rf"entry point '{name}' of mxcheck.kernels \(theirs:cast\): the name"
    ):
        implementations()


def test_the_mapping_is_nobodys_to_change() -> None:
    with pytest.raises(TypeError):
        implementations()["mine"] = implementation("eager")  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("eagr", "'eager'"),
        ("torcha", "'torchao'"),
        ("compressed-tensors", "'compressed_tensors'"),
        ("microscaling", "'microxcaling'"),
    ],
)
def test_an_unknown_name_and_the_nearest(name: str, near: str) -> None:
    with pytest.raises(
        ValueError, match=f"unknown kernel '{name}'; allowed: .*did you mean {near}"
    ) as caught:
        implementation(name)
    assert "<package.module:function>" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", ":", "module:", ":function", "module"])
def test_what_names_no_function(name: str) -> None:
    with pytest.raises(ValueError, match="unknown kernel"):
        implementation(name)


def test_a_function_by_its_place() -> None:
    found = implementation("my_casts.fast:quantize")
    assert found == Implementation(name="my_casts.fast.quantize", target="my_casts.fast:quantize")
    assert (found.missing(), found.version()) == (None, "")


@pytest.mark.parametrize("name", HOUSE[:2])
def test_ours_are_always_there(name: str) -> None:
    assert (implementation(name).missing(), implementation(name).version()) == (None, "")


@pytest.mark.parametrize(
    ("name", "obtain"),
    [
        ("torchao", "pip install torchao"),
        ("triton", "torch's CUDA build brings the version that it needs"),
        ("compressed_tensors", "pip install compressed-tensors"),
        (
            "transformer_engine",
            "pip install --no-build-isolation 'mxcheck[te]', with the CUDA toolkit and cuDNN",
        ),
        (
            "microxcaling",
            f"clone {MICROXCALING} and give pytest --mx-microxcaling=PATH, or put PATH on PYTHONPATH",
        ),
    ],
)
def test_a_library_that_is_missing(monkeypatch: pytest.MonkeyPatch, name: str, obtain: str) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda _: None)
    assert implementation(name).missing() == f"{name} is not installed: {obtain}"


def test_a_library_that_is_there() -> None:
    found = Implementation(name="torch", target="t:f", library="torch", distribution="torch")
    assert found.missing() is None
    assert found.version()[0].isdigit()


def test_a_library_without_its_distribution() -> None:
    found = Implementation(name="json", target="j:f", library="json", distribution="mx-no-such-thing")
    assert found.version() == "unknown"


@pytest.mark.usefixtures("no_mx")
def test_microxcaling_is_told_from_others_by_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = implementation("microxcaling")
    assert found.missing() is not None
    assert found.version() == "unknown"
    monkeypatch.syspath_prepend(str(checkout(tmp_path / "other", "tools.py")))
    assert found.missing() is not None
    assert found.version() == "unknown"
    monkeypatch.syspath_prepend(str(checkout(tmp_path / "theirs")))
    assert found.missing() is None
    assert "mx" not in sys.modules


@pytest.mark.usefixtures("no_mx")
def test_its_version_is_a_digest_of_its_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkout(tmp_path / "theirs")
    monkeypatch.syspath_prepend(str(folder))
    found = implementation("microxcaling")
    first = found.version()
    assert first.startswith("sources ")
    assert len(first) == len("sources ") + 12
    (folder / "mx" / "notes.txt").write_text("no source")
    assert found.version() == first
    (folder / "mx" / "mx_ops.py").write_text("one = 2\n")
    assert found.version() != first
    (folder / "mx" / "mx_ops.py").write_text("one = 1\n")
    assert found.version() == first
    (folder / "mx" / "mx_ops.py").rename(folder / "mx" / "other.py")
    assert found.version() == "unknown"


def test_every_peer_has_an_adapter_that_imports_nothing_of_it() -> None:
    """Those that are installed are tested in `test_peers.py`."""
    for name in PEERS:
        module, _, function = implementation(name).target.partition(":")
        source = Path(registry.__file__).parent / "peers" / f"{name}.py"
        assert module == f"mxcheck.kernels.peers.{name}"
        assert f"def {function}(" in source.read_text()


def test_the_registry_needs_no_torch() -> None:
    code = (
        "import sys; from mxcheck.kernels.registry import implementations as f; "
        "[(one.missing(), one.version()) for one in f().values()]; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
