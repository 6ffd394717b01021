"""Messages of libraries about themselves are left out, by who says them and how they read; others are not."""

from __future__ import annotations

import logging
import warnings

import pytest

from mxcheck.run.library_messages import leave_out_logged, leave_out_warned

ESCAPE = 'PATTERN = "\\.so"\n'


@pytest.mark.parametrize(
    ("logger", "message", "shown"),
    [
        ("torchao", "Failed to load /site-packages/torchao/_C_mxfp8.cpython-310.so: no such library", False),
        ("torchao", "Failed to load /site-packages/mine/_C.so: no such library", True),
        ("torchao", "Skipping import of cpp extensions due to incompatible torch version.", True),
        (
            "torch.utils._pytree",
            "<enum 'A'> is an Enum subclass and is now natively supported by torch.compile",
            False,
        ),
        ("torch.utils._pytree", "<class 'Mine'> is registered twice", True),
        ("mine", "Failed to load torchao/_C_mxfp8.so", True),
    ],
)
def test_logged(caplog: pytest.LogCaptureFixture, logger: str, message: str, shown: bool) -> None:
    leave_out_logged()
    leave_out_logged()
    logging.getLogger(logger).warning(message)
    assert bool(caplog.records) is shown


def test_with_a_gpu_a_library_that_cannot_be_loaded_is_news(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_out_logged()
    monkeypatch.setattr("torch.version.cuda", "13.0")
    logging.getLogger("torchao").warning("Failed to load /site-packages/torchao/_C_mxfp8.so: no such library")
    assert caplog.records


def test_warned() -> None:
    """As Python compiles a module for the first time, where warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(SyntaxError):
            compile(ESCAPE, "/site-packages/torchao/quantization/quant_api.py", "exec")
        leave_out_warned()
        compile(ESCAPE, "/site-packages/torchao/quantization/quant_api.py", "exec")
        with pytest.raises(SyntaxError):
            compile(ESCAPE, "/project/my_casts.py", "exec")
        with pytest.raises(SyntaxWarning):
            warnings.warn_explicit("another one", SyntaxWarning, "/site-packages/torchao/a.py", 1)
