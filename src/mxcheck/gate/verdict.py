"""The gate's six steps, in order, as pure functions of a record, its accepted baseline and its bounds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mxcheck.gate.accepted_inputs import comparable, fingerprints, same_corpus
from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.check import Check, changes, check, count_check, differing, drift_check, some
from mxcheck.gate.drift import drift, drift_of, same_arithmetic
from mxcheck.gate.held_casts import casts_held, casts_steady, kernel_held
from mxcheck.gate.held_figures import figures_held
from mxcheck.gate.predictions import check_estimates
from mxcheck.gate.record import OPTIONAL, Record
from mxcheck.gate.statistics import UPPER_95, differences, in_standard_errors, mean_and_error

#: Bound of |mean(loss - entropy)| of the reference on text sampled from itself, in standard errors. The
#: expectation is zero; a sampling exceeds four standard errors by chance once in 16,000, and the tokens are
#: fixed. The standard error of few sequences is itself uncertain (Student's t), so the bound widens by 5 / (n
#: - 1).
SELF_SAMPLED_Z = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """All checks of a case in the order of the steps. `alone` are those of steps 2 to 5 that need no
    baseline; they are made even where the records are not comparable and `checks` ends there."""

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
        """True if an update could store the record: every check without a baseline passes."""
        return all(check.passed for check in self.alone)

    @property
    def failed_steps(self) -> tuple[int, ...]:
        return tuple(sorted({check.step for check in self.failures}))


def judge(
    record: Record, baseline: Record | None, bounds: Bounds | None, absolute: Sequence[Check] = ()
) -> Verdict:
    """Make every possible check; without a baseline, those of steps 2 to 5 that need none, and `absolute`.

    `bounds` None: no file gives the permitted cost, which fails an accepted case. `absolute` are the checks
    of the measuring process, and of casts that are accepted for the first time.
    """
    own_samples, bits = tuple(_own_samples(record)), tuple(_bits(record))
    costs = tuple(_bounds(record, bounds)) if bounds is not None else ()
    if bounds is None and baseline is not None:
        words = f"no bounds for {record.case.name}: restore bounds.toml beside its baseline, or add its line"
        costs = (check("no bounds", False, words),)
    steady = (*kernel_held(record), *casts_steady(record))
    alone = (*own_samples, *bits, *steady, *costs, *absolute)
    if baseline is None:
        return Verdict(checks=alone, alone=alone)
    same = comparable(record, baseline)
    if not same.passed:
        return Verdict(checks=(same, *absolute), alone=alone)
    checks = (
        *(same, same_corpus(record, baseline), *fingerprints(record, baseline)),
        *(*own_samples, *_reference(record, baseline)),
        *(*bits, *_conversion(record, baseline)),
        *(*absolute, *steady, *casts_held(record, baseline)),
        *costs,
        *figures_held(record, baseline),
    )
    return Verdict(checks=checks, alone=alone)


def rise(record: Record) -> tuple[float, float, float]:
    """Return the paired rise of the cross-entropy over the reference: mean, standard error, upper 95 %
    bound."""
    mean, error = mean_and_error(differences(record.sequence_losses, record.reference_losses))
    return mean, error, mean + UPPER_95 * error


def self_sampled_z(record: Record) -> float:
    """Return the reference's mean (loss - entropy) in standard errors, clustered by sequence."""
    return in_standard_errors(differences(record.reference_losses, record.reference_entropies))


def _own_samples(record: Record) -> Iterator[Check]:
    if not record.self_sampled:
        return
    z = self_sampled_z(record)
    bound = SELF_SAMPLED_Z * (1 + 5 / max(1, len(record.reference_losses) - 1))
    yield check(
        "own samples",
        abs(z) <= bound,
        f"reference on its own samples: cross-entropy {record.reference_cross_entropy:.6f}, entropy "
        f"{record.reference_entropy:.6f}, apart by {z:+.2f} standard errors (bound {bound:.1f})",
    )
    if (found := record.predictions) is not None:
        agree = check_estimates(
            found.sequence_k3, record.sequence_losses, record.reference_losses, record.sequence_kl
        )
        yield check("estimates", *agree)


