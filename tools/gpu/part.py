"""One measuring part, in a process of its own:

    python -m gpu.part NAME --device cuda --answer FILE [--short]

Writes {"result": …, "wrong": […]} and exits with 1 where something is wrong.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from pathlib import Path

from gpu import seen_lines


def main() -> int:
    parser = argparse.ArgumentParser(description="one part of tools/gpu_check.py")
    parser.add_argument("name")
    parser.add_argument("--device", required=True)
    parser.add_argument("--answer", type=Path, required=True)
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args()
    seen_lines.start()
    try:
        measure = importlib.import_module(f"gpu.{options.name}").measure
        result, wrong = measure(options.device, short=options.short)
    finally:
        seen_lines.stop()
        seen_lines.store(Path(os.environ[seen_lines.FOLDER]))
    options.answer.write_text(json.dumps({"result": result, "wrong": wrong}), encoding="utf-8")
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
