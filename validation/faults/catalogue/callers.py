"""Faults that depend on the caller and its memory: a slice of other memory, two callers that share state.

A model's text has neither slices with an offset nor a second caller. The kernel suite tests them, and so does
step 4 of the gate after the measurement of a case.
"""

from __future__ import annotations

from functools import partial

from validation.faults.fault import Fault, rewrite
from validation.faults.fault_place import returned, statement, value

_fault = partial(Fault, group="callers", precisions=("mxfp8_e4m3",))
_KEPT = "_scale_tables.__dict__.setdefault"

FAULTS: tuple[Fault, ...] = (
    _fault(
        name="storage_offset_ignored",
        what="A contiguous tensor is read from the beginning of its memory, wherever in that it begins.",
        source="a porter's slip: the pointer of the storage for that of the tensor, right for every tensor"
        " that owns its memory.",
        changes=rewrite(
            "mxcheck.kernels.block_views:rows",
            returned(),
            statement(),
            to="if x.is_contiguous():\n    x = x.detach().as_strided(x.shape, x.stride(), 0)\nit",
        ),
    ),
    _fault(
        name="scratch_of_two_callers",
        what="The magnitudes of a cast lie in one buffer a shape, which every caller of the process shares.",
        source="a cache of scratch buffers by shape, made to save an allocation a call; right until a data"
        " loader's thread casts, too.",
        changes=rewrite(
            "mxcheck.kernels.eager:_cast_blocks",
            value("bits"),
            to="torch.bitwise_and(x.view(torch.int32), MAGNITUDE, out="
            f'{_KEPT}(("bits", tuple(x.shape)), torch.empty(x.shape, dtype=torch.int32, device=x.device)))',
        ),
    ),
    _fault(
        name="codes_of_two_callers",
        what="The codes that a cast returns lie in one buffer a shape, which the next call writes over.",
        source="an output buffer that is kept by shape, as captured CUDA graphs have it.",
        changes=rewrite(
            "mxcheck.kernels.eager:quantize_eager",
            value("codes"),
            to=f'{_KEPT}(("codes", tuple(x.shape)), it)',
        ),
    ),
    _fault(
        name="values_of_two_callers",
        what="The values that a cast returns lie in one buffer a shape, which the next call writes over.",
        source="the same buffer, for the path that fake-quantizes.",
        changes=rewrite(
            "mxcheck.kernels.eager:fake_quantize_eager",
            value("result"),
            to=f'{_KEPT}(("values", tuple(x.shape), x.dtype), it)',
        ),
    ),
    _fault(
        name="rest_of_two_threads",
        what="Where torch has more than one thread the last row, left over when they share, is not cast.",
        source="a porter's slip: // for a division rounded up, in the size of a thread's share.",
        changes=rewrite(
            "mxcheck.kernels.eager:quantize_eager",
            returned(nth=2),
            to="(codes.index_fill_(0, torch.tensor([codes.shape[0] - 1]), 0)"
            " if torch.get_num_threads() > 1 else codes, scales)",
        ),
    ),
)