def _reference(record: Record, baseline: Record) -> Iterator[Check]:
    if len(record.reference_losses) != len(baseline.reference_losses):
        yield count_check("reference", record.reference_losses, baseline.reference_losses)
        return
    yield drift_check("reference", "reference's losses", drift(record, baseline, "reference"))
    if same_arithmetic(record, baseline):
        # Their noise elsewhere is unknown; there the reference's own samples check them.
        change = differences(record.reference_entropies, baseline.reference_entropies)
        yield drift_check("reference entropies", "reference's entropies", drift_of(change))


def _bits(record: Record) -> Iterator[Check]:
    if record.bit_equal is None:
        return
    if record.changes_bits is None:
        free = "result may equal the reference: the recipe rounds what may be rounded already"
        yield check("bits", True, free)
        return
    found = "is bit-equal to" if record.bit_equal else "differs from"
    wrong = ": nothing was quantized" if record.changes_bits else ", though the recipe changes no bit"
    passed = record.bit_equal is not record.changes_bits
    yield check("bits", passed, f"result {found} the reference" + ("" if passed else wrong))


def _conversion(record: Record, baseline: Record) -> Iterator[Check]:
    yield _modules(record, baseline)
    sizes = ("weight_bytes", "original_bytes")
    now, then = ({name: getattr(one, name) for name in sizes} for one in (record, baseline))
    other = changes(now, then)
    yield check(
        "bytes", not other, "; ".join(other) or f"weights take {record.weight_bytes:,} bytes, as accepted"
    )
    gone, unknown = _missing(record), _missing(baseline)
    lost, added = gone.keys() - unknown.keys(), unknown.keys() - gone.keys()
    parts = [
        f"{title} {some(sorted(names))}"
        for title, names in (("no longer measured:", lost), ("measured and not accepted:", added))
        if names
    ]
    why = f" ({gone[min(lost)]})" if lost else ""
    yield check(
        "figures", not parts, f"{'; '.join(parts)}{why}" if parts else "the figures that were accepted"
    )


def _missing(record: Record) -> dict[str, str]:
    """Map each figure that a record lacks to the reason. A figure that is None without a reason is
    included."""
    none = [name for name in OPTIONAL if getattr(record, name) is None]
    return {**dict.fromkeys(none, "no reason is recorded"), **record.absent}


def _modules(record: Record, baseline: Record) -> Check:
    lost = sorted(baseline.replaced.keys() - record.replaced.keys())
    added = sorted(record.replaced.keys() - baseline.replaced.keys())
    moved = sorted(
        name
        for name in record.replaced.keys() & baseline.replaced.keys()
        if record.replaced[name] != baseline.replaced[name]
    )
    parts = [
        f"{title}: {some(names)}"
        for title, names in (
            ("no longer quantized", lost),
            ("newly quantized", added),
            ("another role", moved),
            ("left as it is for another reason", sorted({*_changed(record, baseline)} - {*lost, *added})),
        )
        if names
    ]
    held = f"{len(record.replaced)} modules replaced, as accepted"
    return check("modules", not parts, "; ".join(parts) or held)


def _changed(record: Record, baseline: Record) -> list[str]:
    """Return the modules that were left unconverted only now or only then, or for another reason."""
    return list(differing(record.unconverted, baseline.unconverted))


def _bounds(record: Record, bounds: Bounds) -> Iterator[Check]:
    if record.kl is not None:
        yield check(
            "KL bound",
            record.kl <= bounds.kl,
            f"KL to the reference {record.kl:.6f} nats/token, bound {bounds.kl:g}{_whose(bounds)}",
        )
    mean, error, upper = rise(record)
    held = mean if math.isinf(error) else upper  # one sequence has no error bar: its rise itself is compared
    bound = bounds.rise + sampling_allowance(bounds, record.scored_tokens)
    yield check(
        "rise bound",
        held <= bound,
        f"rise of the cross-entropy {mean:+.6f} ± {error:.6f}, upper 95 % bound {held:+.6f}, "
        f"bound {bounds.rise:g}{_whose(bounds)} + {bound - bounds.rise:.2g} for the sampling error of "
        f"{record.scored_tokens} tokens",
    )


def _whose(bounds: Bounds) -> str:
    return f" ({bounds.whose})" if bounds.whose else ""


def sampling_allowance(bounds: Bounds, scored_tokens: int) -> float:
    """Return four standard errors of the mean rise of a case at its KL bound, in nats per token.

    On text sampled from p the rise log p - log q has, to second order, the mean KL and the variance 2 KL.
    """
    return 4 * math.sqrt(2 * bounds.kl / scored_tokens)
