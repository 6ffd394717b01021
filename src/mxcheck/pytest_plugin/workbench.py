"""One worker's bench: the resident model, its reference, and the steps from a case to its record."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mxcheck.gate.case import Case
from mxcheck.gate.record import Record
from mxcheck.models.zoo import model_source
from mxcheck.pytest_plugin import on_device
from mxcheck.pytest_plugin.environment import environment
from mxcheck.pytest_plugin.leasing import Leasing, pin_visible_gpus
from mxcheck.pytest_plugin.options import DEFAULT_BATCH_SIZE
from mxcheck.pytest_plugin.settings import Settings
from mxcheck.pytest_plugin.text import evaluation_text, own_tokens_path
from mxcheck.pytest_plugin.work import estimated

if TYPE_CHECKING:
    import torch

    from mxcheck.evaluation.measure import Measurement
    from mxcheck.models.load import LoadedModel
    from mxcheck.models.recipe import Recipe
    from mxcheck.pytest_plugin.text import EvaluationText

#: Sequences that the local SQNR is taken on: it finds a place, it does not judge.
SQNR_SEQUENCES = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Resident:
    """What one model needs once: itself, its text, the reference's measurement."""

    label: str
    loaded: LoadedModel
    text: EvaluationText
    reference: Measurement


class Workbench:
    """Measures cases. Keeps one model: cases come model by model, so each is loaded once a worker.

    `shared` is a folder that all workers of the run see; `leasing` waits for what a model needs (None: nobody
    else uses this host); `tell` hears of every step, as `reporting.board` has it.
    """

    def __init__(
        self,
        settings: Settings,
        shared: Path,
        *,
        leasing: Leasing | None = None,
        tell: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> None:
        self.settings = settings
        self._shared = shared
        self._leasing = leasing
        self._tell = tell
        #: Seconds spent loading so far, references measured included.
        self.loading = 0.0
        self._resident: Resident | None = None
        self._failed: dict[str, str] = {}
        self._arithmetic: dict[torch.dtype, str] = {}
        self._devices: dict[int, int] | None = None
        self._whole: set[str] = set()

    @cached_property
    def threads(self) -> int:
        """Torch's threads: one a worker, so that `-n` is the one place where a run is spread over cores.

        A fixed count is a fixed arithmetic; and on a busy machine two threads that wait for each other
        were measured ten times slower than one. OMP_NUM_THREADS, where it is set, is left alone.
        """
        import torch

        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(1)
        return torch.get_num_threads()

    @cached_property
    def device(self) -> str:
        """`cpu`, or `cuda` where there is one and no option says otherwise."""
        pin_visible_gpus(self.settings)
        import torch

        available = torch.cuda.is_available()
        if self.settings.device == "cuda" and not available:
            raise ValueError("--mx-device cuda: torch finds no CUDA device here; use --mx-device cpu")
        return "cuda" if available and self.settings.device != "cpu" else "cpu"

    @cached_property
    def device_class(self) -> str:
        """What must be equal for two machines to share a baseline override: `cpu`, `cuda-sm90`."""
        if self.device == "cpu":
            return "cpu"
        import torch

        major, minor = torch.cuda.get_device_capability()
        return f"cuda-sm{major}{minor}"

    def unavailable(self, recipe: Recipe) -> str | None:
        """Why a library's step cannot run here, asked before any model is loaded; None: it can."""
        if recipe.library is None:
            return None
        from mxcheck.models.backends.backend import backend

        return backend(recipe.precision).missing(self.device)

    def resident(self, label: str) -> Resident:
        """Load a model and measure its reference, unless it is on the bench already."""
        if self._resident is not None and self._resident.label == label:
            return self._resident
        if label in self._failed:
            raise ValueError(self._failed[label])
        self.free()  # the old one before the new one comes
        try:
            self._lease(label)
            began = time.monotonic()
            self._tell({"do": "step", "what": f"{label} loading"})
            self._resident = self._load(label)
            self.loading += time.monotonic() - began
        except BaseException as error:
            self.free()  # what does not become resident holds nothing of the host
            if isinstance(error, ValueError):
                self._failed[label] = str(error)  # its other cases need not load it again to hear the same
            raise
        return self._resident

    def _lease(self, label: str) -> None:
        """Wait for what the model needs of this host: once memory ran out, for its devices whole."""
        if self._leasing is not None:
            known = estimated(self.settings, label)
            lease, devices = self._leasing.take(
                label, known, on_gpu=self.device != "cpu", whole=label in self._whole
            )
            on_device.use(self.device, lease, devices)
            held = {device.index: lease.bytes_of[device.name] for device in devices}
            if held.keys() != (self._devices or {}).keys():  # another GPU may be of another kind
                self._arithmetic.clear()
                for name in ("device_class", "environment"):
                    self.__dict__.pop(name, None)
            self._devices = held

    def enlarge(self, label: str) -> bool:
        """After memory ran out: let go of everything, so that the model gets its devices whole when it is
        asked for again. False where it had them whole already."""
        if self._leasing is None or label in self._whole or estimated(self.settings, label) is None:
            return False
        self._whole.add(label)
        self.free()
        return True

    def keep_only(self, label: str | None) -> None:
        """Let go of the resident model unless it is this one."""
        if self._resident is not None and self._resident.label != label:
            self.free()

    def free(self) -> None:
        """Let go of the resident model, and give back what it held of the host."""
        self._resident = None
        if "device" in self.__dict__:
            on_device.empty(self.device)
        if self._leasing is not None:
            self._leasing.give_back()

    def _load(self, label: str) -> Resident:
        from transformers.utils.logging import disable_progress_bar

        from mxcheck.evaluation.measure import evaluate
        from mxcheck.models.load import load

        assert self.threads > 0
        settings = self.settings
        source = model_source(settings.models[label])
        if settings.corpus.is_self:
            own_tokens_path(settings, label)  # says what to do, before the model is loaded
        disable_progress_bar()  # of single tensors, into the captured output of a red case
        loaded = load(
            source.name,
            device=self.device,
            devices=self._devices,
            dtype=settings.dtype,
            trust_remote_code=label in settings.trusted,
        )
        text = evaluation_text(settings, label, loaded, shared=self._shared)
        reference = evaluate(
            loaded.model,
            text.tokens,
            batch_size=self.batch_size(label),
            keep_log_probabilities=True,
            progress=self._progress(f"{label} reference", text.tokens, self.batch_size(label)),
        )
        return Resident(label=label, loaded=loaded, text=text, reference=reference)

    def _progress(self, what: str, tokens: torch.Tensor, together: int) -> Callable[[int], None]:
        """Tells that a measurement begins; what it returns tells of each batch."""
        sequences, length = tokens.shape
        batches = -(-sequences // together)
        self._tell({"do": "measure", "what": what, "batches": batches, "length": length})

        def batch(done: int) -> None:
            self._tell(
                {
                    "do": "batch",
                    "sequences": done,
                    "memory": on_device.memory_bytes(self.device, tuple(self._devices or (0,))),
                }
            )

        return batch

    def batch_size(self, label: str) -> int:
        """Sequences a forward pass: the option's, else the model card's, else 8."""
        card = model_source(self.settings.models[label]).card
        return self.settings.batch_size or (DEFAULT_BATCH_SIZE if card is None else card.batch_size)

    def record(self, case: Case) -> Record:
        """Measure one case. Raises ValueError, in one line, for what the user can mend, and UnavailableError
        where the case's step cannot run here or on this model."""
        from mxcheck.evaluation.arithmetic import product_digest
        from mxcheck.evaluation.measure import evaluate
        from mxcheck.evaluation.metrics import resolve_metrics
        from mxcheck.evaluation.sqnr import local_sqnr
        from mxcheck.evaluation.tokens import fingerprint
        from mxcheck.models.convert import convert
        from mxcheck.models.probe import digests

        recipe = self.settings.recipes[case]
        bench = self.resident(case.model)
        model, reference, tokens = bench.loaded.model, bench.reference, bench.text.tokens
        together = recipe.sequences_a_pass or self.batch_size(case.model)
        self._tell({"do": "step", "what": f"{case.id} converting"})
        conversion = convert(model, recipe)
        try:
            # before anything else runs: a library may fix its scales by what it sees first
            result = evaluate(
                model,
                tokens,
                reference=reference,
                batch_size=together,
                metrics=resolve_metrics(self.settings.metrics),
                progress=self._progress(case.id, tokens, together),
            )
            conversion.note_what_ran()
            bits = digests(conversion)
            sqnr = local_sqnr(conversion, tokens[:SQNR_SEQUENCES], batch_size=together)
            dtype = next(model.parameters()).dtype
            if dtype not in self._arithmetic:  # of this process: it does not change from case to case
                self._arithmetic[dtype] = product_digest(dtype, self.device)
        finally:
            conversion.undo()
        assert result.kl is not None
        assert result.sequence_kl is not None
        assert result.top1_agreement is not None
        assert result.bit_equal is not None
        return Record(
            model=case.model,
            precision=case.precision,
            tier=case.tier,
            options=list(case.options),
            recipe=recipe.as_dict(),
            changes_bits=conversion.changes_bits,
            fingerprints={
                "weights": bench.loaded.weights_fingerprint,
                "tokenizer": bench.loaded.tokenizer_fingerprint,
                "tokens": fingerprint(tokens),
                **bench.text.fingerprints,
            },
            arithmetic=self._arithmetic[dtype],
            environment=self.environment | {"batch_size": str(together)} | _version(recipe.library),
            replaced=conversion.replaced,
            unconverted=conversion.unconverted,
            weight_bytes=conversion.weight_bytes,
            original_bytes=conversion.original_bytes,
            digests=bits,
            corpus=bench.text.facts,
            scored_tokens=tokens.shape[0] * (tokens.shape[1] - 1),
            reference_cross_entropy=reference.cross_entropy,
            reference_entropy=reference.entropy,
            reference_losses=reference.sequence_losses,
            reference_entropies=reference.sequence_entropies,
            bit_equal=result.bit_equal,
            cross_entropy=result.cross_entropy,
            perplexity=result.perplexity,
            entropy=result.entropy,
            kl=result.kl,
            top1_agreement=result.top1_agreement,
            sequence_losses=result.sequence_losses,
            sequence_kl=result.sequence_kl,
            sqnr=sqnr,
            metrics=result.metrics,
        )

    @cached_property
    def environment(self) -> dict[str, str]:
        """What the figures were made with."""
        return environment(device=self.device, kernel=self.settings.kernel, threads=self.threads)


def _version(library: str | None) -> dict[str, str]:
    return {} if library in (None, "torch") else {str(library): version(str(library))}
