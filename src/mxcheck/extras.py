"""Packages that mxcheck uses and does not require, and the extra that installs each. Imports none of them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from types import MappingProxyType

#: Name of import -> extra of pyproject.toml. huggingface_hub and tokenizers come with transformers.
EXTRA_OF: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(
            (
                "accelerate",
                "datasets",
                "huggingface_hub",
                "safetensors",
                "tokenizers",
                "transformers",
                "zstandard",
            ),
            "models",
        ),
        "bitsandbytes": "bnb",
        "pynvml": "gpu",
        "ray": "ray",
        "transformer_engine": "te",
        "xdist": "xdist",
    }
)


class NotInstalledError(ModuleNotFoundError, ValueError):
    """A package of an extra is absent. The message is one line: for what, which, and how to install it."""


def install(package: str) -> str:
    """Return the command that installs the extra of `package`, and what it needs beside pip."""
    if EXTRA_OF[package] == "te":  # compiled against the torch that is installed
        return "pip install --no-build-isolation 'mxcheck[te]', with the CUDA toolkit and cuDNN"
    return f"pip install 'mxcheck[{EXTRA_OF[package]}]'"


def missing(package: str) -> str | None:
    """Return which package is not installed, and how to install it, or None. Imports nothing."""
    return None if find_spec(package) is not None else f"{package} is not installed: {install(package)}"


def require(package: str, purpose: str) -> None:
    """Raise NotInstalledError if `package`, which `purpose` (a noun, third person) needs, is not installed.

    Example: `require("transformers", "the model suite")`. Imports nothing.
    """
    if missing(package) is not None:
        raise _absent(package, purpose)


def require_models(purpose: str) -> None:
    """As `require`, for the packages with which a model is loaded. transformers depends on safetensors, and
    may be installed without its dependencies."""
    for package in ("transformers", "safetensors"):
        require(package, purpose)


def named(error: ModuleNotFoundError, purpose: str) -> NotInstalledError:
    """Return a failed import as a NotInstalledError; raise `error` itself if no extra installs the module, or
    if its package is installed and lacks it, as another release may."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRA_OF or (error.name != package and missing(package) is None):
        raise error
    return _absent(package, purpose)


def _absent(package: str, purpose: str) -> NotInstalledError:
    return NotInstalledError(
        f"{purpose} needs {package}, which is not installed: {install(package)}", name=package
    )
