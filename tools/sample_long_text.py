"""Sample the evaluation tokens of long-llama, and say how good its text is far from the start.

    python tools/sample_long_text.py [--text FILE ...]

long-llama is ref-llama with a larger rotary base (`mxcheck.models.zoo.known_models`). With `--text`, the
cross-entropy on that text is shown by quarters of 1,024 positions, beside ref-llama's with its own base.
Writes the tokens anew.
"""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import tqdm
from transformers import AutoTokenizer, PreTrainedModel

from mxcheck.evaluation.sampling import sample_tokens
from mxcheck.evaluation.tokens import save_tokens
from mxcheck.models.zoo.load import load

SEQUENCES, LENGTH, BOS = 4, 1024, 0
ROWS = 64  # of a given text, at most


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, nargs="*", default=[], help="plain text files, UTF-8")
    args = parser.parse_args()
    long = load("long-llama")
    for name in ("long-llama", "ref-llama") if args.text else ():
        print(f"{name}: {quarters(load(name).model, rows_of(args.text, long.source.location))}")
    assert long.source.tokens is not None
    with tqdm(total=SEQUENCES * (LENGTH - 1), desc="tokens", mininterval=5.0) as bar:
        tokens = sample_tokens(long.model, sequences=SEQUENCES, length=LENGTH, seed=0, progress=bar.update)
    long.source.tokens.parent.mkdir(exist_ok=True)
    save_tokens(tokens, long.source.tokens)


def rows_of(texts: list[Path], tokenizer: str) -> torch.Tensor:
    """The texts' tokens in rows [count, LENGTH], each of which starts with BOS."""
    encode = AutoTokenizer.from_pretrained(tokenizer).backend_tokenizer.encode
    ids = [one for text in texts for one in encode(text.read_text(), add_special_tokens=False).ids]
    count = min(len(ids) // (LENGTH - 1), ROWS)
    return F.pad(torch.tensor(ids[: count * (LENGTH - 1)]).view(count, LENGTH - 1), (1, 0), value=BOS)


@torch.inference_mode()
def quarters(model: PreTrainedModel, rows: torch.Tensor) -> str:
    """Mean cross-entropy of the next token in each quarter of the positions, in nats."""
    losses = torch.stack(
        [
            F.cross_entropy(model(input_ids=row[None]).logits[0, :-1], row[1:], reduction="none")
            for row in rows
        ]
    )
    return " ".join(f"{part.mean():.3f}" for part in losses.split(LENGTH // 4, dim=1))


if __name__ == "__main__":
    main()
