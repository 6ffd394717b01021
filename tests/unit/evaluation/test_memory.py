"""What a large vocabulary costs, in a process of its own: memory that was once resident stays in the peak."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

GIB = 2**30
#: Above the model: the whole logits alone, in fp32, would be 0.98 GiB.
ALLOWED = 0.5 * GIB
VOCABULARY, LENGTH = 128_256, 2_048


def resident(field: str) -> int:
    """`VmRSS` (now) or `VmHWM` (the most so far) of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise ValueError(f"/proc/self/status has no {field}")


def main(way: str) -> None:
    """Print the peak above the model, in bytes, after each step."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from mxcheck.evaluation.measure import evaluate
    from mxcheck.models.conversion.convert import convert
    from mxcheck.models.recipes.recipe import recipe

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=1,
        num_attention_heads=2,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    tokens = torch.randint(VOCABULARY, (1, LENGTH))
    few = evaluate(model, tokens[:, :8], keep_log_probabilities=True)
    evaluate(model, tokens[:, :8], reference=few)
    before = resident("VmRSS")
    peaks = {}
    if way == "whole":
        with torch.inference_mode():
            logits = model(input_ids=tokens, use_cache=False).logits[0, :-1]
            torch.nn.functional.cross_entropy(logits, tokens[0, 1:])
        peaks["cross-entropy"] = resident("VmHWM") - before
    else:
        reference = evaluate(model, tokens, keep_log_probabilities=True)
        peaks["reference"] = resident("VmHWM") - before
        convert(model, recipe("mxfp8_e4m3", tier="A"))
        result = evaluate(
            model, tokens, reference=reference, metrics={"difference": lambda p, _, r: (p - r).abs().amax(-1)}
        )
        assert result.bit_equal is False
        peaks["converted"] = resident("VmHWM") - before
    print(json.dumps(peaks))  # noqa: T201  (the answer to the process that waits for it)


def peaks(way: str) -> dict[str, int]:
    done = subprocess.run([sys.executable, __file__, way], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, int] = json.loads(done.stdout)
    return result


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path("/proc/self/status").exists(), reason="needs /proc to tell a process's peak memory"
    ),
]


def test_128k_tokens_of_vocabulary_stay_within_the_bound() -> None:
    found = peaks("chunks")

    assert found["reference"] < ALLOWED
    assert found["converted"] < ALLOWED


def test_whole_logits_break_the_bound() -> None:
    """So the test above can fail: this is no more than their cross-entropy, and in fp32."""
    assert peaks("whole")["cross-entropy"] > ALLOWED


if __name__ == "__main__":
    main(sys.argv[1])
