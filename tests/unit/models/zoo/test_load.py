import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, DeepseekV3Config, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

from mxcheck.evaluation.tokens import load_tokens
from mxcheck.models.conversion.convert import convert
from mxcheck.models.recipes.recipe import recipe
from mxcheck.models.zoo.load import LoadedModel, load, weights_fingerprint
from mxcheck.run.default_gate import WHOLE_LADDER
from mxcheck.run.measurement_settings import DEFAULT_BATCH_SIZE

WEIGHTS = "model.safetensors"
SPOILT = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def saved(tmp_path: Path, tiny_llama: LlamaForCausalLM) -> Path:
    """A sound checkpoint in one file, stored in bf16."""
    folder = tmp_path / "checkpoint"
    tiny_llama.bfloat16().save_pretrained(folder)
    return folder


def rewrite(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def test_a_sound_checkpoint_loads_in_fp32_with_eager_attention(saved: Path) -> None:
    loaded = load(str(saved))
    stored = load_file(saved / WEIGHTS)

    assert loaded.source.location == str(saved)
    assert loaded.model.config._attn_implementation == "eager"
    assert not loaded.model.training
    assert {name for name, _ in loaded.model.named_parameters()} == stored.keys()
    for name, value in loaded.model.named_parameters():
        assert value.dtype == torch.float32
        assert not value.requires_grad
        assert torch.equal(value, stored[name].float())


@pytest.mark.parametrize("name", WHOLE_LADDER)
def test_reference_models_load_in_fp32_with_bf16_values(
    name: str, reference_model: Callable[[str], LoadedModel]
) -> None:
    loaded = reference_model(name)

    assert loaded.source.name == name
    assert loaded.tokenizer_fingerprint != "no tokenizer"
    assert loaded.model.config._attn_implementation == "eager"
    for value in loaded.model.parameters():
        assert value.dtype == torch.float32
        assert torch.equal(value, value.bfloat16().float())


def test_the_long_model_has_more_positions_and_a_larger_rotary_base(
    reference_model: Callable[[str], LoadedModel],
) -> None:
    long, short = (reference_model(name).model for name in ("long-llama", "ref-llama"))
    assert long.config.max_position_embeddings == 1024
    assert short.config.max_position_embeddings == 512
    ids = torch.arange(2, 34)[None]
    with torch.inference_mode():
        apart = (long(ids).logits - short(ids).logits).abs()[0].amax(-1)
    assert apart[0] == 0  # the first position is not turned
    assert apart[1:].min() > 0


def test_what_the_small_reference_models_are_there_for(reference_model: Callable[[str], LoadedModel]) -> None:
    wide, bf16 = reference_model("wide-gpt2"), reference_model("bf16-llama")
    assert {value.dtype for value in bf16.model.parameters()} == {torch.bfloat16}
    folder = Path(wide.source.location)
    assert len(list(folder.glob("model-*.safetensors"))) == 2
    assert wide.model.get_output_embeddings().weight is wide.model.get_input_embeddings().weight
    assert sum(isinstance(module, Conv1D) for module in wide.model.modules()) == 8
    assert wide.source.tokens is not None
    tokens = load_tokens(wide.source.tokens)
    assert tokens.max() >= 65536
    assert tokens.shape[1] % 32


def test_an_expert_of_short_moe_gets_a_single_token(reference_model: Callable[[str], LoadedModel]) -> None:
    """In the last pass, which has one sequence."""
    loaded = reference_model("short-moe")
    assert loaded.source.tokens is not None
    tokens = load_tokens(loaded.source.tokens)
    last = tokens[len(tokens) // DEFAULT_BATCH_SIZE * DEFAULT_BATCH_SIZE :]
    counts: list[int] = []

    def count(_: Any, arguments: tuple[torch.Tensor, ...]) -> None:
        counts.extend(torch.bincount(arguments[1].flatten(), minlength=4).tolist())

    experts = [module for name, module in loaded.model.named_modules() if name.endswith("mlp.experts")]
    hooks = [module.register_forward_pre_hook(count) for module in experts]
    with torch.inference_mode():
        loaded.model(last)
    for hook in hooks:
        hook.remove()
    assert len(last) == 1
    assert 1 in counts


def test_the_experts_are_multiplied_by_the_plain_loop(reference_model: Callable[[str], LoadedModel]) -> None:
    # every other implementation makes products that no cast is put around
    assert reference_model("ref-moe").model.config._experts_implementation == "eager"


def remove_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def pickle_weights(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    remove_weights(folder)


def truncate_weights(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def empty_weights(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")


def corrupt_header(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[8:24] = b"\xff" * 16
    (folder / WEIGHTS).write_bytes(data)


def absurd_header_length(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[:8] = b"\xff" * 8
    (folder / WEIGHTS).write_bytes(data)


def remove_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_weights, r"no \*\.safetensors file; save the model"),
        (pickle_weights, r"no \*\.safetensors file \(it has pytorch_model\.bin, which may execute"),
        (truncate_weights, r"model\.safetensors is truncated or corrupt"),
        (empty_weights, r"model\.safetensors is no safetensors file: "),
        (corrupt_header, r"model\.safetensors is no safetensors file: "),
        (absurd_header_length, r"model\.safetensors is no safetensors file: "),
        (remove_config, r"has no config\.json"),
        (remove_folder, r"does not exist"),
    ],
)
def test_a_damaged_directory_is_an_error_that_names_the_file(
    damage: Callable[[Path], None], message: str, saved: Path
) -> None:
    damage(saved)
    with pytest.raises(ValueError, match=message) as caught:
        load(str(saved))
    assert repr(str(saved)) in str(caught.value)


@pytest.mark.parametrize("sharded", [False, True], ids=["one-file", "sharded"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")], ids=["nan", "inf"])
def test_weights_that_are_not_finite_name_file_and_tensor(
    value: float, sharded: bool, tmp_path: Path, tiny_llama: LlamaForCausalLM
) -> None:
    tiny_llama.save_pretrained(tmp_path, max_shard_size="60KB" if sharded else "1GB")
    files = sorted(tmp_path.glob("*.safetensors"))
    assert (len(files) > 1) == sharded
    (file,) = (f for f in files if SPOILT in load_file(f))
    rewrite(file, lambda tensors: tensors[SPOILT].view(-1)[7].fill_(value))

    with pytest.raises(ValueError, match=rf"{file.name} \(tensor {SPOILT}\) holds weights that are NaN"):
        load(str(tmp_path))


def test_a_stored_buffer_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    """Routers of DeepSeek-V3 add such a buffer to the scores by which they choose."""
    config = DeepseekV3Config(
        hidden_size=32,
        intermediate_size=32,
        moe_intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        n_routed_experts=8,
        vocab_size=64,
        first_k_dense_replace=0,
        n_group=1,
        topk_group=1,
        num_experts_per_tok=2,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=16,
        qk_nope_head_dim=16,
        v_head_dim=16,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    name = "model.layers.0.mlp.gate.e_score_correction_bias"
    rewrite(tmp_path / WEIGHTS, lambda tensors: tensors[name].fill_(torch.nan))
    with pytest.raises(
        ValueError, match=rf"\(tensor {name}\) holds weights that are NaN or infinite, 1 tensors"
    ):
        load(str(tmp_path))


def test_a_missing_tensor_is_an_error_and_not_initialised_at_random(saved: Path) -> None:
    rewrite(saved / WEIGHTS, lambda tensors: tensors.pop(SPOILT))
    with pytest.raises(ValueError, match=rf"1 missing tensors: {SPOILT}"):
        load(str(saved))


def test_a_tensor_of_another_shape_is_an_error_that_names_it(saved: Path) -> None:
    rewrite(saved / WEIGHTS, lambda tensors: tensors.update({SPOILT: tensors[SPOILT][:32].clone()}))
    with pytest.raises(ValueError, match=rf"1 mismatched tensors: {SPOILT} \[32, 80\] for \[64, 80\]"):
        load(str(saved))


def test_a_missing_shard_is_an_error_that_names_it(tmp_path: Path, tiny_llama: LlamaForCausalLM) -> None:
    tiny_llama.save_pretrained(tmp_path, max_shard_size="60KB")
    lost = sorted(tmp_path.glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(ValueError, match=lost.name):
        load(str(tmp_path))


def test_code_of_the_checkpoint_is_never_executed(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    config["model_type"] = "of_their_own"
    config["auto_map"] = {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"}
    (saved / "config.json").write_text(json.dumps(config))
    witness = saved / "executed"
    (saved / "theirs.py").write_text(f"open({str(witness)!r}, 'w').close()\n")

    with pytest.raises(ValueError, match="trust_remote_code"):
        load(str(saved))
    assert not witness.exists()


def test_weights_fingerprint_moves_with_one_bit(saved: Path) -> None:
    before = load(str(saved)).weights_fingerprint
    rewrite(saved / WEIGHTS, lambda tensors: tensors[SPOILT].view(torch.uint8)[3, 4].bitwise_xor_(1))

    assert load(str(saved)).weights_fingerprint != before


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda m: m.lm_head.weight.neg_(), id="values"),
        pytest.param(  # the same bytes
            lambda m: setattr(m.lm_head, "weight", nn.Parameter(m.lm_head.weight.view(torch.int32), False)),
            id="dtype",
        ),
        pytest.param(
            lambda m: setattr(m.lm_head, "weight", nn.Parameter(m.lm_head.weight.reshape(64, 96))), id="shape"
        ),
        pytest.param(lambda m: setattr(m, "head", m._modules.pop("lm_head")), id="name"),
        pytest.param(lambda m: m.lm_head.register_parameter("bias", nn.Parameter(torch.ones(2))), id="more"),
    ],
)
def test_weights_fingerprint_moves_with(
    change: Callable[[LlamaForCausalLM], object], tiny_llama: LlamaForCausalLM
) -> None:
    before = weights_fingerprint(tiny_llama)
    change(tiny_llama)

    assert weights_fingerprint(tiny_llama) != before


def test_weights_fingerprint_moves_with_a_buffer_that_a_checkpoint_has(tiny_llama: LlamaForCausalLM) -> None:
    before = weights_fingerprint(tiny_llama)
    tiny_llama.model.register_buffer("computed", torch.ones(2), persistent=False)
    assert weights_fingerprint(tiny_llama) == before
    tiny_llama.model.register_buffer("router_bias", torch.ones(2))
    first = weights_fingerprint(tiny_llama)
    tiny_llama.model.router_bias[0] = 2
    assert len({before, first, weights_fingerprint(tiny_llama)}) == 3


def test_weights_fingerprint_does_not_move_with_anything_else(saved: Path, tmp_path: Path) -> None:
    loaded = load(str(saved))
    loaded.model.save_pretrained(tmp_path / "sharded", max_shard_size="60KB")
    (tmp_path / "sharded" / "generation_config.json").unlink()
    again = load(str(tmp_path / "sharded"))
    again.model.train().requires_grad_(True)
    again.model.lm_head.weight = nn.Parameter(again.model.lm_head.weight.detach().t().contiguous().t())
    conversion = convert(again.model, recipe("mxfp4_e2m1", tier="B"))

    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    assert weights_fingerprint(again.model) == loaded.weights_fingerprint  # they stay what their owner has
    conversion.undo()
    assert weights_fingerprint(again.model) == again.weights_fingerprint == loaded.weights_fingerprint


def test_tokenizer_fingerprint_moves_with_the_tokenizers_files_alone(saved: Path) -> None:
    assert load(str(saved)).tokenizer_fingerprint == "no tokenizer"
    (saved / "tokenizer.json").write_text('{"a": 1}')
    first = load(str(saved)).tokenizer_fingerprint
    (saved / "README.md").write_text("of no account")
    assert load(str(saved)).tokenizer_fingerprint == first
    (saved / "tokenizer.json").write_text('{"a": 2}')
    second = load(str(saved)).tokenizer_fingerprint
    (saved / "tokenizer.json").rename(saved / "vocab.json")

    assert len({first, second, load(str(saved)).tokenizer_fingerprint, "no tokenizer"}) == 4
