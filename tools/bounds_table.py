"""Write the table of docs/bounds.md: every precision and tier, its cost on the reference models, its bound,
the share of it that is used, and what has been published for real models.

    python tools/bounds_table.py            # rewrites the table between its markers
    python tools/bounds_table.py --check    # writes nothing; exit code 1 where the table is not current

Measured figures come from baselines/, bounds from src/mxcheck/gate/bounds.toml. Published perplexities
stand below with their sources, which docs/bounds.md spells out. No bound is made from them.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from mxcheck.gate.baseline import read
from mxcheck.gate.bounds_tables import load_bounds
from mxcheck.gate.case import case_of
from mxcheck.gate.record import Record
from mxcheck.reporting.table import percent_change

BEGIN = "<!-- begin: tools/bounds_table.py -->"
END = "<!-- end: tools/bounds_table.py -->"
TRAINED = ("ref-llama", "ref-neo", "ref-moe")
OUTLIERS = "outlier-llama"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Perplexity of a real model before and after quantization; `source` is a number of docs/bounds.md."""

    model: str
    before: float
    after: float
    source: int


def _of_llama_3(one: float, three: float) -> tuple[Published, ...]:
    return (
        Published(model="Llama-3.2-1B", before=9.0625, after=one, source=1),
        Published(model="Llama-3.2-3B", before=7.2857, after=three, source=1),
    )


def _of_torchao(after: float) -> Published:
    return Published(model="Llama-3.1-8B", before=7.547, after=after, source=2)


PUBLISHED: dict[str, tuple[Published, ...]] = {
    "mxint8-B": (
        *_of_llama_3(9.0815, 7.2944),
        Published(model="LLaMA-7B", before=9.488, after=9.504, source=3),
    ),
    "mxfp8_e4m3-B": (*_of_llama_3(9.1695, 7.3381), _of_torchao(7.609)),
    "mxfp6_e2m3-B": _of_llama_3(9.2209, 7.3605),
    "mxfp4_e2m1-B": _of_llama_3(14.0516, 9.2355),
    "nvfp4-B": (*_of_llama_3(10.7473, 8.0343), _of_torchao(8.44)),
    "te_mxfp8-B": (_of_torchao(7.60),),
    "scaled_mm_fp8_row-B": (_of_torchao(7.62),),
    "fp8_tensor_e4m3-B": (
        Published(model="GPT3 126M", before=19.01, after=19.43, source=4),
        Published(model="GPT3 1.3B", before=10.19, after=10.29, source=4),
        Published(model="GPT3 6.7B", before=8.51, after=8.41, source=4),
    ),
    "bnb_int8-B": (
        Published(model="125M", before=25.65, after=25.83, source=5),
        Published(model="1.3B", before=15.91, after=15.93, source=5),
        Published(model="13B", before=12.45, after=12.45, source=5),
    ),
}


def table(baselines: Path) -> str:
    """The table as Markdown. Raises BaselineError for a baseline that cannot be read."""
    ours = tomllib.loads(resources.files("mxcheck.gate").joinpath("bounds.toml").read_text())
    header = ["precision", *TRAINED, "bounds", "used", OUTLIERS, "bounds", "used", "published"]
    lines = [header, ["---"] * len(header)]
    lines += [_row(name, baselines) for name in ours["default"] if "+" not in name]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _row(name: str, baselines: Path) -> list[str]:
    cells = [name]
    for models in (TRAINED, (OUTLIERS,)):
        records = [_accepted(baselines / model / f"{name}.json") for model in models]
        bounds = load_bounds().of(case_of(models[0], name)).kl
        measured = [record.kl for record in records if record is not None]
        used = f"{100 * max(measured) / bounds:.0f} %" if measured and bounds else ""
        cells += [*map(_measured, records), f"{bounds:g}", used]
    return [*cells, ", ".join(map(_published, PUBLISHED.get(name, ())))]


def _accepted(path: Path) -> Record | None:
    return read(path) if path.is_file() else None


def _measured(record: Record | None) -> str:
    """KL and change of the perplexity; empty where no baseline was accepted."""
    if record is None:
        return ""
    return "0" if record.bit_equal else f"{record.kl:.2g}, {percent_change(record)[0]:+.2f} %"


def _published(found: Published) -> str:
    return f"{found.model} {100 * (found.after / found.before - 1):+.1f} % [{found.source}]"


def replaced(page: str, new: str) -> str:
    """`page` with `new` between the markers. Raises ValueError where it has not one of each, in order."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in after or END in before + after:
        raise ValueError(f"the page needs one line {BEGIN!r} and, below it, one line {END!r}")
    return f"{before}{BEGIN}\n{new}{END}{after}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", type=Path, default=Path("docs/bounds.md"))
    parser.add_argument("--baselines", type=Path, default=Path("baselines"))
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 if it would change")
    options = parser.parse_args(arguments)
    page = options.page.read_text(encoding="utf-8")
    current = replaced(page, table(options.baselines))
    if options.check:
        print(f"{options.page}: {'current' if page == current else 'run tools/bounds_table.py'}")
        return int(page != current)
    options.page.write_text(current, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
