"""The rule `reciprocal` and the dialect `te` against others who wrote Transformer Engine's formula down.

    python tools/hold_te.py amax             all 2^31 amax: the transcription, tests/support/published_te.py
    python tools/hold_te.py flashinfer SITE  flashinfer's CPU reference of MXFP8 E4M3, installed in SITE

Exit code 1 where something differs that is not known. `make compare-te`, `make compare-flashinfer`.
"""

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mxcheck.formats.elements import ELEMENT_FORMATS
from mxcheck.formats.field_rules import FIELD_RULES, quantize_blocks
from mxcheck.formats.oracle import quantize_array
from mxcheck.formats.spec import cast_spec, dialect

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]
import published_te  # noqa: E402

from validation.second_oracle.bit_tables import scale_thresholds  # noqa: E402
from validation.second_oracle.search import FP32_INF  # noqa: E402

_CHUNK = 1 << 22
_LENGTH = 32
E4M3 = ELEMENT_FORMATS["fp8_e4m3"]

Codes = NDArray[np.uint8]
Cast = Callable[[NDArray[np.float32]], tuple[Codes, Codes]]


def wrong_amax(name: str, start: int = 0, stop: int = FP32_INF) -> list[int]:
    """The bits of amax, of start to stop - 1, whose scale the transcription and our table disagree on."""
    element, found = ELEMENT_FORMATS[name], []
    thresholds = scale_thresholds(element, "reciprocal")
    for low in range(start, stop, _CHUNK):
        bits = np.arange(low, min(low + _CHUNK, stop), dtype=np.uint32)
        published = published_te.scale_codes(bits.view(np.float32), element.max_value)
        # The thresholds within, and where each of their codes begins
        inside = np.searchsorted(thresholds, bits[[0, -1]], side="right")
        edges = [bits[0], *thresholds[inside[0] : inside[1]], bits[-1] + np.uint32(1)]
        ours = np.repeat(np.arange(inside[0], inside[1] + 1), np.diff(np.array(edges, np.int64)))
        found += bits[published != ours].tolist()
    return found


def finite_blocks(seed: int) -> NDArray[np.float32]:
    """A million or so of 32, each led by its amax: around every threshold of the scale, and every exponent
    with random mantissas."""
    random = np.random.default_rng(seed)
    near = scale_thresholds(E4M3, "reciprocal").astype(np.int64)[:, None] + np.arange(-1000, 1000)
    lead = np.concatenate([near.ravel(), (np.arange(255)[:, None] << 23).repeat(2000, 1).ravel()])
    lead[near.size :] += random.integers(0, 1 << 23, lead.size - near.size)
    lead = lead[(lead >= 0) & (lead < FP32_INF)]
    rest = lead[:, None] - np.minimum(random.integers(0, 1 << 27, (lead.size, _LENGTH)), lead[:, None])
    rest[np.arange(lead.size), random.integers(0, _LENGTH, lead.size)] = lead
    signed = rest | random.integers(0, 2, rest.shape) << 31
    return signed.astype(np.uint32).view(np.float32)


def held(cast: Cast, blocks: NDArray[np.float32]) -> dict[str, int]:
    """How many of these finite blocks a cast makes something else of than ours."""
    codes, scales = cast(blocks)
    one = quantize_blocks(blocks, E4M3, FIELD_RULES["reciprocal_one"], "even")
    te, te_scales = quantize_array(blocks, cast_spec(E4M3.name, **dialect("te")))
    of_te = (codes != te).any(-1) | (scales != te_scales[:, 0])
    return {
        "blocks": len(blocks),
        "differ from reciprocal_one": int(((codes != one[0]).any(-1) | (scales != one[1])).sum()),
        "differ from te, under the scale 00": int((of_te & (scales == 0) & (te_scales[:, 0] == 0)).sum()),
        "differ from te, elsewhere": int((of_te & ((scales != 0) | (te_scales[:, 0] != 0))).sum()),
    }


def _prepare(site: Path) -> None:
    """Let flashinfer compile with the toolkit in `site`, and load what comes of it without a GPU."""
    toolkit = site.resolve() / "nvidia" / "cu13"
    if not (toolkit / "bin" / "nvcc").exists():
        raise SystemExit(f"hold_te: no flashinfer in {site}; `make compare-flashinfer` puts it there")
    library = toolkit / "lib"
    for link, target in ((toolkit / "lib64", "lib"), (library / "libcudart.so", "libcudart.so.13")):
        if not link.exists():
            link.symlink_to(target)
    stubs = library / "stubs"
    if ctypes.util.find_library("cuda") is None:
        # The driver's library comes with the driver. The linker asks for it, and no function of it is called.
        stubs.mkdir(exist_ok=True)
        made = ["-shared", "-Wl,-soname,libcuda.so.1", "-o", str(stubs / "libcuda.so"), "-x", "c", os.devnull]
        subprocess.run(["gcc", *made], check=True)  # noqa: S603, S607
        ctypes.CDLL(str(stubs / "libcuda.so"), ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(library / "libcudart.so.13"), ctypes.RTLD_GLOBAL)
    os.environ.update(
        CUDA_HOME=str(toolkit),
        LIBRARY_PATH=f"{library}:{stubs}",
        FLASHINFER_WORKSPACE_BASE=str(site.resolve().parent / "work"),
        FLASHINFER_CUDA_ARCH_LIST="10.0a",  # that its module is for; the CPU's part is the same in all
        MAX_JOBS="1",
    )
    sys.path.insert(0, str(site.resolve()))


def _flashinfer(blocks: NDArray[np.float32]) -> tuple[Codes, Codes]:
    import flashinfer

    # Of a tensor on the CPU it is the reference, in C++.
    codes, scales = flashinfer.mxfp8_quantize(torch.from_numpy(blocks), is_sf_swizzled_layout=False)
    return codes.view(torch.uint8).numpy(), scales.view(torch.uint8).numpy().reshape(len(blocks))


def not_finite(cast: Cast) -> list[str]:
    """What a cast makes of a NaN and an Inf in the first, the last or a middle place, in words."""
    lines = []
    for name, bad in (("NaN", np.nan), ("Inf", np.inf)):
        for place in (0, 15, _LENGTH - 1):
            block = np.full((1, _LENGTH), 1.5, np.float32)
            block[0, place] = bad
            codes, scales = cast(block)
            others = sorted({f"{code:02x}" for code in np.delete(codes[0], place)})
            lines.append(
                f"{name} at {place} among 1.5: scale {scales[0]:02x}, its code {codes[0, place]:02x}, "
                f"others {', '.join(others)}"
            )
    return lines


def main(arguments: Sequence[str]) -> int:
    """Hold, print and say whether all was as known."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("amax", "flashinfer"))
    parser.add_argument("site", nargs="?", type=Path, default=ROOT / "build" / "flashinfer" / "site")
    options = parser.parse_args(arguments)
    if options.what == "amax":
        wrong = 0
        for name in ("fp8_e4m3", "fp8_e5m2"):
            found = wrong_amax(name)
            wrong += len(found)
            first = "".join(f" {bits:08x}" for bits in found[:8])
            print(f"{name}: {FP32_INF:,} amax, {len(found):,} scales differ{first}", flush=True)
        return int(wrong > 0)
    _prepare(options.site)
    counts = held(_flashinfer, finite_blocks(seed=0))
    print(*(f"{count:,} {what}" for what, count in counts.items()), *not_finite(_flashinfer), sep="\n")
    return int(counts["differ from reciprocal_one"] + counts["differ from te, elsewhere"] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
