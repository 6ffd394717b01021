"""`--junitxml` with warnings as errors: green where the run is, and what it says of a case is flat."""

from __future__ import annotations

from xml.etree import ElementTree

from gate_project import Project

SELECTED = (
    "ref-llama-fp32",
    "ref-llama-mxfp8_e4m3-B]",
    "mxint8-B-below-mxfp8_e4m3",
    "eager-mxfp8_e4m3-floor",
)
TIGHT = "[default]\nfp32 = { kl = 0 }\nfp8_e4m3-B = { kl = 1e-9 }\n"


def properties(path: str) -> dict[str, dict[str, str]]:
    """Those of each test, by its parameter."""
    tests = ElementTree.parse(path).getroot().iter("testcase")  # noqa: S314  (a file of our own run)
    return {
        test.attrib["name"].partition("[")[2].removesuffix("]"): {
            one.attrib["name"]: one.attrib["value"] for one in test.iter("property")
        }
        for test in tests
    }


def test_what_the_xml_says(accepted: Project) -> None:
    (accepted.directory / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\nmx_tier = B\n")
    (accepted.directory / "tight.toml").write_text(TIGHT)
    path = accepted.directory / "junit.xml"
    words = ("--mx-models=ref-llama", "--mx-bounds=tight.toml", f"--junitxml={path}", "-n", "1")
    run = accepted.pytest("--pyargs", "mxcheck.suite", "-k", " or ".join(SELECTED), *words)
    assert run.code == 1, run.output
    assert run.verdicts() == {"ref-llama-fp32": "pass", "ref-llama-mxfp8_e4m3-B": "FAIL step 5"}, run.output
    assert " 1 failed" in run.output
    assert " error" not in run.output.splitlines()[-1]
    found = properties(str(path))
    green, red = found["ref-llama-fp32"], found["ref-llama-mxfp8_e4m3-B"]
    assert green.keys() == {"mx_verdict", "mx_kl", "mx_perplexity"}
    assert red["mx_verdict"] == "FAIL step 5"
    assert red["mx_cause"] == "bounds"
    record = run.rows["ref-llama-mxfp8_e4m3-B"]["record"]
    assert isinstance(record, dict)
    assert {red["mx_kl"], red["mx_perplexity"]} == {str(record["kl"]), str(record["perplexity"])}
    ordering = next(value for name, value in found.items() if "-below-" in name)
    assert ordering.keys() == {"mx_ratio", "mx_margin"}
    assert found["eager-mxfp8_e4m3-floor"]["mx_verdict"] == "exact"
    assert int(found["eager-mxfp8_e4m3-floor"]["mx_elements"]) > 1000
    # Nothing in it is a record, and nothing is said twice.
    text = path.read_text(encoding="utf-8")
    assert "sequence_losses" not in text
    assert text.count("<property ") == sum(map(len, found.values()))
