"""The product suite's tests of layouts: red under each wrong layout, green without; and when they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mxcheck.suite.kernels import test_layouts as suite
from validation.faults.fault import Fault, Rewrite, applied
from validation.faults.fault_place import (
    Step,
    argument,
    assignment,
    call,
    choice,
    condition,
    mention,
    operation,
    returned,
    statement,
    value,
)

CODES, LAYOUTS = "mxcheck.kernels.quantized", "mxcheck.kernels.layouts"

# what is wrong -> function, a place in it, what stands there instead; the test that sees it; its
# parameters
WRONG: dict[str, tuple[tuple[str, tuple[Step, ...], str], Callable[..., None], tuple[Any, ...]]] = {
    # Codes
    "high_nibble_first": (
        (f"{CODES}:pack", (value("groups"),), "it.flip(-1)"),
        suite.test_packed_codes, ("fp4_e2m1", 1),
    ),
    "high_nibble_first_in_unpack": (
        (f"{CODES}:unpack", (returned(nth=2), mention("codes")), "it.flip(-1)"),
        suite.test_packed_codes, ("fp4_e2m1", 0),
    ),
    "six_bit_bytes_big_endian": (
        (f"{CODES}:pack", (returned(nth=2), mention("packed")), "it.flip(-1)"),
        suite.test_packed_codes, ("fp6_e2m3", 2),
    ),
    "six_bit_groups_big_endian_in_unpack": (
        (f"{CODES}:unpack", (value("groups"),), "it.flip(-1)"),
        suite.test_packed_codes, ("fp6_e3m2", -1),
    ),
    "packed_along_the_last_axis": (
        (f"{CODES}:QuantizedTensor.packed", (mention("axis"),), "-1"),
        suite.test_sizes, ("fp6_e3m2", 0),
    ),
    "last_group_filled_with_ones": (
        (f"{CODES}:pack", (call("pad"),), "torch.nn.functional.pad(rows, (0, missing), value=1)"),
        suite.test_packed_codes, ("fp4_e2m1", 0),
    ),
    "last_group_filled_at_the_front": (
        (f"{CODES}:pack", (call("pad"), argument(2)), "(missing, 0)"),
        suite.test_packed_codes, ("fp6_e2m3", 1),
    ),
    "unpacked_from_the_end": (
        (f"{CODES}:unpack", (returned(nth=2),),
         ("codes.flatten(-2)[..., codes.flatten(-2).shape[-1] - length :].to(torch.uint8)"
         ".movedim(-1, axis).contiguous()")),
        suite.test_packed_codes, ("fp4_e2m1", 1),
    ),
    "size_without_scales": (
        (f"{CODES}:QuantizedTensor.nbytes", (call("sum"),), "0"),
        suite.test_sizes, ("fp8_e4m3", 1),
    ),
    "size_without_tensor_scale": (
        (f"{CODES}:QuantizedTensor.nbytes", (choice("tensor_scale"),), "[self.scales]"),
        suite.test_sizes, ("nvfp4", 1),
    ),
    "size_of_unpacked_codes": (
        (f"{CODES}:QuantizedTensor.nbytes", (returned(), operation("*")), "self.codes.numel()"),
        suite.test_sizes, ("fp4_e2m1", 2),
    ),
    # Which scale is whose
    "scales_repeated_as_a_whole": (
        (f"{CODES}:QuantizedTensor._spread", (call("repeat_interleave"),),
         ("scales.repeat(*(self.spec.block_size if one == axis else 1 for one in range(scales"
         ".dim())))")),
        suite.test_dequantized_values, ("fp8_e4m3", 0),
    ),
    "scales_always_of_32": (
        (f"{CODES}:QuantizedTensor._spread", (call("repeat_interleave"), argument(1)), "max(32, it)"),
        suite.test_dequantized_values, ("mxint8", -1),
    ),
    "tail_aligned_with_the_end": (
        (f"{CODES}:QuantizedTensor._spread", (call("narrow"), argument(2)),
         "-self.codes.shape[axis] % self.spec.block_size"),
        suite.test_dequantized_values, ("fp6_e3m2", 1),
    ),
    "tensor_scale_forgotten": (
        (f"{CODES}:QuantizedTensor.dequantize", (call("decode_scales"), argument(2)), "torch.ones(())"),
        suite.test_dequantized_values, ("nvfp4", 0),
    ),
    "rounded_through_bf16": (
        (f"{CODES}:QuantizedTensor.dequantize", (returned(nth=3), call("float")), "exact.bfloat16()"),
        suite.test_dequantized_values, ("nvfp4", 1),
    ),
    "small_elements_flushed": (
        (f"{CODES}:QuantizedTensor.dequantize",
         (condition("E8M0"), statement(), call("mul_"), mention("elements")),
         "torch.where(elements.abs() < 1, 0.0, elements)"),
        suite.test_dequantized_values, ("fp8_e5m2", 1),
    ),
    # Both quantizations of a matrix
    "columnwise_is_rowwise": (
        (f"{LAYOUTS}:quantize_operand", (argument("columnwise"), argument("axis")), "-1"),
        suite.test_columnwise_is_not_rowwise_transposed, ("fp8_e4m3",),
    ),
    "columnwise_from_the_quantized_matrix": (
        (f"{LAYOUTS}:quantize_operand", (argument("columnwise"), argument(1)),
         "quantize(x, format, **options).dequantize()"),
        suite.test_operand, ("fp4_e2m1",),
    ),
    "both_from_the_transpose": (
        (f"{LAYOUTS}:quantize_operand", (argument("rowwise"), argument("axis")), "0"),
        suite.test_operand, ("nvfp4",),
    ),
    # Scales in memory
    "padding_is_nan": (
        (f"{LAYOUTS}:pad_scales", (call("new_full"), argument(2)), "fill or 0xFF"),
        suite.test_padded_scales, ("fp8_e4m3", "rowwise"),
    ),
    "padding_is_always_0": (
        (f"{LAYOUTS}:pad_scales", (call("new_full"),), "scales.new_zeros(shape)"),
        suite.test_padded_scales, ("fp8_e4m3", "columnwise"),
    ),
    "padding_at_the_front": (
        (f"{LAYOUTS}:pad_scales", (assignment("padded[]"),),
         "padded[-scales.shape[0] :, -scales.shape[1] :] = scales"),
        suite.test_poisoned_padding_is_not_read, ("fp6_e2m3", "columnwise"),
    ),
    "padded_as_rowwise": (
        (f"{LAYOUTS}:pad_scales", (call("choose"),), "'rowwise'"),
        suite.test_padded_scales, ("fp4_e2m1", "columnwise"),
    ),
    "unpadded_without_pitch": (
        (f"{LAYOUTS}:unpad_scales", (returned(),), "padded.flatten()[: shape[0] * shape[1]].reshape(shape)"),
        suite.test_poisoned_padding_is_not_read, ("nvfp4", "rowwise"),
    ),
    "quarters_and_lanes_exchanged": (
        (f"{LAYOUTS}:swizzle_scales", (call("permute"),), "quarters.permute(0, 3, 1, 2, 4)"),
        suite.test_swizzled_scales, ("fp8_e5m2", "rowwise"),
    ),
    "tiles_along_the_outer_axis_first": (
        (f"{LAYOUTS}:swizzle_scales", (call("permute"),), "quarters.permute(3, 0, 2, 1, 4)"),
        suite.test_swizzled_scales, ("mxint8", "rowwise"),
    ),
    "columnwise_swizzled_untransposed": (
        (f"{LAYOUTS}:swizzle_scales", (mention("T"),), "padded.reshape(padded.shape[::-1])"),
        suite.test_swizzled_scales, ("fp8_e4m3", "columnwise"),
    ),
    "columnwise_unswizzled_untransposed": (
        (f"{LAYOUTS}:unswizzle_scales", (mention("T"),), "scales.reshape(rows, columns)"),
        suite.test_swizzled_scales, ("fp8_e4m3", "columnwise"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_layout_is_seen(name: str) -> None:
    (target, path, to), test, parameters = WRONG[name]
    test(*parameters)
    change = Rewrite(target=target, at=path, to=to)
    fault = Fault(name=name, group="layout", what=name, source="tests", changes=(change,))
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
            "SKIPPED *: the tests of layouts are of mxcheck's own code: --mx-kernel=eager"
        )
