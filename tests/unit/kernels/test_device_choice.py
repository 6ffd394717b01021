"""The device that an option names, and the meaning of `auto`."""

from __future__ import annotations

import pytest

from mxcheck.kernels.device_choice import resolve_device


@pytest.mark.parametrize("there", [True, False])
def test_devices(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: there)
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") == ("cuda" if there else "cpu")
    if there:
        assert resolve_device("cuda") == "cuda"
    else:
        with pytest.raises(ValueError, match="no CUDA device here; use --mx-device=cpu or auto"):
            resolve_device("cuda")
        assert resolve_device("cuda", present=False) == "cuda"
    with pytest.raises(ValueError, match=r"^unknown --device 'cdua'; allowed: auto, cpu, cuda; did you mean"):
        resolve_device("cdua", option="--device")
