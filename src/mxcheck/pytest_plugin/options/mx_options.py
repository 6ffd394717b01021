"""The `--mx-` options: declared, and read from command line, preset or ini file. Loads no torch."""

from __future__ import annotations

import argparse
import math
import shlex

import pytest

from mxcheck.conformance.cases.cells import LEVELS
from mxcheck.evaluation.corpus_names import CORPORA
from mxcheck.formats.aliases import own_name, own_precision
from mxcheck.formats.blocks import BLOCK_FORMATS
from mxcheck.formats.choices import choose, unknown
from mxcheck.gate.shipped import BASELINES
from mxcheck.kernels.device_choice import DEVICES
from mxcheck.models.recipes.ladder import GROUPS, LADDER, MIXED_TIERS, TIERS
from mxcheck.run.measurement_settings import DEFAULT_LENGTH, DEFAULT_REFERENCE_CACHE, DEFAULT_SAMPLES
from mxcheck.run.option_choices import (
    BLOCK_SIZES,
    DTYPES,
    ELEMENTWISE,
    MEMORIES,
    MODEL_ROUNDINGS,
    MODEL_SCALE_RULES,
)

DEFAULT_MIN_FREE_RATIO = 0.5
#: Options that do not affect the measurement.
_ASIDE = frozenset(
    {
        "recentre",
        "measure",
        "layers",
        "cost",
        "wide",
        "debug",
        "report",
        "min-free-ratio",
        "workers-per-device",
        "leases",
        "shard",
        "durations",
        "reference-cache",
    }
)

_KERNELS_ALL = "kernel suite: all"

LISTS = {
    "models": (
        "the reference models",
        "model suite: models by name, directory or hub id (org/name@revision); NAME=PATH gives a name",
    ),
    "precision": (
        "all that are installed",
        f"model suite: precisions: {', '.join(LADDER)}, user-defined recipes by name, all",
    ),
    "format": (
        "all",
        f"run only the precisions and kernel cells of these formats: {', '.join(BLOCK_FORMATS)}",
    ),
    "tier": ("B", f"model suite: which modules to quantize: {', '.join((*TIERS, *MIXED_TIERS))}, all"),
    "skip": (
        "nothing",
        f"model suite: groups of precisions to leave out: {', '.join(GROUPS)} (mx includes mixed)",
    ),
    "global": (
        "none",
        (
            "model suite: run each case that mxcheck quantizes once more, with the results of element-wise "
            f"operations cast too, to: {', '.join(ELEMENTWISE)}"
        ),
    ),
    "datasets": (
        "self",
        (
            f"model suite: the evaluation text: {', '.join(CORPORA)}, a local file; a second one is used if "
            "the first cannot be reached"
        ),
    ),
    "metrics": ("none", "model suite: user-defined metrics, as package.module:function"),
    "trust-remote-code": ("none", "model suite: models whose checkpoint may run its own Python code"),
    "kernel": (
        "model suite: auto; kernel suite: all that are installed",
        "casts under test: implementations by name, or package.module:function",
    ),
}
VALUES = {
    "preset": ("none", "a named set of these options, which the command line overrides: {presets}"),
    "scale-rule": (
        f"floor; {_KERNELS_ALL}",
        f"scale rule: {', '.join(MODEL_SCALE_RULES)}; kernel suite: only this one (also amax)",
    ),
    "rounding": (
        f"even; {_KERNELS_ALL}",
        f"rounding of elements: {', '.join(MODEL_ROUNDINGS)}; kernel suite: only this one (also stochastic)",
    ),
    "block-size": (
        f"32; {_KERNELS_ALL}",
        f"elements that share a scale: {', '.join(BLOCK_SIZES)}; kernel suite: only this one",
    ),
    "dtype": (
        f"the model card's, else fp32; {_KERNELS_ALL}",
        f"load models in: {', '.join(DTYPES)}; kernel suite: only inputs of this type",
    ),
    "axis": ("all", "kernel suite: only blocks along this axis: -4 to 3, -1 is the last"),
    "max-samples": (str(DEFAULT_SAMPLES), "model suite: largest number of sequences to measure"),
    "sequence-length": (
        f"{DEFAULT_LENGTH}, or the model's own length if less; for its own samples, their length",
        "model suite: tokens per sequence",
    ),
    "batch-size": (
        "8 or the model card's",
        "model suite: sequences per forward pass; does not change results",
    ),
    "reference-cache": (
        str(DEFAULT_REFERENCE_CACHE),
        (
            "model suite: most MiB of the reference's logits that a worker keeps, of a vocabulary so large "
            "that they would be computed again for each case; does not change results"
        ),
    ),
    "memory": (
        "auto",
        (
            f"model suite: where quantized weights are: {', '.join(MEMORIES)}: kept beside the model, or "
            "lean, made layer by layer at each forward; auto: by what is free; does not change results"
        ),
    ),
    "level": ("quick", f"kernel suite: how many inputs to test: {', '.join(LEVELS)}"),
    "microxcaling": ("none", "kernel suite: path of a microxcaling checkout, to test it too"),
    "report": (
        "none",
        "directory for result files: the conformance matrix as Markdown and JSON, the model cases as JSON",
    ),
    "device": ("auto", f"device of models and kernels: {', '.join(DEVICES)} (auto: cuda if there is one)"),
    "min-free-ratio": (
        str(DEFAULT_MIN_FREE_RATIO),
        "model suite: do not use a GPU with a smaller share of free memory",
    ),
    "workers-per-device": (
        "1",
        "model suite: largest number of workers that share a device (on a CPU: a core)",
    ),
    "leases": (
        "$MXCHECK_LEASES, else mxcheck-<uid> in the temporary directory",
        "directory on a local disk, shared by all runs of this host, for their leases of devices and memory",
    ),
    "shard": (
        "1/1",
        "model suite: i/N runs the i-th of N parts of the cases, whole models each; needs --mx-report",
    ),
    "durations": (
        "none",
        (
            "model suite: accuracy.json of an earlier run on such devices: its cases' durations decide the "
            "parts of --mx-shard, and what starts first"
        ),
    ),
    "baselines": (str(BASELINES), "directory of accepted baselines, relative to pytest's root directory"),
    "bounds": ("those of mxcheck", "TOML file of bounds, which override those of mxcheck"),
}
FLAGS = {
    "mlp-only": "model suite: the same as --mx-tier=A",
    "all-linears": "model suite: quantize every linear module instead of a tier's: also head and routers",
    "attention": "model suite: also quantize the operands of both matrix products of attention",
    "quantize-outputs": "model suite: also quantize the outputs of linear modules (keys and values included)",
    "weights-only": "model suite: quantize weights only, no activations",
    "recentre": "with --snapshot-update: rewrite the baselines of passing cases, and accept nothing new",
    "measure": "model suite: show the figures without comparing them: no case is red for its figures",
    "wide": "model suite: also show replaced modules, changes of cross-entropy and entropy, and seconds",
    "layers": "model suite: after the table, show each case's error by layer",
    "cost": "model suite: after the table, show each case's time by part, and its memory",
    "debug": "model suite: after the run, list the replaced modules and those that were not replaced",
}

