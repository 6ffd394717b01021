"""Take a case from measurement to result, also if it cannot be measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mxcheck.files.printed import told
from mxcheck.gate.baseline import baseline_paths
from mxcheck.gate.case import Case
from mxcheck.gate.check_table import STEPS
from mxcheck.gate.kernel_cells import AskedKernel, examples
from mxcheck.gate.record import Record
from mxcheck.gate.result import CaseResult, Outcome
from mxcheck.gate.shipped import in_force
from mxcheck.measure.made_for import other_options
from mxcheck.measure.measure_case import measure_case
from mxcheck.measure.model_session import ModelSession
from mxcheck.measure.passive_threads import load_torch
from mxcheck.models.recipes.ladder import LADDER, installed
from mxcheck.models.zoo.refusal import is_out_of_memory


def run_case(
    session: ModelSession, case: Case, compare: Callable[[Record], CaseResult], *, baselines: Path
) -> CaseResult:
    """Measure a case and `compare` its record with the accepted one in the folder `baselines`.

    A case that cannot run here is skipped; one that was accepted on such a device is an error. So is one that
    raises ValueError or NotImplementedError, or runs out of memory. Other errors of torch pass through.
    """
    load_torch()
    from mxcheck.kernels.usual_settings import usual_settings
    from mxcheck.models.conversion.casts import CastRefusedError
    from mxcheck.models.conversion.convert import UnavailableError

    def ends(reason: str) -> CaseResult:
        return error_of(case, reason, session.kernel_so_far(session.measuring.recipe_of(case)))

    try:
        with usual_settings(threads=session.threads):
            return compare(measure_case(session, case))
    except UnavailableError as error:
        if (accepted := _accepted_here(session, case, baselines)) is not None:
            # A skip would make a broken library look like one that was never there.
            return ends(f"it was accepted on such a device ({accepted}) and cannot run now: {error}")
        return CaseResult(
            case=case, outcome=Outcome.SKIPPED, reason=str(error), message=f"{case.id}: {error}"
        )
    except ValueError as error:
        return ends(str(error))
    except CastRefusedError as error:
        way_out = other_options(error.kernel, error.spec, session.device)
        return ends(f"{error}; {way_out}" if way_out else str(error))
    except NotImplementedError as error:  # of torch, of a library
        return ends(f"it needs what is not implemented: {told(error)}")
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        words = told(error)
        return ends(
            f"out of memory on {session.device}: {words}; lower --mx-batch-size or "
            f"--mx-sequence-length, or give this model a larger device",
        )
    finally:
        session.case_is_over()


def error_of(case: Case, reason: str, kernel: AskedKernel | None = None) -> CaseResult:
    """Return the result of a case without figures. Faults of its `kernel` come first."""
    lines = [f"{case.id}: {reason}"]
    if kernel is not None and kernel.wrong:
        of_kernel = [f"{case.id}: step 4 ({STEPS[4]}): {kernel.wrong}"]
        lines = [*of_kernel, *(f"  {line}" for line in examples(kernel.cells)), *lines]
    return CaseResult(
        case=case, outcome=Outcome.ERROR, reason=reason, message="\n".join(lines), kernel=kernel
    )


def _accepted_here(session: ModelSession, case: Case, baselines: Path) -> Path | None:
    """Return the baseline that says that a case ran on such a device, if its library is still installed."""
    target = baseline_paths(baselines, case, session.device_class)[1]
    path = in_force(baselines, target.relative_to(baselines))
    precision = LADDER[session.measuring.recipe_of(case).precision]
    return path if path.is_file() and installed(precision) else None
