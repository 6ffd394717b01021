"""A model of the zoo end to end without the Hub: it lies in the cache, and two workers load it at once."""

from __future__ import annotations

from pathlib import Path

from gate_project import Project
from hub_cache import place_tiny

NAME = "tinystories-33M"


def test_sample_accept_and_gate(project: Project, tmp_path: Path) -> None:
    place_tiny(tmp_path / "home", NAME)
    offline = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    sample = ("-m", "mxcheck.cli", "sample", NAME, "--sequences", "4", "--length", "32")
    done = project.run(*sample, **offline)
    assert done.returncode == 0, done.stderr
    words = ("--mx-models", NAME, "--mx-precision", "bf16,mxfp8_e4m3", "--mx-bounds", "bounds.toml")
    # A random model is no subject for our bounds.
    (project.directory / "bounds.toml").write_text(
        "[default]\nbf16 = { kl = 1 }\nfp8_e4m3-A = { kl = 1 }\nfp8_e4m3-B = { kl = 1 }\n"
    )
    cases = {f"{NAME}-bf16", f"{NAME}-mxfp8_e4m3-A", f"{NAME}-mxfp8_e4m3-B"}
    run = project.gate(*words, "--snapshot-update", **offline)
    assert (run.code, run.verdicts()) == (0, dict.fromkeys(cases, "accepted")), run.output
    assert project.files().keys() == {f"{NAME}/{case.removeprefix(NAME + '-')}.json" for case in cases}
    run = project.gate(*words, "-n", "2", **offline)
    assert (run.code, run.verdicts()) == (0, dict.fromkeys(cases, "pass")), run.output
