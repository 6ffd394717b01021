"""Merge the shards of one run: check that they belong together, and judge the whole run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mxcheck.distributed.shard_file import ShardRun, file_name, find, read
from mxcheck.files.printed import REFUSAL, one_line
from mxcheck.gate.case import Case
from mxcheck.gate.result import CaseResult, Outcome, all_green

#: pytest's exit statuses except 0, in words.
_NO_TESTS = 5
_STATUSES = {
    1: "tests failed that it did not name",
    2: "interrupted",
    3: "internal error",
    4: "usage error",
    _NO_TESTS: "no tests ran",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """A whole run. `results` by case id, in the table's order, one for each selected case; `red` are the
    messages of red cases by id, `failures` those of failed tests that are no cases, by shard and node id;
    `troubles` are further reasons for red, a line each."""

    shards: tuple[ShardRun, ...]
    files: tuple[Path, ...]
    results: Mapping[str, CaseResult]
    red: Mapping[str, str]
    failures: Mapping[str, str]
    troubles: tuple[str, ...]

    @property
    def green(self) -> bool:
        return all_green(self.results.values()) and not (self.failures or self.troubles)

    @property
    def exit_status(self) -> int:
        """Exit status of the command that prints it: 0 green, 1 red."""
        return 0 if self.green else 1


def merge_folder(folder: Path) -> Merged:
    """Merge the shards whose files lie below `folder`.

    Raises ValueError, in one line that names the files, where they are not the complete shards of one run.
    """
    try:
        return _merged(folder)
    except ValueError as error:
        raise ValueError(one_line(str(error), REFUSAL)) from error


def _merged(folder: Path) -> Merged:
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is not a directory; name the one that contains the directories of --mx-report=DIR of "
            f"all shards"
        )
    found = [(path, read(path)) for path in find(folder)]
    if not found:
        raise ValueError(
            f"no shard file (shard-1-of-N.json) in or below {folder}: run pytest with --mx-shard=i/N and "
            f"--mx-report={folder}"
        )
    _same_count(found)
    _each_once(found)
    _same_basis(found)
    _same_cases(found)
    _none_missing(found, folder)
    _same_devices(found)
    _whole(found)
    found.sort(key=lambda one: one[1].index)
    return _joined(tuple(path for path, _ in found), tuple(shard for _, shard in found))


Found = Sequence[tuple[Path, ShardRun]]


def _same_count(found: Found) -> None:
    groups = _groups(found, lambda shard: str(shard.count))
    if len(groups) > 1:
        raise ValueError(
            f"shards of runs in {_listed(groups, 'parts')}; remove those of the other run, "
            f"or run all shards again with one N"
        )


def _each_once(found: Found) -> None:
    for name, paths in _groups(found, lambda shard: shard.name).items():
        if len(paths) > 1:
            raise ValueError(
                f"shard {name} is there {len(paths)} times: {_names(paths)}; keep the one that counts"
            )


def _same_basis(found: Found) -> None:
    for what, key, cure in (
        ("runs", "run", "remove those of the other runs"),  # first: another run may differ in the others too
        ("mxcheck", "mxcheck", "install one version everywhere"),
        ("commit", "commit", "check out one commit everywhere"),
        ("uncommitted changes", "changes", "commit them, or give every machine the same files"),
        ("mxcheck sources", "sources", "install the same mxcheck everywhere"),
        ("accepted baselines", "baselines", "give every machine the same baselines"),
        ("-k, -m and other selection", "selection", "give every shard the same"),
        ("paths to collect", "arguments", "give every shard the same"),
        ("options", "options", "give every shard the same"),
    ):
        groups = _groups(found, lambda shard, key=key: asdict(shard.basis)[key] or "none")
        if len(groups) > 1:
            raise ValueError(
                f"shards of different {what}: {_listed(groups)}; {cure}, and run all shards again"
            )


def _same_cases(found: Found) -> None:
    first_path, first = found[0]
    for path, shard in found:
        if shard.cases != first.cases:
            only = {case.id for case in shard.cases} ^ {case.id for case in first.cases}
            differ = f"such as {min(only)}" if only else "in another order"
            raise ValueError(
                f"shards of different runs: {first_path} and {path} have other cases ({differ}); give every "
                f"shard the same --mx-models, --mx-precision and other options, and the same libraries, and "
                f"run all shards again"
            )


def _same_devices(found: Found) -> None:
    """Check that all shards used the same device: `--mx-device=auto` uses what a machine has, and passing the
    CPU's baselines implies nothing for a GPU."""
    kinds: dict[str, list[Path]] = {}
    for path, shard in found:
        records = [result.record for result in shard.results if result.record is not None]
        devices = [record.environment.get("device") for record in records]
        for kind in {"cpu" if device == "cpu" else "GPU" for device in devices if device}:
            kinds.setdefault(kind, []).append(path)
    if len(kinds) > 1:
        raise ValueError(
            f"shards on different devices: {_listed(kinds)}; say which with --mx-device, cuda or cpu, and "
            f"run all shards again"
        )


