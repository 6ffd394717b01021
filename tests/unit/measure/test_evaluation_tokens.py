"""The text a model is measured on: its own tokens or a corpus, as long and as many as asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mxcheck.evaluation.corpus_names import corpus_choice
from mxcheck.evaluation.tokens import load_tokens, save_tokens
from mxcheck.measure.evaluation_tokens import evaluation_text, own_tokens_path
from mxcheck.models.zoo.load import LoadedModel
from mxcheck.run.measurement_settings import Measuring

Load = Callable[[str], LoadedModel]

PROSE = corpus_choice(["prose"], Path())


@pytest.fixture
def ref_llama(reference_model: Load) -> LoadedModel:
    return reference_model("ref-llama")


def all_of(loaded: LoadedModel) -> torch.Tensor:
    assert loaded.source.tokens is not None
    return load_tokens(loaded.source.tokens)


# A model's own tokens


def test_those_of_a_reference_model_ship_with_it(ref_llama: LoadedModel) -> None:
    assert own_tokens_path(Measuring(), "ref-llama") == ref_llama.source.tokens


def test_those_of_another_lie_with_its_baselines(tmp_path: Path) -> None:
    measuring = Measuring(models={"some--model": "some/model"}, baselines=tmp_path / "accepted")
    with pytest.raises(ValueError, match="has no evaluation tokens at ") as caught:
        own_tokens_path(measuring, "some--model")
    path = tmp_path / "accepted" / "some--model" / "tokens.safetensors"
    assert str(caught.value) == (
        f"model 'some/model' has no evaluation tokens at {path}; make them with: mxcheck sample some/model "
        f"--baselines {tmp_path / 'accepted'} (or name a text with --mx-datasets)"
    )
    path.parent.mkdir(parents=True)
    save_tokens(torch.zeros(1, 2, dtype=torch.int64), path)
    assert own_tokens_path(measuring, "some--model") == path


def test_the_command_that_makes_them_names_the_model_as_the_run_does(tmp_path: Path) -> None:
    measuring = Measuring(models={"mine": "some/model", "b": "./my models/a"}, baselines=tmp_path)
    with pytest.raises(ValueError, match=r"with: mxcheck sample mine=some/model --baselines "):
        own_tokens_path(measuring, "mine")
    (tmp_path / "my models" / "a").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"model directory './my models/a' does not exist"):
        own_tokens_path(measuring, "b")
    measuring = Measuring(models={"b": f"{tmp_path}/my models/a"}, baselines=tmp_path)
    with pytest.raises(ValueError, match=rf"mxcheck sample 'b={tmp_path}/my models/a' --baselines "):
        own_tokens_path(measuring, "b")


def test_all_of_them(ref_llama: LoadedModel, tmp_path: Path) -> None:
    text = evaluation_text(Measuring(), "ref-llama", ref_llama, shared=tmp_path)
    assert torch.equal(text.tokens, all_of(ref_llama))
    assert text.facts == {"used": "self", "block_length": 256}
    assert text.fingerprints == {}
    assert text.path == ref_llama.source.tokens
    assert not list(tmp_path.iterdir())


def test_fewer_and_shorter(ref_llama: LoadedModel, tmp_path: Path) -> None:
    measuring = Measuring(max_samples=3, sequence_length=17)
    text = evaluation_text(measuring, "ref-llama", ref_llama, shared=tmp_path)
    assert torch.equal(text.tokens, all_of(ref_llama)[:3, :17])
    assert text.facts["block_length"] == 17


@pytest.mark.parametrize("length", [1, 257])
def test_a_length_that_was_not_sampled(ref_llama: LoadedModel, tmp_path: Path, length: int) -> None:
    with pytest.raises(
        ValueError, match=rf"--mx-sequence-length={length}: .* sequences of 256; give 2 to 256"
    ):
        evaluation_text(Measuring(sequence_length=length), "ref-llama", ref_llama, shared=tmp_path)


def test_ids_that_the_model_has_no_embedding_of(ref_llama: LoadedModel, tmp_path: Path) -> None:
    path = tmp_path / "ref-llama" / "tokens.safetensors"
    path.parent.mkdir()
    save_tokens(torch.tensor([[1, 2, 1024]]), path)
    mine = Measuring(models={"ref-llama": "some/model"}, baselines=tmp_path)
    with pytest.raises(
        ValueError, match=r"token id 1024, and the model knows 1024 tokens: .* sample them anew"
    ):
        evaluation_text(mine, "ref-llama", ref_llama, shared=tmp_path)


# A corpus


def test_prose_in_blocks_of_the_model_s_positions(ref_llama: LoadedModel, tmp_path: Path) -> None:
    text = evaluation_text(Measuring(corpus=PROSE), "ref-llama", ref_llama, shared=tmp_path)
    positions = ref_llama.model.config.max_position_embeddings
    assert text.tokens.shape[1] == text.facts["block_length"] == min(2048, positions)
    assert text.facts["used"] == "prose"
    assert set(text.fingerprints) == {"documents"}
    # for child processes, who have no corpus
    assert text.path.parent == tmp_path
    assert torch.equal(load_tokens(text.path), text.tokens)


def test_as_many_and_as_long_as_asked_for(ref_llama: LoadedModel, tmp_path: Path) -> None:
    measuring = Measuring(corpus=PROSE, sequence_length=32, max_samples=2)
    assert evaluation_text(measuring, "ref-llama", ref_llama, shared=tmp_path).tokens.shape == (2, 32)


def test_a_block_longer_than_the_model_s_positions(ref_llama: LoadedModel, tmp_path: Path) -> None:
    positions = ref_llama.model.config.max_position_embeddings
    measuring = Measuring(corpus=PROSE, sequence_length=positions + 1)
    with pytest.raises(ValueError, match=rf"ref-llama has {positions} positions; give at most that"):
        evaluation_text(measuring, "ref-llama", ref_llama, shared=tmp_path)


def test_a_text_shorter_than_one_block(ref_llama: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("A few words.")
    measuring = Measuring(corpus=corpus_choice(["short.txt"], tmp_path))
    with pytest.raises(ValueError, match=r"corpus 'short.txt' has \d+ tokens, too few for one block"):
        evaluation_text(measuring, "ref-llama", ref_llama, shared=tmp_path)


def test_two_models_have_files_of_their_own(reference_model: Load, tmp_path: Path) -> None:
    measuring = Measuring(corpus=PROSE)
    paths = {
        evaluation_text(measuring, name, reference_model(name), shared=tmp_path).path
        for name in ("ref-llama", "ref-neo")
    }
    assert len(paths) == 2
