"""The text that a model is measured on: its own sampled tokens, or a corpus cut into blocks."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mxcheck.evaluation.corpus_names import corpus_choice
from mxcheck.gate.case import named_as
from mxcheck.models.zoo.known_models import model_source
from mxcheck.models.zoo.weight_files import TOKENS
from mxcheck.run.measurement_settings import DEFAULT_LENGTH, Measuring

if TYPE_CHECKING:
    import torch

    from mxcheck.models.zoo.load import LoadedModel


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EvaluationText:
    """Tokens, int64 [sequences, length]; `path`: a file that has them; `facts`: for the record."""

    tokens: torch.Tensor
    path: Path
    facts: dict[str, Any]
    fingerprints: dict[str, str]


def has_own_tokens(measuring: Measuring, label: str) -> bool:
    """Return whether a model is measured on tokens sampled from it."""
    return measuring.corpus.is_self and model_source(measuring.name_of(label)).text is None


def own_tokens_path(measuring: Measuring, label: str) -> Path:
    """Return the path of a model's own tokens: with the reference models, else with the baselines. Raises
    ValueError, with the command that makes them, if there are none."""
    name = measuring.name_of(label)
    path = model_source(name).tokens or measuring.baselines / label / TOKENS
    if not path.is_file():
        raise ValueError(
            f"model {name!r} has no evaluation tokens at {path}; make them with: mxcheck sample "
            f"{shlex.quote(named_as(label, name))} --baselines {shlex.quote(str(measuring.baselines))} "
            f"(or name a text with --mx-datasets)"
        )
    return path


def evaluation_text(measuring: Measuring, label: str, loaded: LoadedModel, *, shared: Path) -> EvaluationText:
    """Return the text that `loaded` is measured on. Also writes a corpus's tokens to `shared`, for child
    processes."""
    if has_own_tokens(measuring, label):
        text = _own(measuring, label)
        _check_ids(text.tokens, loaded, f"{text.path}: these are not {label}'s tokens; sample them anew")
        return text
    from transformers import AutoTokenizer

    from mxcheck.evaluation.corpora import corpus_tokens
    from mxcheck.evaluation.tokens import save_tokens
    from mxcheck.models.zoo.checkpoint import unloadable
    from mxcheck.models.zoo.load import positions
    from mxcheck.models.zoo.refusal import reading

    def unreadable(error: BaseException) -> ValueError:
        said = unloadable(loaded.source, error)
        return ValueError(f"a text needs the tokenizer of {label} (its own tokens do not): {said}")

    with reading(unreadable):
        tokenizer = AutoTokenizer.from_pretrained(
            loaded.source.location,
            revision=loaded.source.revision,
            trust_remote_code=label in measuring.trusted,
        )
        tokenizer("a")  # some damage shows only when it is used
    limit = positions(loaded.model.config.get_text_config())
    corpus, samples, usual = measuring.corpus, measuring.max_samples, DEFAULT_LENGTH
    if corpus.is_self and (encoded := loaded.source.text) is not None:
        corpus, usual = corpus_choice([encoded.corpus], Path()), encoded.length
        samples = min(samples, encoded.sequences)
    elif loaded.source.card is not None:
        usual = loaded.source.card.sequence_length
    length = measuring.sequence_length or min(limit or usual, usual)
    if limit is not None and length > limit:
        raise ValueError(f"--mx-sequence-length={length}: {label} has {limit} positions; give at most that")
    made = corpus_tokens(corpus, tokenizer, length=length, sequences=samples)
    _check_ids(made.tokens, loaded, f"the tokenizer beside {label} is another model's; give its own")
    path = shared / f"mxcheck-tokens-{label}-{os.getpid()}.safetensors"  # one file per worker
    save_tokens(made.tokens, path)
    return EvaluationText(tokens=made.tokens, path=path, facts=made.facts, fingerprints=made.fingerprints)


def _check_ids(tokens: torch.Tensor, loaded: LoadedModel, mend: str) -> None:
    """Refuse token ids without an embedding in the model."""
    embedding: Any = loaded.model.get_input_embeddings()
    rows = int(embedding.weight.shape[0])
    if (largest := int(tokens.max())) >= rows:
        raise ValueError(f"token id {largest}, and the model knows {rows} tokens: {mend}")


def _own(measuring: Measuring, label: str) -> EvaluationText:
    from mxcheck.evaluation.tokens import load_tokens

    path = own_tokens_path(measuring, label)
    tokens = load_tokens(path)
    length = measuring.sequence_length or tokens.shape[1]
    if not 2 <= length <= tokens.shape[1]:
        raise ValueError(
            f"--mx-sequence-length={length}: the tokens of {label} were sampled in sequences of "
            f"{tokens.shape[1]}; give 2 to {tokens.shape[1]}, or sample longer ones: mxcheck sample --length"
        )
    tokens = tokens[: measuring.max_samples, :length].contiguous()
    return EvaluationText(
        tokens=tokens, path=path, facts={"used": "self", "block_length": length}, fingerprints={}
    )