def _none_missing(found: Found, folder: Path) -> None:
    count = found[0][1].count
    there = {shard.index for _, shard in found}
    if missing := [index for index in range(1, count + 1) if index not in there]:
        raise ValueError(
            f"missing in or below {folder}: {', '.join(file_name(index, count) for index in missing)} "
            f"(there: {_names([path for path, _ in found])}); look at the logs of "
            f"shard {', '.join(f'{index}/{count}' for index in missing)}, which did not end, and run it again"
        )


def _whole(found: Found) -> None:
    """Check the parts: shards of one N and the same cases compute the same parts, unless something is very
    wrong."""
    owners = Counter(name for _, shard in found for name in shard.part)
    files = _names([path for path, _ in found])
    for case in found[0][1].cases:
        if owners[case.id] != 1:
            raise ValueError(
                f"{case.id} is part of {owners[case.id]} of the shards {files}, and must be part of one; "
                f"run all shards again with the same options and the same mxcheck"
            )


def _groups(found: Found, key: Any) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for path, shard in found:
        groups.setdefault(key(shard), []).append(path)
    return groups


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths))


def _listed(groups: Mapping[str, Sequence[Path]], unit: str = "") -> str:
    return "; ".join(f"{f'{value} {unit}'.strip()} ({_names(paths)})" for value, paths in groups.items())


def _joined(files: tuple[Path, ...], shards: tuple[ShardRun, ...]) -> Merged:
    results: dict[str, CaseResult] = {}
    red: dict[str, str] = {}
    failures: dict[str, str] = {}
    troubles = []
    for shard in shards:
        cases = {case.id: case for case in shard.cases}
        of_case = {result.case.id: result for result in shard.results}
        for name in shard.selected:
            results[name] = result = of_case.get(name) or _never_ran(cases[name], shard)
            if result.outcome.red:
                silent = f"{result.word} in shard {shard.name}, which did not say why"
                red[name] = shard.messages.get(name) or f"{name}: {result.reason or silent}"
        if missing := _left_out(shard):
            troubles.append(
                f"shard {shard.name}: {len(missing)} of the {len(shard.part)} cases of its part were not "
                f"selected, though no option leaves any out (such as {missing[0]}); look at the paths, and "
                f"at what a conftest.py leaves out"
            )
        failures |= {f"shard {shard.name}: {name}": words for name, words in shard.failures.items()}
        if not _accounted(shard, red):
            words = _STATUSES.get(shard.exit_status, "unknown to pytest")
            troubles.append(f"shard {shard.name}: pytest ended with {shard.exit_status} ({words})")
    if not results:
        troubles.append(
            f"no case was selected in any shard ({shards[0].basis.selection or 'nothing leaves any out'})"
        )
    if results and all(result.outcome is Outcome.SKIPPED for result in results.values()):
        troubles.append("every selected case was skipped: nothing was measured")
    order = [case.id for case in shards[0].cases if case.id in results]
    return Merged(
        shards=shards,
        files=files,
        results={name: results[name] for name in order},
        red={name: red[name] for name in order if name in red},
        failures=failures,
        troubles=tuple(troubles),
    )


def _left_out(shard: ShardRun) -> list[str]:
    """Return the cases of a part that were not selected though no option narrows the run."""
    return [] if shard.basis.selection else [name for name in shard.part if name not in shard.selected]


def _accounted(shard: ShardRun, red: Mapping[str, str]) -> bool:
    """Return whether a shard's contents explain the exit status of its pytest."""
    if shard.exit_status == 1:
        return bool(shard.failures) or any(name in red for name in shard.selected)
    if shard.exit_status == _NO_TESTS:
        return not shard.selected  # for example, -k left this part nothing
    return shard.exit_status == 0


def _never_ran(case: Case, shard: ShardRun) -> CaseResult:
    reason = f"selected in shard {shard.name}, and has no row: never ran"
    return CaseResult(case=case, outcome=Outcome.NO_ROW, reason=reason)
