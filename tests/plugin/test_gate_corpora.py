"""A text of one's own in place of the model's samples; what was read is part of what was accepted."""

from __future__ import annotations

from typing import Any

from gate_project import PACKAGE, Project

WORDS = ("--mx-models", "ref-llama", "--mx-precision", "fp32,mxint8", "--mx-tier", "A")
SHORT = ("--mx-max-samples", "2", "--mx-sequence-length", "32")
LABEL = "length32+samples2"


def test_a_file_whose_text_changes_by_one_character(project: Project) -> None:
    text = (PACKAGE / "evaluation" / "prose.txt").read_text()
    file = project.directory / "mine.txt"
    file.write_text(text)
    words = (*WORDS, *SHORT, "--mx-datasets", "./mine.txt")
    cases = {f"ref-llama-fp32+mine.txt+{LABEL}", f"ref-llama-mxint8-A+mine.txt+{LABEL}"}
    run = project.gate(*words, "--snapshot-update")
    assert run.verdicts() == dict.fromkeys(cases, "accepted"), run.output
    run = project.gate(*words, "-n", "1")
    assert (run.code, run.verdicts()) == (0, dict.fromkeys(cases, "pass")), run.output
    for row in run.rows.values():
        corpus = row["record"]["corpus"]  # type: ignore[index]
        assert (corpus["used"], corpus["block_length"], corpus["documents"]) == ("mine.txt", 32, 1)

    # The last character is far behind the tokens that are measured: only the documents are others.
    file.write_text(text.rstrip()[:-1] + "!")
    run = project.gate(*words)
    assert (run.code, run.verdicts()) == (1, dict.fromkeys(cases, "FAIL step 1")), run.output
    for case in cases:
        assert f"{case}: step 1 (inputs): documents are not the accepted ones: " in run.output
    assert "tokens are not the accepted ones" not in run.output

    # The first one is among them.
    file.write_text("!" + text[1:])
    run = project.gate(*words)
    assert run.code == 1
    assert "also step 1 (inputs): tokens are not the accepted ones" in run.output


def test_prose_ships_with_the_package(project: Project) -> None:
    run = project.gate(*WORDS, *SHORT, "--mx-datasets", "prose")
    cases = {f"ref-llama-fp32+prose+{LABEL}", f"ref-llama-mxint8-A+prose+{LABEL}"}
    assert run.verdicts() == dict.fromkeys(cases, "FAIL missing"), run.output
    for row in run.rows.values():
        record: dict[str, Any] = row["record"]  # type: ignore[assignment]
        assert (record["corpus"]["used"], record["corpus"]["asked"]) == ("prose", ["prose"])
        assert record["scored_tokens"] == 2 * 31


def test_a_corpus_that_is_out_of_reach_says_what_to_place_where(project: Project) -> None:
    run = project.gate(*WORDS, "--mx-datasets", "wikitext", HF_HUB_OFFLINE="1", HF_HOME=str(project.source))
    assert (run.code, set(run.verdicts().values())) == (1, {"ERROR"}), run.output
    assert "out of reach: wikitext (" in run.output
    assert "or name a local file or prose" in run.output
    assert "Traceback" not in run.output
