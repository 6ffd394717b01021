"""mxcheck's entry point in pytest. It is loaded into every pytest run of an environment, so it imports
nothing heavy and does nothing unless a test requests a case."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mxcheck.extras import require_models
from mxcheck.formats.aliases import ALIASES, PRECISION_ALIASES, former_text, precision_aliases_of
from mxcheck.formats.blocks import BLOCK_FORMATS
from mxcheck.gate.former_names import refuse_former_names
from mxcheck.pytest_plugin.fixtures.mx_fixtures import (
    GATE,
    mx_conformance,
    mx_gate,
    mx_in_order,
    mx_kernels,
    mx_many_calls,
    mx_reproduce,
    mx_session,
    mx_usual_settings,
)
from mxcheck.pytest_plugin.options.mx_options import add_options, any_mx_option, any_mx_option_typed
from mxcheck.pytest_plugin.options.neighbours import (
    asked_update,
    is_update,
    refuse_pytest_snapshot,
    refuse_repeats,
    require_assertions,
    require_docstrings,
    require_syrupy,
)
from mxcheck.pytest_plugin.options.read_settings import settings
from mxcheck.pytest_plugin.options.rootdir import check_root
from mxcheck.pytest_plugin.xdist.wire import put_on_report

if TYPE_CHECKING:
    from collections.abc import Generator

pytest.register_assert_rewrite("mxcheck.suite")

#: pytest finds fixtures by their names in a plugin's module.
__all__ = [
    "mx_conformance",
    "mx_gate",
    "mx_in_order",
    "mx_kernels",
    "mx_many_calls",
    "mx_reproduce",
    "mx_session",
    "mx_usual_settings",
]

_REPORT = "mxcheck-report"


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    refuse_pytest_snapshot(pluginmanager)
    add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, parser: pytest.Parser) -> None:
    """Check the options at the earliest possible moment: nothing is written yet, and no conftest loaded."""
    known = early_config.known_args_namespace
    if any_mx_option_typed(known) or _name_models(early_config, known.file_or_dir):
        check_root(early_config, parser)


def pytest_configure(config: pytest.Config) -> None:
    from mxcheck.models.recipes.ladder import ALL_LINEARS, LADDER, MIXED_TIERS, TIERS
    from mxcheck.models.zoo.known_models import REFERENCE_MODELS

    for name in dict.fromkeys((*REFERENCE_MODELS, *LADDER, *BLOCK_FORMATS, *ALIASES, *PRECISION_ALIASES)):
        config.addinivalue_line("markers", f"{name}: cases of this name (added by mxcheck)")
    for tier in (*TIERS, *MIXED_TIERS, ALL_LINEARS):
        config.addinivalue_line("markers", f"tier_{tier}: cases of tier {tier} (added by mxcheck)")
    if any_mx_option(config):
        if settings(config).recentre and not asked_update(config).changed:
            raise pytest.UsageError("mxcheck: --mx-recentre rewrites baselines: add --snapshot-update")
        _refuse_measuring_by_the_way(config)
        _refuse_update_in_ci(config)
        _find_kernels(config)
        _find_device(config)
    if not hasattr(config, "workerinput"):
        _register_reports(config)


def _register_reports(config: pytest.Config) -> None:
    from mxcheck.pytest_plugin.progress import live
    from mxcheck.pytest_plugin.progress.run_report import RunReport
    from mxcheck.pytest_plugin.xdist import deaths

    report = RunReport(config)
    config.pluginmanager.register(report, _REPORT)
    config.pluginmanager.register(live.Live(config), live.PLUGIN)
    ours = any_mx_option(config) or _name_models(config, config.args)
    config.pluginmanager.register(deaths.Deaths(report, ours=ours))
    if not any_mx_option(config) or config.getoption("collectonly"):
        return
    run = settings(config)
    if run.shard is not None:
        from mxcheck.pytest_plugin.progress.shard_writer import ShardReport

        config.pluginmanager.register(ShardReport(config, run, run.shard, report))


def _find_kernels(config: pytest.Config) -> None:
    """Make the named kernels importable, and refuse an unknown name."""
    from mxcheck.pytest_plugin.cases.kernel_cases import check_findable, chosen, make_importable

    run = settings(config)
    try:
        make_importable(run, started_in=config.invocation_params.dir, root=config.rootpath)
        if run.kernels:
            check_findable(chosen(run)[0], collected=_paths(config, config.args))
    except ValueError as error:
        raise pytest.UsageError(f"mxcheck: {error}") from error


def _paths(config: pytest.Config, words: list[str]) -> list[Path]:
    """Return the directories that pytest will collect from and add to sys.path."""
    named = [config.invocation_params.dir / word.partition("::")[0] for word in words]
    return [path if path.is_dir() else path.parent for path in named if path.exists()]


def _find_device(config: pytest.Config) -> None:
    """Refuse a device on the command line that is missing. (An ini file's device is checked where a test
    needs it: other runs of that project do not import torch.)"""
    if config.getoption("mx_device") != "cuda":
        return
    from mxcheck.kernels.device_choice import resolve_device
    from mxcheck.pytest_plugin.fixtures.leasing import pin_visible_gpus

    try:
        pin_visible_gpus(settings(config))
        resolve_device("cuda")
    except ValueError as error:
        raise pytest.UsageError(f"mxcheck: --mx-device=cuda: {error}") from error


def _in_ci() -> bool:
    import os

    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def _refuse_update_in_ci(config: pytest.Config) -> None:
    if is_update(config) and _in_ci():
        raise pytest.UsageError(
            "mxcheck: --snapshot-update is refused in CI (the environment variable CI is set): a gate that "
            "accepts every change tests nothing; update on a developer's machine and commit the baselines"
        )


def _refuse_measuring_by_the_way(config: pytest.Config) -> None:
    if not config.getoption("mx_measure"):
        return
    if is_update(config):
        raise pytest.UsageError(
            "mxcheck: --mx-measure makes no verdict, so nothing can be accepted; drop one"
        )
    named = "--mx-measure" in config.invocation_params.args
    if _in_ci() and not named:
        raise pytest.UsageError(
            "mxcheck: --mx-measure is refused in CI (the environment variable CI is set) unless the command "
            "line itself names it: a gate without verdicts tests nothing"
        )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if _KERNEL_PARAMETERS.isdisjoint(metafunc.fixturenames):
        return
    try:
        require_assertions(metafunc.config)
        if not _OF_BASELINES.isdisjoint(metafunc.fixturenames):
            run = settings(metafunc.config)
            refuse_former_names(run.baselines, list(run.models))
        if "mx_case" in metafunc.fixturenames:
            _parametrize_models(metafunc)
        elif not _ORDERINGS.isdisjoint(metafunc.fixturenames):
            _parametrize_orderings(metafunc)
        else:
            _parametrize_kernels(metafunc)
    except (ValueError, pytest.UsageError) as error:
        line = str(error).removeprefix("mxcheck: ")
        # The only error in collection that pytest shows without a traceback.
        raise pytest.Collector.CollectError(f"mxcheck: {line}") from error


_ORDERINGS = frozenset({"mx_ordering", "mx_ordering_exception"})
_OF_BASELINES = _ORDERINGS | {"mx_case"}
_KERNEL_PARAMETERS = _OF_BASELINES | {
    *("mx_kernel_case", "mx_implementation", "mx_finding"),
    *("mx_product", "mx_layout"),
}


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let former names of precisions and cells select an item still, by a part or the whole of its id."""
    item.extra_keyword_matches.update(_former_names(item))


