"""`mxcheck`: its commands, and the handling of bad input."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from contextlib import suppress

from mxcheck import __version__
from mxcheck.cli import (
    baselines_command,
    bounds_command,
    cases_command,
    explain_command,
    formats_command,
    identify_command,
    ladder_command,
    leases_command,
    merge_command,
    models_command,
    run_command,
    sample_command,
    verify_command,
)
from mxcheck.cli.signals import EndedFromOutside, ended_in_order
from mxcheck.extras import named
from mxcheck.files.printed import printable, told
from mxcheck.reporting.screen import Screen
from mxcheck.run.library_messages import leave_out_logged, leave_out_warned

_GROUPS = (
    *(
        formats_command,
        explain_command,
        identify_command,
        cases_command,
        verify_command,
        ladder_command,
        models_command,
        baselines_command,
        bounds_command,
        sample_command,
    ),
    *(run_command, merge_command, leases_command),
)

#: A full disk or quota. A write error does not name the file.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main(arguments: list[str] | None = None) -> int:
    """Entry point. Returns the exit code: 0; 1 where `baselines diff`, `baselines prune`, `bounds`,
    `explain`, `identify`, `merge`, `run` or `verify` found something; 2 for bad input, and where the system
    refuses a file; 141, the shell's code for SIGPIPE, where the reader has closed the output; 143 (129) where
    SIGTERM (SIGHUP) ends it; 130 for a command that can be resumed with the same words."""
    leave_out_logged()
    leave_out_warned()
    return carry_out(parse(sys.argv[1:] if arguments is None else arguments))


def carry_out(options: argparse.Namespace) -> int:
    """Run the command of a parsed command line; bad input ends in one line and exit code 2, as in `main`."""
    try:
        with ended_in_order():
            code = int(options.run(options))
        sys.stdout.flush()  # report a full disk here, not when the interpreter exits
        return code
    except EndedFromOutside as ended:
        return ended.code
    except BrokenPipeError:  # the reader has closed the output
        _forget_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.filename is None and error.errno not in _NO_ROOM:
            raise  # our own error
        _forget_output()
        where, remedy = _about(error)
        Screen(stderr=True, soft_wrap=True).print(f"mxcheck: {where}: {told(error)}; {remedy}")
        return 2
    except ValueError as error:
        return _refused(error)
    except ModuleNotFoundError as error:
        return _refused(named(error, "this command"))


def _refused(error: ValueError) -> int:
    Screen(stderr=True, soft_wrap=True).print(f"mxcheck: {error}")
    return 2


def _about(error: OSError) -> tuple[str, str]:
    """Return the refused file or output, and the remedy."""
    where = "the output" if error.filename is None else str(error.filename)
    if error.errno in _NO_ROOM:
        return where, "make room, or let it be written elsewhere, and run this again"
    return where, "name one that is there and that you may use"


def _forget_output() -> None:
    """Discard unwritten output, which would fail again when the interpreter exits."""
    with suppress(OSError, ValueError):  # no file of the system, as under test
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parse(words: list[str]) -> argparse.Namespace:
    """Parse a command line into options with `run`, which executes it; bad usage ends the program."""
    parser = argparse.ArgumentParser(
        prog="mxcheck",
        description="Inspect formats, single casts, precisions, models and accepted baselines. "
        "The gate runs under pytest: pytest --pyargs mxcheck.suite.models.",
    )
    parser.add_argument("--version", action="version", version=f"mxcheck {__version__}")
    parser.set_defaults(passes_on=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in _GROUPS:
        group.add_commands(commands)
    if words[:1] == ["exhaustive"]:
        parser.error("exhaustive is `python -m validation exhaustive` in a checkout of mxcheck")
    options, others = parser.parse_known_args(explain_command.numbers_are_no_options(words))
    if others and not options.passes_on:
        parser.error(f"unknown arguments: {printable(' '.join(others))}")
    options.pytest = others
    return options
