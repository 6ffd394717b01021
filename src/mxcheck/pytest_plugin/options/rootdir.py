"""Paths after a space: before pytest knows our options, it collects from such a path if it exists, and looks
there for the project: its ini file, baselines and cache."""

from __future__ import annotations

import copy
import os
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
from _pytest.config.findpaths import determine_setup


def check_root(config: pytest.Config, parser: pytest.Parser) -> None:
    """Refuse a command line whose option values moved pytest's root directory or its ini file: everything
    would be read from and written to another project. Raises pytest.UsageError, in one line with the correct
    form."""
    words = [*shlex.split(os.environ.get("PYTEST_ADDOPTS", "")), *map(str, config.invocation_params.args)]
    known = parser.parse_known_args(words, namespace=copy.copy(config.option))
    root, ini, *_ = determine_setup(
        inifile=known.inifilename,
        override_ini=known.override_ini,
        args=known.file_or_dir,
        rootdir_cmd_arg=known.rootdir or None,
        invocation_dir=config.invocation_params.dir,
    )
    if (root, ini) == (config.rootpath, config.inipath):
        return
    there = [word for word in words if not word.startswith("-") and _is_there(config, word)]
    stray = [word for word in there if word not in known.file_or_dir]
    taken = [
        shlex.quote(f"{option}={value}")
        for option, value in pairwise(words)
        if option.startswith("--") and "=" not in option and value in stray
    ]
    fixed = f"--rootdir={root}" + (f" -c {ini}" if ini else "")
    remedy = f"write {' '.join(taken)}" if taken else f"beside {', '.join(stray)} write {fixed}"
    raise pytest.UsageError(
        f"mxcheck: pytest collects from a path that follows a space, and looks for the project in "
        f"{config.rootpath} and not in {root}; {remedy}"
    )


def _is_there(config: pytest.Config, word: str) -> bool:
    """Return whether pytest takes the word for an existing path: `path::test` is one."""
    return Path(config.invocation_params.dir, word.partition("::")[0]).exists()