def _former_names(item: Any) -> set[str]:
    """Return the names that an item of ours had before precisions and cells were renamed."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    if _KERNEL_PARAMETERS.isdisjoint(parameters):
        return set()
    former = {former_text(item.name)}
    if (case := parameters.get("mx_kernel_case")) is not None:
        former |= {item.name.replace(case.id, other) for other in case.other_ids}
    return former - {item.name}


@pytest.hookimpl(optionalhook=True, wrapper=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Generator[None, Any, Any]:
    """Replace xdist's `load` scheduler by ours, unless `--dist` names it; without models ours behaves as
    `load`. Another plugin's scheduler is kept."""
    made = yield
    from xdist.scheduler import LoadScheduling

    if type(made) is not LoadScheduling or config.known_args_namespace.dist != "no":
        return made
    from mxcheck.pytest_plugin.xdist.placement_plan import placement_of
    from mxcheck.pytest_plugin.xdist.xdist_scheduling import PLUGIN, ModelScheduling

    scheduling = ModelScheduling(config, log, lambda node_ids: placement_of(config, node_ids))
    config.pluginmanager.register(scheduling, PLUGIN)
    return scheduling


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Return the workers of `-n auto`: devices times workers per device, in a run of the model suite."""
    import os

    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ or not _name_models(config, config.args):
        return None
    from mxcheck.pytest_plugin.xdist.placement_plan import worker_slots

    return worker_slots(settings(config))


def _name_models(config: pytest.Config, words: list[str]) -> bool:
    """Return whether these words, of the command line or `testpaths`, name the model suite, as far as known
    before collection."""
    if any("mxcheck.suite" in word for word in words):
        return True
    return any((folder / "test_accuracy.py").is_file() for folder in _paths(config, words))


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem(collector: Any) -> Generator[None, Any, Any]:
    """Drop the tests of orderings from a run without any: pytest would make each a skipped test in every run
    of a user's own models. Refuse a former name where pytest takes only a whole one."""
    made = yield
    if not isinstance(made, list):
        return made
    _refuse_former_ids(collector.config, made)
    return [item for item in made if not _is_without_ordering(item)]


