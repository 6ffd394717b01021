"""The resident model: kept by a process between the cases that it measures."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mxcheck.extras import require_models
from mxcheck.gate.baseline import states_path
from mxcheck.gate.case_cost import Cost
from mxcheck.gate.check import Check, check
from mxcheck.gate.kernel_cells import AskedKernel, KernelCell
from mxcheck.gate.shipped import in_force
from mxcheck.kernels.device_choice import resolve_device
from mxcheck.measure import cuda
from mxcheck.measure.environment import environment
from mxcheck.measure.evaluation_tokens import evaluation_text, has_own_tokens, own_tokens_path
from mxcheck.measure.kernel_asked import KernelCells
from mxcheck.measure.passive_threads import load_torch
from mxcheck.models.zoo.footprint import LEAN
from mxcheck.models.zoo.known_models import model_source
from mxcheck.run.cost import estimated
from mxcheck.run.measurement_settings import Measuring

if TYPE_CHECKING:
    import torch

    from mxcheck.evaluation.layer_states import LayerStates
    from mxcheck.evaluation.measure import Measurement
    from mxcheck.measure.evaluation_tokens import EvaluationText
    from mxcheck.models.recipes.recipe import Recipe
    from mxcheck.models.zoo.load import LoadedModel

#: Called for each event of a case; see `reporting.progress`.
Tell = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Resident:
    """Shared state of a model's cases: the model, its text, the reference's measurement, and its layer
    states, or the reason why it has none."""

    label: str
    loaded: LoadedModel
    text: EvaluationText
    reference: Measurement
    states: LayerStates | str


class Host(Protocol):
    """Shares this machine with other processes."""

    def pin(self) -> None:
        """Make CUDA number the GPUs as the host does. Called before torch first looks for them."""

    def take(self, label: str, *, device: str, whole: bool) -> Mapping[int, int]:
        """Wait for what a model needs, or for as many whole devices. Returns bytes by index of the device."""

    def can_give_more(self, label: str) -> bool:
        """Return whether whole devices are more than what `take` gave."""

    def give_back(self) -> None:
        """Return what was taken."""


class ModelSession:
    """Keep one model resident: cases that come model by model load each once.

    As a context manager it frees the model at the end. Torch uses one thread while it measures, unless
    OMP_NUM_THREADS is set: a fixed count is a fixed arithmetic. Before and after it has its own.

    Args:
        measuring: what is measured and how.
        shared: a folder that all processes of a run see; None: a private one.
        host: waits for what a model needs; None: no other process uses this machine.
        tell: called for each event.
    """

    def __init__(
        self,
        measuring: Measuring | None = None,
        *,
        shared: Path | None = None,
        host: Host | None = None,
        tell: Tell = lambda _: None,
    ) -> None:
        self.measuring = Measuring() if measuring is None else measuring
        self.tell = tell
        #: Whether a case was found to be measured on demand (`measured_now.stale`).
        self.live = False
        #: Keys of casts' code that this process has tested and found right (`SteadyCasts`).
        self.held = set[Hashable]()
        #: Seconds spent loading so far, including measuring references and testing kernels.
        self.loading = 0.0
        #: Cost of the last case that was measured; None if it has no record.
        self.cost: Cost | None = None
        self._kernels = KernelCells()
        self._host = host
        self._resident: Resident | None = None
        self._failed: dict[str, str] = {}
        self._arithmetic: dict[torch.dtype, str] = {}
        self._devices: Mapping[int, int] | None = None
        self._whole: set[str] = set()
        if shared is None:
            shared = Path(tempfile.mkdtemp(prefix="mxcheck-"))
            weakref.finalize(self, shutil.rmtree, shared)
        #: Folder that all processes of the run see.
        self.shared = shared

    def __enter__(self) -> ModelSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.free()

    @cached_property
    def threads(self) -> int:
        """Torch's number of threads while this session measures: one per process, so that only the number of
        processes spreads a run over cores.

        A fixed count is a fixed arithmetic; and on a busy machine two threads that wait for each other were
        ten times slower than one. OMP_NUM_THREADS, if set, is respected.
        """
        if "OMP_NUM_THREADS" not in os.environ:
            return 1
        import torch

        return torch.get_num_threads()

    @cached_property
    def device(self) -> str:
        """`cpu`, or `cuda` if there is one and nothing says otherwise."""
        if self._host is not None:
            self._host.pin()
        load_torch()
        return resolve_device(self.measuring.device)

    @cached_property
    def device_class(self) -> str:
        """Key by which machines share a baseline override: `cpu`, `cuda-sm90`."""
        if self.device == "cpu":
            return "cpu"
        import torch

        major, minor = torch.cuda.get_device_capability()
        return f"cuda-sm{major}{minor}"

    @cached_property
    def environment(self) -> dict[str, str]:
        """Environment of the figures."""
        return environment(device=self.device, kernel=self.measuring.kernel, threads=self.threads)

    @cached_property
    def broken(self) -> str:
        """Reason why no measurement of this process counts, in one line; empty if its smoke check passes
        and, as far as is known yet, measures on demand."""
        from mxcheck.measure.smoke_check.broken_measuring import broken_measuring

        return broken_measuring()

    def run_smoke_check(self) -> None:
        """Run the smoke check, once per process, before anything else is measured."""
        _ = self.broken

    def checks(self) -> tuple[Check, ...]:
        """Return the checks that fail in every case of this process; none if it measures right."""
        import torch

        broken = self.broken
        if not broken and self.arithmetic(torch.float32) == self.arithmetic(torch.bfloat16):
            broken = (
                "matrix products in fp32 and in bf16 have the same digest, so records would be judged as if "
                "the machine were another; undo local changes of the package, or reinstall it"
            )
        return (check("smoke check", False, broken),) if broken else ()

    def with_resident(self, resident: Resident) -> ModelSession:
        """Return this session with another resident model, which it neither loads nor frees. It tells
        nothing."""
        other = copy.copy(self)
        other._resident, other._host, other.tell = resident, None, lambda _: None
        return other

    def arithmetic(self, dtype: torch.dtype) -> str:
        """Return a digest of fixed products in `dtype`: how this process multiplies."""
        from mxcheck.evaluation.arithmetic import product_digest

        if dtype not in self._arithmetic:  # it does not change from case to case
            self._arithmetic[dtype] = product_digest(dtype, self.device)
        return self._arithmetic[dtype]

    def unavailable(self, recipe: Recipe) -> str | None:
        """Return why a library's precision cannot run here, before any model is loaded; None if it can."""
        if recipe.library is None:
            return None
        from mxcheck.models.backends.backend import backend

        return backend(recipe.precision).missing(self.device)

    def kernel_cells(self, recipe: Recipe) -> dict[str, KernelCell]:
        """Return the results of a recipe's kernel for the cells that it casts with, tested once per
        process."""

        def tell(cell: str) -> None:
            self.tell({"do": "step", "what": f"kernel {recipe.kernel} on {cell}"})

        began = time.monotonic()
        found = self._kernels.of(recipe, self.device, tell)
        self.loading += time.monotonic() - began
        return found

    def kernel_so_far(self, recipe: Recipe) -> AskedKernel | None:
        """Return a recipe's kernel, as far as it was tested; None if it was not."""
        found = self._kernels.so_far(recipe)
        return AskedKernel(name=recipe.kernel, cells=found) if found else None

    def resident(self, label: str) -> Resident:
        """Load a model and measure its reference, unless it is resident already. Raises ValueError, in one
        line, if it cannot be loaded or has no text."""
        if self._resident is not None and self._resident.label == label:
            return self._resident
        if label in self._failed:
            raise ValueError(self._failed[label])
        self.free()  # free the old one first
        load_torch()
        from mxcheck.kernels.usual_settings import usual_settings

        try:
            self._take(label)
            began = time.monotonic()
            self.tell({"do": "step", "what": f"{label} loading", "once": label})
            with usual_settings(threads=self.threads):
                self._resident = self._load(label)
            self.loading += time.monotonic() - began
        except BaseException as error:
            self.free()  # what does not become resident must hold nothing of the host
            if isinstance(error, ValueError):
                self._failed[label] = str(error)  # its other cases need not load it again for the same error
            raise
        return self._resident

    def enlarge(self, label: str) -> bool:
        """Free everything after memory ran out, so that the model gets whole devices when it is requested
        again. Returns False if it already had them."""
        if self._host is None or label in self._whole or not self._host.can_give_more(label):
            return False
        self._whole.add(label)
        self.free()
        return True

    def case_is_over(self) -> None:
        """End a case: free a model that each case loads anew."""
        if self._resident is not None and self._resident.loaded.source.anew:
            self.keep_only(None)

    def keep_only(self, label: str | None) -> None:
        """Free the resident model unless it is this one."""
        if self._resident is not None and self._resident.label != label:
            self.free()

    def free(self) -> None:
        """Free the resident model, and return what it held of the host."""
        self._resident = None
        if "device" in self.__dict__:
            cuda.empty(self.device)
        if self._host is not None:
            self._host.give_back()

    def forget_peak(self) -> None:
        """Let `peak_bytes` begin anew, where that is possible: on GPUs."""
        cuda.forget_peak(self.device, self._indices)

    @property
    def peak_bytes(self) -> int:
        """Most memory taken so far; see `gate.case_cost.Cost`."""
        return cuda.peak_bytes(self.device, self._indices)

    @property
    def _indices(self) -> tuple[int, ...]:
        return tuple(self._devices or (0,))

    def progress(self, what: str, tokens: torch.Tensor, together: int) -> Callable[[int], None]:
        """Report that a measurement begins; return a function that reports each batch."""
        sequences, length = tokens.shape
        batches = -(-sequences // together)
        self.tell({"do": "measure", "what": what, "batches": batches, "length": length})

        def batch(done: int) -> None:
            memory = cuda.memory_bytes(self.device, self._indices)
            self.tell({"do": "batch", "sequences": done, "memory": memory})

        return batch

    def _take(self, label: str) -> None:
        """Wait for what the model needs of this host: after memory ran out, for whole devices."""
        if self._host is None:
            return
        held = self._host.take(label, device=self.device, whole=label in self._whole)
        if held.keys() != (self._devices or {}).keys():  # another GPU may be another model
            self._arithmetic.clear()
            for name in ("device_class", "environment"):
                self.__dict__.pop(name, None)
        self._devices = held

    def _load(self, label: str) -> Resident:
        require_models("measuring a model")
        from transformers.utils.logging import disable_progress_bar

        from mxcheck.evaluation.measure import evaluate
        from mxcheck.models.zoo.load import load

        measuring = self.measuring
        if has_own_tokens(measuring, label):
            own_tokens_path(measuring, label)  # raises with a remedy before the model is loaded
        disable_progress_bar()  # it would print single tensors into the captured output of a red case
        loaded = load(
            model_source(measuring.name_of(label)).name,
            device=self.device,
            devices=self._devices,
            dtype=measuring.dtype,
            trust_remote_code=label in measuring.trusted,
            share=self._share(label),
        )
        text = evaluation_text(measuring, label, loaded, shared=self.shared)
        together = measuring.batch_size_of(label)
        reference = evaluate(
            loaded.model,
            text.tokens,
            batch_size=together,
            keep_log_probabilities=True,
            reference_cache=measuring.reference_cache * 2**20,
            progress=self.progress(f"{label} reference", text.tokens, together),
        )
        return Resident(
            label=label,
            loaded=loaded,
            text=text,
            reference=reference,
            states=self._states(label, loaded, text.tokens),
        )

    def _share(self, label: str) -> float:
        """Return the share of each of several devices for the weights as loaded: half, unless the lease has
        no room for a kept copy of them."""
        known = estimated(self.measuring, label) if label in self.measuring.models else None
        leased = sum((self._devices or {}).values())
        fits = known is None or known.weight_bytes + len(self._devices or ()) * known.working_bytes <= leased
        kept = self.measuring.memory == "kept" or (self.measuring.memory == "auto" and fits)
        return 0.5 if kept else 1 / LEAN

    def states_path(self, label: str, weights: str) -> Path:
        """Return the path of the reference states of a model with these weights (their fingerprint): a model
        loaded in another dtype has others."""
        return states_path(self.measuring.baselines / label, weights)

    def keep_states(self, label: str) -> None:
        """Store the resident model's layer states, unless stored already: for the first case that is
        accepted. Raises ValueError if others were stored since the model was loaded."""
        from mxcheck.evaluation.layer_states import load_states, save_states

        resident = self.resident(label)
        if isinstance(resident.states, str):
            return
        weights = resident.loaded.weights_fingerprint
        path = self.states_path(label, weights)
        if not path.exists():
            save_states(resident.states, path, weights=weights)
        elif load_states(path, weights=weights).digest != resident.states.digest:
            raise ValueError(
                f"{path} was written after {label} had been measured, from other states than its; "
                f"nothing was accepted; run this again, which starts from that file"
            )

    def _states(self, label: str, loaded: LoadedModel, tokens: torch.Tensor) -> LayerStates | str:
        """Return the stored states, else this machine's own; or why there are none."""
        from mxcheck.evaluation.layer_states import check_states, load_states, reference_states

        weights = loaded.weights_fingerprint
        root = self.measuring.baselines
        path = in_force(root, self.states_path(label, weights).relative_to(root))
        if path.exists():
            states = load_states(path, weights=weights)
            check_states(states, loaded.model, path)
            return states
        try:
            return reference_states(loaded.model, tokens)
        except ValueError as error:
            return str(error)
