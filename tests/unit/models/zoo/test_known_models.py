"""Where a model's name leads."""

from __future__ import annotations

from pathlib import Path

import pytest

from mxcheck.gate.case import model_label
from mxcheck.models.zoo import load
from mxcheck.models.zoo.cards import CARDS
from mxcheck.models.zoo.known_models import (
    MADE_MODELS,
    REFERENCE_MODELS,
    EncodedText,
    ModelSource,
    model_source,
)

ZOO = (
    "tinystories-33M",
    "smollm2-135m-instruct",
    "qwen1.5-0.5B",
    "phi-1_5",
    "llama-3.1-8b",
    "qwen2.5-7b",
    "qwen2.5-14b",
    "phi-3-medium-14b",
    "mixtral-8x7b",
    "mpt-30b",
    "yi-34b",
    "deepseek-67b",
)


def test_reference_models() -> None:
    assert (
        *("ref-llama", "ref-neo", "ref-moe", "outlier-llama", "long-llama"),
        *("short-moe", "bf16-llama", "wide-gpt2"),
    ) == REFERENCE_MODELS


@pytest.mark.parametrize(
    ("name", "folder", "text", "outliers", "positions"),
    [
        ("ref-llama", "ref-llama", "ref-llama", False, None),
        ("ref-neo", "ref-neo", "ref-neo", False, None),
        ("ref-moe", "ref-moe", "ref-moe", False, None),
        ("outlier-llama", "ref-llama", "ref-llama", True, None),
        ("long-llama", "ref-llama", "long-llama", False, 1024),
        ("short-moe", "ref-moe", "short-moe", False, None),
        ("wide-gpt2", "wide-gpt2", "wide-gpt2", False, None),
    ],
)
def test_a_reference_model_is_package_data_with_its_own_tokens(
    name: str, folder: str, text: str, outliers: bool, positions: int | None
) -> None:
    source = model_source(name)
    place = Path(source.location)
    assert (source.name, source.is_directory, source.outliers) == (name, True, outliers)
    assert (source.positions, source.rope_theta is None) == (positions, positions is None)
    assert place.parts[-5:] == ("mxcheck", "models", "zoo", "reference", folder)
    assert source.tokens == place.parent / text / "tokens.safetensors"


def test_a_made_model_lies_where_its_target_puts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (name,) = MADE_MODELS
    with pytest.raises(ValueError, match=rf"{name}' is not in build/real-model/{name}: `make real-model` in"):
        model_source(name)
    folder = tmp_path / "build" / "real-model" / name
    folder.mkdir(parents=True)
    assert model_source(name) == ModelSource(
        name=name, location=f"build/real-model/{name}", is_directory=True
    )


