"""`mxcheck explain`: one cast, step by step, and a kernel's result for the same tensor."""

from __future__ import annotations

import argparse
import re
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mxcheck.cli.named_kernel import KernelError, named_kernel
from mxcheck.files.printed import one_line
from mxcheck.formats.spec import CastSpec, cast_spec, dialect
from mxcheck.reporting.screen import console, say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mxcheck.reporting.differences import Got

_NEGATIVE = re.compile(r"-(\d|\.\d|inf|nan)", re.IGNORECASE)


def numbers_are_no_options(words: list[str]) -> list[str]:
    """Prefix negative numbers with a space, so that argparse does not take them for options: it recognizes
    -1, but not -1e5 and -inf. With a space all are plain values, which `float` and `int` accept."""
    if words[:1] != ["explain"]:
        return words
    return [f" {word}" if _NEGATIVE.match(word) else word for word in words]


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "explain",
        help="show how each bit of a cast is computed; with --kernel, where a kernel differs",
        description="Quantize a tensor by the exact oracle and show each step. With --kernel, run that "
        "kernel on the same tensor and mark what differs: exit code 0 if nothing does, 1 if a bit does.",
    )
    command.add_argument("format", metavar="FORMAT", help="see `mxcheck formats`")
    given = command.add_mutually_exclusive_group(required=True)
    given.add_argument(
        "--values",
        nargs="+",
        metavar="NUMBER",
        help="decimal numbers, nan, inf, -inf; rounded once to the dtype",
    )
    given.add_argument(
        "--hex", nargs="+", metavar="BITS", help="float32 bit patterns; BITS*n is n times the same one"
    )
    command.add_argument("--shape", metavar="32x1", help="of the tensor (default: one axis)")
    command.add_argument("--axis", type=int, default=-1, help="axis that blocks run along (default: -1)")
    command.add_argument(
        "--dtype", default="float32", help="dtype of the tensor: float32 (default), bfloat16, float16"
    )
    command.add_argument("--block-size", type=int, help="elements that share a scale (default: the format's)")
    command.add_argument(
        "--scale-rule", metavar="RULE", help="default: the format's first; see `mxcheck formats`"
    )
    command.add_argument("--rounding", help="default: even")
    command.add_argument(
        "--nonfinite", metavar="POLICY", help="what NaN and Inf do: block (default), element"
    )
    command.add_argument(
        "--dialect", help="a name for a scale rule, a rounding and a NaN/Inf policy, in place of these three"
    )
    command.add_argument("--tail", help="where blocks do not divide the axis: pad (default), error")
    command.add_argument(
        "--random",
        nargs="+",
        metavar="R",
        help="for --rounding stochastic: an integer in [0, 2^32) an element",
    )
    command.add_argument(
        "--kernel",
        metavar="NAME",
        help="an implementation by name (eager, torchao, …), package.module:function, or a program: "
        "'command:./my_cast --fast' (docs/cases.md)",
    )
    command.set_defaults(run=_explain)


def read_cast(options: argparse.Namespace) -> tuple[NDArray[np.float32], CastSpec]:
    """Return the tensor (float32) and the cast that a command line requests.

    Raises:
        ValueError: an input is not allowed; in one line.
    """
    from mxcheck.formats.notation import parse_hex, parse_random, parse_shape, parse_values

    parse, words = (parse_hex, options.hex) if options.values is None else (parse_values, options.values)
    x = parse(_plain(words), options.dtype)
    if options.shape is not None:
        x = x.reshape(parse_shape(options.shape.strip(), x.size))
    named = {name: getattr(options, name) for name in ("scale_rule", "rounding", "nonfinite")}
    if options.dialect is not None:
        twice = [f"--{name.replace('_', '-')}" for name, value in named.items() if value is not None]
        if twice:
            raise ValueError(
                f"--dialect {options.dialect} says {', '.join(twice)} already; leave out one or the other"
            )
        named = dict(dialect(options.dialect))
    random = None
    if options.random is not None:
        if named["rounding"] != "stochastic":
            raise ValueError("--random is for --rounding stochastic; leave it out, or add that")
        random = parse_random(_plain(options.random), x.shape)
    elif named["rounding"] == "stochastic":
        raise ValueError(
            f"--rounding stochastic takes --random with an integer in [0, 2^32) for each element: "
            f"{x.size}, got none (r*n is n times r)"
        )
    asked = {"axis": options.axis, "block_size": options.block_size, "tail": options.tail, **named}
    given = {name: value for name, value in asked.items() if value is not None}
    return x, cast_spec(options.format, random=random, **given)