def _refuse_former_ids(config: pytest.Config, made: list[Any]) -> None:
    """Raise CollectError for an item that the command line, or `--deselect`, calls by a former name: pytest
    would not find it, or would run what it is to leave out. It compares both before it asks a plugin."""
    named = [*config.args, *(config.getoption("deselect") or ())]
    ids = {word.partition("::")[2]: word for word in named if "[" in word}
    for item in made if ids else ():
        for former in _former_names(item) & ids.keys() - {other.name for other in made}:
            raise pytest.Collector.CollectError(
                f"mxcheck: {ids[former]}: this test was renamed, to {item.name}"
            )


def _is_without_ordering(item: Any) -> bool:
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    # pytest replaces an empty parameter set by a mark of its own.
    return any(name in parameters and not hasattr(parameters[name], "ordering") for name in _ORDERINGS)


def _parametrize_models(metafunc: pytest.Metafunc) -> None:
    require_syrupy(metafunc.config)
    require_docstrings()
    if not metafunc.config.getoption("collectonly"):
        require_models("the model suite")  # the kernel suite, named alone, does without
    refuse_repeats(metafunc.config)
    _refuse_update_in_ci(metafunc.config)
    if len(kernels := settings(metafunc.config).kernels) > 1:
        raise ValueError(f"a model runs with one --mx-kernel, got {', '.join(kernels)}; name one")
    cases = settings(metafunc.config).cases
    metafunc.parametrize("mx_case", [pytest.param(case, id=case.id, marks=_marks(case)) for case in cases])


def _parametrize_orderings(metafunc: pytest.Metafunc) -> None:
    from mxcheck.pytest_plugin.cases.ordering_cases import orderings_of

    for name in _ORDERINGS.intersection(metafunc.fixturenames):
        found = orderings_of(metafunc.config, settings(metafunc.config), name)
        if not found:  # dropped by pytest_pycollect_makeitem; an empty set fails if an ini option says so
            metafunc.parametrize(name, [None], ids=["none"])
            continue
        metafunc.parametrize(
            name,
            [
                pytest.param(one, id=one.id, marks=[mark for case in one.cases for mark in _marks(case)])
                for one in found
            ],
        )


def _parametrize_kernels(metafunc: pytest.Metafunc) -> None:
    from mxcheck.conformance.findings import findings
    from mxcheck.pytest_plugin.cases.kernel_cases import (
        finding_cases,
        implementation_cases,
        kernel_cases,
        layout_cases,
        product_cases,
    )

    run = settings(metafunc.config)
    if "mx_kernel_case" in metafunc.fixturenames:
        metafunc.parametrize("mx_kernel_case", kernel_cases(run))
    if "mx_implementation" in metafunc.fixturenames:
        metafunc.parametrize("mx_implementation", implementation_cases(run))
    if "mx_finding" in metafunc.fixturenames:
        metafunc.parametrize("mx_finding", finding_cases(run, findings()))
    if "mx_product" in metafunc.fixturenames:
        metafunc.parametrize("mx_product", product_cases(run))
    if "mx_layout" in metafunc.fixturenames:
        metafunc.parametrize("mx_layout", layout_cases(run))


def _marks(case: Any) -> list[pytest.MarkDecorator]:
    from mxcheck.models.recipes.ladder import LADDER
    from mxcheck.models.zoo.known_models import REFERENCE_MODELS

    # A user's recipe is no marker.
    names = [case.precision, *precision_aliases_of(case.precision)] if case.precision in LADDER else []
    names += [] if case.tier is None else [f"tier_{case.tier}"]
    if case.model in REFERENCE_MODELS:
        names.append(case.model)
    return [getattr(pytest.mark, name) for name in names]


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, object, object]:
    """Runs inside xdist's hook, which tells the controller that a worker has finished."""
    from mxcheck.pytest_plugin.xdist.deaths import told_to_the_controller

    with told_to_the_controller(session.config), warnings.catch_warnings():
        # A collection that is only listed, or a worker that died: leave nothing of ours for syrupy to find.
        warnings.filterwarnings("ignore", r"syrupy: received \d+ of \d+ xdist worker snapshot reports")
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Contain the code under test, which may end the process, and suppress its output at import."""
    from mxcheck.pytest_plugin.xdist.deaths import no_silent_exit
    from mxcheck.run.library_messages import leave_out_logged, leave_out_warned

    if _KERNEL_PARAMETERS.isdisjoint(item.callspec.params if hasattr(item, "callspec") else ()):
        return (yield)
    leave_out_logged()
    leave_out_warned()  # until pytest's own filters of this test end
    with nullcontext() if hasattr(item.config, "workerinput") else no_silent_exit(item.config):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put our test's results on its report, for the controller."""
    report = yield
    put_on_report(item, report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, None, None]:
    """Release a model's resources when the next test is none of its cases."""
    yield
    gate = item.config.stash.get(GATE, None)
    if gate is not None:
        following = getattr(nextitem, "callspec", None)
        case = None if following is None else following.params.get("mx_case")
        gate.move_on(None if case is None else case.model)
