"""Train the reference language models that mxcheck ships, and sample their evaluation tokens.

    python tools/train_reference_models.py --text FILE [FILE ...] --out src/mxcheck/models/zoo/reference

Any plain text will do. It is used for training only: of it, a model directory keeps nothing but the weights
and the tokenizer's vocabulary and merges.
"""

from __future__ import annotations

import copy
import math
import shutil
import tempfile
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tqdm import tqdm
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from mxcheck.evaluation.sampling import sample_tokens
from mxcheck.evaluation.tokens import load_tokens, save_tokens

VOCABULARY, BOS, EOS = 1024, 0, 1
BLOCK = 256  # tokens of a training row and of a sampled sequence, BOS included
SEQUENCES = 64
HELD_OUT = 0.05  # of each file, its end

COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "max_position_embeddings": 512,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    # 0.02 suits wide models; at width 128 a larger start learns faster.
    "initializer_range": 0.05,
}
STEPS = {"ref-llama": 1700, "ref-moe": 1300, "ref-neo": 2600}  # 5 to 15 minutes each on two idle cores


def build(name: str) -> PreTrainedModel:
    """A freshly initialized model. Head size 32 throughout: one MX block a head."""
    llama_like = {**COMMON, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False}
    if name == "ref-llama":
        # Untied, so that every norm can be rescaled without changing the embedding; 32 does not divide 344.
        return LlamaForCausalLM(LlamaConfig(**llama_like, num_hidden_layers=4, intermediate_size=344))
    if name == "ref-moe":
        experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.02}
        config = MixtralConfig(**llama_like, **experts, num_hidden_layers=3, intermediate_size=160)
        return MixtralForCausalLM(config)
    dropouts = {"resid_dropout": 0.0, "embed_dropout": 0.0, "attention_dropout": 0.0}
    attention = {"num_layers": 4, "attention_types": [[["global", "local"], 2]], "window_size": 64}
    config = GPTNeoConfig(**COMMON, **attention, **dropouts, num_heads=4, intermediate_size=512)
    return GPTNeoForCausalLM(config)


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE: every string encodes, and the vocabulary is exactly VOCABULARY tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        (line for text in texts for line in text.splitlines(keepends=True)), trainer
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise SystemExit(
            f"the text gives {tokenizer.get_vocab_size()} tokens, not {VOCABULARY}; use a longer one"
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")  # noqa: S106


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> torch.Tensor:
    """All texts as one stream of ids, EOS after each; BOS is put at the start of each row, not here."""
    ids: list[int] = []
    for text in texts:
        ids += [*tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids, EOS]
    return torch.tensor(ids)


def rows_of(stream: torch.Tensor, offset: int = 0) -> torch.Tensor:
    """Non-overlapping rows [count, BLOCK], each BOS and BLOCK - 1 tokens of the stream."""
    count = (len(stream) - offset) // (BLOCK - 1)
    rows = stream[offset : offset + count * (BLOCK - 1)].view(count, BLOCK - 1)
    return F.pad(rows, (1, 0), value=BOS)


def batches(stream: torch.Tensor, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Shuffled batches for ever; each epoch cuts the stream at another offset."""
    while True:
        offset = int(torch.randint(BLOCK - 1, (), generator=generator))
        rows = rows_of(stream, offset)
        yield from rows[torch.randperm(len(rows), generator=generator)].split(size)[:-1]


def train(model: PreTrainedModel, stream: torch.Tensor, name: str, steps: int, args: Namespace) -> None:
    decay = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.95), fused=True)
    warmup = min(100, steps // 10 + 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min((i + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * i / steps))
    )
    options = {"output_router_logits": True} if name == "ref-moe" else {}  # adds the load-balancing loss
    model.train()
    source = batches(stream, args.batch, torch.Generator().manual_seed(args.seed))
    bar = tqdm(range(steps), desc=name, mininterval=5.0)
    average = 0.0
    for step in bar:
        rows = next(source)
        loss = model(input_ids=rows, labels=rows, use_cache=False, **options).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        average += (loss.item() - average) * max(0.02, 1 / (step + 1))
        bar.set_postfix(loss=f"{average:.3f}", refresh=False)
    model.eval()


@torch.inference_mode()
def log_probabilities(model: PreTrainedModel, rows: torch.Tensor) -> torch.Tensor:
    """Float64 log-probabilities [count, BLOCK - 1, VOCABULARY] of each row's next tokens."""
    return model(input_ids=rows, use_cache=False).logits[:, :-1].double().log_softmax(dim=-1)


def cross_entropies(model: PreTrainedModel, rows: torch.Tensor) -> torch.Tensor:
    """Mean next-token cross-entropy of each row, in nats a token."""
    means = []
    for part in rows.split(16):
        picked = log_probabilities(model, part).gather(-1, part[:, 1:, None])
        means.append(-picked.squeeze(-1).mean(dim=1))
    return torch.cat(means)


def report_tokens(model: PreTrainedModel, trained: PreTrainedModel, tokens: torch.Tensor) -> None:
    """Print that the tokens are the model's own: their mean cross-entropy is its mean entropy."""
    entropies, kl = [], []
    for part in tokens.split(16):
        log_p, log_q = log_probabilities(model, part), log_probabilities(trained, part)
        entropies.append(-(log_p.exp() * log_p).sum(dim=-1).mean(dim=1))
        kl.append((log_p.exp() * (log_p - log_q)).sum(dim=-1).mean(dim=1))
    cross, entropy = cross_entropies(model, tokens), torch.cat(entropies)
    rise = cross - entropy
    z = rise.mean() / (rise.std() / math.sqrt(len(rise)))
    print(
        f"  tokens {list(tokens.shape)}: cross-entropy {cross.mean():.4f}, entropy {entropy.mean():.4f},"
        f" z {z:+.2f} (|z| < 3 expected); {len(tokens.unique())} distinct ids; KL(stored || before rounding)"
        f" {torch.cat(kl).mean():.2e} nats a token"
    )


@torch.inference_mode()
def report_experts(model: PreTrainedModel, rows: torch.Tensor) -> None:
    logits = model(input_ids=rows[:16], use_cache=False, output_router_logits=True).router_logits
    for layer, scores in enumerate(logits):
        chosen = scores.topk(model.config.num_experts_per_tok, dim=-1).indices.flatten()
        shares = chosen.bincount(minlength=model.config.num_local_experts) / len(chosen)
        print(f"  layer {layer}: expert shares " + " ".join(f"{share:.3f}" for share in shares))


def make(name: str, tokenizer: PreTrainedTokenizerFast, streams: list[torch.Tensor], args: Namespace) -> None:
    torch.manual_seed(args.seed)
    trained = build(name)
    train(trained, streams[0], name, args.steps or STEPS[name], args)
    held_out = rows_of(streams[1])
    before = cross_entropies(trained, held_out).mean().exp()

    # Built aside and moved in one step: a directory that exists is complete.
    with tempfile.TemporaryDirectory(dir=args.out, prefix=".") as folder:
        made = Path(folder) / name
        rounded = copy.deepcopy(trained)
        rounded.generation_config = GenerationConfig(bos_token_id=BOS, eos_token_id=EOS)
        rounded.to(torch.bfloat16).save_pretrained(made)
        tokenizer.save_pretrained(made)
        # The reference is what is stored, loaded as a user loads it.
        model = AutoModelForCausalLM.from_pretrained(made, dtype=torch.float32, attn_implementation="eager")
        after = cross_entropies(model, held_out).mean().exp()
        with tqdm(total=SEQUENCES * (BLOCK - 1), desc=f"{name} tokens", mininterval=5.0) as bar:
            shape = {"sequences": SEQUENCES, "length": BLOCK}
            tokens = sample_tokens(model, **shape, seed=args.seed, progress=bar.update)
        save_tokens(tokens, made / "tokens.safetensors")
        probe = "It was a bright cold day, naïve 12\n"
        loaded = AutoTokenizer.from_pretrained(made)
        if loaded.decode(loaded(probe).input_ids, skip_special_tokens=True) != probe:
            raise SystemExit(f"{name}: the stored tokenizer does not give back the text it encodes")
        shutil.rmtree(args.out / name, ignore_errors=True)
        made.rename(args.out / name)

    print(f"{name}: {model.num_parameters():,} parameters")
    print(f"  held-out perplexity {before:.3f} as trained, {after:.3f} rounded to bf16")
    report_tokens(model, trained, load_tokens(args.out / name / "tokens.safetensors"))
    if name == "ref-moe":
        report_experts(model, held_out)
    for file in sorted((args.out / name).iterdir()):
        print(f"  {file.stat().st_size:>9,} bytes  {file.name}")


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="plain text files, UTF-8")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model directories")
    parser.add_argument("--models", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--steps", type=int, help=f"of training (default: {STEPS})")
    parser.add_argument("--batch", type=int, default=16, help="rows a step")
    parser.add_argument("--lr", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    texts = [path.read_text(encoding="utf-8") for path in args.text]
    cuts = [int(len(text) * (1 - HELD_OUT)) for text in texts]
    parts = [text[:cut] for text, cut in zip(texts, cuts, strict=True)]
    tokenizer = train_tokenizer(parts)
    rest = [text[cut:] for text, cut in zip(texts, cuts, strict=True)]
    streams = [encode(tokenizer, parts), encode(tokenizer, rest)]
    print(f"{len(streams[0]):,} training tokens, {len(streams[1]):,} held out")
    for name in args.models:
        make(name, tokenizer, streams, args)


if __name__ == "__main__":
    main()
