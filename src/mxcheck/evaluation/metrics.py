"""The user's own metrics, by name. Torch-free until one is resolved: names are checked at collection.

A package offers a metric by an entry point in the group `mxcheck.metrics`, whose value is
`package.module:function`; a conftest.py or module by the decorator `metric`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mxcheck.files.printed import WORDS, one_line
from mxcheck.formats.choices import unknown
from mxcheck.kernels.registry import offered

if TYPE_CHECKING:
    from torch import Tensor

    MetricFunction = Callable[[Tensor, Tensor, Tensor], Tensor]

ENTRY_POINTS = "mxcheck.metrics"

#: Names in use: figures of every measurement or record, or that `evaluate` collects beside the user's.
TAKEN = frozenset(
    {"bit_equal", "changes_bits", "cross_entropy", "entropy", "kl", "loss", "metrics", "perplexity", "rise"}
    | {"reference_cross_entropy", "reference_entropies", "reference_entropy", "reference_loss"}
    | {"reference_losses", "self_sampled", "sequence_entropies", "sequence_kl", "sequence_losses"}
    | {"k3", "k3_error", "kl_by_position", "kl_percentiles", "predictions", "probability_change"}
    | {"probability_change_percentiles", "probability_change_rms", "sequence_k3", "sequence_top1"}
    | {"top1_agreement"}
)

# Functions decorated with `metric`, by name.
_DECORATED: dict[str, MetricFunction] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A figure of a model's predictions relative to the reference's, averaged over the tokens of each
    sequence.

    Attributes:
        name: an identifier: the figure's name in a measurement.
        function: f(log_probabilities, targets, reference_log_probabilities), on float64 [rows, vocabulary] in
            nats, int64 [rows] (the true next tokens) and float64 [rows, vocabulary]; returns one real number
            per row, [rows]. Rows are some of the positions of one sequence: a row's number must not depend on
            the other rows of the call.
    """

    name: str
    function: MetricFunction

    def __post_init__(self) -> None:
        _check_name(self.name)

    def __call__(self, log_p: Tensor, targets: Tensor, reference_log_p: Tensor) -> Tensor:
        """Return the metric of each row, float64 [rows]. The function gets copies, so it may work in place.

        Raises ValueError, naming the metric, if the function raises, or returns anything but one finite real
        number per row.
        """
        import torch

        try:
            value = self.function(log_p.clone(), targets.clone(), reference_log_p.clone())
        except Exception as error:
            raise ValueError(
                f"metric {self.name!r} raised {type(error).__name__}: {one_line(str(error), WORDS)}"
            ) from error
        if not isinstance(value, torch.Tensor) or value.shape != targets.shape or value.is_complex():
            got = (
                f"{value.dtype} {list(value.shape)}"
                if isinstance(value, torch.Tensor)
                else type(value).__name__
            )
            raise ValueError(
                f"metric {self.name!r} must return one real number a row, a tensor of shape "
                f"{list(targets.shape)}, got {got}"
            )
        if not torch.isfinite(value).all():
            row = int((~torch.isfinite(value)).nonzero()[0])
            raise ValueError(
                f"metric {self.name!r} is not finite: {value[row].item()} in row {row} of its chunk"
            )
        return value.double()


def metric(name: str) -> Callable[[MetricFunction], MetricFunction]:
    """Register the decorated function as a metric of that name; see `Metric` for its arguments.

    Raises ValueError if the name is not an identifier, or belongs to a built-in figure or another function.
    """
    _check_name(name)

    def register(function: MetricFunction) -> MetricFunction:
        other = _DECORATED.get(name)
        # the same function again means that its module was imported twice
        if other is not None and _place(other) != _place(function):
            raise ValueError(f"metric {name!r} is registered already, by {_place(other)}; give another name")
        _DECORATED[name] = function
        return function

    return register


def check_metrics(names: Sequence[str]) -> tuple[str, ...]:
    """Return the figures' names of these metrics: a registered name, an entry point's, or the function's of
    `package.module:function`. Imports none of them.

    Raises ValueError for an unknown name, or two metrics of one name.
    """
    known = _known()
    figures: list[str] = []
    for name in names:
        module, colon, function = name.partition(":")
        if name not in known and not (module and colon and function):
            raise unknown("metric", name, [*known, "<package.module:function>"])
        figure = name if name in known else function
        _check_name(figure)
        if figure in figures:
            raise ValueError(f"metric {name!r}: another is called {figure!r} already; name each once")
        figures.append(figure)
    return tuple(figures)


def resolve_metrics(names: Sequence[str]) -> tuple[Metric, ...]:
    """Import and return the metrics of these names, as `check_metrics` takes them.

    Raises ValueError as `check_metrics`, and if there is no such module or function.
    """
    from mxcheck.kernels.api import load_target

    known = _known()
    metrics: list[Metric] = []
    for name, figure in zip(names, check_metrics(names), strict=True):
        target = known.get(name, name)
        function = load_target(target, "metric") if isinstance(target, str) else target
        metrics.append(Metric(name=figure, function=function))
    return tuple(metrics)


def as_metrics(metrics: Mapping[str, MetricFunction] | Sequence[Metric]) -> tuple[Metric, ...]:
    """Return metrics given in either form; no two of one name."""
    if isinstance(metrics, Mapping):
        return tuple(Metric(name=name, function=function) for name, function in metrics.items())
    names = [one.name for one in metrics]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two metrics are called {name!r}; give each a name of its own")
    return tuple(metrics)


def _known() -> dict[str, MetricFunction | str]:
    """Return name -> function, or its place: decorated functions, then those that installed packages
    offer."""
    return {**_DECORATED, **offered(ENTRY_POINTS, taken=_DECORATED)}


def _check_name(name: str) -> None:
    if not name.isidentifier():
        raise ValueError(f"a metric's name must be an identifier, got {name!r}")
    if name in TAKEN:
        raise ValueError(
            f"a metric's name must be none of {', '.join(sorted(TAKEN))}, got {name!r}; give another name"
        )


def _place(function: MetricFunction) -> str:
    return f"{getattr(function, '__module__', '?')}:{getattr(function, '__qualname__', repr(function))}"
