"""The cases of a run, and the recipe of each. Does not import torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from mxcheck.formats.aliases import choose_format, choose_precision
from mxcheck.formats.blocks import BLOCK_FORMATS
from mxcheck.formats.choices import choose
from mxcheck.gate.case import Case
from mxcheck.models.recipes.ladder import (
    ALL_LINEARS,
    FORMER_GROUPS,
    GROUPS,
    LADDER,
    MIXED_TIERS,
    MX,
    TIERS,
    WHOLE_MODEL,
    installed,
)
from mxcheck.models.recipes.recipe import Recipe
from mxcheck.run.default_gate import beside, is_run_with
from mxcheck.run.ladder_cases import Changes, changed_recipe, has_e8m0_scales, is_cast_by_us
from mxcheck.run.option_choices import ELEMENTWISE


class Options(Protocol):
    """The options of a run, wherever they were given."""

    def names(self, name: str) -> list[str]:
        """Return the names that a list has."""

    def flag(self, name: str) -> bool:
        """Return whether a flag is set."""

    def on_the_command_line(self, name: str) -> bool:
        """Return whether the command line itself sets an option."""

    @property
    def no_mx(self) -> bool:
        """Whether `--no-mx` is set."""


def chosen_precisions(options: Options, recipes: Iterable[str]) -> list[str]:
    """Return the names of the run's precisions and of the user's recipes, in the ladder's order.

    Without `--mx-precision`, these are the precisions whose library is installed. Raises ValueError where
    none is left.
    """
    own = tuple(recipes)
    named = options.names("precision")
    for name in named:
        choose_precision("--mx-precision", name, [*LADDER, *own, "all"])
    formats = options.names("format")
    for name in formats:
        choose_format("--mx-format", name, BLOCK_FORMATS)
    skipped = skipped_groups(options)
    wanted = set(LADDER) | set(own)
    if not named:
        wanted -= set(left_out(options))
    elif "all" not in named:
        wanted = set(named)
    if formats:
        wanted -= {name for name in MX if LADDER[name].operand not in formats}
    wanted -= {row.name for row in LADDER.values() if row.group in skipped}
    chosen = [name for name in (*LADDER, *own) if name in wanted]
    if not chosen:
        raise ValueError(
            f"no precision is left: --mx-precision={','.join(named) or 'all'}, --mx-format="
            f"{','.join(formats) or 'all'}, --mx-skip={','.join(skipped) or 'nothing'}; drop one of them"
        )
    return chosen


def skipped_groups(options: Options) -> list[str]:
    """Return the groups of precisions to leave out, by their names today."""
    named = [FORMER_GROUPS.get(name, name) for name in options.names("skip")]
    return [choose("--mx-skip", name, GROUPS) for name in (*named, *(["mx"] if options.no_mx else []))]


def left_out(options: Options) -> tuple[str, ...]:
    """Return the precisions that a run without `--mx-precision` omits because their library is not installed,
    except those of a group to skip."""
    if options.names("precision"):
        return ()
    return tuple(
        row.name for row in LADDER.values() if not installed(row) and row.group not in skipped_groups(options)
    )


def chosen_tiers(options: Options) -> list[str]:
    """Return the run's tiers, in order."""
    named = options.names("tier")
    everywhere = [*TIERS, *MIXED_TIERS]
    if all(map(options.on_the_command_line, ("mlp-only", "all-linears"))):
        raise ValueError("--mx-mlp-only and --mx-all-linears each take the place of a tier; drop one")
    for flag, means in (("mlp-only", "A"), ("all-linears", ALL_LINEARS)):
        if options.flag(flag):
            tier = options.on_the_command_line("tier")
            if tier and not options.on_the_command_line(flag):
                continue  # set by a preset
            if tier and named != [means]:
                raise ValueError(
                    f"--mx-{flag} takes the place of a tier, got --mx-tier={','.join(named)} too; drop one"
                )
            return [means]
    for name in named:
        choose("--mx-tier", name, [*everywhere, "all"])
    if "all" in named:
        return everywhere
    return [tier for tier in everywhere if tier in named] or ["B"]


