"""What became of a task, in words: what was tried again is said to have been, and nothing else."""

from __future__ import annotations

import pytest
from ray.exceptions import NodeDiedError, RayError, RayTaskError, TaskCancelledError

from mxcheck.distributed import ray_run
from mxcheck.distributed.run_plan import PlannedModel
from mxcheck.run.cost import UNKNOWN


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            RayTaskError("run_shard", "Traceback …", OSError(28, "No space left on device")),
            "its task raised an error: OSError(28, 'No space left on device')",
        ),
        (NodeDiedError("gone"), "its task ended without a result, after 3 retries: gone"),
        (TaskCancelledError(), "its task was cancelled from outside this run"),
    ],
    ids=["raised", "lost", "cancelled"],
)
def test_a_task_without_a_result(error: RayError, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def get(_: object) -> None:
        raise error

    monkeypatch.setattr(ray_run.ray, "get", get)
    model = PlannedModel(label="ref-llama", shard=1, cases=(), footprint=UNKNOWN)
    found = ray_run._outcome(None, model, {})
    assert found.text is None
    assert found.trouble == words
