"""A workflow of GitHub Actions as far as ours go: its expressions, and its `run` steps by bash as a runner
runs them. What is not known here is an error, never a guess."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

#: `${{ … }}`
_EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
#: As a runner starts a step with `shell: bash`.
BASH = ("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c")

Step = Mapping[str, Any]


def load(path: Path) -> dict[str, Any]:
    """A workflow's file. (YAML 1.1 reads the key `on` as true.)"""
    data: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return data


def evaluate(expression: str, context: Mapping[str, Any]) -> Any:
    """The value of an expression: literals, names of `context` such as `vars.NAME`, `||`, `&&`, `==`, `!=`,
    `fromJSON(…)`, `always()`. A name whose first part is known and whose rest is not is empty, as on GitHub.
    """
    for operator in ("||", "&&", "!=", "=="):
        left, found, right = expression.partition(f" {operator} ")
        if found:
            one, other = evaluate(left, context), evaluate(right, context)
            return {"||": one or other, "&&": one and other, "!=": one != other, "==": one == other}[operator]
    expression = expression.strip()
    if literal := re.fullmatch(r"'([^']*)'", expression):
        return literal[1]
    if inner := re.fullmatch(r"fromJSON\((.*)\)", expression):
        return json.loads(evaluate(inner[1], context))
    if expression == "always()":
        return True
    first, *rest = expression.split(".")
    value = context[first]  # KeyError: a context that this stand-in does not have
    for name in rest:
        value = value.get(name, "")
    return value


def filled(value: Any, context: Mapping[str, Any]) -> Any:
    """A value of the file with its expressions evaluated; one that is an expression keeps its type."""
    if isinstance(value, list):
        return [filled(one, context) for one in value]
    if not isinstance(value, str):
        return value
    if whole := _EXPRESSION.fullmatch(value):
        return evaluate(whole[1], context)
    return _EXPRESSION.sub(lambda found: str(evaluate(found[1], context)), value)


@dataclass(kw_only=True)
class Runner:
    """Runs steps in a checkout. `outer` is the machine's environment, `context` what expressions see."""

    checkout: Path
    outer: Mapping[str, str]
    context: dict[str, Any]

    def environment(self, *levels: Mapping[str, Any]) -> dict[str, str]:
        """Of workflow, job and step, the later before the earlier; later levels see earlier ones as `env`."""
        found: dict[str, str] = {}
        for level in levels:
            found |= {
                name: str(filled(value, {**self.context, "env": found})) for name, value in level.items()
            }
        return found

    def applies(self, step: Step, environment: Mapping[str, str]) -> bool:
        return bool(filled(step.get("if", True), {**self.context, "env": environment}))

    def run(self, step: Step, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        assert not _EXPRESSION.search(step["run"]), "an expression in a script is code from outside: use env"
        return subprocess.run(
            [*BASH, step["run"]],
            cwd=self.checkout,
            env={**self.outer, **environment},
            capture_output=True,
            text=True,
            check=False,
        )


def machine_environment(**more: str) -> dict[str, str]:
    """This machine's, without what the test run around it left in it."""
    aside = ("PYTEST_", "HF_", "TRANSFORMERS_", "OMP_", "GITHUB_", "SLURM_", "MAKE", "MFLAGS", "MXCHECK_RUN")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(aside) and name != "CI"}
    return {**kept, **more}
