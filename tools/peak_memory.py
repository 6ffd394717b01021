"""Measure the peak memory of a case over the size of its model, at five sizes.

    python tools/peak_memory.py [--precision NAME] [--tier TIER] [--parameters MILLIONS ...] [--what WHAT ...]

Makes Llamas with drawn weights and a vocabulary of 32k, and runs each in processes of its own: `reference`
(the model is loaded and its reference measured, as every case of it needs), then a whole case whose quantized
weights are `lean` or `kept`. What is shown is the largest resident size of the process, less that of a
process that has torch and transformers loaded: in MiB, and over the bytes of the model. It has no threshold:
memory of a process depends on its allocator.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

#: Millions of parameters -> layers, width, width of the MLP.
SIZES = {2: (2, 48, 128), 10: (6, 192, 512), 50: (12, 448, 1216), 100: (16, 640, 1728), 140: (18, 736, 2016)}
VOCABULARY, HEAD = 32_000, 16
WHAT = ("start", "reference", "lean", "kept")
MIB = 2**20


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--precision", default="mxfp8_e4m3")
    parser.add_argument("--tier", default="B")
    parser.add_argument("--parameters", type=int, nargs="*", default=[*SIZES], choices=[*SIZES])
    parser.add_argument("--what", nargs="*", default=[*WHAT[1:]], choices=WHAT[1:])
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--run", nargs=2, help="for this tool itself: one process's work, and its folder")
    given = parser.parse_args()
    if given.run is not None:
        _run(given.run[0], Path(given.run[1]), given.precision, given.tier, given.sequences, given.length)
        return
    own = [f"--precision={given.precision}", f"--tier={given.tier}"]
    own += [f"--sequences={given.sequences}", f"--length={given.length}"]
    print(f"{given.precision}, tier {given.tier}: {given.sequences} sequences of {given.length}")
    for millions in given.parameters:
        with tempfile.TemporaryDirectory() as folder:
            size = make(millions, Path(folder))
            peaks = {what: _peak_of(what, folder, own) for what in ("start", *given.what)}
        more = {what: peaks[what] - peaks["start"] for what in given.what}
        found = [f"{what} {size_of / MIB:.0f} MiB = {size_of / size:.2f}" for what, size_of in more.items()]
        print(f"{size / 4e6:.1f}M parameters, {size / MIB:.0f} MiB: {', '.join(found)}", flush=True)


def make(millions: int, folder: Path) -> int:
    """Write a model, and return its bytes in fp32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    layers, width, inner = SIZES[millions]
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=width // HEAD,
            num_key_value_heads=width // HEAD,
            max_position_embeddings=1024,
            tie_word_embeddings=False,
        )
    )
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")  # the loader wants one; no text is read
    return sum(value.nbytes for value in model.parameters())


def _peak_of(what: str, folder: str, own: list[str]) -> int:
    """Return the largest resident bytes of a process that does `what`."""
    done = subprocess.run(  # noqa: S603  (this file, by the running interpreter)
        [sys.executable, __file__, *own, "--run", what, folder], check=True, capture_output=True, text=True
    )
    return int(done.stdout.split()[-1])


def _run(what: str, folder: Path, precision: str, tier: str, sequences: int, length: int) -> None:
    import torch

    from mxcheck.evaluation.layer_states import reference_states
    from mxcheck.evaluation.measure import evaluate
    from mxcheck.measure.emulation import emulate
    from mxcheck.models.recipes.recipe import recipe
    from mxcheck.models.zoo.load import load

    tokens = torch.randint(VOCABULARY, (sequences, length), generator=torch.Generator().manual_seed(1))
    if what != "start":
        model = load(str(folder)).model
        reference = evaluate(model, tokens, batch_size=1, keep_log_probabilities=True)
        if what != "reference":
            made, states = recipe(precision, tier=tier), reference_states(model, tokens)
            emulate(model, made, tokens, reference, states, batch_size=1, memory=what)
    # not getrusage's: that counts what the parent had before it became this process
    status = Path("/proc/self/status").read_text().split()
    print(int(status[status.index("VmHWM:") + 1]) * 1024)


if __name__ == "__main__":
    main()
