"""Recipes of the user's own: read as they are meant, or refused in one line that names file and recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mxcheck.models.recipes.recipe import Casts, Operand, Recipe
from mxcheck.run.own_recipes import own_recipes
from mxcheck.run.settings import Settings

Lay = Callable[..., Settings]

W4A8 = """
[tool.mxcheck.recipes.w4a8]
mlp = { weights = "fp4_e2m1", activations = { format = "fp8_e4m3", scale_rule = "even", block_size = 16 } }
attention = { weights = "fp8_e4m3" }
attention_products = { format = "mxint8", rounding = "away" }
outputs = true
elementwise = "bf16"

[tool.mxcheck.recipes."heads.only"]
lm_head = { activations = "nvfp4" }
"""


def read(tmp_path: Path, text: str, *, kernel: str = "eager") -> dict[str, Recipe]:
    path = tmp_path / "pyproject.toml"
    path.write_text(text, encoding="utf-8")
    return own_recipes(path, kernel=kernel)


def test_each_key_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, W4A8, kernel="auto") == {
        "w4a8": Recipe(
            precision="w4a8",
            roles={
                "mlp": Casts(
                    weights=Operand(format="fp4_e2m1"),
                    activations=Operand(format="fp8_e4m3", scale_rule="even", block_size=16),
                ),
                "attention": Casts(weights=Operand(format="fp8_e4m3")),
            },
            attention=Operand(format="mxint8", rounding="away"),
            outputs=True,
            elementwise=Operand(format="bf16"),
            kernel="auto",
        ),
        "heads.only": Recipe(
            precision="heads.only",
            roles={"lm_head": Casts(activations=Operand(format="nvfp4"))},
            kernel="auto",
        ),
    }


@pytest.mark.parametrize(
    "text", ["", "[tool.other]\nx = 1\n", "[tool.mxcheck]\n", "[tool.mxcheck.recipes]\n"]
)  # fmt: skip
def test_none(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) == {}


def test_no_file(tmp_path: Path) -> None:
    assert own_recipes(tmp_path / "pyproject.toml", kernel="eager") == {}


ROLE = "a role is a table of weights and activations (one may be left out), got "
OPERAND = "an operand is a format, or a table of format, block_size, scale_rule, rounding, got "


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("x = [", "Invalid value", id="no-toml"),
        pytest.param("[tool.mxcheck.recipe.a]", "unknown table of tool.mxcheck 'recipe'", id="table"),
        *(
            pytest.param(
                f'[tool.mxcheck.recipes."{name}"]\nmlp = {{ weights = "mxint8" }}',
                f"a recipe cannot be called {name!r}; allowed: letters, digits, '_' and '.', and no name",
                id=f"called-{name}",
            )
            for name in ("fp8_e4m3", "mxfp8", "mixed", "all", "w4-a8", "w4+a8", "w 4", "_x", "w4/a8", "")
        ),
        pytest.param(
            '[tool.mxcheck.recipes."engine.x"]\nmlp = { weights = "mxint8" }',
            "recipe 'engine.x': a recipe cannot be called 'engine.x': 'engine' and a dot begin the name",
            id="called-as-an-engine",
        ),
    ],
)
def test_a_file_that_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the message is held below)
        read(tmp_path, text)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'pyproject.toml'}: ")
    assert words in message
    assert "\n" not in message


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_bytes(b"# \xff\n")
    with pytest.raises(ValueError, match="not UTF-8 text"):
        own_recipes(tmp_path / "pyproject.toml", kernel="eager")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        pytest.param("mpl = { weights = 'mxint8' }", "unknown key 'mpl'; allowed: attention, mlp", id="key"),
        pytest.param("mpl = { weights = 'mxint8' }", "did you mean 'mlp'?", id="nearest"),
        pytest.param("tier = 'A'", "unknown key 'tier'", id="tier"),
        pytest.param("", "w needs the roles to quantize, got none", id="empty"),
        pytest.param("outputs = true", "w needs the roles to quantize, got none", id="no-role"),
        pytest.param("mlp = 'mxint8'", f"{ROLE}'mxint8'", id="role-is-no-table"),
        pytest.param("mlp = {}", f"{ROLE}{{}}", id="role-is-empty"),
        pytest.param("mlp = { weight = 'mxint8' }", f"{ROLE}{{'weight'", id="key-of-role"),
        pytest.param("mlp = { weights = 8 }", f"{OPERAND}8", id="operand-is-a-number"),
        pytest.param("mlp = { weights = { block_size = 16 } }", f"{OPERAND}{{'block_size'", id="no-format"),
        pytest.param("mlp = { weights = { format = 'mxint8', blocks = 16 } }", OPERAND, id="key-of-operand"),
        pytest.param(
            "mlp = { weights = 'fp9' }", "unknown format 'fp9'; allowed: bf16, fp8_e4m3", id="format"
        ),
        pytest.param(
            "mlp = { weights = { format = 'mxint8', scale_rule = 'even' } }",
            "unknown scale rule of mxint8 'even'; allowed: floor, ceil, rceil",
            id="scale-rule",
        ),
        pytest.param(
            "mlp = { weights = { format = 'mxint8', rounding = 'odd' } }",
            "unknown rounding 'odd'",
            id="rounding",
        ),
        pytest.param("mlp = { weights = { format = 'mxint8', block_size = 0 } }", "block", id="block-size"),
        pytest.param(
            "mlp = { weights = { format = 'mxint8', block_size = '16' } }", "block", id="block-size-is-text"
        ),
        pytest.param(
            "mlp = { weights = { format = 'bf16', block_size = 16 } }",
            "bf16 rounds each element to even: it takes no block size",
            id="bf16",
        ),
        pytest.param(
            "mlp = { weights = 'mxint8' }\noutputs = 1", "outputs must be true or false, got 1", id="outputs"
        ),
        pytest.param(
            "mlp = { weights = { format = 'mxint8', rounding = 'stochastic' } }",
            "rounding stochastic: only the kernel suite has random integers for it",
            id="stochastic",
        ),
        pytest.param("mlp = { weights = { format = ['mxint8'] } }", "format", id="format-is-a-list"),
    ],
)
def test_a_recipe_that_is_refused(tmp_path: Path, lines: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the message is held below)
        read(tmp_path, f"[tool.mxcheck.recipes.w]\n{lines}\n")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'pyproject.toml'}: recipe 'w': ")
    assert words in message
    assert "\n" not in message


def test_a_recipe_that_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"recipe 'w': must be a table of roles, got 'mxint8'"):
        read(tmp_path, "[tool.mxcheck.recipes]\nw = 'mxint8'\n")


# In a run


@pytest.fixture
def with_recipes(pytester: pytest.Pytester, lay: Lay) -> Lay:
    (pytester.path / "pyproject.toml").write_text(W4A8)
    return lay


def test_they_are_cases_after_the_ladder_s_without_tier_and_labels_of_casts(with_recipes: Lay) -> None:
    words = ("--mx-tier", "A,B", "--mx-attention", "--mx-global", "bf16", "--mx-max-samples", "4")
    names = [case.name for case in with_recipes(*words).cases]
    assert names[-2:] == ["w4a8+samples4", "heads.only+samples4"]
    assert sum("w4a8" in name for name in names) == 1


def test_they_are_asked_for_by_name(with_recipes: Lay) -> None:
    settings = with_recipes("--mx-precision", "heads.only,bf16", "--mx-kernel", "auto")
    assert [case.name for case in settings.cases] == ["bf16", "heads.only"]
    assert settings.recipes[settings.cases[1]].kernel == "auto"


def test_skipping_mx_leaves_them(with_recipes: Lay) -> None:
    names = [case.name for case in with_recipes("--no-mx", "--mx-precision", "w4a8,mxint8").cases]
    assert names == ["w4a8"]


def test_a_misspelt_one_is_told_the_nearest(with_recipes: Lay) -> None:
    with pytest.raises(pytest.UsageError, match=r"unknown --mx-precision 'w4a'; .* did you mean 'w4a8'"):
        with_recipes("--mx-precision", "w4a")


def test_the_bounds_file_may_have_lines_for_them(with_recipes: Lay, pytester: pytest.Pytester) -> None:
    bounds = pytester.path / "bounds.toml"
    bounds.write_text("[default]\nw4a8 = { kl = 1 }\n")
    assert with_recipes("--mx-bounds", "bounds.toml").bounds == str(bounds)
    (pytester.path / "others.toml").write_text("[default]\nw4a16 = { kl = 1 }\n")
    with pytest.raises(pytest.UsageError, match=r"unknown precision in \[default\] 'w4a16'"):
        with_recipes("--mx-bounds", "others.toml")
