"""The `--mx-` options: declared, read from command line or ini file, checked. Loads no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from mxcheck.conformance.cells import LEVELS
from mxcheck.formats.blocks import BLOCK_FORMATS
from mxcheck.formats.choices import choose
from mxcheck.formats.spec import ROUNDINGS, SCALE_RULES
from mxcheck.gate.budget import load_budgets
from mxcheck.gate.case import Case, model_label
from mxcheck.models.recipe import LADDER, MX, TIERS, WHOLE_MODEL, Recipe, recipe
from mxcheck.models.zoo import REFERENCE_MODELS, model_source

MODEL_SCALE_RULES = tuple(rule for rule in SCALE_RULES if rule != "amax")
# Stochastic rounding wants a random integer for each element of each activation; the kernel suite has them.
MODEL_ROUNDINGS = tuple(rounding for rounding in ROUNDINGS if rounding != "stochastic")
SKIPPABLE = ("mx", "bf16")
DEVICES = ("auto", "cpu", "cuda")
DEFAULT_SAMPLES = 1000
DEFAULT_BLOCK_SIZE = 32

_LISTS = {
    "models": ("the reference models", "models: names of the zoo, directories, hub ids"),
    "precision": ("all of the ladder", f"model suite: steps of the ladder: {', '.join(LADDER)}, all"),
    "format": ("all", f"model suite: narrow the MX formats of the ladder: {', '.join(MX)}"),
    "tier": ("B", f"model suite: tiers: {', '.join(TIERS)}, all"),
    "skip": ("nothing", f"model suite: groups to leave out: {', '.join(SKIPPABLE)}"),
    "kernel": (
        "model suite: eager; kernel suite: all that are installed",
        "casts under test: names of implementations, package.module:function",
    ),
}
_VALUES = {
    "scale-rule": ("floor", f"model suite: scale rule: {', '.join(MODEL_SCALE_RULES)}"),
    "rounding": ("even", f"model suite: rounding of elements: {', '.join(MODEL_ROUNDINGS)}"),
    "block-size": (str(DEFAULT_BLOCK_SIZE), "model suite: elements that share a scale"),
    "max-samples": (str(DEFAULT_SAMPLES), "model suite: sequences to measure at most"),
    "batch-size": ("8", "model suite: sequences a forward pass; changes no result"),
    "level": ("quick", f"kernel suite: {', '.join(LEVELS)}"),
    "microxcaling": ("none", "kernel suite: a checkout of microxcaling, to be compared too"),
    "report": ("none", "kernel suite: directory to write the conformance matrix to, as Markdown and JSON"),
    "device": ("auto", f"where models and kernels run: {', '.join(DEVICES)} (auto: cuda where there is one)"),
    "baselines": ("baselines", "directory of accepted baselines, relative to pytest's root directory"),
    "budgets": ("ours", "TOML file whose budgets go before ours"),
}
_FLAGS = {
    "mlp-only": "the same as --mx-tier A",
    "recentre": "with --snapshot-update: also rewrite baselines that are within tolerance",
    "debug": "list every replaced module after the run",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The run that the options describe: plain data, the same in controller and workers."""

    models: dict[str, str]  # label -> name as given
    cases: tuple[Case, ...]
    scale_rule: str
    rounding: str
    block_size: int
    max_samples: int
    batch_size: int
    kernels: tuple[str, ...]  # as named; none: each suite's default
    level: str
    microxcaling: str
    report: Path | None
    device: str
    baselines: Path
    budgets: str | None
    recentre: bool
    debug: bool

    @property
    def kernel(self) -> str:
        """The one cast of a model run."""
        return self.kernels[0] if self.kernels else "eager"

    def recipe(self, case: Case) -> Recipe:
        """What to do to the model of `case`."""
        if case.precision in WHOLE_MODEL:
            return recipe(case.precision, kernel=self.kernel)
        return recipe(
            case.precision,
            tier=case.tier,
            block_size=self.block_size,
            scale_rule=self.scale_rule,
            rounding=self.rounding,
            kernel=self.kernel,
        )


