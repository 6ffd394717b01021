"""How many positions a model has, by its own configuration."""

from __future__ import annotations

import pytest
from transformers import BloomConfig, GPT2Config, LlamaConfig, MptConfig, PretrainedConfig

from mxcheck.models.zoo.load import positions


def _rotary(**scaling: object) -> LlamaConfig:
    return LlamaConfig(max_position_embeddings=64, rope_parameters={"rope_theta": 1e4, **scaling})


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param(LlamaConfig(max_position_embeddings=77), 77, id="llama"),
        pytest.param(GPT2Config(n_positions=32), 32, id="gpt2"),
        pytest.param(MptConfig(max_seq_len=8192), 8192, id="mpt"),
        pytest.param(BloomConfig(), None, id="bloom"),
        pytest.param(_rotary(rope_type="dynamic", factor=2.5), 160, id="dynamic"),
        pytest.param(_rotary(rope_type="linear", factor=2.5), 64, id="linear"),
    ],
)
def test_positions(config: PretrainedConfig, expected: int | None) -> None:
    assert positions(config) == expected
