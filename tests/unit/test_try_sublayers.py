"""tools/try_sublayers.py: its faults are faults, and the layer statistics see all but the one that they
cannot."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mxcheck.evaluation.layer_states import LayerStates, reference_states
from mxcheck.gate.sublayer_drift import check_sublayers
from mxcheck.models.zoo.load import LoadedModel

LAYER = "model.layers.2"


def _tool() -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "try_sublayers.py"
    spec = importlib.util.spec_from_file_location("try_sublayers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


TOOL = _tool()


@pytest.fixture(scope="module")
def llama(
    reference_model: Callable[[str], LoadedModel], tokens: Callable[[LoadedModel], torch.Tensor]
) -> tuple[LoadedModel, LayerStates]:
    loaded = reference_model("ref-llama")
    return loaded, reference_states(loaded.model, tokens(loaded))


@pytest.mark.parametrize("fault", TOOL.FAULTS, ids=lambda fault: fault.what)
def test_each_fault_is_seen_by_the_bounds_of_another_machine(
    fault: TOOL.Fault,  # type: ignore[name-defined]
    llama: tuple[LoadedModel, LayerStates],
) -> None:
    loaded, states = llama
    made = TOOL._recipe("fp8_e4m3", fault.scale_rule)
    accepted = TOOL._measure(loaded.model, states, made, LAYER)
    now = TOOL._measure(loaded.model, states, made, LAYER, fault)
    checks = check_sublayers(now, accepted, same_arithmetic=False, noise=None)
    red = {key: message for key, passed, message in checks if not passed}

    assert now != accepted, "the fault changes nothing"
    if fault.scale_rule == TOOL.ROUND_UP:
        assert red == {}  # almost none of the weights' values changes
        return
    assert {"gain", "sketch"} <= red.keys()
    assert ("size" in red) == (fault is TOOL._NORM_FAULT)
    if "one" in fault.what:
        assert f"{LAYER}." in red["sketch"]
        assert not any(f"layers.{other}." in red["sketch"] for other in (0, 1, 3))


def test_the_model_is_left_as_it_was(llama: tuple[LoadedModel, LayerStates]) -> None:
    loaded, states = llama
    made = TOOL._recipe("fp8_e4m3", None)
    accepted = TOOL._measure(loaded.model, states, made, LAYER)
    for fault in TOOL.FAULTS:
        TOOL._measure(loaded.model, states, made, LAYER, fault)
    assert TOOL._measure(loaded.model, states, made, LAYER) == accepted


def test_controls_differ_and_none_is_dropped_by_its_name(tmp_path: Path) -> None:
    controls = dict(TOOL._controls(tmp_path, 10))
    assert len(controls) == 10
    assert len({tuple(sorted(settings.items())) for settings in controls.values()}) == 10
    assert any(settings.get("MKL_CBWR") == "COMPATIBLE" for settings in controls.values())