def add_options(parser: pytest.Parser) -> None:
    """Declare every option on the command line and as an ini key (`--mx-models` is `mx_models`)."""
    group = parser.getgroup("mxcheck", "mxcheck: accuracy of microscaling (MX) formats")
    for name, (default, text) in _LISTS.items():
        group.addoption(
            f"--mx-{name}",
            action="append",
            metavar="NAMES",
            help=f"{text} (repeat or use commas; default: {default})",
        )
        parser.addini(f"mx_{name.replace('-', '_')}", text, type="linelist", default=[])
    for name, (default, text) in _VALUES.items():
        group.addoption(f"--mx-{name}", metavar="VALUE", help=f"{text} (default: {default})")
        parser.addini(f"mx_{name.replace('-', '_')}", text, default="")
    for name, text in _FLAGS.items():
        group.addoption(f"--mx-{name}", action="store_true", help=text)
    group.addoption("--no-mx", action="store_true", help="the same as --mx-skip mx")


def own_options(arguments: list[str]) -> list[str]:
    """Those of a command line's words that are ours and say what is measured, each with its value."""
    flags = {"--no-mx", *(f"--mx-{name}" for name in _FLAGS)}
    words: list[str] = []
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if word in ("--mx-recentre", "--mx-debug"):
            continue
        if word.startswith("--mx-") or word == "--no-mx":
            words.append(word)
            if "=" not in word and word not in flags:
                words.append(following)
    return words


def given(config: pytest.Config) -> bool:
    """Whether this run says anything about mxcheck at all."""
    names = [name.replace("-", "_") for name in (*_LISTS, *_VALUES)]
    flags = [f"mx_{name.replace('-', '_')}" for name in _FLAGS]
    return (
        any(config.getoption(f"mx_{name}") or config.getini(f"mx_{name}") for name in names)
        or any(config.getoption(flag) for flag in flags)
        or bool(config.getoption("no_mx"))
    )


def read_settings(config: pytest.Config) -> Settings:
    """Check the options and lay out the cases. Raises pytest.UsageError, in one line."""
    try:
        return _read(config)
    except ValueError as error:
        raise pytest.UsageError(f"mxcheck: {error}") from error


def _read(config: pytest.Config) -> Settings:
    models = _labels(_names(config, "models") or list(REFERENCE_MODELS))
    block_size = _integer(config, "block-size", DEFAULT_BLOCK_SIZE)
    max_samples = _integer(config, "max-samples", DEFAULT_SAMPLES)
    scale_rule = choose("--mx-scale-rule", _value(config, "scale-rule") or "floor", MODEL_SCALE_RULES)
    rounding = _value(config, "rounding") or "even"
    if rounding == "stochastic":
        raise ValueError(
            f"--mx-rounding stochastic: a model run has no random integers for it, the kernel suite has; "
            f"allowed: {', '.join(MODEL_ROUNDINGS)}"
        )
    choose("--mx-rounding", rounding, MODEL_ROUNDINGS)
    # Options that change the result are part of a case's identity, in this fixed order.
    rule = (scale_rule,) if scale_rule != "floor" else ()
    nearest = (rounding,) if rounding != "even" else ()
    samples = (f"samples{max_samples}",) if max_samples != DEFAULT_SAMPLES else ()
    block = (f"block{block_size}",) if block_size != DEFAULT_BLOCK_SIZE else ()
    cases = []
    for label in models:
        for precision in _precisions(config):
            if precision in WHOLE_MODEL:
                cases.append(Case(model=label, precision=precision, options=samples))
            else:
                _check_scale_rule(scale_rule, precision)
                cases += [
                    Case(
                        model=label,
                        precision=precision,
                        tier=tier,
                        options=(*rule, *nearest, *block, *samples),
                    )
                    for tier in _tiers(config)
                ]
    budgets = _value(config, "budgets") or None
    if budgets is not None:
        budgets = str(config.rootpath / budgets)
    load_budgets(budgets)
    return Settings(
        models=models,
        cases=tuple(cases),
        scale_rule=scale_rule,
        rounding=rounding,
        block_size=block_size,
        max_samples=max_samples,
        batch_size=_integer(config, "batch-size", 8),
        kernels=tuple(_names(config, "kernel")),
        level=choose("--mx-level", _value(config, "level") or "quick", LEVELS),
        microxcaling=_value(config, "microxcaling"),
        report=_report_folder(config),
        device=choose("--mx-device", _value(config, "device") or "auto", DEVICES),
        baselines=config.rootpath / (_value(config, "baselines") or "baselines"),
        budgets=budgets,
        recentre=bool(config.getoption("mx_recentre")),
        debug=bool(config.getoption("mx_debug")),
    )