@pytest.mark.parametrize("name", ZOO)
def test_a_zoo_name_and_its_hub_id_lead_to_the_card(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    card = CARDS[name]
    for given in (name, card.hub_id):
        assert model_source(given) == ModelSource(
            name=given,
            location=card.hub_id,
            is_directory=False,
            revision=card.revision,
            dtype=card.dtype,
            card=card,
        )
    assert model_label(name) == name


@pytest.mark.parametrize("name", ["ref-llama", "tinystories-33M"])
def test_a_directory_of_the_same_name_does_not_shadow_the_zoo(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    of_the_zoo = model_source(name)
    (tmp_path / name).mkdir()

    assert model_source(name) == of_the_zoo
    assert model_source(f"./{name}") == ModelSource(name=f"./{name}", location=name, is_directory=True)


def test_a_directory_of_a_hub_id_s_name_is_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = CARDS["phi-1_5"].hub_id
    Path(name).mkdir(parents=True)

    assert model_source(name) == ModelSource(name=name, location=name, is_directory=True)


def test_a_reference_model_in_bf16_is_measured_on_prose() -> None:
    source = model_source("bf16-llama")
    assert (source.dtype, source.tokens) == ("bfloat16", None)
    assert source.text == EncodedText(corpus="prose", sequences=8, length=90)


@pytest.mark.parametrize("name", [*(name for name in REFERENCE_MODELS if name != "bf16-llama"), "org/model"])
def test_without_a_card_the_dtype_is_float32_and_the_revision_main(name: str) -> None:
    source = model_source(name)
    assert (source.dtype, source.revision, source.card) == ("float32", "main", None)


@pytest.mark.parametrize("name", ["mine", "./mine", "deep/mine", "deep/er/mine", "~/mine"])
def test_a_directory(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    place = Path(name).expanduser()
    place.mkdir(parents=True)
    assert model_source(name) == ModelSource(name=name, location=str(place), is_directory=True)


@pytest.mark.parametrize("name", ["meta-llama/Llama-3.1-8b", "org/ref-llama", "org/llama-3.1-8b"])
def test_a_hub_id(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert model_source(name) == ModelSource(name=name, location=name, is_directory=False)


@pytest.mark.parametrize("name", ["./absent", "/absent/model", "~/absent"])
def test_a_directory_that_does_not_exist_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="does not exist; give a directory") as caught:
        model_source(name)
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        pytest.param("ref-lama", "; did you mean 'ref-llama'?", id="near"),
        pytest.param("outlier_llama", "; did you mean 'outlier-llama'?", id="underscore"),
        pytest.param("REF-MOE", "; did you mean 'ref-moe'?", id="capitals"),
        pytest.param("tinystories-33m", "; did you mean 'tinystories-33M'?", id="case"),
        pytest.param("llama-3.1", "; did you mean 'llama-3.1-8b'?", id="cut"),
        pytest.param("a/b/c", "", id="three-parts"),
        pytest.param("org/", "", id="half-a-hub-id"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(
    name: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="unknown model") as caught:
        model_source(name)
    message = str(caught.value)
    names = ", ".join([*REFERENCE_MODELS, *MADE_MODELS, *ZOO])
    allowed = f"{names}, a directory, a hub id organisation/model"
    assert message == f"unknown model {name!r}; allowed: {allowed}{hint}"


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown model"):
        model_source("")


def test_a_home_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="does not exist"):
        model_source("~no-such-user-mxcheck/model")


def test_the_hint_s_words_are_no_names() -> None:
    with pytest.raises(ValueError, match="unknown model"):
        model_source("a directory")


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("model-q4.gguf", "a GGUF file, whose weights are quantized"),
        ("model.safetensors", "a safetensors file, which is not the whole model"),
        ("pytorch_model.bin", "a pickle, which may execute code"),
        ("notes", "a file; give the directory"),
    ],
)
def test_a_file_is_told_as_what_it_is(
    file: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(file).touch()
    for name in (file, f"./{file}", str(tmp_path / file)):
        with pytest.raises(ValueError, match=words) as caught:
            model_source(name)
        assert "\n" not in str(caught.value)


def test_a_name_that_no_directory_can_have_is_refused() -> None:
    with pytest.raises(ValueError, match="File name too long; give a directory") as caught:
        model_source("./" + "x" * 5000)
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize(
    "revision", ["main", "v1.0", "refs/pr/7", "0123456789abcdef0123456789abcdef01234567"]
)
def test_a_hub_id_is_pinned_to_a_revision(
    revision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert model_source(f"org/name@{revision}") == ModelSource(
        name=f"org/name@{revision}", location="org/name", is_directory=False, revision=revision
    )
    card = CARDS["llama-3.1-8b"]
    pinned = model_source(f"{card.hub_id}@{revision}")
    assert (pinned.location, pinned.revision, pinned.dtype) == (card.hub_id, revision, card.dtype)
    assert pinned.card == card


@pytest.mark.parametrize("revision", ["", "-x", "a b", "a@b", "a?"])
def test_what_cannot_be_a_revision_is_refused(revision: str) -> None:
    with pytest.raises(
        ValueError, match=r"cannot be a revision of the hub.*write org/name@REVISION"
    ) as caught:
        model_source(f"org/name@{revision}")
    assert "\n" not in str(caught.value)


def test_only_a_hub_id_has_a_revision() -> None:
    with pytest.raises(ValueError, match="ref-llama@main"):
        model_source("ref-llama@main")


def test_the_revision_reaches_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub cannot be reached here: what transformers is asked for."""
    asked: list[tuple[str, str]] = []

    def from_pretrained(location: str, *, revision: str, **_: object) -> None:
        asked.append((location, revision))
        raise OSError("no hub")

    monkeypatch.setattr(load.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    with pytest.raises(ValueError, match="org/name"):
        load.load("org/name@v1")
    assert asked == [("org/name", "v1")]