def tiers_of(name: str, tiers: list[str], options: Options) -> list[str]:
    """Return the run's tiers that apply to a precision. `mixed` has both of its own, where it is requested by
    name and the command line names no tier."""
    own = MIXED_TIERS if name == "mixed" else (*TIERS, ALL_LINEARS)
    found = [tier for tier in tiers if tier in own]
    if found or name not in options.names("precision"):
        return found
    if name == "mixed" and not any(map(options.on_the_command_line, ("tier", "mlp-only", "all-linears"))):
        return list(MIXED_TIERS)
    raise ValueError(
        f"--mx-precision={name} has no tier {' or '.join(tiers)}: tiers {', '.join(MIXED_TIERS)} fix their "
        f"formats and are of the precision mixed, {', '.join(TIERS)} of all others"
    )


def lay_out(
    labels: Iterable[str],
    options: Options,
    *,
    own: Mapping[str, Recipe],
    changes: Changes,
    text: tuple[str, ...],
    kernel: str,
) -> dict[Case, Recipe]:
    """Return every case of the run with its recipe: model by model, in the order of the ladder and the tiers.

    `own` are the user's recipes by name; `text` are the labels of the options that change the text of every
    case. A reference model with few precisions has only those (`run.default_gate`). Raises ValueError, in one
    line, for options that no precision or recipe supports.
    """
    tiers = chosen_tiers(options)
    globally = [choose_format("--mx-global", name, ELEMENTWISE) for name in options.names("global")]
    chosen = chosen_precisions(options, own)
    _check_meaning(chosen, changes, globally)
    plain = _is_whole_ladder(options) and changes == Changes() and not globally
    found = {}
    for label in labels:
        for name in chosen:
            if name in own:
                found[Case(model=label, precision=name, tier=None, options=text)] = own[name]
                continue
            for tier in (None,) if name in WHOLE_MODEL else tiers_of(name, tiers, options):
                if not is_run_with(label, name, tier):
                    continue
                made = [
                    changed_recipe(name, tier, one, kernel=kernel)
                    for one in (changes, *(beside(label, name, tier) if plain else ()))
                ]
                made += [
                    changed_recipe(name, tier, changes, elementwise=elementwise, kernel=kernel)
                    for elementwise in (globally if is_cast_by_us(LADDER[name]) else ())
                ]
                for changed, recipe in made:
                    case = Case(model=label, precision=name, tier=tier, options=(*changed, *text))
                    found[case] = recipe
    return found


def _is_whole_ladder(options: Options) -> bool:
    """Return whether the run names no precisions, or all: then further cases are added to the ladder."""
    named = options.names("precision")
    return not named or "all" in named


def _check_meaning(names: list[str], changes: Changes, globally: list[str]) -> None:
    """Refuse an option without effect on the run. Raises ValueError naming it."""
    rows = [LADDER[name] for name in names if name in LADDER]
    scales, ours = any(map(has_e8m0_scales, rows)), any(map(is_cast_by_us, rows))
    for option, is_given, has_meaning in (
        ("scale-rule", changes.scale_rule is not None, scales),
        ("rounding", changes.rounding is not None, scales),
        ("block-size", changes.block_size is not None, scales),
        ("attention", changes.attention, ours),
        ("quantize-outputs", changes.outputs, ours),
        ("weights-only", changes.weights_only, ours),
        ("global", bool(globally), ours),
    ):
        if is_given and not has_meaning:
            of_scales = option in ("scale-rule", "rounding", "block-size")
            what = "has E8M0 scales" if of_scales else "is quantized by mxcheck"
            raise ValueError(
                f"--mx-{option} has no effect: none of {', '.join(names)} {what}. User-defined recipes set "
                f"this themselves. Leave it out; if an ini file sets it, give its default on the command line"
            )