def _report_folder(config: pytest.Config) -> Path | None:
    """Where to write, checked before the run and not after it."""
    name = _value(config, "report")
    if not name:
        return None
    folder = config.rootpath / name
    there = next(path for path in (folder, *folder.parents) if path.exists())  # at least the root
    if not there.is_dir():
        raise ValueError(f"--mx-report {name}: {there} is no directory; name a directory")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"--mx-report {name}: {there} cannot be written to; name another directory")
    return folder


def _check_scale_rule(rule: str, precision: str) -> None:
    if rule not in (allowed := BLOCK_FORMATS[precision].scale_rules):
        others = [name for name in MX if rule in BLOCK_FORMATS[name].scale_rules]
        raise ValueError(
            f"--mx-scale-rule {rule}: {precision} has no such rule, only {', '.join(allowed)}; "
            f"narrow the run with --mx-format {','.join(others)}"
        )


def _value(config: pytest.Config, name: str) -> str:
    key = f"mx_{name.replace('-', '_')}"
    return str(config.getoption(key) or config.getini(key))


def _names(config: pytest.Config, name: str) -> list[str]:
    """A list option: the command line's values, else the ini file's; repeated, with commas, or both."""
    key = f"mx_{name}"
    chosen = config.getoption(key) or config.getini(key)
    return list(dict.fromkeys(part.strip() for text in chosen for part in text.split(",") if part.strip()))


def _integer(config: pytest.Config, name: str, default: int) -> int:
    text = _value(config, name)
    if not text:
        return default
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"--mx-{name} must be a whole number of at least 1, got {text!r}")
    return int(text)


def _labels(names: list[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for name in names:
        source = model_source(name)
        label = model_label(name) if source.name not in REFERENCE_MODELS else name
        if label in labels or (label in REFERENCE_MODELS and name != label):
            raise ValueError(
                f"--mx-models: {labels.get(label, label)!r} and {name!r} are both {label!r} in ids "
                f"and baselines; rename one"
            )
        labels[label] = name
    return labels


def _precisions(config: pytest.Config) -> list[str]:
    named = _names(config, "precision")
    wanted = list(LADDER) if not named or "all" in named else named
    for name in wanted:
        choose("--mx-precision", name, [*LADDER, "all"])
    formats = _names(config, "format")
    for name in formats:
        choose("--mx-format", name, MX)
    skipped = _names(config, "skip") + (["mx"] if config.getoption("no_mx") else [])
    for name in skipped:
        choose("--mx-skip", name, SKIPPABLE)
    left_out = set(skipped) | (set(MX) if "mx" in skipped else set())
    left_out |= set(MX) - set(formats) if formats else set()
    chosen = [name for name in LADDER if name in wanted and name not in left_out]
    if not chosen:
        raise ValueError(
            f"no precision is left: --mx-precision {','.join(named) or 'all'}, --mx-format "
            f"{','.join(formats) or 'all'}, --mx-skip {','.join(skipped) or 'nothing'}; drop one of them"
        )
    return chosen


def _tiers(config: pytest.Config) -> list[str]:
    named = _names(config, "tier")
    if config.getoption("mx_mlp_only"):
        if config.getoption("mx_tier") and named != ["A"]:
            raise ValueError(
                f"--mx-mlp-only is --mx-tier A, got --mx-tier {','.join(named)} as well; drop one"
            )
        return ["A"]
    for name in named:
        choose("--mx-tier", name, [*TIERS, "all"])
    if "all" in named:
        return list(TIERS)
    return [tier for tier in TIERS if tier in named] or ["B"]
