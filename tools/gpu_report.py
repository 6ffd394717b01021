"""Write docs/results/gpu.md from the JSON of a run of tools/gpu_check.py, and from the code.

    python tools/gpu_report.py build/gpu-check/gpu.json   # a run: kept as docs/results/gpu.json
    python tools/gpu_report.py                            # the page anew, from the run that is kept, if any
    python tools/gpu_report.py --check                    # writes nothing; exit code 1 where it is old

The list of CUDA branches is read from src/mxcheck each time: what has changed since the run is "not run".
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
sys.path[:0] = [str(REPOSITORY / "src"), str(REPOSITORY / "tools")]

from gpu.branches import Branch, branches  # noqa: E402  (it lies beside this file)
from gpu.suites import worst_shares  # noqa: E402

RESULTS = REPOSITORY / "docs" / "results"
#: A run's word for a branch -> the page's.
_STATES = {"run": "run", "condition run": "condition run, what it decides about not"}
#: Words of the gate for a case that is not red, as far as this page counts them.
_PASSED = ("pass", "skipped")

HEAD = """# On a GPU

Made by `python tools/gpu_report.py`; do not edit. `make gpu-check` measures on one GPU, in at most six
minutes, what no other machine can say: the casts bit by bit, the gate against the CPU's baselines, torch's
scaled products, times as ratios within the run, and leases against what the driver reports. Where the machine
has no network, run `make gpu-wheels` elsewhere first and bring `build/gpu-wheels` along with the tree.
"""
NOT_YET = """
**Not yet run on a GPU.** Every part has been rehearsed on a CPU (`python tools/gpu_check.py --device cpu`);
no figure of a rehearsal stands here.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0; 1 where --check finds the page out of date; 2 for a run that no page is made of."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", nargs="?", type=Path, help="JSON of a run")
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--results", type=Path, default=RESULTS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    kept, target = options.results / "gpu.json", options.results / "gpu.md"
    path = options.run or (kept if kept.is_file() else None)
    try:
        report = None if path is None else read_run(path)
    except ValueError as error:
        print(f"gpu-report: {error}", file=sys.stderr)
        return 2
    text = page(report, branches())
    if options.check:
        current = target.is_file() and target.read_text(encoding="utf-8") == text
        print(f"{target}: {'current' if current else 'not current; run python tools/gpu_report.py'}")
        return 0 if current else 1
    options.results.mkdir(parents=True, exist_ok=True)
    if options.run is not None:
        kept.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    target.write_text(text, encoding="utf-8")
    print(f"{target}: written")
    return 0


def read_run(path: Path) -> dict[str, Any]:
    """A run's JSON. Raises ValueError, in one line, for what is none, and for a rehearsal."""
    try:
        report: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as the JSON of tools/gpu_check.py: {error}") from error
    if not isinstance(report, dict) or report.get("version") != 1 or "parts" not in report:
        raise ValueError(f"{path} is no JSON of tools/gpu_check.py, version 1; run `make gpu-check`")
    if report.get("rehearsal") is not False:
        raise ValueError(f"{path} is a rehearsal; a page is made from a run on a GPU: make gpu-check")
    return report


def page(report: Mapping[str, Any] | None, known: Sequence[Branch]) -> str:
    """The whole page, of a run or (None) of none."""
    lines = [HEAD.rstrip()]
    lines += [NOT_YET.rstrip()] if report is None else _run(report)
    lines += _branches(known, {} if report is None else report.get("branches", {}))
    return "\n".join(lines) + "\n"


def _run(report: Mapping[str, Any]) -> Iterator[str]:
    parts: Mapping[str, Any] = report["parts"]
    yield from _machine(report, parts.get("machine", {}))
    yield ""
    yield "| part | state | seconds | at most |"
    yield "|---|---|---|---|"
    for name, part in parts.items():
        yield f"| {name} | {part['state']} | {part.get('seconds', '')} | {part.get('limit', '')} |"
    for name, write in _SECTIONS.items():
        part = parts.get(name, {})
        try:
            yield from write(part)
        except (KeyError, TypeError, ValueError):
            # A part that failed half way has only some of its figures; its state and last lines say so.
            yield f"\nThe figures of `{name}` are not complete."
    for name, part in parts.items():
        if part.get("last_lines"):
            yield f"\n## Last lines of {name} ({part['state']})\n"
            yield "```"
            yield from (line.replace("```", "'''") for line in part["last_lines"])
            yield "```"


def _machine(report: Mapping[str, Any], part: Mapping[str, Any]) -> Iterator[str]:
    facts = part.get("result", {}).get("machine", {})
    packages = ", ".join(f"{name} {version}" for name, version in facts.get("packages", {}).items())
    device, capability, cuda, python = (
        facts.get(name, "unknown") for name in ("device", "capability", "cuda", "python")
    )
    yield f"\n{report['date']}: {device}, compute capability {capability}, CUDA {cuda}, Python {python}, "
    yield f"{packages or 'versions unknown'}; {report.get('seconds', 0):.0f} s in all."


def _leases(part: Mapping[str, Any]) -> Iterator[str]:
    yield "\n## Leases against the driver (MiB)\n"
    figures = part["result"]["leases"]
    yield from _table(
        ("figure", "value"), [(name.replace("_", " "), value) for name, value in figures.items()]
    )
    yield from (f"\n**Wrong:** {line}" for line in part["wrong"])


