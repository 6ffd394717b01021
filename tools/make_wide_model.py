"""Make wide-gpt2, and sample the evaluation tokens of wide-gpt2 and short-moe.

    python tools/make_wide_model.py [--out FOLDER]

wide-gpt2 is a GPT-2 of two layers with drawn weights: no training. It is there for what the trained reference
models have not: `Conv1D`, more than 65,536 tokens under a tied head, several files of weights, and sequences
that 32 does not divide. Its embedding's row of token `256 a + b` is row a of one table beside row b of
another, so that 4 MB of rows take 0.1 MB where they are compressed. The last 256 tokens are likely ones.

short-moe is ref-moe on nine sequences of six tokens: the last pass has one sequence, and an expert gets a
single token there.
"""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from mxcheck.evaluation.sampling import sample_tokens
from mxcheck.evaluation.tokens import save_tokens
from mxcheck.models.zoo.load import load

FIRSTS, SECONDS, HIDDEN = 257, 256, 32
#: Sequences and tokens in each.
TEXTS = {"wide-gpt2": (4, 39), "short-moe": (9, 6)}


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("src/mxcheck/models/zoo/reference"))
    out = parser.parse_args().out
    wide_gpt2().to(torch.bfloat16).save_pretrained(out / "wide-gpt2", max_shard_size="4MB")
    for path in (out / "wide-gpt2").glob("*.safetensors"):
        path.chmod(0o644)  # as git keeps it
    for name, (sequences, length) in TEXTS.items():
        tokens = sample_tokens(load(name).model, sequences=sequences, length=length, seed=0)
        (out / name).mkdir(exist_ok=True)
        save_tokens(tokens, out / name / "tokens.safetensors")


def wide_gpt2() -> GPT2LMHeadModel:
    """The model in fp32, its weights drawn so that attention and MLP change the prediction."""
    config = GPT2Config(
        vocab_size=FIRSTS * SECONDS,
        n_positions=64,
        n_embd=HIDDEN,
        n_layer=2,
        n_head=2,
        n_inner=80,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=True,
    )
    model = GPT2LMHeadModel(config)
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int, deviation: float) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * deviation

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ln_" in name:
                about = 1.0 if name.endswith("weight") else 0.0
                parameter.copy_(about + drawn(*parameter.shape, deviation=0.2))
            elif name.endswith("bias"):
                parameter.copy_(drawn(*parameter.shape, deviation=0.1))
            else:
                parameter.copy_(drawn(*parameter.shape, deviation=2.0 * HIDDEN**-0.5))
        firsts = drawn(FIRSTS, HIDDEN // 2, deviation=0.4)
        # The last block of tokens lies along the bias of the head's input.
        bias = model.transformer.ln_f.bias[: HIDDEN // 2]
        firsts[-1] += 2.0 * bias / bias.square().sum()
        seconds = drawn(SECONDS, HIDDEN // 2, deviation=0.4)
        rows = torch.cat([firsts.repeat_interleave(SECONDS, 0), seconds.repeat(FIRSTS, 1)], dim=1)
        model.transformer.wte.weight.copy_(rows)
    return model


if __name__ == "__main__":
    main()
