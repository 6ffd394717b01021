"""Every cast with a name: ours, the peers', and those that installed packages offer. Torch-free.

A package offers a cast by an entry point in the group `mxcheck.kernels`, whose value is
`package.module:function`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

from mxcheck.extras import install
from mxcheck.kernels.compiled.library import missing as not_compiled

ENTRY_POINTS = "mxcheck.kernels"
#: Names of our own kernels. All give the same bits; `auto` takes the fastest.
OWN = ("auto", "eager", "cpp", "triton")
#: Prefix of a command line that is given as a kernel's name, where a program in any language may be one.
PROGRAM = "command:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Implementation:
    """A cast by name.

    Attributes:
        name: the name that users write and test ids begin with.
        target: `package.module:function`.
        library: import name of the library that the function needs; empty if none.
        distribution: the name under which the library is installed.
        obtain: how to get the library, for the message if it is missing.
        compiled: whether a compiler makes it on this machine.
        cpu_only: called with CPU tensors on any device: a numpy library, or one whose known findings were
            recorded there.
        named_only: tested only where it is named: it calls one that is tested, or not everywhere that its
            library is installed can it cast.
    """

    name: str
    target: str
    library: str = ""
    distribution: str = ""
    obtain: str = ""
    compiled: bool = False
    cpu_only: bool = False
    named_only: bool = False

    def missing(self) -> str | None:
        """Return why it cannot be called here, or None. Imports no library, and compiles nothing."""
        if self.compiled:
            return not_compiled()
        if not self.library:
            return None
        found = find_spec(self.library)
        if found is not None and (self.distribution or self._checkout() is not None):
            return None
        return f"{self.name} is not installed: {self.obtain}"

    def version(self) -> str:
        """Return the version of its library; a digest of the sources where the library has none."""
        if not self.library:
            return ""
        if self.distribution:
            try:
                return version(self.distribution)
            except PackageNotFoundError:
                return "unknown"
        folder = self._checkout()
        if folder is None:
            return "unknown"
        digest = sha256()
        for source in sorted(folder.glob("*.py")):
            digest.update(source.name.encode() + b"\0" + source.read_bytes())
        return f"sources {digest.hexdigest()[:12]}"

    def _checkout(self) -> Path | None:
        """Return the folder of microxcaling's package `mx`; a file in it tells it from others of that
        name."""
        found = find_spec(self.library)
        for folder in (found.submodule_search_locations or []) if found else []:
            if (Path(folder) / "mx_ops.py").is_file():
                return Path(folder)
        return None


#: Matrix product by name -> its target. Ours, the peers' that have one, and torch's.
PRODUCTS: Mapping[str, str] = MappingProxyType(
    {
        "eager": "mxcheck.kernels.block_matmul:product",
        "torchao": "mxcheck.kernels.peers.peer_matmuls:torchao",
        "scaled_mm": "mxcheck.kernels.peers.peer_matmuls:scaled_mm",
        "microxcaling": "mxcheck.kernels.peers.peer_matmuls:microxcaling",
    }
)

MICROXCALING = "https://github.com/microsoft/microxcaling"


def _compiled(name: str, function: str) -> Implementation:
    target = f"mxcheck.kernels.compiled.calls:{function}"
    return Implementation(name=name, target=target, compiled=True, cpu_only=True)


def _triton(name: str, function: str) -> Implementation:
    return Implementation(
        name=name,
        target=f"mxcheck.kernels.calls_triton:{function}",
        library="triton",
        distribution="triton",
        obtain="torch's CUDA build brings the version that it needs",
        named_only=True,
    )


_HOUSE = (
    Implementation(name="auto", target="mxcheck.kernels.house:quantize_house", named_only=True),
    Implementation(name="eager", target="mxcheck.kernels.eager:quantize_eager"),
    Implementation(name="eager_values", target="mxcheck.kernels.eager:fake_quantize_eager"),
    _compiled("cpp", "quantize_cpp"),
    _compiled("cpp_values", "fake_quantize_cpp"),
    _triton("triton", "quantize_triton"),
    _triton("triton_values", "fake_quantize_triton"),
)

#: Names of our own implementations: exact in every cell, or they are mended.
HOUSE = tuple(one.name for one in _HOUSE)


def _peer(name: str, distribution: str = "", library: str = "", obtain: str = "") -> Implementation:
    return Implementation(
        name=name,
        target=f"mxcheck.kernels.peers.{name}:quantize",
        library=library or name,
        distribution=distribution,
        obtain=obtain or f"pip install {distribution}",
        cpu_only=True,
    )


_PEERS = (
    _peer("torchao", "torchao"),
    _peer("compressed_tensors", "compressed-tensors"),
    _peer("gfloat", "gfloat"),
    _peer("ml_dtypes", "ml_dtypes"),
    _peer(
        "microxcaling",
        library="mx",
        obtain=f"clone {MICROXCALING} and give pytest --mx-microxcaling=PATH, or put PATH on PYTHONPATH",
    ),
    _peer("transformer_engine", "transformer_engine", obtain=install("transformer_engine")),
)


def implementations() -> Mapping[str, Implementation]:
    """Return name -> implementation: ours first, then those that packages offer, then the peers.

    Raises:
        ValueError: an entry point has the name of one of ours.
    """
    found = {one.name: one for one in _HOUSE}
    peers = {one.name: one for one in _PEERS}
    for name, target in offered(ENTRY_POINTS, taken=[*found, *peers]).items():
        found[name] = Implementation(name=name, target=target)
    return MappingProxyType({**found, **peers})


def offered(group: str, *, taken: Iterable[str]) -> dict[str, str]:
    """Return name -> `package.module:function` of what installed packages offer by entry points of a group.
    Raises ValueError for a name that is taken."""
    names, found = set(taken), dict[str, str]()
    for entry in entry_points(group=group):
        if entry.name in names or entry.name in found:
            raise ValueError(f"entry point {entry.name!r} of {group} ({entry.value}): the name is taken")
        found[entry.name] = entry.value
    return found


def implementation(name: str) -> Implementation:
    """Return the implementation of that name, or the one that `package.module:function` names.

    Raises:
        ValueError: neither.
    """
    from mxcheck.formats.choices import choose

    known = implementations()
    if name in known:
        return known[name]
    if name.startswith(PROGRAM):
        raise ValueError(
            f"{name!r} is a program, which `mxcheck verify --command` holds against the oracle, and "
            f"`mxcheck explain` and `identify` take as a kernel; here give package.module:function"
        )
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        choose("kernel", name, [*known, "<package.module:function>"])
    return Implementation(name=name.replace(":", "."), target=name)
