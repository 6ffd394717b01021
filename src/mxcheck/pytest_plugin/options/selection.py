"""Tests that a run collects, and options that narrow it: both must be equal for all shards of a run."""

from __future__ import annotations

import os

import pytest

#: Options that may exclude cases, by their names in pytest's configuration.
_NARROWING = {
    "-k": "keyword",
    "-m": "markexpr",
    "--deselect": "deselect",
    "--ignore": "ignore",
    "--ignore-glob": "ignore_glob",
    "--lf": "lf",
    "--sw": "stepwise",
}


def narrowing(config: pytest.Config) -> str:
    """Return the options and node ids that may exclude cases of a run; empty where all are selected."""
    words = []
    for name, key in _NARROWING.items():
        value = config.getoption(key, None)  # -p no:cacheprovider removes its options
        values = value if isinstance(value, list) else [value]
        words += [name if one is True else f"{name} {one}" for one in values if one]
    return " ".join([*words, *(_from_root(config, word) for word in config.args if "::" in word)])


def collected(config: pytest.Config) -> str:
    """Return what the command line collects; paths are relative to the root directory, wherever pytest was
    started."""
    return " ".join(_from_root(config, word) for word in config.args)


def _from_root(config: pytest.Config, word: str) -> str:
    name, colons, rest = word.partition("::")
    path = config.invocation_params.dir / name
    if not path.exists():  # a module, after --pyargs
        return word
    return os.path.relpath(path, config.rootpath) + colons + rest


def kernels_alone(config: pytest.Config) -> bool:
    """Return whether a run names only the kernel suite: then options that both suites have need not apply to
    a model."""
    return bool(config.args) and all(_names_kernels(config, word) for word in config.args)


def _names_kernels(config: pytest.Config, word: str) -> bool:
    path = config.invocation_params.dir / word.partition("::")[0]
    folder = path if path.is_dir() else path.parent
    there = path.exists() and (folder / "test_casts.py").is_file()
    return "mxcheck.suite.kernels" in word or there
