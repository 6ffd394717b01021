"""One case of the gate: a model, the subject of the measurement, and the options that change its result."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from mxcheck.files.printed import got
from mxcheck.formats.aliases import own_option, own_precision

Kind = Literal["recipe", "checkpoint", "engine", "training"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KindRow:
    """A subject of the gate.

    Attributes:
        named: a case has the subject's name, in place of a precision and a tier.
        casts: mxcheck casts its operands, so that its record has digests of them.
    """

    named: bool = False
    casts: bool = False


#: kind -> its row; `recipe`, whose cases have no prefix, first.
KINDS: Mapping[Kind, KindRow] = {
    "recipe": KindRow(casts=True),
    "checkpoint": KindRow(named=True),
    "engine": KindRow(named=True),
    "training": KindRow(),
}
if tuple(KINDS) != get_args(Kind):
    raise ValueError(f"KINDS has rows for {', '.join(KINDS)}; Kind allows {', '.join(get_args(Kind))}")

_COSTLY = ("attention", "outputs")
#: Longest case name: every file named after it must fit in 255 bytes.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,149}")
#: Syntax of each part of a name. The first dash of a name separates precision and tier, so that neither
#: contains one; a `+` begins an option.
_PARTS = {
    "model": (_NAME, "at most 150 letters, digits, '_', '.' and '-', the first a letter or digit"),
    "subject": (_NAME, "at most 150 letters, digits, '_', '.' and '-', the first a letter or digit"),
    "precision": (re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]*"), "letters, digits, '_' and '.'"),
    "tier": (re.compile(r"[A-Za-z0-9_.]+"), "letters, digits, '_' and '.'"),
    "option": (re.compile(r"[A-Za-z0-9_.-]+"), "letters, digits, '_', '.' and '-'"),
}
#: `checkpoint.my-fp8`, `engine.vllm-0.32+batch8`, `training.mxfp8_e4m3-B`. No recipe's name begins with such
#: a word and a dot (`check_recipe_name`), so the first dot distinguishes the kinds.
_OTHER_KIND = re.compile(rf"({'|'.join(list(KINDS)[1:])})\.(.*)")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Case:
    """Identity of one measurement. `options` are the non-default ones, in a fixed order.

    `kind` determines the subject:

    - `recipe`: mxcheck's emulation of `precision` and `tier`.
    - `checkpoint`: a checkpoint that somebody made of `model`; `subject` is its name.
    - `engine`: a running engine that serves `model`; `subject` is its name.
    - `training`: training `model` under `precision` and `tier`.

    A precision, and an option, may be given by another of its names.

    Raises ValueError for a name that cannot be part of a file name and a test name, or that another case has.
    """

    model: str
    precision: str = ""
    tier: str | None = None
    options: tuple[str, ...] = ()
    kind: Kind = "recipe"
    subject: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", own_precision(self.precision))
        object.__setattr__(self, "options", tuple(map(own_option, self.options)))
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of case {got(self.kind)}; allowed: {', '.join(KINDS)}")
        named = KINDS[self.kind].named
        if named != bool(self.subject) or named == bool(self.precision) or (named and self.tier is not None):
            needs = "a subject, and neither precision nor tier" if named else "a precision, and no subject"
            raise ValueError(
                f"a case of kind {self.kind} has {needs}; got subject {got(self.subject)}, precision "
                f"{got(self.precision)}, tier {got(self.tier)}"
            )
        own = {"subject": self.subject} if named else {"precision": self.precision, "tier": self.tier}
        named_parts = [("model", self.model), *own.items(), *(("option", one) for one in self.options)]
        for part, name in named_parts:
            written, allowed = _PARTS[part]
            if name is not None and not written.fullmatch(name):
                raise ValueError(
                    f"the {part} of a case cannot be called {got(name, 160)}; allowed: {allowed}"
                )
        check_recipe_name(self.precision)

    @property
    def name(self) -> str:
        """The part of the name after the model: `mxfp8_e4m3-A`, `bf16`, `mxfp8_e4m3-A+block16`,
        `checkpoint.my-fp8`, `engine.vllm`, `training.mxfp8_e4m3-B`."""
        return "+".join([self.plain, *self.options])

    @property
    def plain(self) -> str:
        """The name without its options."""
        what = self.subject or (self.precision if self.tier is None else f"{self.precision}-{self.tier}")
        return what if self.kind == "recipe" else f"{self.kind}.{what}"

    @property
    def bounds_key(self) -> str:
        """Key of the case in a table of bounds. Options that quantize more may have a line of their own;
        others do not change the permitted cost of a precision."""
        costly = [option for option in self.options if option in _COSTLY or option.startswith("global-")]
        return "+".join([self.plain, *costly])

    @property
    def id(self) -> str:
        """pytest id, which `-k` matches too."""
        return f"{self.model}-{self.name}"

    @property
    def baseline(self) -> Path:
        """Path of the accepted record, relative to the baselines directory."""
        return Path(self.model) / f"{self.name}.json"


def case_of(model: str, name: str) -> Case:
    """Return the case of `model` with this name: the inverse of `Case.name` (no precision has a dash).
    Raises ValueError for an invalid name."""
    plain, *options = name.split("+")
    if not plain or not all(options):
        raise ValueError(
            f"{got(name, 160)} is no name of a case; such as: mxfp8_e4m3-B, bf16, checkpoint.my-fp8+block16"
        )
    found = _OTHER_KIND.fullmatch(plain)
    kind: Kind = found[1] if found else "recipe"  # type: ignore[assignment]
    what = found[2] if found else plain
    if KINDS[kind].named:
        return Case(model=model, kind=kind, subject=what, options=tuple(options))
    precision, dash, tier = what.partition("-")
    return Case(
        model=model, kind=kind, precision=precision, tier=tier if dash else None, options=tuple(options)
    )


def check_recipe_name(name: str) -> None:
    """Raise ValueError for a recipe name that would read as a case of another kind."""
    if _OTHER_KIND.fullmatch(name):
        raise ValueError(
            f"a recipe cannot be called {got(name, 160)}: {name.partition('.')[0]!r} and a dot begin the "
            f"name of a case of that kind; give another name"
        )


#: `NAME=` before a model's name. A directory whose name contains `=` is written `./a=b`.
_NAMED = re.compile(rf"({_NAME.pattern})=(.*)", re.DOTALL)


def named_model(text: str) -> tuple[str, str]:
    """Split an option's model, `NAME=PATH` or a name alone, into label and name. Raises ValueError as
    `model_label` does, and where nothing follows the `=`."""
    found = _NAMED.fullmatch(text)
    if found is None:
        return model_label(text), text
    label, name = found.groups()
    if not name:
        raise ValueError(
            f"model {text!r} names nothing: write {label}=PATH, where PATH is a directory, a hub id or a "
            f"name of the zoo"
        )
    return label, name


def named_as(label: str, name: str) -> str:
    """Return a model as an option gives it: the inverse of `named_model`."""
    try:
        alone = named_model(name)
    except ValueError:
        alone = ("", name)
    return name if alone == (label, name) else f"{label}={name}"


def model_label(name: str) -> str:
    """Return the label of a model for ids and directories: a hub id `org/name` becomes `org--name`, without
    its revision (a baseline's fingerprints distinguish the weights), a path its last component. The caller
    refuses two models of one run with the same label."""
    stripped = name.rstrip("/")
    if stripped and (name.startswith((".", "/", "~")) or Path(stripped).is_dir()):
        label = Path(os.path.expanduser(stripped)).resolve().name  # noqa: PTH111  (Path's raises where this does not)
    else:
        hub_id = stripped.partition("@")[0]
        label = (hub_id if hub_id.count("/") == 1 else stripped).replace("/", "--")
    if not _NAME.fullmatch(label):
        raise ValueError(
            f"model name {name!r} gives the label {label!r}, which cannot name a test and a directory; "
            f"allowed: at most 150 letters, digits, '.', '_', '-', the first a letter or digit; rename the "
            f"directory, or give NAME={name!r}"
        )
    return label