def _plain(words: list[str]) -> list[str]:
    """Remove the space of `numbers_are_no_options`."""
    return [word.strip() for word in words]


def _explain(options: argparse.Namespace) -> int:
    x, spec = read_cast(options)

    from mxcheck.reporting.derivation import cast
    from mxcheck.reporting.differences import differences
    from mxcheck.reporting.explanation import ComparedCast, print_explanation

    done = cast(x, spec)
    if options.kernel is None:
        print_explanation(console(), done, dtype=options.dtype)
        return 0
    try:
        got = _run_kernel(options.kernel, x, spec, options.dtype)
    except KernelError as error:
        print_explanation(console(), done, dtype=options.dtype)
        say(f"kernel {options.kernel}: {error}", error=True)
        return 1
    comparison = ComparedCast(
        kernel=options.kernel, dtype=options.dtype, got=got, differences=differences(done, got, options.dtype)
    )
    print_explanation(console(), done, dtype=options.dtype, comparison=comparison)
    return 1 if comparison.differences.any else 0


def _place(error: BaseException) -> str:
    """Return where an error was raised: the last file outside installed packages, if any."""
    frames = traceback.extract_tb(error.__traceback__)[1:]
    own = [one for one in frames if "site-packages" not in one.filename] or frames
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "no line of Python"


def _run_kernel(name: str, x: NDArray[np.float32], spec: CastSpec, dtype: str) -> Got:
    """Return a kernel's result for x in `dtype`.

    Raises:
        ValueError: there is no such kernel, or it refuses the cast.
        KernelError: it failed, returned no valid result, or changed its input.
    """
    from dataclasses import replace

    import torch

    from mxcheck.conformance.programs.program import ProgramError
    from mxcheck.conformance.verify.plain_results import plain_result
    from mxcheck.kernels.api import check_parts, check_values
    from mxcheck.reporting.derivation import in_block_order
    from mxcheck.reporting.differences import Got

    kernel = named_kernel(name)
    tensor = torch.from_numpy(x.copy()).to(getattr(torch, dtype))
    before = tensor.clone()
    if spec.random is not None:
        spec = replace(spec, random=torch.from_numpy(spec.random.copy()))
    try:
        result = kernel(tensor, spec)
    except NotImplementedError as error:
        raise ValueError(f"kernel {name} does not do this: {error or 'it gives no reason'}") from error
    except ProgramError as error:
        raise KernelError(str(error)) from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  (whatever a kernel raises is reported as its own)
        raise KernelError(one_line(f"raised {type(error).__name__}: {error} ({_place(error)})")) from None
    try:
        result = plain_result(kernel, result, tensor)
        if isinstance(result, torch.Tensor):
            check_values(kernel, result, tensor)
        else:
            quantized = check_parts(kernel, result, tensor, spec)
    except (TypeError, ValueError) as error:
        raise KernelError(str(error)) from None
    if not torch.equal(before.view(torch.uint8), tensor.view(torch.uint8)):  # NaN equals NaN
        raise KernelError("it changed its input")
    if isinstance(result, torch.Tensor):
        return Got(spec=spec, values=result.detach().float().contiguous().numpy())
    tensor_scale = quantized.tensor_scale
    return Got(
        spec=spec,
        codes=quantized.codes.contiguous().numpy(),
        scales=in_block_order(quantized.scales.detach().numpy(), spec),
        tensor_scale=None if tensor_scale is None else tensor_scale.detach().numpy(),
    )
