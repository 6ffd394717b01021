"""The gate's six steps, in order, as pure functions of a record, its accepted baseline and its budget."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mxcheck.gate.budget import Budget
from mxcheck.gate.drift import Drift, drift, moved, same_arithmetic
from mxcheck.gate.record import Record
from mxcheck.gate.statistics import UPPER_95, differences, mean_and_error

STEPS = {
    1: "inputs",
    2: "reference",
    3: "conversion",
    4: "casts",
    5: "budget",
    6: "drift",
}

#: |mean(loss - entropy)| of the reference on text sampled from itself, in standard errors. Its expectation
#: is zero; four standard errors are passed by chance once in 16,000 samplings, and the tokens are fixed. The
#: standard error of few sequences is itself uncertain (Student's t), so the bound widens by 5 / (n - 1).
SELF_SAMPLED_Z = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One assertion of one step: what was asked, whether it held, and the figures. `key` is the assertion's
    own name, by which gate/cause.py tells the checks of one step apart."""

    step: int
    key: str
    passed: bool
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """All checks of a case in the order of the steps; `alone` are those that need no baseline (of steps 2, 3
    and 5), which are made even where the records are not comparable and `checks` stops at that."""

    checks: tuple[Check, ...]
    alone: tuple[Check, ...]

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def acceptable(self) -> bool:
        """Whether an update could store the record: what needs no baseline holds."""
        return all(check.passed for check in self.alone)

    @property
    def failed_steps(self) -> tuple[int, ...]:
        return tuple(sorted({check.step for check in self.failures}))


def judge(record: Record, baseline: Record | None, budget: Budget) -> Verdict:
    """Every check that can be made; without a baseline, those that need none (steps 2, 3 and 5)."""
    own_samples, bits, bounds = tuple(_own_samples(record)), _bits(record), tuple(_budget(record, budget))
    alone = (*own_samples, bits, *bounds)
    if baseline is None:
        return Verdict(checks=alone, alone=alone)
    comparable = _comparable(record, baseline)
    if not comparable.passed:
        return Verdict(checks=(comparable,), alone=alone)
    checks = (
        *(comparable, _same_corpus(record, baseline), *_fingerprints(record, baseline)),
        *(*own_samples, _reference(record, baseline)),
        *(bits, _modules(record, baseline)),
        *_casts(record, baseline),
        *bounds,
        *_drift(record, baseline),
    )
    return Verdict(checks=checks, alone=alone)


def rise(record: Record) -> tuple[float, float, float]:
    """Paired rise of the cross-entropy over the reference: mean, standard error, upper 95 % bound."""
    mean, error = mean_and_error(differences(record.sequence_losses, record.reference_losses))
    return mean, error, mean + UPPER_95 * error


def self_sampled_z(record: Record) -> float:
    """The reference's mean (loss - entropy) in standard errors, clustered by sequence."""
    mean, error = mean_and_error(differences(record.reference_losses, record.reference_entropies))
    if error == 0:
        return 0.0 if mean == 0 else math.copysign(math.inf, mean)
    return mean / error


def _check(step: int, key: str, passed: bool, message: str) -> Check:
    return Check(step=step, key=key, passed=passed, message=message)


#: What names a case. A record of another one under this name was stored, or copied, where it does not belong.
_IDENTITY = ("model", "precision", "tier", "options")


def _comparable(record: Record, baseline: Record) -> Check:
    """Records of different cases, or of different recipes, are not comparable."""
    now, then = ({key: getattr(one, key) for key in _IDENTITY} for one in (record, baseline))
    another = {"case": _moved(now, then), "recipe": _moved(_leaves(record.recipe), _leaves(baseline.recipe))}
    parts = [f"another {title}: {'; '.join(moved)}" for title, moved in another.items() if moved]
    return _check(1, "case", not parts, "; ".join(parts) or "same case, same recipe")


def _moved(now: dict[str, Any], then: dict[str, Any]) -> list[str]:
    keys = sorted(now.keys() | then.keys())
    pairs = {key: (now.get(key, "unset"), then.get(key, "unset")) for key in keys}
    return [f"{key} is {a}, accepted {b}" for key, (a, b) in pairs.items() if a != b]


