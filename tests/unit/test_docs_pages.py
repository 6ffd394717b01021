"""Pages for people: the site's list of pages, links to files, dates of results, and blocks of output."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
RESULTS = DOCS / "results"
#: What a fence may hold besides output.
CODE = ("c", "ini", "python", "sh", "toml")
#: What a line of a fence of commands begins with, after `NAME=value` and at the start of a command.
COMMANDS = (
    "./my_cast", ".venv/bin/pre-commit", "export", "hf", "job", "make", "mxcheck", "pip", "pytest", "ray",
    "sbatch",
)  # fmt: skip
FENCE = re.compile(r"^([ ]*)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
WITHIN = r"(?:(?!-->).)+"  # one comment
ORIGIN = re.compile(
    rf"<!-- (?:output(?: \(exit \d\))?: {WITHIN}|recorded: \d{{4}}-\d\d-\d\d, {WITHIN}, {WITHIN}) -->\n\n?$",
    re.DOTALL,
)
DATE = re.compile(r"\b20\d\d-\d\d-\d\d\b")


def pages() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def links(text: str) -> list[str]:
    """Targets of links to files, without their anchors."""
    prose = re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))
    found = re.findall(r"\]\(([^)\s]+)\)", prose)
    return [path for link in found if "://" not in link and (path := link.partition("#")[0])]


def without_origin(text: str) -> list[str]:
    """First lines of the fences that hold output and do not say where it is from."""
    return [
        fence[3].partition("\n")[0]
        for fence in FENCE.finditer(text)
        if (fence[2] not in CODE or (fence[2] == "sh" and not only_commands(fence[3])))
        and not ORIGIN.search(text[max(0, fence.start() - 2000) : fence.start()])
    ]


def only_commands(block: str) -> bool:
    lines = [line for line in block.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    return all(first_word(line) in COMMANDS for line in lines)


def first_word(line: str) -> str:
    words = re.split(r"[ =]", line) if re.match(r"[a-z]+=\$\(", line) else shlex.split(line, comments=True)
    return next((word for word in words if not re.match(r"[A-Z_]+=", word)), "")


def named(nav: list[object]) -> list[str]:
    """The pages of the site's `nav`, in its order."""
    found: list[str] = []
    for entry in nav:
        for value in entry.values() if isinstance(entry, dict) else (entry,):
            found += named(value) if isinstance(value, list) else [str(value)]
    return found


def test_the_site_names_every_page_once() -> None:
    with (ROOT / "zensical.toml").open("rb") as file:
        nav = named(tomllib.load(file)["project"]["nav"])
    assert sorted(nav) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
    overview = links((DOCS / "index.md").read_text(encoding="utf-8"))
    assert overview == nav[1:]  # in the same order, and so in the same groups


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page: Path) -> None:
    """A page of the site links to no file outside of it: there it would lead nowhere."""
    targets = [(page.parent / link).resolve() for link in links(page.read_text(encoding="utf-8"))]
    assert [target for target in targets if not target.exists()] == []
    if page.is_relative_to(DOCS):
        assert [target for target in targets if not target.is_relative_to(DOCS)] == []


@pytest.mark.parametrize("page", sorted(RESULTS.glob("*.md")), ids=lambda page: page.name)
def test_results_are_dated(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert DATE.search(text) or "Not yet run" in text


@pytest.mark.parametrize(
    "page",
    [page for page in pages() if not page.is_relative_to(RESULTS)],  # these are records of runs throughout
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_output_says_where_it_is_from(page: Path) -> None:
    assert without_origin(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param("```\n1 passed\n```\n", ["1 passed"], id="no-comment"),
        pytest.param("```text\n1 passed\n```\n", ["1 passed"], id="no-code"),
        pytest.param("```sh\npytest -q\n1 passed\n```\n", ["pytest -q"], id="output-among-commands"),
        pytest.param("```sh\n$ pytest -q\n```\n", ["$ pytest -q"], id="prompt"),
        pytest.param("<!-- output: pytest -->\nText.\n\n```\n1 passed\n```\n", ["1 passed"], id="elsewhere"),
        pytest.param("<!-- recorded: once -->\n```\n1 passed\n```\n", ["1 passed"], id="no-date"),
        pytest.param(
            "<!-- recorded: 2026-11-30, a GPU, why -->\n```\n1\n```\n<!-- recorded: once -->\n```\n2\n```\n",
            ["2"],
            id="the-origin-of-another",
        ),
        pytest.param("- A list:\n\n  ```\n  1 passed\n  ```\n", ["  1 passed"], id="in-a-list"),
        pytest.param("<!-- output: pytest -->\n```\n1 passed\n```\n", [], id="output"),
        pytest.param("<!-- output (exit 1): pytest -->\n\n```\n1 failed\n```\n", [], id="exit-code"),
        pytest.param("<!-- recorded: 2026-11-30, a GPU, why -->\n```\n1 passed\n```\n", [], id="recorded"),
        pytest.param("```sh\nA=1 pytest -q \\\n    -k x  # why\n\nmake gate\n```\n", [], id="commands"),
    ],
)  # fmt: skip
def test_a_block_without_origin_is_found(text: str, found: list[str]) -> None:
    assert without_origin(text) == found


def test_a_lost_link_is_found() -> None:
    assert links("[a](b.md#c) [d](https://e) [f](#g) `[h](i.md)`\n\n```\n[j](k.md)\n```\n[l](m.md)") == [
        "b.md",
        "m.md",
    ]


def test_a_nested_list_of_pages_is_read() -> None:
    assert named(["a.md", {"B": "b.md"}, {"C": [{"D": "d.md"}, "e.md"]}]) == ["a.md", "b.md", "d.md", "e.md"]
