"""Read and check a program's results for a file of cases (binary format: docs/cases.md)."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from mxcheck.conformance.cases.generator import Example
from mxcheck.conformance.programs.case_header import INTEGERS, CaseFileError, Header, check_start, read_bytes
from mxcheck.files.printed import got, one_line
from mxcheck.formats.blocks import E4M3, FP32
from mxcheck.formats.spec import scales_shape
from mxcheck.kernels.domain import NotSupported

RESULTS = b"MXRESULT"
#: Kinds of answer.
REFUSED, PARTS, VALUES = range(3)
_RESULTS = struct.Struct("<8sQ32sQ")
_ANSWER = struct.Struct("<3Q")
_LONGEST_REASON = 1000

#: A program's answer to a case: codes and scales, values, or the reason of a refusal.
Answer = tuple[Tensor, ...] | Tensor | str


def most_of_results(header: Header) -> int:
    """Upper limit in bytes of the results for these cases."""
    return _RESULTS.size + 8 * header.length  # per 2-byte element at most a code and a 4-byte scale


@dataclass(slots=True)
class ResultsReader:
    """Read a program's results in the order of its cases.

    Raises:
        CaseFileError: by each method, if the results do not belong to these cases.
    """

    file: BinaryIO
    name: str
    header: Header
    answered: int = 0

    def start(self) -> None:
        """Read the header."""
        first = bytes(read_bytes(self.file, _RESULTS.size))
        what = "results: they begin with MXRESULT, the version, the digest and the number of the cases"
        check_start(self.name, first, RESULTS, _RESULTS.size, what)
        _, _, digest, cases = _RESULTS.unpack(first)
        if digest != self.header.digest:
            raise CaseFileError(
                self.name,
                f"it answers other cases: their digest is {digest.hex()[:16]}…, that of these cases "
                f"{self.header.digest.hex()[:16]}…; run the program on these",
            )
        if cases != self.header.cases:
            raise CaseFileError(self.name, f"it has {cases:,} answers to {self.header.cases:,} cases")

    def answer(self, case: Example) -> Answer:
        """Read the answer to the next case."""
        at = f"answer {self.answered:,}"
        first = read_bytes(self.file, _ANSWER.size)
        if len(first) < _ANSWER.size:
            raise CaseFileError(
                self.name,
                f"it ends after {self.answered:,} of {self.header.cases:,} answers",
                too_short=True,
            )
        number, kind, length = _ANSWER.unpack(first)
        if number != self.answered:
            raise CaseFileError(
                self.name, f"{at} says that it is of case {number:,}; answers come in the order of the cases"
            )
        if kind not in (REFUSED, PARTS, VALUES):
            raise CaseFileError(
                self.name,
                f"{at} is of the kind {kind:,}; allowed: 0 (not supported), 1 (codes and scales), 2 (values)",
            )
        sizes = _sizes(case, kind)
        if kind == REFUSED and length > _LONGEST_REASON:
            raise CaseFileError(
                self.name, f"{at} has a reason of {length:,} bytes; allowed: {_LONGEST_REASON:,}"
            )
        if kind != REFUSED and length != sum(sizes.values()):
            parts = ", ".join(f"{size:,} of {what}" for what, size in sizes.items())
            raise CaseFileError(
                self.name, f"{at} has {length:,} bytes; expected {sum(sizes.values()):,}: {parts}"
            )
        data = read_bytes(self.file, length)
        if len(data) < length:
            raise CaseFileError(
                self.name,
                f"it is truncated: {at} has {len(data):,} of its {length:,} bytes",
                too_short=True,
            )
        self.answered += 1
        if kind == REFUSED:
            return one_line(data.decode("utf-8", "replace")) or "no reason given"
        return _values(case, data) if kind == VALUES else _parts(case, data)

    def end(self) -> None:
        """Raise CaseFileError if anything follows the last answer."""
        if rest := read_bytes(self.file, 24):
            raise CaseFileError(
                self.name, f"it goes on after the last of {self.answered:,} answers, with {got(bytes(rest))}"
            )


def _sizes(case: Example, kind: int) -> dict[str, int]:
    """Sizes in bytes of the parts of an answer."""
    elements = case.x.numel()
    if kind == VALUES:
        return {"values": elements * case.x.element_size()}
    scales = math.prod(scales_shape(tuple(case.x.shape), case.spec))
    wide = 4 if case.spec.block.scale == FP32 else 1
    sizes = {"codes": elements, "scales": wide * scales}
    return {**sizes, "tensor scale": 4} if case.spec.block.scale == E4M3 else sizes


def _values(case: Example, data: bytearray) -> Tensor:
    integers, words = INTEGERS[case.x.element_size()]
    numbers = np.frombuffer(data, words.replace("u", "i"))
    return torch.from_numpy(numbers).view(integers).view(case.x.dtype).view(case.x.shape)


def _parts(case: Example, data: bytearray) -> tuple[Tensor, ...]:
    shape = tuple(case.x.shape)
    sizes = _sizes(case, PARTS)
    shapes = (shape, scales_shape(shape, case.spec), ())
    parts, start = [], 0
    for (what, size), own in zip(sizes.items(), shapes, strict=False):
        wide = what == "tensor scale" or (what == "scales" and case.spec.block.scale == FP32)
        words = np.frombuffer(data, "<f4" if wide else "u1", size // (4 if wide else 1), start)
        # Copied where it is not aligned to a word.
        parts.append(torch.from_numpy(words.copy()).view(own))
        start += size
    return tuple(parts)


def returned(answer: Answer) -> tuple[Tensor, ...] | Tensor:
    """Return an answer as a kernel would. Raises NotSupported for a refusal."""
    if isinstance(answer, str):
        raise NotSupported(answer)
    return answer