def _leaves(data: dict[str, Any], path: str = "") -> dict[str, Any]:
    """A nested table as one, by path: `roles.mlp.weights.block_size`."""
    leaves: dict[str, Any] = {}
    for key, value in data.items():
        leaves |= _leaves(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return leaves


#: Facts of a corpus that say how it was come by, not what was read: the fingerprints hold that.
_INCIDENTAL = ("asked", "because", "revision")


def _same_corpus(record: Record, baseline: Record) -> Check:
    keys = sorted((record.corpus.keys() | baseline.corpus.keys()) - set(_INCIDENTAL))
    moved = [key for key in keys if record.corpus.get(key) != baseline.corpus.get(key)]
    parts = [f"{key} is {record.corpus.get(key)}, accepted {baseline.corpus.get(key)}" for key in moved]
    return _check(1, "corpus", not parts, f"another corpus: {'; '.join(parts)}" if parts else "same corpus")


def _fingerprints(record: Record, baseline: Record) -> Iterator[Check]:
    for name in sorted(record.fingerprints.keys() | baseline.fingerprints.keys()):
        now, then = record.fingerprints.get(name, "none"), baseline.fingerprints.get(name, "none")
        yield _check(
            1,
            name,
            now == then,
            f"{name} are not the accepted ones: {now[:16]}…, accepted {then[:16]}…"
            if now != then
            else f"{name} are the accepted ones",
        )


def _own_samples(record: Record) -> Iterator[Check]:
    if record.self_sampled:
        z = self_sampled_z(record)
        bound = SELF_SAMPLED_Z * (1 + 5 / max(1, len(record.reference_losses) - 1))
        yield _check(
            2,
            "own samples",
            abs(z) <= bound,
            f"reference on its own samples: cross-entropy {record.reference_cross_entropy:.6f}, entropy "
            f"{record.reference_entropy:.6f}, apart by {z:+.2f} standard errors (bound {bound:.1f})",
        )


def _reference(record: Record, baseline: Record) -> Check:
    if len(record.reference_losses) != len(baseline.reference_losses):
        return _count_check(2, "reference", record.reference_losses, baseline.reference_losses)
    return _drift_check(2, "reference", "reference's losses", drift(record, baseline, "reference"))


def _bits(record: Record) -> Check:
    if record.changes_bits is None:
        free = "result may equal the reference: the recipe rounds what may be rounded already"
        return _check(3, "bits", True, free)
    found = "is bit-equal to" if record.bit_equal else "differs from"
    wrong = ": nothing was quantized" if record.changes_bits else ", though the recipe changes no bit"
    passed = record.bit_equal is not record.changes_bits
    return _check(3, "bits", passed, f"result {found} the reference" + ("" if passed else wrong))


def _modules(record: Record, baseline: Record) -> Check:
    lost = sorted(baseline.replaced.keys() - record.replaced.keys())
    added = sorted(record.replaced.keys() - baseline.replaced.keys())
    moved = sorted(
        name
        for name in record.replaced.keys() & baseline.replaced.keys()
        if record.replaced[name] != baseline.replaced[name]
    )
    parts = [
        f"{title}: {_some(names)}"
        for title, names in (
            ("no longer quantized", lost),
            ("newly quantized", added),
            ("another role", moved),
            ("left as it is for another reason", sorted({*_changed(record, baseline)} - {*lost, *added})),
        )
        if names
    ]
    held = f"{len(record.replaced)} modules replaced, as accepted"
    return _check(3, "modules", not parts, "; ".join(parts) or held)


def _changed(record: Record, baseline: Record) -> list[str]:
    """Modules left as they are, now or then but not both, or for another reason."""
    now, then = record.unconverted, baseline.unconverted
    return [name for name in now.keys() | then.keys() if now.get(name) != then.get(name)]


def _casts(record: Record, baseline: Record) -> Iterator[Check]:
    names = sorted(
        name
        for name in record.digests.keys() | baseline.digests.keys()
        # a module that was lost or added is the matter of step 3
        if (name in record.replaced) == (name in baseline.replaced)
    )
    for what, meaning in (
        ("weight", "quantized weights"),
        ("operands", "operands of the products (fixed activation probe)"),
    ):
        changed = [
            name
            for name in names
            if record.digests.get(name, {}).get(what) != baseline.digests.get(name, {}).get(what)
        ]
        yield _check(
            4,
            f"cast {what}",
            not changed,
            f"{meaning} changed bits in {len(changed)} of {len(names)} modules: {_some(changed)}"
            if changed
            else f"{meaning}: {len(names)} digests as accepted",
        )


def _budget(record: Record, budget: Budget) -> Iterator[Check]:
    yield _check(
        5,
        "KL budget",
        record.kl <= budget.kl,
        f"KL to the reference {record.kl:.6f} nats/token, budget {budget.kl:g}",
    )
    mean, error, upper = rise(record)
    held = mean if math.isinf(error) else upper  # one sequence has no error bar: its rise itself is held
    bound = budget.rise + sampling_allowance(budget, record.scored_tokens)
    yield _check(
        5,
        "rise budget",
        held <= bound,
        f"rise of the cross-entropy {mean:+.6f} ± {error:.6f}, upper 95 % bound {held:+.6f}, "
        f"budget {budget.rise:g} and for the sampling error of {record.scored_tokens} tokens "
        f"{bound - budget.rise:.2g}",
    )


def sampling_allowance(budget: Budget, scored_tokens: int) -> float:
    """Four standard errors of the mean rise of a case at its KL budget, in nats per token.

    On text sampled from p the rise log p - log q has, to second order, the mean KL and the variance 2 KL.
    """
    return 4 * math.sqrt(2 * budget.kl / scored_tokens)


def _drift(record: Record, baseline: Record) -> Iterator[Check]:
    if len(record.sequence_losses) != len(baseline.sequence_losses):
        yield _count_check(6, "losses", record.sequence_losses, baseline.sequence_losses)
        return
    yield _drift_check(6, "losses", "losses", drift(record, baseline, "loss"))
    yield _drift_check(6, "KL", "KL", drift(record, baseline, "kl"))
    if lacking := sorted(record.metrics.keys() - baseline.metrics.keys()):
        yield _check(6, "metrics", False, f"metrics without accepted values: {', '.join(lacking)}")
    if same_arithmetic(record, baseline):
        # The noise of the user's own metrics was not measured: elsewhere they are shown and not judged.
        for name in sorted(record.metrics.keys() & baseline.metrics.keys()):
            change = differences(record.metrics[name], baseline.metrics[name])
            yield _drift_check(6, "metrics", f"metric {name}", moved(change))


def _count_check(step: int, key: str, now: list[float], then: list[float]) -> Check:
    return _check(step, key, False, f"{len(now)} sequences, accepted {len(then)}")


def _drift_check(step: int, key: str, what: str, found: Drift) -> Check:
    return _check(
        step,
        key,
        found.within,
        f"{what} moved by sequence: median {found.median:.2e} (bound {found.median_bound:.2e}), "
        f"rms {found.rms:.2e} (bound {found.rms_bound:.2e}), "
        f"max {found.max:.2e} (bound {found.max_bound:.2e})",
    )


def _some(names: list[str], most: int = 3) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
