"""The text a model is measured on: its own tokens or a corpus, as long and as many as asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mxcheck.pytest_plugin.text import evaluation_text, own_tokens_path

import mxcheck.evaluation.corpora  # noqa: F401  (pytester forgets what a test imports: pyarrow bears one import)
from mxcheck.evaluation.tokens import load_tokens, save_tokens
from mxcheck.models.load import LoadedModel
from mxcheck.pytest_plugin.settings import Settings

Lay = Callable[..., Settings]
Load = Callable[[str], LoadedModel]


@pytest.fixture
def ref_llama(reference_model: Load) -> LoadedModel:
    return reference_model("ref-llama")


def all_of(loaded: LoadedModel) -> torch.Tensor:
    assert loaded.source.tokens is not None
    return load_tokens(loaded.source.tokens)


# A model's own tokens


def test_those_of_a_reference_model_ship_with_it(lay: Lay, ref_llama: LoadedModel) -> None:
    assert own_tokens_path(lay(), "ref-llama") == ref_llama.source.tokens


def test_those_of_another_lie_with_its_baselines(lay: Lay, pytester: pytest.Pytester) -> None:
    settings = lay("--mx-models", "some/model")
    with pytest.raises(ValueError, match="has no evaluation tokens at ") as caught:
        own_tokens_path(settings, "some--model")
    path = pytester.path / "baselines" / "some--model" / "tokens.safetensors"
    assert str(caught.value) == (
        f"model 'some/model' has no evaluation tokens at {path}; make them with: mxcheck sample some/model "
        f"--baselines {pytester.path / 'baselines'} (or name a text with --mx-datasets)"
    )
    path.parent.mkdir(parents=True)
    save_tokens(torch.zeros(1, 2, dtype=torch.int64), path)
    assert own_tokens_path(settings, "some--model") == path


def test_all_of_them(lay: Lay, ref_llama: LoadedModel, tmp_path: Path) -> None:
    text = evaluation_text(lay(), "ref-llama", ref_llama, shared=tmp_path)
    assert torch.equal(text.tokens, all_of(ref_llama))
    assert text.facts == {"used": "self", "block_length": 256}
    assert text.fingerprints == {}
    assert text.path == ref_llama.source.tokens
    assert not list(tmp_path.iterdir())


def test_fewer_and_shorter(lay: Lay, ref_llama: LoadedModel, tmp_path: Path) -> None:
    settings = lay("--mx-max-samples", "3", "--mx-sequence-length", "17")
    text = evaluation_text(settings, "ref-llama", ref_llama, shared=tmp_path)
    assert torch.equal(text.tokens, all_of(ref_llama)[:3, :17])
    assert text.facts["block_length"] == 17


@pytest.mark.parametrize("length", ["1", "257"])
def test_a_length_that_was_not_sampled(lay: Lay, ref_llama: LoadedModel, tmp_path: Path, length: str) -> None:
    with pytest.raises(
        ValueError, match=rf"--mx-sequence-length {length}: .* sequences of 256; give 2 to 256"
    ):
        evaluation_text(lay("--mx-sequence-length", length), "ref-llama", ref_llama, shared=tmp_path)


# A corpus


def test_prose_in_blocks_of_the_model_s_positions(lay: Lay, ref_llama: LoadedModel, tmp_path: Path) -> None:
    text = evaluation_text(lay("--mx-datasets", "prose"), "ref-llama", ref_llama, shared=tmp_path)
    positions = ref_llama.model.config.max_position_embeddings
    assert text.tokens.shape[1] == text.facts["block_length"] == min(2048, positions)
    assert text.facts["used"] == "prose"
    assert set(text.fingerprints) == {"documents"}
    # for child processes, who have no corpus
    assert text.path.parent == tmp_path
    assert torch.equal(load_tokens(text.path), text.tokens)


def test_as_many_and_as_long_as_asked_for(lay: Lay, ref_llama: LoadedModel, tmp_path: Path) -> None:
    settings = lay("--mx-datasets", "prose", "--mx-sequence-length", "32", "--mx-max-samples", "2")
    assert evaluation_text(settings, "ref-llama", ref_llama, shared=tmp_path).tokens.shape == (2, 32)


def test_a_block_longer_than_the_model_s_positions(lay: Lay, ref_llama: LoadedModel, tmp_path: Path) -> None:
    positions = ref_llama.model.config.max_position_embeddings
    settings = lay("--mx-datasets", "prose", "--mx-sequence-length", str(positions + 1))
    with pytest.raises(ValueError, match=rf"ref-llama has {positions} positions; give at most that"):
        evaluation_text(settings, "ref-llama", ref_llama, shared=tmp_path)


def test_a_text_shorter_than_one_block(
    lay: Lay, pytester: pytest.Pytester, ref_llama: LoadedModel, tmp_path: Path
) -> None:
    (pytester.path / "short.txt").write_text("A few words.")
    settings = lay("--mx-datasets", "short.txt")
    with pytest.raises(ValueError, match=r"corpus 'short.txt' has \d+ tokens, too few for one block"):
        evaluation_text(settings, "ref-llama", ref_llama, shared=tmp_path)


def test_two_models_have_files_of_their_own(lay: Lay, reference_model: Load, tmp_path: Path) -> None:
    settings = lay("--mx-models", "ref-llama,ref-neo", "--mx-datasets", "prose")
    paths = {
        evaluation_text(settings, name, reference_model(name), shared=tmp_path).path
        for name in ("ref-llama", "ref-neo")
    }
    assert len(paths) == 2
