"""What a sensitivity run found out about one fault, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

#: Where a fault was caught.
STAGES = ("reduced", "own tests", "full", "never")
#: Faults of what judges, reports and keeps records: groups of the catalogue. The others are of the product.
OF_THE_GATE = ("gate", "record keeping")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """Whether a check alone would have seen a fault, and the worst of its figures over their bounds (above 1
    it sees it; None: no case got so far)."""

    seen: bool
    margin: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSight:
    """What the kernel suite made of a fault.

    Attributes:
        caught: whether it was red.
        cells: red cells of the conformance matrix, and all that ran.
        share: mismatches over elements compared, of the worst cell.
        tests: names of the other red tests, each with how many were red and how many ran.
        ended: `finished`, `crash` or `hang`.
    """

    caught: bool
    cells: tuple[int, int] = (0, 0)
    share: float = 0.0
    tests: tuple[tuple[str, int, int], ...] = ()
    ended: str = "finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSight:
    """What the model suite made of a fault.

    Attributes:
        caught: whether it was red.
        without_digests: whether it was red for more than the accepted digests of casts: any other check,
            test or end.
        cases: red cases and all that ran.
        steps: those of DESIGN section 5 that failed in any case (`1` to `6`); `error` where a case ended
            without a verdict, names of other red tests, `crash`, `hang`.
    """

    caught: bool
    without_digests: bool = False
    cases: tuple[int, int] = (0, 0)
    steps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """One fault: what it is, and which check saw it.

    Attributes:
        kernels: the kernel suite at `quick`, on the fault's formats; it did not run where there are none.
        models: the reduced model suite.
        own_tests: how many records, reports, orderings and merges of known verdict were judged wrong.
        bounds: step 5 alone.
        drift: step 6 alone on the accepting machine, where nothing may move.
        drift_elsewhere: step 6 alone on a machine that multiplies otherwise: only the noise bounds hold.
        full: the full gate, which only survivors of the reduced one are taken to.
        survives: the catalogue's reason why it is not caught, if it has one.
        unseen: whether it was written by somebody who had read no check, before any run looked for it.
    """

    name: str
    group: str
    what: str
    kernels: KernelSight
    models: ModelSight
    bounds: Sight
    drift: Sight
    drift_elsewhere: Sight
    own_tests: int = 0
    full: ModelSight | None = None
    survives: str = ""
    unseen: bool = False

    @property
    def without_digests(self) -> bool:
        """Whether it was caught by more than the accepted digests of casts."""
        models = [one for one in (self.models, self.full) if one is not None]
        return self.kernels.caught or any(one.without_digests for one in models)

    @property
    def stage(self) -> str:
        """Where it was caught, one of `STAGES`."""
        if self.kernels.caught or self.models.caught:
            return "reduced"
        if self.own_tests:
            return "own tests"
        return "full" if self.full is not None and self.full.caught else "never"

    @property
    def trouble(self) -> str:
        """What the catalogue must mend, in one line; empty where it is right."""
        if self.stage == "never" and not self.survives:
            return f"{self.name} survived, and the catalogue does not say why"
        if self.stage != "never" and self.survives:
            return f"{self.name} was caught, but the catalogue explains why it is not: {self.survives}"
        return ""
