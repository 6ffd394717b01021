"""tools/docs_output.py: which blocks it finds, how their commands run, and what it rewrites."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGE = """\
A file:

```python
# mine.py
print(40 + 2)
```

<!-- output: SHOWN | sed s/4/5/ -->

```
$ python \\
    mine.py
{text}
```

```sh
echo untouched
```
"""


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_output", ROOT / "tools" / "docs_output.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def page(folder: Path, text: str) -> Path:
    path = folder / "page.md"
    path.write_text(text, encoding="utf-8")
    return path


def block(comment: str, text: str) -> str:
    return f"<!-- {comment} -->\n\n```\n{text}\n```\n"


def test_it_rewrites_the_text_alone(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = page(tmp_path, PAGE.format(text="old"))
    assert tool.main(["--check", str(path)]) == 1
    told = capsys.readouterr().out
    assert f"{path}:8: differs (" in told
    assert "-old\n+52\n" in told
    assert path.read_text() == PAGE.format(text="old")
    assert tool.main([str(path)]) == 0
    assert path.read_text() == PAGE.format(text="52")
    assert tool.main(["--check", str(path)]) == 0
    assert f"{path}:8: current (" in capsys.readouterr().out


def test_blocks_of_other_lengths_keep_their_places(tool: ModuleType, tmp_path: Path) -> None:
    first, second = "output: echo a; echo b; echo c", "output: echo d"
    path = page(tmp_path, block(first, "1") + block(second, "2\n3\n4"))
    assert tool.main([str(path)]) == 0
    assert path.read_text() == block(first, "a\nb\nc") + block(second, "d")


def test_only_what_is_asked_for_runs(tool: ModuleType, tmp_path: Path) -> None:
    path = page(tmp_path, block("output: echo a", "1") + block("output: echo b", "2"))
    assert tool.main(["--only", "echo b", str(path)]) == 0
    assert path.read_text() == block("output: echo a", "1") + block("output: echo b", "b")


@pytest.mark.parametrize(
    ("comment", "told"),
    [
        pytest.param("output: false", "ended with exit code 1, expected 0:\nit printed nothing", id="red"),
        pytest.param("output: false | sed p", "ended with exit code 1, expected 0", id="red-in-a-pipe"),
        pytest.param("output (exit 2): echo a; exit 3", "code 3, expected 2:\na", id="other-code"),
        pytest.param("output: echo why >&2", "code 0, expected 0:\nwhy", id="nothing-on-standard-output"),
    ],
)
def test_a_command_that_fails_leaves_its_block(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], comment: str, told: str
) -> None:
    path = page(tmp_path, block(comment, "old") + block("output: echo new", "old"))
    assert tool.main([str(path)]) == 1
    assert told in capsys.readouterr().err
    assert path.read_text() == block(comment, "old") + block("output: echo new", "new")


def test_an_expected_exit_code_is_none_of_a_failure(tool: ModuleType, tmp_path: Path) -> None:
    path = page(tmp_path, block("output (exit 3): echo red; exit 3", "old"))
    assert tool.main([str(path)]) == 0
    assert path.read_text() == block("output (exit 3): echo red; exit 3", "red")


def test_what_varies_is_replaced(tool: ModuleType, tmp_path: Path) -> None:
    text = f"{tmp_path}/a {tool.ROOT}/src  \n1 passed in 73.16s (0:01:13)\nin 1.20s\n0.5 s\n\n"
    assert tool.normal(text, tmp_path) == "./a …/src\n1 passed in …s\nin …s\n0.5 s\n"


def test_files_of_one_name_follow_each_other(tool: ModuleType, tmp_path: Path) -> None:
    fences = "```toml\n# a.toml\nx = 1\n```\n\n```toml\n# a.toml\ny = 2\n```\n\n```toml\nz = 3\n```\n"
    assert tool.files(fences) == {"a.toml": "# a.toml\nx = 1\n# a.toml\ny = 2\n"}
    other = page(tmp_path, fences)
    (tmp_path / "here").mkdir()
    path = page(tmp_path / "here", block(f"output: docs_output --files '{other}' && sed 1d a.toml", "old"))
    assert tool.main([str(path)]) == 0
    assert path.read_text().endswith("```\nx = 1\n# a.toml\ny = 2\n```\n")


def test_the_repository_is_what_is_imported(tool: ModuleType, tmp_path: Path) -> None:
    path = page(tmp_path, block("output: python -c 'import mxcheck; print(mxcheck.__file__)'", "old"))
    assert tool.main([str(path)]) == 0
    assert "\n…/src/mxcheck/__init__.py\n" in path.read_text()


def test_every_output_comment_of_the_pages_is_read(tool: ModuleType) -> None:
    """None is passed over for a slip in its form; a recorded block is none."""
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = path.read_text(encoding="utf-8")
        assert len(tool.blocks(text)) == text.count("<!-- output"), path
        assert all("SHOWN" not in one.command for one in tool.blocks(text))
    assert tool.blocks(block("recorded: 2026-11-30, a GPU, none is here", "x")) == []
