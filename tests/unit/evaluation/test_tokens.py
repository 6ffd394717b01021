import pytest
import torch
from safetensors.torch import load_file, save_file

from mxcheck.evaluation.tokens import fingerprint, load_tokens, save_tokens

TOKENS = torch.arange(12).view(3, 4)


def test_tokens_come_back_as_int64_and_are_int32_on_disk(tmp_path):
    path = tmp_path / "tokens.safetensors"
    save_tokens(TOKENS, path)
    assert load_file(path)["tokens"].dtype == torch.int32
    loaded = load_tokens(str(path))
    assert loaded.dtype == torch.int64
    assert torch.equal(loaded, TOKENS)


def test_a_transposed_view_is_stored_as_it_reads(tmp_path):
    save_tokens(TOKENS.T, tmp_path / "t.safetensors")
    assert torch.equal(load_tokens(tmp_path / "t.safetensors"), TOKENS.T)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.safetensors: no such tokens file") as caught:
        load_tokens(tmp_path / "absent.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0, 5, 40, -1], ids=["empty", "no-header", "half-header", "one-byte-short"])
def test_a_truncated_file_is_named(tmp_path, kept):
    path = tmp_path / "cut.safetensors"
    save_tokens(TOKENS, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"cut\.safetensors: not a readable safetensors file") as caught:
        load_tokens(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"ids": TOKENS.int()}, r'must hold a tensor "tokens", got ids'),
        ({"tokens": TOKENS.float()}, "must be int32, got float32"),
        ({"tokens": TOKENS}, "must be int32, got int64"),
        ({"tokens": TOKENS.int().flatten()}, r"\[sequences, length\], got shape \[12\]"),
        ({"tokens": TOKENS.int()[:0]}, r"non-empty .* got shape \[0, 4\]"),
        ({"tokens": TOKENS.int() - 2}, "must be 0 or more, got -2"),
    ],
    ids=["key", "float", "int64", "rank", "empty", "negative"],
)
def test_a_file_of_something_else_is_named(tmp_path, tensors, message):
    path = tmp_path / "odd.safetensors"
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"odd\.safetensors: .*" + message) as caught:
        load_tokens(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (TOKENS.float(), "must be int32 or int64, got float32"),
        (TOKENS.flatten(), r"got shape \[12\]"),
        (TOKENS - 1, "must be 0 or more, got -1"),
        (TOKENS + 2**31, "must fit int32, got 2147483659"),
    ],
    ids=["float", "rank", "negative", "too-large"],
)
def test_what_could_not_be_read_back_is_not_written(tmp_path, tokens, message):
    path = tmp_path / "new.safetensors"
    with pytest.raises(ValueError, match=message):
        save_tokens(tokens, path)
    assert not path.exists()


def test_the_fingerprint_is_of_shape_and_ids_alone():
    same = [TOKENS.int(), TOKENS.T.contiguous().T, TOKENS.clone()]
    assert {fingerprint(tokens) for tokens in same} == {fingerprint(TOKENS)}
    changed = TOKENS.clone()
    changed[1, 2] += 1
    other = [changed, TOKENS.flip(0), TOKENS[:2], TOKENS[:, :3], TOKENS.view(4, 3)]
    assert len({fingerprint(tokens) for tokens in (TOKENS, *other)}) == 6
