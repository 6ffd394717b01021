"""The results of a sensitivity run for one fault, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

#: The stages at which a fault was detected.
STAGES = ("reduced", "own tests", "full", "never")
#: Groups of faults in code that judges, reports and keeps records. The others are faults of the product.
OF_THE_GATE = ("gate", "record keeping")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """The verdict of a check alone on a fault, and the largest ratio of a figure to its bound
    (detected above 1; None: no case reached the check)."""

    seen: bool
    margin: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelResult:
    """The kernel suite's result under a fault.

    Attributes:
        caught: whether it was red.
        cells: red cells of the conformance matrix, and all that ran.
        share: mismatches over elements compared, of the worst cell.
        tests: names of the other red tests, each with the numbers of red tests and of tests run.
        ended: `finished`, `crash` or `hang`.
    """

    caught: bool
    cells: tuple[int, int] = (0, 0)
    share: float = 0.0
    tests: tuple[tuple[str, int, int], ...] = ()
    ended: str = "finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelResult:
    """The model suite's result under a fault.

    Attributes:
        caught: whether it was red.
        without_digests: whether it was red for more than the accepted digests of casts: any other check, test
            or outcome.
        cases: red cases and all that ran.
        steps: the steps that failed in any case (`1` to `6`); `error` where a case ended
            without a verdict, names of other red tests, `crash`, `hang`.
    """

    caught: bool
    without_digests: bool = False
    cases: tuple[int, int] = (0, 0)
    steps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """A fault, and the checks that detected it.

    Attributes:
        kernels: the kernel suite at `quick`, on the fault's formats; not run where there are none.
        models: the reduced model suite.
        own_tests: number of misjudged records, reports, orderings and merges with known verdicts.
        bounds: step 5 alone.
        drift: step 6 alone on a machine with the baseline's arithmetic, where nothing may move.
        drift_elsewhere: step 6 alone on a machine of other arithmetic: only the noise bounds apply.
        full: the full gate, which runs only for survivors of the reduced one.
        survives: the catalogue's reason why it is not detected, if any.
        unseen: whether its author had read no check, before any run searched for it.
    """

    name: str
    group: str
    what: str
    kernels: KernelResult
    models: ModelResult
    bounds: CheckResult
    drift: CheckResult
    drift_elsewhere: CheckResult
    own_tests: int = 0
    full: ModelResult | None = None
    survives: str = ""
    unseen: bool = False

    @property
    def without_digests(self) -> bool:
        """True if it was detected by more than the accepted digests of casts."""
        models = [one for one in (self.models, self.full) if one is not None]
        return self.kernels.caught or any(one.without_digests for one in models)

    @property
    def stage(self) -> str:
        """Stage at which it was detected, one of `STAGES`."""
        if self.kernels.caught or self.models.caught:
            return "reduced"
        if self.own_tests:
            return "own tests"
        return "full" if self.full is not None and self.full.caught else "never"

    @property
    def trouble(self) -> str:
        """The required correction of the catalogue, in one line, or empty."""
        if self.stage == "never" and not self.survives:
            return f"{self.name} survived, and the catalogue does not say why"
        if self.stage != "never" and self.survives:
            return f"{self.name} was caught, but the catalogue explains why it is not: {self.survives}"
        return ""
