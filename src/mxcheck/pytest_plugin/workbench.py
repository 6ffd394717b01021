"""One worker's bench: the resident model, its reference, and the steps from a case to its record."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from mxcheck.gate.case import Case
from mxcheck.gate.record import Record
from mxcheck.pytest_plugin.options import Settings

if TYPE_CHECKING:
    import torch

    from mxcheck.evaluation.measure import Measurement
    from mxcheck.models.load import LoadedModel

#: Sequences that the local SQNR is taken on: it finds a place, it does not judge.
SQNR_SEQUENCES = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Resident:
    """What one model needs once: itself, its tokens, the reference's measurement."""

    label: str
    loaded: LoadedModel
    tokens: torch.Tensor
    tokens_path: Path
    reference: Measurement


class Workbench:
    """Measures cases. Keeps one model: cases come model by model, so each is loaded once a worker."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._resident: Resident | None = None

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

    def tokens_path(self, label: str) -> Path:
        """Where a model's evaluation tokens lie: with the reference models, else with the baselines."""
        from mxcheck.models.zoo import model_source

        source = model_source(self.settings.models[label])
        return source.tokens or self.settings.baselines / label / "tokens.safetensors"

    def resident(self, label: str) -> Resident:
        """Load a model and measure its reference, unless it is on the bench already."""
        if self._resident is not None and self._resident.label == label:
            return self._resident
        self._resident = None  # free the old one before the new one comes
        from transformers.utils.logging import disable_progress_bar

        from mxcheck.evaluation.measure import evaluate
        from mxcheck.evaluation.tokens import load_tokens
        from mxcheck.models.load import load

        assert self.threads > 0
        name, path = self.settings.models[label], self.tokens_path(label)
        if not path.is_file():
            raise ValueError(
                f"model {name!r} has no evaluation tokens at {path}; make them with: mxcheck sample {name} "
                f"--baselines {self.settings.baselines}"
            )
        disable_progress_bar()  # of single tensors, into the captured output of a red case
        loaded = load(name, device=self.device)
        tokens = load_tokens(path)[: self.settings.max_samples]
        reference = evaluate(
            loaded.model, tokens, batch_size=self.settings.batch_size, keep_log_probabilities=True
        )
        self._resident = Resident(
            label=label, loaded=loaded, tokens=tokens, tokens_path=path, reference=reference
        )
        return self._resident

    def record(self, case: Case) -> Record:
        """Measure one case. Raises ValueError, in one line, for what the user can mend."""
        from mxcheck.evaluation.arithmetic import product_digest
        from mxcheck.evaluation.measure import evaluate
        from mxcheck.evaluation.sqnr import local_sqnr
        from mxcheck.evaluation.tokens import fingerprint
        from mxcheck.models.convert import convert
        from mxcheck.models.probe import digests

        bench = self.resident(case.model)
        recipe = self.settings.recipe(case)
        model, reference = bench.loaded.model, bench.reference
        conversion = convert(model, recipe)
        try:
            bits = digests(conversion)
            result = evaluate(model, bench.tokens, reference=reference, batch_size=self.settings.batch_size)
            sqnr = local_sqnr(conversion, bench.tokens[:SQNR_SEQUENCES])
            arithmetic = product_digest(next(model.parameters()).dtype, self.device)
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
            changes_bits=recipe.changes_bits,
            fingerprints={
                "weights": bench.loaded.weights_fingerprint,
                "tokenizer": bench.loaded.tokenizer_fingerprint,
                "tokens": fingerprint(bench.tokens),
            },
            arithmetic=arithmetic,
            environment=self.environment,
            replaced=conversion.replaced,
            digests=bits,
            self_sampled=True,
            scored_tokens=bench.tokens.shape[0] * (bench.tokens.shape[1] - 1),
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
        )

    @cached_property
    def environment(self) -> dict[str, str]:
        """What the figures were made with. Recorded, shown when a case is red, never compared."""
        import torch

        settings = {
            name: os.environ[name]
            for name in ("ATEN_CPU_CAPABILITY", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA")
            if name in os.environ
        }
        return {
            "mxcheck": version("mxcheck"),
            "python": platform.python_version(),
            "torch": str(torch.__version__),  # its own subclass of str does not travel between workers
            "transformers": version("transformers"),
            "machine": platform.machine(),
            "processor": _processor(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "device": self.device if self.device == "cpu" else torch.cuda.get_device_name(),
            "kernel": self.settings.kernel,
            "threads": str(self.threads),
            "batch_size": str(self.settings.batch_size),
            **settings,
        }


def _processor() -> str:
    """The processor's own name where Linux tells it."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
