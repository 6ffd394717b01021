"""The product suite's tests of layouts: red under each wrong layout, green without; and when they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mxcheck.sensitivity.fault import Edit, Fault, applied
from mxcheck.suite.kernels import test_layouts as suite

CODES, LAYOUTS = "mxcheck.kernels.quantized", "mxcheck.kernels.layouts"

# what is wrong -> function, a piece of its source, what stands there instead; the test that sees it; its
# parameters
WRONG: dict[str, tuple[tuple[str, str, str], Callable[..., None], tuple[Any, ...]]] = {
    # Codes
    "high_nibble_first": (
        (f"{CODES}:pack", "groups = padded.reshape(*rows.shape[:-1], -1, per_group).int()",
         "groups = padded.reshape(*rows.shape[:-1], -1, per_group).int().flip(-1)"),
        suite.test_packed_codes, ("fp4_e2m1", 1),
    ),
    "high_nibble_first_in_unpack": (
        (f"{CODES}:unpack", "codes.flatten(-2)", "codes.flip(-1).flatten(-2)"),
        suite.test_packed_codes, ("fp4_e2m1", 0),
    ),
    "six_bit_bytes_big_endian": (
        (f"{CODES}:pack", "packed.flatten(-2)", "packed.flip(-1).flatten(-2)"),
        suite.test_packed_codes, ("fp6_e2m3", 2),
    ),
    "six_bit_groups_big_endian_in_unpack": (
        (f"{CODES}:unpack", "-1, group_bytes).int()", "-1, group_bytes).int().flip(-1)"),
        suite.test_packed_codes, ("fp6_e3m2", -1),
    ),
    "packed_along_the_last_axis": (
        (f"{CODES}:QuantizedTensor.packed", "self.spec.axis", "-1"),
        suite.test_sizes, ("fp6_e3m2", 0),
    ),
    "last_group_filled_with_ones": (
        (f"{CODES}:pack", "(0, missing))", "(0, missing), value=1)"),
        suite.test_packed_codes, ("fp4_e2m1", 0),
    ),
    "last_group_filled_at_the_front": (
        (f"{CODES}:pack", "(0, missing))", "(missing, 0))"),
        suite.test_packed_codes, ("fp6_e2m3", 1),
    ),
    "unpacked_from_the_end": (
        (f"{CODES}:unpack", "[..., :length]", "[..., codes.flatten(-2).shape[-1] - length :]"),
        suite.test_packed_codes, ("fp4_e2m1", 1),
    ),
    "size_without_scales": (
        (f"{CODES}:QuantizedTensor.nbytes", " + sum(scale.nbytes for scale in scales)", ""),
        suite.test_sizes, ("fp8_e4m3", 1),
    ),
    "size_without_tensor_scale": (
        (f"{CODES}:QuantizedTensor.nbytes", "[self.scales, self.tensor_scale]", "[self.scales]"),
        suite.test_sizes, ("nvfp4", 1),
    ),
    "size_of_unpacked_codes": (
        (f"{CODES}:QuantizedTensor.nbytes", "// length * packed_length", ""),
        suite.test_sizes, ("fp4_e2m1", 2),
    ),
    # Which scale is whose
    "scales_repeated_as_a_whole": (
        (f"{CODES}:QuantizedTensor._spread", "scales.repeat_interleave(self.spec.block_size, axis)",
         "scales.repeat(*(self.spec.block_size if one == axis else 1 for one in range(scales.dim())))"),
        suite.test_dequantized_values, ("fp8_e4m3", 0),
    ),
    "scales_always_of_32": (
        (f"{CODES}:QuantizedTensor._spread", "repeat_interleave(self.spec.block_size, axis)",
         "repeat_interleave(max(32, self.spec.block_size), axis)"),
        suite.test_dequantized_values, ("mxint8", -1),
    ),
    "tail_aligned_with_the_end": (
        (f"{CODES}:QuantizedTensor._spread", ".narrow(axis, 0, self.codes.shape[axis])",
         ".narrow(axis, -self.codes.shape[axis] % self.spec.block_size, self.codes.shape[axis])"),
        suite.test_dequantized_values, ("fp6_e3m2", 1),
    ),
    "tensor_scale_forgotten": (
        (f"{CODES}:QuantizedTensor.dequantize", "decode_scales(self.scales, self.tensor_scale)",
         "decode_scales(self.scales, torch.ones(()))"),
        suite.test_dequantized_values, ("nvfp4", 0),
    ),
    "rounded_through_bf16": (
        (f"{CODES}:QuantizedTensor.dequantize", "exact.float().to(dtype)", "exact.bfloat16().to(dtype)"),
        suite.test_dequantized_values, ("nvfp4", 1),
    ),
    "small_elements_flushed": (
        (f"{CODES}:QuantizedTensor.dequantize", "return elements.mul_(",
         "return torch.where(elements.abs() < 1, 0.0, elements).mul_("),
        suite.test_dequantized_values, ("fp8_e5m2", 1),
    ),
    # Both quantizations of a matrix
    "columnwise_is_rowwise": (
        (f"{LAYOUTS}:quantize_operand", "axis=0", "axis=-1"),
        suite.test_columnwise_is_not_rowwise_transposed, ("fp8_e4m3",),
    ),
    "columnwise_from_the_quantized_matrix": (
        (f"{LAYOUTS}:quantize_operand", "columnwise=quantize(x,",
         "columnwise=quantize(quantize(x, format, **options).dequantize(),"),
        suite.test_operand, ("fp4_e2m1",),
    ),
    "both_from_the_transpose": (
        (f"{LAYOUTS}:quantize_operand", "rowwise=quantize(x, format, axis=-1, **options)",
         "rowwise=quantize(x, format, axis=0, **options)"),
        suite.test_operand, ("nvfp4",),
    ),
    # Scales in memory
    "padding_is_nan": (
        (f"{LAYOUTS}:pad_scales", "new_full(shape, fill)", "new_full(shape, fill or 0xFF)"),
        suite.test_padded_scales, ("fp8_e4m3", "rowwise"),
    ),
    "padding_is_always_0": (
        (f"{LAYOUTS}:pad_scales", "new_full(shape, fill)", "new_zeros(shape)"),
        suite.test_padded_scales, ("fp8_e4m3", "columnwise"),
    ),
    "padding_at_the_front": (
        (f"{LAYOUTS}:pad_scales", "padded[: scales.shape[0], : scales.shape[1]] = scales",
         "padded[-scales.shape[0] :, -scales.shape[1] :] = scales"),
        suite.test_poisoned_padding_is_not_read, ("fp6_e2m3", "columnwise"),
    ),
    "padded_as_rowwise": (
        (f"{LAYOUTS}:pad_scales", 'choose("direction", direction, _TILES)', '"rowwise"'),
        suite.test_padded_scales, ("fp4_e2m1", "columnwise"),
    ),
    "unpadded_without_pitch": (
        (f"{LAYOUTS}:unpad_scales", "padded[: shape[0], : shape[1]].contiguous()",
         "padded.flatten()[: shape[0] * shape[1]].reshape(shape)"),
        suite.test_poisoned_padding_is_not_read, ("nvfp4", "rowwise"),
    ),
    "quarters_and_lanes_exchanged": (
        (f"{LAYOUTS}:swizzle_scales", "permute(0, 3, 2, 1, 4)", "permute(0, 3, 1, 2, 4)"),
        suite.test_swizzled_scales, ("fp8_e5m2", "rowwise"),
    ),
    "tiles_along_the_outer_axis_first": (
        (f"{LAYOUTS}:swizzle_scales", "permute(0, 3, 2, 1, 4)", "permute(3, 0, 2, 1, 4)"),
        suite.test_swizzled_scales, ("mxint8", "rowwise"),
    ),
    "columnwise_swizzled_untransposed": (
        (f"{LAYOUTS}:swizzle_scales", 'padded if direction == "rowwise" else padded.T',
         'padded if direction == "rowwise" else padded.reshape(padded.shape[::-1])'),
        suite.test_swizzled_scales, ("fp8_e4m3", "columnwise"),
    ),
    "columnwise_unswizzled_untransposed": (
        (f"{LAYOUTS}:unswizzle_scales", "scales.T.contiguous()", "scales.reshape(rows, columns)"),
        suite.test_swizzled_scales, ("fp8_e4m3", "columnwise"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_layout_is_seen(name: str) -> None:
    (target, old, new), test, parameters = WRONG[name]
    test(*parameters)
    edit = Edit(target=target, old=old, new=new)
    fault = Fault(name=name, group="layout", what=name, source="tests", changes=(edit,))
    with applied(fault), pytest.raises(AssertionError):
        test(*parameters)
    test(*parameters)


@pytest.mark.parametrize(
    ("kernels", "outcome"),
    [("eager", {"passed": 20}), ("eager_values,eager", {"passed": 20}), ("eager_values", {"skipped": 20})],
)
def test_they_run_for_our_own_kernel(
    pytester: pytest.Pytester, kernels: str, outcome: dict[str, int]
) -> None:
    """Once a format; a run that names other kernels only skips them, once each, and says why."""
    only = "fp6_e3m2 or all-formats"
    words = ("--pyargs", "mxcheck.suite.kernels.test_layouts", "--mx-kernel", kernels, "-k", only, "-rs")
    run = pytester.runpytest_subprocess(*words, "-p", "no:cacheprovider")
    assert run.parseoutcomes().items() >= outcome.items()
    if "skipped" in outcome:
        run.stdout.fnmatch_lines(
            "SKIPPED *: the tests of layouts are of mxcheck's own code: --mx-kernel eager"
        )