#: Lists in which a name may have another spelling -> our name for it.
_OWN_NAMES = {"precision": own_precision, "format": own_name, "global": own_name}

#: Largest integer for an option: more than any model, text or host has.
MOST = {
    "max-samples": 2**31 - 1,
    "sequence-length": 2**24,
    "batch-size": 2**16,
    "workers-per-device": 2**10,
    "reference-cache": 2**24,
}

#: Smallest integer for an option, where it is not 1.
LEAST = {"reference-cache": 0}

#: Former names of options, which are still accepted.
FORMER = {"bounds": "budgets"}

#: Built-in presets; a preset of the same name in the ini file takes precedence.
PRESETS = {
    "quick": "--mx-precision=fp32,bf16,mxfp8_e4m3,mxfp4_e2m1 --mx-tier=B",
    "medium": "--mx-tier=A,B",
    "full": "--mx-precision=all --mx-tier=all",
    "large": "--mx-models=llama-3.1-8b,qwen2.5-7b,qwen2.5-14b,phi-3-medium-14b,mixtral-8x7b,mpt-30b,yi-34b,"
    "deepseek-67b --mx-precision=all --mx-tier=all --mx-datasets=wikitext",
}


def add_options(parser: pytest.Parser) -> None:
    """Declare every option on the command line and as an ini key (`--mx-models` is `mx_models`)."""
    group = parser.getgroup("mxcheck", "mxcheck: accuracy of microscaling (MX) formats")
    for name, (default, text) in LISTS.items():
        group.addoption(
            f"--mx-{name}",
            action="append",
            metavar="NAMES",
            help=f"{text} (repeat or use commas; default: {default})",
        )
        parser.addini(_key(name), text, type="linelist", default=None)
    for name, (default, text) in VALUES.items():
        described = text.format(presets=", ".join(PRESETS))
        names = [f"--mx-{each}" for each in (name, FORMER.get(name)) if each]
        group.addoption(*names, metavar="VALUE", help=f"{described} (default: {default})")
        parser.addini(
            _key(name),
            described,
            default=None,
            aliases=[_key(FORMER[name])] if name in FORMER else [],
        )
    for name, text in FLAGS.items():
        group.addoption(f"--mx-{name}", action="store_true", help=text)
    group.addoption("--no-mx", action="store_true", help="the same as --mx-skip=mx")
    parser.addini("mx_presets", "presets: lines of `name: options`", type="linelist", default=[])


def _key(name: str) -> str:
    return f"mx_{name.replace('-', '_')}"


def own_options(arguments: list[str]) -> list[str]:
    """Return our measurement options among a command line's words, each joined with its value in one word:
    pytest would collect from a path after a space."""
    flags = {"--no-mx", *(f"--mx-{name}" for name in FLAGS)}
    words: list[str] = []
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if word.partition("=")[0].removeprefix("--mx-") in _ASIDE:
            continue
        if word in ("-o", "--override-ini") and following.startswith("mx_"):
            words += [word, following]
        if word.startswith("--mx-") or word == "--no-mx":
            words.append(word if "=" in word or word in flags else f"{word}={following}")
    return words


