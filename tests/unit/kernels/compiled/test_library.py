"""Compiling and keeping the library: whatever goes wrong is one line, and the eager kernel."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

import pytest
import torch

import mxcheck
from mxcheck.kernels import house
from mxcheck.kernels.calls_triton import quantize_triton
from mxcheck.kernels.compiled import library
from mxcheck.kernels.compiled.calls import first_wrong, is_compiled, quantize_cpp
from mxcheck.kernels.domain import NotSupported
from mxcheck.kernels.house import takes_triton, used
from mxcheck.kernels.registry import implementation

X = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
needs_compiler = pytest.mark.skipif(library.missing() is not None, reason=f"{library.missing()}")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A process that has not loaded anything, and an empty cache."""
    monkeypatch.setattr(library, "_LOADED", [])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(library.SWITCH, raising=False)
    return tmp_path / "cache" / "mxcheck" / "casts"


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let $CXX be a script; in it `really` calls the compiler that is here."""

    def be(script: str) -> None:
        path = tmp_path / "cxx"
        real = "c++"
        path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec {real} --version\n{script}\n')
        path.chmod(0o755)
        monkeypatch.setenv("CXX", str(path))

    return be


def assert_eager_with_one_line(caplog: pytest.LogCaptureFixture, line: str) -> None:
    expected = mxcheck.quantize(X, "fp8_e4m3", kernel="eager")
    for _ in range(2):
        got = mxcheck.quantize(X, "fp8_e4m3")
        assert torch.equal(got.codes, expected.codes)
        assert torch.equal(got.dequantize(), expected.dequantize())
    (message,) = [one.getMessage() for one in caplog.records if one.name == "mxcheck"]
    assert message.startswith("mxcheck casts by its slower kernel, eager: ")
    assert line in message
    assert "\n" not in message
    assert used("auto", "cpu") == "eager"
    with pytest.raises(NotSupported):
        quantize_cpp(X, mxcheck.CastSpec(format="fp8_e4m3"))


@pytest.mark.usefixtures("cache")
def test_no_compiler(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    missing = implementation("cpp").missing()
    assert missing == "no C++ compiler: none of c++, g++, clang++ is on the path; install one, or set CXX"
    with pytest.raises(ValueError, match=r"kernel 'cpp_values': no C\+\+ compiler"):
        mxcheck.quantize(X, "fp8_e4m3", kernel="cpp_values")
    assert_eager_with_one_line(caplog, missing)


@pytest.mark.usefixtures("cache")
def test_the_compiler_that_is_named_is_the_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "there-is-no-such --compiler")
    assert_eager_with_one_line(caplog, "no C++ compiler: CXX=there-is-no-such --compiler is not on the path")


@pytest.mark.usefixtures("cache")
def test_a_compiler_that_fails(
    compiler: Callable[[str], None], caplog: pytest.LogCaptureFixture, cache: Path
) -> None:
    compiler('echo "warning: here" >&2; echo "casts.cpp:1: error: out of ideas" >&2; exit 3')
    assert_eager_with_one_line(caplog, "ended with 3: casts.cpp:1: error: out of ideas")
    assert not list(cache.glob("*.so"))
    assert not list(cache.glob("compiling-*"))


def test_a_compiler_that_makes_no_library(
    compiler: Callable[[str], None], caplog: pytest.LogCaptureFixture, cache: Path
) -> None:
    compiler('for last; do :; done; echo "no library" > "$last"')
    assert_eager_with_one_line(caplog, "compiles cannot be loaded and called: ")
    assert "OSError: " in caplog.messages[0]
    assert not list(cache.glob("*.so"))


@needs_compiler
@pytest.mark.parametrize(
    "source",
    [
        'extern "C" void mx_cast() { __builtin_trap(); }',
        'struct Ends { Ends() { __builtin_trap(); } } ends; extern "C" void mx_cast() {}',
    ],
    ids=["called", "loaded"],
)
def test_a_library_that_ends_its_process_ends_not_this_one(
    source: str,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    (tmp_path / "casts.hpp").write_text(source)
    monkeypatch.setattr(library, "files", lambda _: tmp_path)
    assert_eager_with_one_line(caplog, "compiles cannot be loaded and called: ")
    assert "ended with -" in caplog.messages[0]
    assert not list(cache.glob("*.so"))


def test_a_cache_that_cannot_be_written(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache.parents[1].write_text("a file where the folder should be")
    assert_eager_with_one_line(caplog, "the compiled casts cannot be kept or loaded: ")


def test_a_cache_that_others_may_write_to(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    assert_eager_with_one_line(caplog, "is not yours alone to write to")


@pytest.mark.parametrize("which", ["mxcheck", "casts"])
def test_a_folder_on_the_way_that_others_may_write_to(
    which: str, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.mkdir(parents=True, mode=0o700)
    cache.parent.chmod(0o700)
    (cache if which == "casts" else cache.parent).chmod(0o770)
    assert_eager_with_one_line(caplog, "is not yours alone to write to")


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give a folder away")
def test_a_cache_of_somebody_else(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache.mkdir(parents=True, mode=0o700)
    os.chown(cache.parent, 12345, -1)
    assert_eager_with_one_line(caplog, "mxcheck is not yours alone to write to")


def test_what_may_be_loaded(tmp_path: Path) -> None:
    data = b"a library"
    path = tmp_path / "casts.so"
    path.write_bytes(data + sha256(data).digest())
    path.chmod(0o600)
    assert library._is_whole(path)
    link = tmp_path / "link.so"
    link.symlink_to(path)
    assert not library._is_whole(link)
    path.chmod(0o660)
    assert not library._is_whole(path)


@pytest.mark.usefixtures("cache")
def test_no_home(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def nobody(_: int) -> None:
        raise KeyError("no such user")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/folders/are/ignored")
    assert_eager_with_one_line(caplog, "no folder to keep the compiled casts in: ")
    assert not Path("relative").exists()


@pytest.mark.usefixtures("cache")
def test_no_posix(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delattr(os, "getuid")
    assert_eager_with_one_line(caplog, "the compiled casts need a POSIX system")


@pytest.mark.usefixtures("cache")
def test_a_compiler_named_with_an_open_quote(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", 'g++ "')
    assert_eager_with_one_line(caplog, "CXX='g++ \"' cannot be read: No closing quotation")
    assert "No closing quotation" in str(library.missing())


@pytest.mark.usefixtures("cache")
def test_many_lines_of_complaint_become_one(
    compiler: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    compiler("printf 'cannot\\n\\033[31mdo\\r\\nit\\n' >&2; exit 3")
    assert_eager_with_one_line(caplog, "ended with 3: cannot [31mdo it")


def test_a_failure_is_remembered_for_a_while(
    compiler: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiler(f'echo once >> {tmp_path / "tries"}; echo "error: out of ideas" >&2; exit 3')
    assert not is_compiled()
    for tries in (1, 2):
        monkeypatch.setattr(library, "_LOADED", [])
        assert not is_compiled()
        assert "error: out of ideas" in caplog.messages[-1]
        assert (tmp_path / "tries").read_text() == "once\n" * tries
        (failure,) = cache.glob("failure-*.txt")
        os.utime(failure, (0, 0))
    assert str(failure) in caplog.messages[1]


def test_a_compiler_that_hangs_is_ended_with_all_that_it_started(
    compiler: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cache: Path,
) -> None:
    monkeypatch.setattr(library, "_LIMIT", 1)
    started = tmp_path / "started"
    compiler(f"sleep 1000 & echo $! > {started}; wait")
    assert_eager_with_one_line(caplog, "cxx has not ended within 1 s")
    child = Path(f"/proc/{started.read_text().strip()}/stat")
    assert not child.exists() or child.read_text().rpartition(")")[2].split()[0] == "Z"
    assert list(cache.glob("failure-*.txt"))


@needs_compiler
def test_a_check_that_fails_is_told(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "casts.hpp").write_text('extern "C" void mx_cast() {}')
    monkeypatch.setattr(library, "files", lambda _: tmp_path)

    def check(_: object) -> str:
        raise RuntimeError("first line\nsecond line")

    why = library.library(check)
    assert isinstance(why, str)
    assert why.endswith(" compiles is wrong: its check ends with RuntimeError: first line second line")
    assert not list(cache.glob("*.so"))


@pytest.mark.parametrize("value", ["", "2", "no"])
def test_the_switch_has_two_values(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.SWITCH, value)
    for cast in (mxcheck.quantize, mxcheck.fake_quantize):
        with pytest.raises(
            ValueError, match=f"^MXCHECK_COMPILED must be 0 or 1, or not be set; got '{value}'$"
        ):
            cast(X, "fp8_e4m3")


def test_the_switch_is_of_triton_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house, "is_sound", lambda *_: True)
    monkeypatch.setattr(house, "_is_plain", lambda *_: True)
    spec = mxcheck.CastSpec(format="fp8_e4m3")
    assert takes_triton(X, spec)
    with library.switched_off():
        assert not takes_triton(X, spec)
        with pytest.raises(NotSupported, match="MXCHECK_COMPILED=0 switches it off"):
            quantize_triton(X, spec)


@pytest.mark.usefixtures("cache")
def test_switched_off(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv(library.SWITCH, "0")
    assert not is_compiled()
    assert used("auto", "cpu") == "eager"
    assert library.missing() == "MXCHECK_COMPILED=0 switches it off"
    assert not caplog.records


def test_switched_off_for_a_while() -> None:
    before = is_compiled(), os.environ.get(library.SWITCH)
    with library.switched_off():
        assert not is_compiled()
        assert os.environ[library.SWITCH] == "0"
    assert (is_compiled(), os.environ.get(library.SWITCH)) == before


@needs_compiler
@pytest.mark.slow
def test_compiled_once_and_again_where_the_file_is_damaged(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiled: list[list[str]] = []
    run = library._output

    def counted(command: list[str]) -> str:
        if "-shared" in command:
            compiled.append(command)
        return run(command)

    monkeypatch.setattr(library, "_output", counted)
    for damage in (lambda data: data, lambda data: data[: len(data) // 2], lambda _: b""):
        assert is_compiled()
        (kept,) = cache.glob("*.so")
        monkeypatch.setattr(library, "_LOADED", [])
        assert is_compiled()
        other = kept.with_suffix(".new")  # a new file: this process has loaded the old one
        other.write_bytes(damage(kept.read_bytes()))
        other.replace(kept)
        monkeypatch.setattr(library, "_LOADED", [])
    assert is_compiled()
    assert len(compiled) == 3
    assert cache.stat().st_mode & 0o777 == 0o700
    assert not caplog.records


@needs_compiler
@pytest.mark.slow
def test_two_processes_at_once(cache: Path) -> None:
    code = "import torch, mxcheck; mxcheck.quantize(torch.ones(1, 32), 'fp8_e4m3', kernel='cpp')"
    both = [
        subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    assert [(one.communicate()[1], one.returncode) for one in both] == [("", 0), ("", 0)]
    assert len(list(cache.glob("*.so"))) == 1


def test_importing_compiles_nothing(cache: Path) -> None:
    code = (
        "import mxcheck.kernels.api; from mxcheck.kernels.compiled import library; assert not library._LOADED"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not cache.exists()


FAULTS = {
    "a scale too large": ("(q >> kBits) - emax + over", "(q >> kBits) - emax + over + 1"),
    "the lowest binade": (
        "const int32_t binade = most(m & kInf, min_normal);",
        "const int32_t binade = m & kInf;",
    ),
    "ties to odd": (
        "int32_t sum = bits(number(m) + number(c));",
        "int32_t sum = bits(number(m) + number(c)) | 1;",
    ),
    "no sticky bit": ("static_cast<int32_t>(kept) | (below != 0)", "static_cast<int32_t>(kept)"),
    "a sign lost": ("number(bits(value) | sign)", "number(bits(value))"),
    "the amax of all but the last": (
        "i < (known ? known : n); ++i)",
        "i + 1 < (known ? known : n); ++i)",
    ),
    "NaN is no value": (
        "bits(most_value < exact ? most_value : exact)",
        "bits(exact < most_value ? exact : most_value)",
    ),
    "a second scale": ("target[i] * second + zero", "target[i] + zero"),
    "NaN saturates": ("magnitude > nan_above ? nan_code : code", "code"),
    "a value of another code": ("table[codes[at + i]] * scale[0]", "table[codes[at + i] & 0x7F] * scale[0]"),
    "a lane's scale": ("table[codes[at + i]] * scale[i]", "table[codes[at + i]] * scale[0]"),
    "past the caches": ("cast.codes + at, s.codes, n)", "cast.codes + at, s.codes, n - 64)"),
    "values past the caches": ("copy(target, source, size * n);", "copy(target, source, size * n / 2);"),
    "the second tile of a row": (
        "write_run(cast, s, v, at + done, tile, least(block, tile), false);",
        "write_run(cast, s, v, at, tile, least(block, tile), false);",
    ),
    "lanes beyond the first": ("lane = unit % groups * kLanes,", "lane = 0,"),
    "a second thread": ("units * part / parts,", "units * part / parts + (part > 0),"),
    "half to bfloat": ("target = static_cast<char*>(values)", "target = 2 + static_cast<char*>(values)"),
}


@pytest.fixture
def other_settings() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_flush_denormal(True)
    yield
    torch.set_flush_denormal(False)
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)


@needs_compiler
@pytest.mark.usefixtures("other_settings")
def test_the_check_does_not_depend_on_the_process() -> None:
    compiled = library.library(first_wrong)
    assert not isinstance(compiled, str)
    assert not first_wrong(compiled)
    assert torch.get_default_dtype() == torch.float64
    assert torch.empty(1).device.type == "meta"


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_compiled_wrongly_is_not_kept(
    fault: str, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    old, new = FAULTS[fault]
    source = files("mxcheck.kernels.compiled").joinpath("casts.hpp").read_text()
    assert source.count(old) == 1, f"{old!r} stands {source.count(old)} times"
    (tmp_path / "casts.hpp").write_text(source.replace(old, new))
    monkeypatch.setattr(library, "files", lambda _: tmp_path)
    monkeypatch.setattr(library, "FLAGS", ("-O1", *library.FLAGS[:1], *library.FLAGS[2:]))
    assert isinstance(library.library(first_wrong), str)
    assert "compiles is wrong: " in caplog.records[0].getMessage()
    assert not list(cache.glob("*.so"))
