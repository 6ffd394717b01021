"""Names: what `-k` matches, where a baseline lies, which line of the bound holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mxcheck.gate.case import Case, case_of, check_recipe_name, model_label, named_as, named_model


@pytest.mark.parametrize(
    ("case", "name", "case_name", "bounds_key", "baseline"),
    [
        pytest.param(
            Case(model="ref-llama", precision="mxfp8_e4m3", tier="A"),
            "ref-llama-mxfp8_e4m3-A",
            "mxfp8_e4m3-A",
            "mxfp8_e4m3-A",
            "ref-llama/mxfp8_e4m3-A.json",
            id="tier",
        ),
        pytest.param(
            Case(model="ref-llama", precision="bf16"),
            "ref-llama-bf16",
            "bf16",
            "bf16",
            "ref-llama/bf16.json",
            id="whole-model",
        ),
        pytest.param(
            Case(model="org--m", precision="mxint8", tier="B", options=("block16", "samples8")),
            "org--m-mxint8-B+block16+samples8",
            "mxint8-B+block16+samples8",
            "mxint8-B",
            "org--m/mxint8-B+block16+samples8.json",
            id="options-in-their-order",
        ),
        pytest.param(
            Case(model="ref-neo", precision="fp32", options=("samples8",)),
            "ref-neo-fp32+samples8",
            "fp32+samples8",
            "fp32",
            "ref-neo/fp32+samples8.json",
            id="whole-model-with-option",
        ),
        pytest.param(
            Case(
                model="ref-moe",
                precision="mixed",
                tier="C",
                options=(
                    "rceil",
                    "attention",
                    "outputs",
                    "weights-only",
                    "global-bfloat16",
                    "pile-or-wikitext",
                ),
            ),
            "ref-moe-mixed-C+rceil+attention+outputs+weights-only+global-bfloat16+pile-or-wikitext",
            "mixed-C+rceil+attention+outputs+weights-only+global-bfloat16+pile-or-wikitext",
            "mixed-C+attention+outputs+global-bfloat16",
            "ref-moe/mixed-C+rceil+attention+outputs+weights-only+global-bfloat16+pile-or-wikitext.json",
            id="options-that-quantize-more",
        ),
        pytest.param(
            Case(model="ref-neo", precision="w4a8", options=("mine.txt",)),
            "ref-neo-w4a8+mine.txt",
            "w4a8+mine.txt",
            "w4a8",
            "ref-neo/w4a8+mine.txt.json",
            id="recipe-of-the-user-s",
        ),
    ],
)
def test_names(case: Case, name: str, case_name: str, bounds_key: str, baseline: str) -> None:
    assert case.id == name
    assert case.name == case_name
    assert case.bounds_key == bounds_key
    assert case.baseline == Path(baseline)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        pytest.param("ref-llama", "ref-llama", id="zoo"),
        pytest.param("meta-llama/Llama-3.1-8B", "meta-llama--Llama-3.1-8B", id="hub"),
        pytest.param("meta-llama/Llama-3.1-8B@refs/pr/7", "meta-llama--Llama-3.1-8B", id="pinned"),
        pytest.param("~/checkpoints/best", "best", id="home"),
        pytest.param("./a/../b", "b", id="resolved"),
        pytest.param("./a/b///", "b", id="trailing-slashes"),
    ],
)
def test_label(name: str, label: str) -> None:
    assert model_label(name) == label


@pytest.mark.parametrize("slashes", ["", "///"])
def test_label_of_a_directory_is_its_last_component(tmp_path: Path, slashes: str) -> None:
    (tmp_path / "my_model").mkdir()
    assert model_label(f"{tmp_path}/my_model{slashes}") == "my_model"


def test_label_of_a_directory_that_looks_like_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert model_label("checkpoints/step-100") == "checkpoints--step-100"
    (tmp_path / "checkpoints" / "step-100").mkdir(parents=True)
    assert model_label("checkpoints/step-100") == "step-100"


def test_label_of_the_current_directory_is_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    assert model_label(".") == "mine"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("two words", id="space"),
        pytest.param("-leading", id="leading-dash"),
        pytest.param("./models/.hidden", id="leading-dot"),
        pytest.param("model@1", id="at-sign"),  # `@` marks a device class's override
        pytest.param("model+x", id="plus"),  # `+` begins an option
        pytest.param("model[x]", id="bracket"),
        pytest.param("modèle", id="accent"),
        pytest.param("model\n", id="newline"),
    ],
)
def test_label_refuses_what_cannot_name_a_test(name: str) -> None:
    with pytest.raises(ValueError, match="allowed: at most 150 letters, digits") as caught:
        model_label(name)
    message = str(caught.value)
    assert repr(name) in message
    assert "rename" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("given", "label", "name"),
    [
        ("mine=./a/b", "mine", "./a/b"),
        ("mine=/my models/a, b", "mine", "/my models/a, b"),
        ("mine=org/name@v1", "mine", "org/name@v1"),
        ("mine=./a=b", "mine", "./a=b"),
        ("./a/b", "b", "./a/b"),
        ("org/name@v1", "org--name", "org/name@v1"),
    ],
)
def test_a_model_is_named_or_names_itself(given: str, label: str, name: str) -> None:
    assert named_model(given) == (label, name)
    assert named_as(label, name) == given


@pytest.mark.parametrize("given", ["./a=b", "my model=./a", "-x=./a", "=./a"])
def test_what_is_no_name_before_an_equals_sign_is_part_of_the_path(given: str) -> None:
    with pytest.raises(ValueError, match="allowed: at most 150 letters, digits"):
        named_model(given)
    assert named_model(f"mine={given}") == ("mine", given)


def test_a_name_without_a_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'mine=' names nothing: write mine=PATH"):
        named_model("mine=")


@pytest.mark.parametrize("name", [pytest.param("", id="empty"), pytest.param("/", id="root")])
def test_label_refuses_what_names_nothing(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a test"):
        model_label(name)


OF_EACH_KIND = [
    pytest.param(Case(model="m", precision="mxfp8_e4m3", tier="B"), "mxfp8_e4m3-B", id="recipe"),
    pytest.param(Case(model="m", precision="bf16"), "bf16", id="whole-model"),
    pytest.param(
        Case(model="m", precision="mxfp8_e4m3", tier="linears", options=("block16", "mine.txt")),
        "mxfp8_e4m3-linears+block16+mine.txt",
        id="recipe-with-options",
    ),
    pytest.param(Case(model="m", precision="heads.only"), "heads.only", id="recipe-of-the-user-s"),
    pytest.param(
        Case(model="m", kind="checkpoint", subject="my-fp8_v1.2"), "checkpoint.my-fp8_v1.2", id="checkpoint"
    ),
    pytest.param(
        Case(model="m", kind="engine", subject="vllm-0.32", options=("batch8",)),
        "engine.vllm-0.32+batch8",
        id="engine",
    ),
    pytest.param(
        Case(model="m", kind="training", precision="mxfp8_e4m3", tier="B"),
        "training.mxfp8_e4m3-B",
        id="training",
    ),
    pytest.param(
        Case(model="m", kind="training", precision="bf16", options=("steps100",)),
        "training.bf16+steps100",
        id="training-of-the-whole-model",
    ),
    pytest.param(
        Case(model="m", kind="checkpoint", subject="engine.x"), "checkpoint.engine.x", id="called-as-a-kind"
    ),
]


@pytest.mark.parametrize(("case", "case_name"), OF_EACH_KIND)
def test_the_names_of_each_kind_and_back(case: Case, case_name: str) -> None:
    assert case.name == case_name
    assert case.id == f"m-{case_name}"
    assert case.baseline == Path("m") / f"{case_name}.json"
    assert case_of("m", case_name) == case


def test_cases_of_all_kinds_have_names_of_their_own() -> None:
    """Each kind with what another one is called by."""
    cases = [
        Case(model="m", precision=precision, tier=tier, kind=kind)
        for kind in ("recipe", "training")
        for precision in ("x", "fp8_e4m3")
        for tier in (None, "A", "x")
    ]
    cases += [
        Case(model="m", kind=kind, subject=subject)
        for kind in ("checkpoint", "engine")
        for subject in ("x", "mxfp8_e4m3-A", "engine.x", "training.x", "checkpoint.x")
    ]
    assert len({case.name for case in cases}) == len(cases) == 22
    assert [case_of("m", case.name) for case in cases] == cases


@pytest.mark.parametrize("kind", ["checkpoint", "engine", "training"])
def test_a_recipe_called_as_a_case_of_another_kind_is_refused(kind: str) -> None:
    name = f"{kind}.x"
    with pytest.raises(ValueError, match=f"a recipe cannot be called '{name}': '{kind}' and a dot begin"):
        check_recipe_name(name)
    with pytest.raises(ValueError, match="a recipe cannot be called"):
        Case(model="m", precision=name)
    for allowed in (kind, f"my.{kind}", f"{kind}s.x", f"{kind}_x", "recipe.x"):
        check_recipe_name(allowed)
        assert case_of("m", allowed) == Case(model="m", precision=allowed)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "other", "precision": "bf16"}, "unknown kind of case 'other'; allowed: recipe, checkpoint"),
        ({}, "a case of kind recipe has a precision, and no subject; got subject '', precision ''"),
        ({"precision": "bf16", "subject": "x"}, "a case of kind recipe has a precision, and no subject"),
        ({"kind": "training", "subject": "x"}, "a case of kind training has a precision, and no subject"),
        ({"kind": "engine"}, "a case of kind engine has a subject, and neither precision nor tier"),
        (
            {"kind": "engine", "subject": "x", "precision": "bf16"},
            "a subject, and neither precision nor tier",
        ),
        ({"kind": "checkpoint", "subject": "x", "tier": "A"}, "a subject, and neither precision nor tier"),
        *(
            ({"kind": "checkpoint", "subject": name}, f"the subject of a case cannot be called {name!r}")
            for name in ("a/b", "-x", ".x", "a+b", "a b", "a[b", "é", "x\n")
        ),
        *(
            ({"precision": name}, f"the precision of a case cannot be called {name!r}")
            for name in ("fp8-A", "a+b", "a/b", "_x", "x\n")
        ),
        ({"precision": "mxint8", "tier": "A-B"}, "the tier of a case cannot be called 'A-B'"),
        ({"precision": "mxint8", "tier": ""}, "the tier of a case cannot be called ''"),
        *(
            ({"precision": "bf16", "options": (name,)}, f"the option of a case cannot be called {name!r}")
            for name in ("", "a+b", "a/b", "a]")
        ),
        ({"model": "org/name", "precision": "bf16"}, "the model of a case cannot be called 'org/name'"),
        ({"model": "", "precision": "bf16"}, "the model of a case cannot be called ''"),
    ],
    ids=range(28),
)
def test_what_cannot_name_a_file_and_a_test_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the message is held below)
        Case(**{"model": "m", **fields})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "case_name",
    ["", "+block16", "bf16+", "bf16++x", "bf16-", "-A", "a-b-c", "engine.", "training.", "engine.-x"],
)
def test_what_is_no_case_name_is_refused(case_name: str) -> None:
    with pytest.raises(ValueError, match=r"case|case_name"):
        case_of("m", case_name)


def test_a_name_is_short_enough_for_files() -> None:
    assert named_model(f"{'n' * 150}=./mine") == ("n" * 150, "./mine")
    with pytest.raises(ValueError, match=r"the model of a case cannot be called .nnn.*at most 150 letters"):
        Case(model="n" * 151, precision="bf16")
