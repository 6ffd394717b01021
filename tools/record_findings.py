"""Record what the known findings come to: how many mismatches, of which kind, in which group of inputs.

Reads the JSON that `pytest tests/kernels --mx-report=DIR` wrote (once for each level) and rewrites
`src/mxcheck/conformance/known.json`. Look at the diff: every new cell needs a finding in `findings.toml`,
checked by hand; a test refuses cells and kinds that none explains.

    python tools/record_findings.py REPORT.json [REPORT.json ...]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from mxcheck.formats.aliases import precision_of
from mxcheck.kernels.registry import HOUSE

KNOWN = Path(__file__).parent.parent / "src/mxcheck/conformance/known.json"


def main(reports: list[str]) -> None:
    known: dict[str, Any] = json.loads(KNOWN.read_text())
    for row in (row for report in reports for row in json.loads(Path(report).read_text())):
        cell = f"{precision_of(row['format'])}-{row['rule']}"
        if row["implementation"] in HOUSE:
            assert not row["mismatches"], f"ours is exact or it is mended: {row}"
            continue
        own = known.setdefault(row["implementation"], {"cells": {}})
        own["version"] = row["version"]
        levels = own["cells"].setdefault(cell, {})
        levels[row["level"]] = row["mismatches"]
        if not any(levels.values()):
            del own["cells"][cell]
    KNOWN.write_text(as_text(known))


def as_text(known: dict[str, Any]) -> str:
    """JSON, sorted, with one line for each level of each cell: small, and a diff shows what has changed."""
    return _nested(known, 4) + "\n"


def _nested(value: Any, depth: int) -> str:
    """`depth` levels of objects that have a line for each key, with what is deeper on one line."""
    if depth == 0 or not isinstance(value, dict) or not value:
        return json.dumps(value, sort_keys=True, separators=(",", ":"))
    lines = [f"{json.dumps(key)}:{_nested(value[key], depth - 1)}" for key in sorted(value)]
    return "{\n" + ",\n".join(lines) + "\n}"


if __name__ == "__main__":
    main(sys.argv[1:])
