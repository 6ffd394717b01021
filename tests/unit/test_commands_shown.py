"""Commands that people are shown: an option and its value are one word, as pytest takes a path after a space
for one to collect from."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from mxcheck.pytest_plugin.options.mx_options import FORMER, LISTS, VALUES

ROOT = Path(__file__).parents[2]
#: Words that may follow an option's name in a sentence.
SENTENCE = ("and", "comes", "has", "is", "lie", "must", "on", "or", "would")
_NAMES, _SENTENCE = "|".join((*LISTS, *VALUES, *FORMER.values())), "|".join(SENTENCE)
#: An option, a space, and what may be its value. In code's lists of words a quote follows the option.
APART = re.compile(rf"--mx-(?:{_NAMES})[ \\\n#]+(?!(?:{_SENTENCE})\b)[\w./${{'\"]\S*")
#: Records of runs as they were.
DATED = "docs/results/"


def shown() -> list[Path]:
    """Files that show commands, or print them."""
    listed = subprocess.run(
        ["git", "ls-files", "*.md", "*.yml", "*.sh", "Makefile", ".ci", "src/*.py", "src/*.toml", "tools/*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listed.stdout.split() if not name.startswith(DATED)]


def test_no_value_stands_apart_from_its_option() -> None:
    files = shown()
    assert ROOT / "README.md" in files
    assert ROOT / "src/mxcheck/cli/bounds_command.py" in files
    apart = {
        path.relative_to(ROOT).as_posix(): found
        for path in files
        if (found := APART.findall(path.read_text(encoding="utf-8")))
    }
    assert apart == {}


def test_every_target_of_make_that_is_shown_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in shown()
        if path.name != "CHANGELOG.md"
        for name in re.findall(r"(?:`|run: )make ([a-z][a-z-]*)", path.read_text(encoding="utf-8"))
    }
    assert {"test", "gate", "fetch-models"} <= {name for _, name in named}
    assert {(path, name) for path, name in named if name not in targets} == set()


@pytest.mark.parametrize(
    "text",
    [
        "`--mx-models ./my-model`",
        "--mx-report DIR",
        "--mx-tier A,B",
        '--mx-report "$(REPORT)"',
        "--mx-shard {x}",
    ],
)
def test_the_search_finds_them(text: str) -> None:
    assert APART.search(text)
    assert not APART.search(re.sub(r"(--mx-\w+) ", r"\1=", text))


def test_the_search_leaves_sentences_alone() -> None:
    assert not APART.search(
        "the file of --mx-bounds comes before ours, and `--mx-tier` (A) before --mx-models."
    )
