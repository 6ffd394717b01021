"""Names: what `-k` matches, where a baseline lies, which line of the budget holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from mxcheck.gate.case import Case, model_label


@pytest.mark.parametrize(
    ("case", "name", "stage", "budget_key", "baseline"),
    [
        pytest.param(
            Case(model="ref-llama", precision="fp8_e4m3", tier="A"),
            "ref-llama-fp8_e4m3-A",
            "fp8_e4m3-A",
            "fp8_e4m3-A",
            "ref-llama/fp8_e4m3-A.json",
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
                options=("rceil", "attention", "outputs", "weights-only", "global-bf16", "pile-or-wikitext"),
            ),
            "ref-moe-mixed-C+rceil+attention+outputs+weights-only+global-bf16+pile-or-wikitext",
            "mixed-C+rceil+attention+outputs+weights-only+global-bf16+pile-or-wikitext",
            "mixed-C+attention+outputs+global-bf16",
            "ref-moe/mixed-C+rceil+attention+outputs+weights-only+global-bf16+pile-or-wikitext.json",
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
def test_names(case: Case, name: str, stage: str, budget_key: str, baseline: str) -> None:
    assert case.id == name
    assert case.stage == stage
    assert case.budget_key == budget_key
    assert case.baseline == Path(baseline)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        pytest.param("ref-llama", "ref-llama", id="zoo"),
        pytest.param("meta-llama/Llama-3.1-8B", "meta-llama--Llama-3.1-8B", id="hub"),
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
    with pytest.raises(ValueError, match="allowed: letters, digits") as caught:
        model_label(name)
    message = str(caught.value)
    assert repr(name) in message
    assert "rename" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", [pytest.param("", id="empty"), pytest.param("/", id="root")])
def test_label_refuses_what_names_nothing(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a test"):
        model_label(name)