def _products(part: Mapping[str, Any]) -> Iterator[str]:
    yield "\n## Scaled products\n"
    yield "Error: norm of the difference over the norm of the exact product. Time: over a bf16 product's.\n"
    rows = [
        (
            row["kind"],
            row["dtype"],
            _figure(row["error"]),
            row["layout"],
            _figure(row["ratio_to_bf16"]),
            row["refused"],
        )
        for row in part["result"]["products"]
    ]
    yield from _table(("scales", "result", "error", "layout of the scales", "time", "refused"), rows)


def _casts(part: Mapping[str, Any]) -> Iterator[str]:
    yield f"\n## House casts over `copy_` into a buffer, {' by '.join(map(str, part['result']['shape']))}\n"
    rows = [
        (
            *(row["kernel"], row["format"], row["dtype"], "yes" if row["equal"] else "**no**"),
            *(_figure(row["codes_over_copy"]), _figure(row["values_over_copy"])),
        )
        for row in part["result"]["casts"]
    ]
    yield from _table(("kernel", "format", "dtype", "bits as on the CPU", "codes", "values"), rows)


def _case_times(part: Mapping[str, Any]) -> Iterator[str]:
    result = part["result"]
    yield f"\n## A case by part, over the bare forward passes ({result['precision']}-{result['tier']})\n"
    cases = result["cases"]
    steps = dict.fromkeys(step for case in cases for step in case["over_bare"])
    rows = [(step, *(_figure(case["over_bare"].get(step)) for case in cases)) for step in steps]
    yield from _table(("step", *(f"{one['model']}, {one['tokens']:,} tokens" for one in cases)), rows)


def _kernels(title: str) -> Any:
    def write(part: Mapping[str, Any]) -> Iterator[str]:
        yield f"\n## {title}\n"
        yield from _tests(part["tests"])
        matrix = ", ".join(f"{count} {verdict}" for verdict, count in part.get("conformance", {}).items())
        yield f"\nCells of the matrix: {matrix or 'none'}."

    return write


def _gate(title: str) -> Any:
    def write(part: Mapping[str, Any]) -> Iterator[str]:
        cases = part["cases"]
        yield f"\n## {title}\n"
        if "tests" in part:
            yield from _tests(part["tests"])
        worst = worst_shares(cases)
        shares = [f"{name} {share:.2f} ({case})" for name, (share, case) in worst.items()]
        yield f"\nWorst share of the drift that is allowed: {'; '.join(shares) or 'none was compared'}.\n"
        rows = [
            (
                *(case["id"], case["outcome"], _figure(case.get("kl")), _figure(case.get("kl_accepted"))),
                *(_figure(case.get("drift_shares", {}).get(name)) for name in ("reference", "loss", "kl")),
                *(case.get("digests_changed", ""), case.get("reason") or case.get("not_compared") or ""),
            )
            for case in sorted(cases, key=lambda case: case["outcome"] in _PASSED)
        ]
        head = (
            "case",
            "outcome",
            "KL",
            "accepted",
            "reference",
            "losses",
            "KL drift",
            "digests changed",
            "why",
        )
        yield from _table(head, rows)

    return write


_SECTIONS = {
    "machine": _leases,
    "products": _products,
    "gate": _gate("The reference gate against the CPU's baselines"),
    "kernels": _kernels("Kernel suite, level quick"),
    "casts": _casts,
    "triton": _kernels("Kernel suite, level quick: the Triton kernel"),
    "case_times": _case_times,
    "gate_rest": _gate("The reference gate: the other precisions"),
}


def _tests(tests: Mapping[str, Any]) -> Iterator[str]:
    counts = [f"{tests[word]} {word}" for word in ("passed", "failed", "skipped") if word in tests]
    yield f"Tests: {', '.join(counts) or 'none'}."
    for failure in tests.get("failures", []):
        message = " ".join(failure["message"].split()).replace("`", "'")
        yield f"\n- `{failure['test']}`: {message}"


def _branches(known: Sequence[Branch], states: Mapping[str, str]) -> Iterator[str]:
    run = sum(branch.key in states for branch in known if not branch.is_data)
    total = sum(not branch.is_data for branch in known)
    yield "\n## Every CUDA branch of the code\n"
    yield f"{run} of {total} statements were run on a GPU. A branch is a statement of `src/mxcheck` that"
    yield "names CUDA, a GPU, nvidia or a compute capability, or compares with the CPU. Tables and constants"
    yield "are data: they are read and not run."
    for file, found in groupby(known, key=lambda branch: branch.file):
        yield f"\n### `{file}`\n"
        rows = [(f"`{one.function or 'module'}`", f"`` {one.code} ``", _state(one, states)) for one in found]
        yield from _table(("in", "statement", "on a GPU"), dict.fromkeys(rows))


def _state(branch: Branch, states: Mapping[str, str]) -> str:
    return "data" if branch.is_data else _STATES.get(states.get(branch.key, ""), "not run")


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in rows:
        texts = ["" if cell is None else " ".join(str(cell).split()) for cell in row]
        cells = [text.replace("|", r"\|") for text in texts]  # a bar ends a cell, in code too
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
