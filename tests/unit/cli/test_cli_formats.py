"""`mxcheck formats`."""

from __future__ import annotations

from baselines_project import Capture, lines

from mxcheck.cli import main


def test_formats(capsys: Capture) -> None:
    assert main(["formats"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    text = lines(captured.out)
    assert "fp8_e4m3 8: 1/4/3 7 8 448 2^-6 2^-9 … 7·2^-9 7F, FF - 254 107.2" in text
    assert "nvfp4 fp4_e2m1 e4m3 · fp32 16 elements 4.5 7.11 amax" in text
    assert "te reciprocal even element" in text
