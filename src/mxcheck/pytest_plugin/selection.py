"""What a run is asked to collect, and what narrows that: shards of one run are asked for the same."""

from __future__ import annotations

import os

import pytest

#: Options that may leave out cases, by their names in pytest's configuration.
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
    """The options and node ids that may leave out cases of a run; empty where all of them are asked for."""
    words = []
    for name, key in _NARROWING.items():
        value = config.getoption(key, None)  # -p no:cacheprovider takes its options away
        values = value if isinstance(value, list) else [value]
        words += [name if one is True else f"{name} {one}" for one in values if one]
    return " ".join([*words, *(_from_root(config, word) for word in config.args if "::" in word)])


def collected(config: pytest.Config) -> str:
    """What the command line names to collect; paths from the root directory, wherever pytest was started."""
    return " ".join(_from_root(config, word) for word in config.args)


def _from_root(config: pytest.Config, word: str) -> str:
    name, colons, rest = word.partition("::")
    path = config.invocation_params.dir / name
    if not path.exists():  # a module, after --pyargs
        return word
    return os.path.relpath(path, config.rootpath) + colons + rest


def kernels_alone(config: pytest.Config) -> bool:
    """Whether a run names the kernel suite and nothing else: then options that both suites have need mean
    nothing to a model."""
    return bool(config.args) and all(_names_kernels(config, word) for word in config.args)


def _names_kernels(config: pytest.Config, word: str) -> bool:
    path = config.invocation_params.dir / word.partition("::")[0]
    folder = path if path.is_dir() else path.parent
    there = path.exists() and (folder / "test_casts.py").is_file()
    return "mxcheck.suite.kernels" in word or there