def any_mx_option(config: pytest.Config) -> bool:
    """Return whether this run sets any option of mxcheck."""
    return any_mx_option_typed(config.option) or any(
        config.getini(_key(name)) is not None for name in (*LISTS, *VALUES)
    )


def any_mx_option_typed(options: argparse.Namespace) -> bool:
    """Return whether a command line sets any option of mxcheck."""
    named = any(getattr(options, _key(name)) is not None for name in (*LISTS, *VALUES))
    return named or any(getattr(options, _key(flag)) for flag in FLAGS) or bool(options.no_mx)


class Options:
    """The run's options. The command line takes precedence over the preset, the preset over the ini file.

    Raises ValueError, in one line, for a preset that is missing or malformed, and for an option or ini key
    without a value.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        for name in (*LISTS, *VALUES):
            key = _key(name)
            _refuse_empty(f"--mx-{name}", config.getoption(key))
            _refuse_empty(f"the ini key {key}", config.getini(key))
        self._preset = _preset(config)
        for name in (*LISTS, *VALUES):
            _refuse_empty(f"--mx-{name} of the preset", self._preset.get(name))

    def value(self, name: str) -> str:
        key = _key(name)
        chosen = self._config.getoption(key) or "".join(self._preset.get(name, [])[-1:])
        return str(chosen or self._config.getini(key) or "")

    def names(self, name: str) -> list[str]:
        """Return a list that was given by repetition, with commas, or both."""
        key = _key(name)
        chosen = self._config.getoption(key) or self._preset.get(name) or self._config.getini(key) or []
        names = [part.strip() for text in chosen for part in text.split(",")]
        return list(dict.fromkeys(map(_OWN_NAMES[name], names) if name in _OWN_NAMES else names))

    def flag(self, name: str) -> bool:
        return bool(self._config.getoption(_key(name))) or name in self._preset

    def on_the_command_line(self, name: str) -> bool:
        return bool(self._config.getoption(_key(name)))

    def integer(self, name: str, default: int | None) -> int | None:
        text = self.value(name)
        if not text:
            return default
        least, most = LEAST.get(name, 1), MOST[name]
        # Python refuses to parse a number of thousands of digits.
        if not text.isdecimal() or len(text) > len(str(most)) or not least <= int(text) <= most:
            raise ValueError(f"--mx-{name} must be a whole number from {least} to {most}, got {text!r:.40}")
        return int(text)

    def share(self, name: str, default: float) -> float:
        text = self.value(name)
        try:
            share = float(text or default)
        except ValueError:
            share = math.nan
        if not 0 <= share <= 1:
            raise ValueError(f"--mx-{name} must be a number from 0 to 1, got {text!r}")
        return share

    @property
    def no_mx(self) -> bool:
        return bool(self._config.getoption("no_mx"))


def _refuse_empty(what: str, given: str | list[str] | None) -> None:
    """Refuse an empty value, or a list with an empty name, as from an unset variable."""
    if given is None:
        return
    # A value that is one path may contain commas.
    parts = [given] if isinstance(given, str) else [part for text in given for part in text.split(",")]
    if not parts or not all(part.strip() for part in parts):
        raise ValueError(
            f"{what} has an empty value, got {','.join(parts)!r}; give one, or leave it out (a variable that "
            f"is not set is empty)"
        )


def _preset(config: pytest.Config) -> dict[str, list[str]]:
    """Return the options of the chosen preset, by name."""
    presets = dict(PRESETS)
    for line in config.getini("mx_presets"):
        name, colon, words = line.partition(":")
        if not colon or not name.strip() or not words.strip():
            raise ValueError(f"mx_presets: a line is `name: options`, got {line!r}")
        presets[name.strip()] = words
    chosen = config.getoption("mx_preset") or config.getini("mx_preset")
    if not chosen:
        return {}
    options: dict[str, list[str]] = {}
    words = shlex.split(presets[choose("--mx-preset", chosen, presets)])
    while words:
        word, equals, value = words.pop(0).partition("=")
        name = word.removeprefix("--mx-")
        name = next((now for now, former in FORMER.items() if former == name), name)
        if word == "--no-mx":
            options.setdefault("skip", []).append("mx")
            continue
        if name == "preset" or name not in (*LISTS, *VALUES, *FLAGS) or not word.startswith("--mx-"):
            allowed = [f"--mx-{known}" for known in (*LISTS, *VALUES, *FLAGS) if known != "preset"]
            raise ValueError(f"preset {chosen!r}: {unknown('option', word, allowed)}")
        if name in FLAGS:
            options[name] = []
        elif equals or words:
            options.setdefault(name, []).append(value if equals else words.pop(0))
        else:
            raise ValueError(f"preset {chosen!r}: {word} has no value; write {word}=VALUE")
    return options
