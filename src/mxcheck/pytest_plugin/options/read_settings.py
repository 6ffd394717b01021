"""The run's settings from its options, checked. Does not import torch."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from mxcheck.conformance.cases.cells import LEVELS
from mxcheck.conformance.cases.narrowing import Narrowing
from mxcheck.evaluation.corpus_names import corpus_choice
from mxcheck.evaluation.metrics import check_metrics
from mxcheck.formats.choices import choose
from mxcheck.formats.spec import ROUNDINGS, SCALE_RULES
from mxcheck.gate.bounds_tables import load_bounds
from mxcheck.gate.case import Case, named_model
from mxcheck.gate.shipped import BASELINES
from mxcheck.kernels.device_choice import DEVICES
from mxcheck.models.recipes.recipe import Recipe
from mxcheck.models.zoo.known_models import REFERENCE_MODELS, known_labels, model_source
from mxcheck.pytest_plugin.options.mx_options import DEFAULT_MIN_FREE_RATIO, Options
from mxcheck.pytest_plugin.options.selection import kernels_alone
from mxcheck.run.cost import expected_seconds
from mxcheck.run.default_gate import FEW_PRECISIONS
from mxcheck.run.earlier_run import Durations, read_durations
from mxcheck.run.ladder_cases import Changes
from mxcheck.run.laid_out_cases import lay_out, left_out
from mxcheck.run.measurement_settings import DEFAULT_REFERENCE_CACHE, DEFAULT_SAMPLES
from mxcheck.run.option_choices import AXES, BLOCK_SIZES, DTYPES, MEMORIES, MODEL_ROUNDINGS, MODEL_SCALE_RULES
from mxcheck.run.own_recipes import own_recipes
from mxcheck.run.settings import Settings
from mxcheck.scheduling.ledger import default_folder
from mxcheck.scheduling.split_models import Shard, parse_shard, split


def read_settings(config: pytest.Config) -> Settings:
    """Check the options and lay out the cases. Raises pytest.UsageError, in one line."""
    try:
        return _read(config)
    except ValueError as error:
        raise pytest.UsageError(f"mxcheck: {error}") from error


def _read(config: pytest.Config) -> Settings:
    options = Options(config)
    models = _labels(options.names("models") or list(REFERENCE_MODELS))
    narrowing = _narrowing(options)
    changes = Changes() if kernels_alone(config) else _changes(options)
    corpus = corpus_choice(options.names("datasets") or ["self"], config.rootpath)
    max_samples = options.integer("max-samples", DEFAULT_SAMPLES)
    length = options.integer("sequence-length", None)
    dtype = options.value("dtype")
    if dtype:
        choose("--mx-dtype", dtype, DTYPES)
    kernels = tuple(options.names("kernel"))
    kernel = kernels[0] if kernels else "auto"
    metrics = tuple(options.names("metrics"))
    check_metrics(metrics)
    # Options that change the result are part of a case's identity, in this fixed order.
    text = (
        f"loaded-{dtype}" if dtype else "",
        "" if corpus.is_self else corpus.label,
        f"length{length}" if length is not None else "",
        f"samples{max_samples}" if max_samples != DEFAULT_SAMPLES else "",
    )
    recipes = own_recipes(config.rootpath / "pyproject.toml", kernel=kernel)
    whole = lay_out(
        models,
        options,
        own=recipes,
        changes=changes,
        text=tuple(filter(None, text)),
        kernel=kernel,
    )
    models = _with_cases(models, whole, named=options.names("models"))
    batch_size = options.integer("batch-size", None)
    cache = options.integer("reference-cache", DEFAULT_REFERENCE_CACHE)
    assert max_samples is not None
    assert cache is not None
    trusted = _trusted(options, models)
    shard = _shard(options)
    baselines = config.rootpath / (options.value("baselines") or BASELINES)
    if options.value("level") == "exhaustive":
        raise ValueError(
            "--mx-level=exhaustive is `python -m validation exhaustive` in a checkout of mxcheck"
        )
    settings = Settings(
        models=models,
        recipes=whole,
        own=tuple(recipes),
        left_out=left_out(options),
        trusted=trusted,
        scale_rule=changes.scale_rule or "floor",
        rounding=changes.rounding or "even",
        block_size=changes.block_size or 32,
        dtype=DTYPES.get(dtype),
        corpus=corpus,
        max_samples=max_samples,
        sequence_length=length,
        batch_size=batch_size,
        reference_cache=cache,
        memory=choose("--mx-memory", options.value("memory") or "auto", MEMORIES),
        metrics=metrics,
        kernel=kernel,
        kernels=kernels,
        narrowing=narrowing,
        level=choose("--mx-level", options.value("level") or "quick", LEVELS),
        microxcaling=options.value("microxcaling"),
        report=_report_folder(config, options),
        device=choose("--mx-device", options.value("device") or "auto", DEVICES),
        min_free_ratio=options.share("min-free-ratio", DEFAULT_MIN_FREE_RATIO),
        workers_per_device=options.integer("workers-per-device", 1) or 1,
        leases=_leases(config, options),
        shard=shard,
        whole=tuple(whole),
        baselines=baselines,
        durations=_durations(config, options),
        bounds=_bounds(config, options, recipes, known_labels(baselines, {case.model for case in whole})),
        recentre=options.flag("recentre"),
        measure=options.flag("measure"),
        layers=options.flag("layers"),
        cost=options.flag("cost"),
        wide=options.flag("wide"),
        debug=options.flag("debug"),
    )
    return settings if shard is None else _part(shard, settings)


def _with_cases(
    models: Mapping[str, str], whole: Mapping[Case, Recipe], *, named: list[str]
) -> dict[str, str]:
    """Return the models that have a case in the run. Raises ValueError where the run names another."""
    there = {case.model for case in whole}
    for label in models if named else ():
        if label not in there:
            few = " and ".join(
                name if tier is None else f"{name} in tier {tier}" for name, tier in FEW_PRECISIONS[label]
            )
            raise ValueError(
                f"--mx-models={label}: this model has only cases of {few}, and the run has none of them; "
                f"name such a precision, or leave the model out"
            )
    return {label: name for label, name in models.items() if label in there}


def _narrowing(options: Options) -> Narrowing:
    named = {
        name: choose(f"--mx-{name}", value, allowed) if (value := options.value(name)) else None
        for name, allowed in (
            ("scale-rule", SCALE_RULES),
            ("rounding", ROUNDINGS),
            ("block-size", BLOCK_SIZES),
            ("dtype", DTYPES),
            ("axis", AXES),
        )
    }
    size, dtype, axis = (named[name] for name in ("block-size", "dtype", "axis"))
    return Narrowing(
        formats=tuple(options.names("format")),
        scale_rule=named["scale-rule"],
        rounding=named["rounding"],
        block_size=None if size is None else int(size),
        dtype=None if dtype is None else DTYPES[dtype],
        axis=None if axis is None else int(axis),
    )


def _changes(options: Options) -> Changes:
    rule = choose("--mx-scale-rule", options.value("scale-rule") or "floor", MODEL_SCALE_RULES)
    rounding = options.value("rounding") or "even"
    if rounding == "stochastic":
        raise ValueError(
            f"--mx-rounding=stochastic: only the kernel suite has random integers for it; "
            f"allowed: {', '.join(MODEL_ROUNDINGS)}"
        )
    choose("--mx-rounding", rounding, MODEL_ROUNDINGS)
    block_size = options.value("block-size") or "32"
    choose("--mx-block-size", block_size, BLOCK_SIZES)
    return Changes(
        scale_rule=None if rule == "floor" else rule,
        rounding=None if rounding == "even" else rounding,
        block_size=None if block_size == "32" else int(block_size),
        attention=options.flag("attention"),
        outputs=options.flag("quantize-outputs"),
        weights_only=options.flag("weights-only"),
    )


def _bounds(
    config: pytest.Config, options: Options, own: Collection[str], models: tuple[str, ...]
) -> str | None:
    path = options.value("bounds")
    if path:
        path = str(config.rootpath / path)
    load_bounds(path or None, tuple(own), models=models)
    return path or None


def _report_folder(config: pytest.Config, options: Options) -> Path | None:
    """Return the output folder, checked before the run."""
    name = options.value("report")
    if not name:
        return None
    folder = config.rootpath / name
    there = next(path for path in (folder, *folder.parents) if path.exists())  # at least the root
    if not there.is_dir():
        raise ValueError(f"--mx-report={name}: {there} is not a directory; name a directory")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"--mx-report={name}: {there} cannot be written to; name another directory")
    return folder


def _leases(config: pytest.Config, options: Options) -> Path:
    """Return the host's ledger: the option's, else the environment's, else the user's own in the temporary
    folder."""
    named = options.value("leases") or os.environ.get("MXCHECK_LEASES", "")
    return config.rootpath / named if named else default_folder()


def _shard(options: Options) -> Shard | None:
    text = options.value("shard")
    if not text:
        return None
    shard = parse_shard(text)
    if not options.value("report"):
        raise ValueError(
            f"--mx-shard={text} needs --mx-report=DIR, the directory of the files for `mxcheck merge`"
        )
    return shard


def _part(shard: Shard, whole: Settings) -> Settings:
    """Return the settings of a shard, which has some of the models. What this machine measured is not used:
    all machines have to compute the same parts."""
    models = whole.models
    if shard.count > len(models):
        raise ValueError(
            f"--mx-shard={shard}: a shard has whole models, and the run has {len(models)}; "
            f"give at most N = {len(models)}"
        )
    labels = split(expected_seconds(whole), shard.count)[shard.index - 1]
    return replace(
        whole,
        models={label: models[label] for label in labels},
        recipes={case: made for case, made in whole.recipes.items() if case.model in labels},
    )


def _durations(config: pytest.Config, options: Options) -> Durations:
    path = options.value("durations")
    return read_durations(config.rootpath / path) if path else Durations()


def _trusted(options: Options, models: Mapping[str, str]) -> tuple[str, ...]:
    """Return the labels of the named models: by the form of `--mx-models`, or by either part of it."""
    names = {label: label for label in models}
    names |= {name: label for label, name in models.items()}
    names |= {f"{label}={name}": label for label, name in models.items()}
    chosen = options.names("trust-remote-code")
    return tuple(dict.fromkeys(names[choose("--mx-trust-remote-code", name, names)] for name in chosen))


def _labels(names: list[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for given in names:
        label, name = named_model(given)
        model_source(name)  # raises where it is missing
        if label in labels or (label in REFERENCE_MODELS and name != label):
            raise ValueError(
                f"--mx-models: {labels.get(label, label)!r} and {name!r} are both {label!r} in ids "
                f"and baselines; rename one, or give NAME={name}"
            )
        labels[label] = name
    return labels


_SETTINGS = pytest.StashKey[Settings]()


def settings(config: pytest.Config) -> Settings:
    """Return this run's settings. Raises pytest.UsageError, in one line, for invalid options."""
    if _SETTINGS not in config.stash:
        config.stash[_SETTINGS] = read_settings(config)
    return config.stash[_SETTINGS]
