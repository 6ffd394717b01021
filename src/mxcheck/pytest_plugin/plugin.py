"""The door: what pytest sees of mxcheck. Loaded into every pytest run of an environment, so it imports
nothing heavy and does nothing unless a test asks for a case."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mxcheck.pytest_plugin.options import Settings, add_options, given, read_settings

if TYPE_CHECKING:
    from mxcheck.pytest_plugin.session import GateSession

pytest.register_assert_rewrite("mxcheck.suite")

_SETTINGS = pytest.StashKey[Settings]()
_REPORT = "mxcheck-report"


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    from mxcheck.models.recipe import LADDER, TIERS
    from mxcheck.models.zoo import REFERENCE_MODELS

    for name in (*REFERENCE_MODELS, *LADDER):
        config.addinivalue_line("markers", f"{name}: cases of this name (added by mxcheck)")
    for tier in TIERS:
        config.addinivalue_line("markers", f"tier_{tier}: cases of tier {tier} (added by mxcheck)")
    if given(config):
        if settings(config).recentre and not config.getoption("update_snapshots"):
            raise pytest.UsageError("mxcheck: --mx-recentre rewrites baselines: add --snapshot-update")
        _refuse_update_in_ci(config)
    if not hasattr(config, "workerinput"):
        from mxcheck.pytest_plugin.report import RunReport

        config.pluginmanager.register(RunReport(config), _REPORT)


def settings(config: pytest.Config) -> Settings:
    """This run's settings, read once."""
    if _SETTINGS not in config.stash:
        config.stash[_SETTINGS] = read_settings(config)
    return config.stash[_SETTINGS]


def _refuse_update_in_ci(config: pytest.Config) -> None:
    import os

    updating = config.getoption("update_snapshots") or config.getoption("update_new_snapshots_only")
    if updating and os.environ.get("CI", "").lower() not in ("", "0", "false"):
        raise pytest.UsageError(
            "mxcheck: --snapshot-update is refused in CI (the environment variable CI is set): a gate that "
            "accepts what it finds gates nothing; update on a developer's machine and commit the baselines"
        )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "mx_case" not in metafunc.fixturenames:
        return
    _refuse_update_in_ci(metafunc.config)
    cases = settings(metafunc.config).cases
    metafunc.parametrize("mx_case", [pytest.param(case, id=case.id, marks=_marks(case)) for case in cases])


def _marks(case: Any) -> list[pytest.MarkDecorator]:
    names = [case.precision] if case.tier is None else [case.precision, f"tier_{case.tier}"]
    from mxcheck.models.zoo import REFERENCE_MODELS

    if case.model in REFERENCE_MODELS:
        names.append(case.model)
    return [getattr(pytest.mark, name) for name in names]


@pytest.fixture(scope="session")
def mx_session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GateSession:
    """This worker's gate: the resident model and its reference."""
    from mxcheck.pytest_plugin.session import GateSession

    shared = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):
        shared = shared.parent  # xdist's workers share the folder above theirs
    return GateSession(request.config, settings(request.config), request.session.items, shared)


@pytest.fixture
def mx_gate(mx_session: GateSession, request: pytest.FixtureRequest, snapshot: Any) -> Any:
    """Measures a case, holds it against its baseline (or accepts it), and fails with the gate's message."""

    def hold(case: Any) -> None:
        row, message = mx_session.hold(case, snapshot)
        request.node.user_properties.append(("mxcheck", row))
        if message:
            pytest.fail(message, pytrace=False)

    return hold
