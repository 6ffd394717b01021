"""Where a model's name leads."""

from __future__ import annotations

from pathlib import Path

import pytest

from mxcheck.models.zoo import REFERENCE_MODELS, ModelSource, model_source


def test_reference_models() -> None:
    assert REFERENCE_MODELS == ("ref-llama", "ref-neo", "ref-moe", "outlier-llama")


@pytest.mark.parametrize(
    ("name", "folder", "outliers"),
    [
        ("ref-llama", "ref-llama", False),
        ("ref-neo", "ref-neo", False),
        ("ref-moe", "ref-moe", False),
        ("outlier-llama", "ref-llama", True),
    ],
)
def test_a_reference_model_is_package_data_with_its_own_tokens(
    name: str, folder: str, outliers: bool
) -> None:
    source = model_source(name)
    place = Path(source.location)
    assert (source.name, source.is_directory, source.outliers) == (name, True, outliers)
    assert place.parts[-4:] == ("mxcheck", "models", "reference", folder)
    assert source.tokens == place / "tokens.safetensors"


def test_a_directory_of_the_same_name_does_not_shadow_the_zoo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ref-llama").mkdir()
    monkeypatch.chdir(tmp_path)
    assert model_source("ref-llama").tokens is not None
    assert model_source("./ref-llama") == ModelSource(
        name="./ref-llama", location="ref-llama", is_directory=True
    )


@pytest.mark.parametrize("name", ["mine", "./mine", "deep/mine", "deep/er/mine", "~/mine"])
def test_a_directory(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    place = Path(name).expanduser()
    place.mkdir(parents=True)
    assert model_source(name) == ModelSource(name=name, location=str(place), is_directory=True)


@pytest.mark.parametrize("name", ["meta-llama/Llama-3.1-8B", "org/ref-llama"])
def test_a_hub_id(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert model_source(name) == ModelSource(name=name, location=name, is_directory=False)


@pytest.mark.parametrize("name", ["./absent", "/absent/model", "~/absent", "./file"])
def test_a_directory_that_does_not_exist_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(ValueError, match="does not exist; give a directory") as caught:
        model_source(name)
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        pytest.param("ref-lama", "; did you mean 'ref-llama'?", id="near"),
        pytest.param("outlier_llama", "; did you mean 'outlier-llama'?", id="underscore"),
        pytest.param("REF-MOE", "", id="far"),
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
    allowed = "ref-llama, ref-neo, ref-moe, outlier-llama, a directory, a hub id organisation/model"
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
