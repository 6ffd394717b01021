"""Names: what `-k`, `-m` and the options select, and where the suites' files lie."""

from __future__ import annotations

import pytest
from gate_project import PACKAGE, ROOT, Project


def collected(project: Project, *arguments: str) -> list[str]:
    run = project.gate("--collect-only", "-q", *arguments)
    assert run.code == 0, run.output
    lines = [line for line in run.output.splitlines() if "::test_accuracy[" in line]
    return [line.partition("[")[2].rstrip("]") for line in lines]


def test_the_default_matrix(project: Project) -> None:
    names = collected(project)
    assert len(names) == len(set(names)) == 183
    assert names[:5] == [
        "ref-llama-fp32",
        "ref-llama-bf16",
        "ref-llama-bf16_operands-A",
        "ref-llama-bf16_operands-B",
        "ref-llama-fp8_tensor_e4m3-A",
    ]
    assert not [name for name in names if "-te_" in name]  # Transformer Engine is not installed here


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (("-k", "fp8_e4m3"), 19),
        (("-k", "[ref-neo-fp8_e4m3-B]"), 1),  # as a red message showed the id
        (("-k", "nvfp8_emu_e5m2-B or (ref-neo and bfp16-A)"), 6),
        (("-m", "fp4_e2m1 and tier_B"), 11),
        (("-m", "ref-moe and not bf16"), 34),
        (("--mx-tier", "A"), 83),
        (("--mx-mlp-only",), 83),
        (("--no-mx",), 83),
        (("--mx-skip", "mx,scaled_mm,bnb_int8"), 53),
        (("--mx-skip", "bf16", "--mx-models", "ref-neo"), 35),
        (("--mx-format", "mxint8,fp4_e2m1", "--mx-format", "fp8_e5m2"), 124),
        (("--mx-precision", "all", "--mx-tier", "all"), 223),
        (("-m", "mixed", "--mx-tier", "all"), 10),
        (("-m", "tier_C", "--mx-tier", "all"), 5),
        (("-m", "tier_linears", "--mx-all-linears"), 70),
        (("-m", "te_mxfp8", "--mx-precision", "all"), 10),
        (("--mx-preset", "quick"), 26),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_selection(project: Project, arguments: tuple[str, ...], count: int) -> None:
    assert len(collected(project, *arguments)) == count


@pytest.mark.parametrize(
    ("suite", "former", "name"),
    [
        ("models.test_accuracy", "test_accuracy[ref-neo-fp8_e4m3-B]", "test_accuracy[ref-neo-mxfp8_e4m3-B]"),
        (
            "kernels.test_casts",
            "test_conformance[eager-fp8_e5m2-rceil-te]",
            "test_conformance[eager-mxfp8_e5m2-reciprocal-nan_stays]",
        ),
    ],
)
def test_a_former_name_that_pytest_takes_only_whole_is_refused_with_todays(
    project: Project, suite: str, former: str, name: str
) -> None:
    """As a node id, which pytest would not find, and after --deselect, where it would run the test."""
    file = f"mxcheck.suite.{suite}"
    for words in ((f"{file}::{former}",), (file, "--deselect", f"anywhere.py::{former}")):
        run = project.pytest("--collect-only", "-q", "--pyargs", *words)
        assert run.code != 0
        assert f"{former}: this test was renamed, to {name}\n" in run.output
        assert "Traceback" not in run.output
    run = project.pytest("--collect-only", "-q", "--pyargs", f"{file}::{name}")
    assert run.code == 0, run.output


def test_former_names_of_baselines_are_refused_where_a_run_reads_them(project: Project) -> None:
    """Other runs of a project whose ini file has keys of mxcheck read none."""
    folder = project.directory / "accepted" / "ref-neo"
    folder.mkdir(parents=True)
    (folder / "fp8_e4m3-B.json").write_text("{}")
    (project.directory / "test_theirs.py").write_text("def test_theirs():\n    pass\n")
    ini = "[pytest]\nmx_baselines = accepted\nmx_models = ref-neo\n"
    (project.directory / "pytest.ini").write_text(ini)
    for words in (("test_theirs.py",), ("--pyargs", "mxcheck.suite.kernels", "--collect-only", "-q")):
        run = project.pytest(*words)
        assert run.code == 0, run.output
    for suite in ("models", "models.test_orderings"):
        run = project.pytest("--collect-only", "-q", "--pyargs", f"mxcheck.suite.{suite}")
        assert run.code != 0
        assert "have former names of precisions: ref-neo/fp8_e4m3-B.json; rename the files" in run.output
        assert "Traceback" not in run.output
    assert project.gate("--collect-only", "-q", "--mx-models=ref-moe").code == 0


def test_users_get_tier_b(project: Project) -> None:
    (project.directory / "pytest.ini").write_text("[pytest]\n")
    assert collected(project, "--mx-models", "ref-llama", "--mx-precision", "mxint8") == [
        "ref-llama-mxint8-B"
    ]


def test_options_that_change_the_result_are_part_of_the_name(project: Project) -> None:
    names = collected(
        project, "--mx-models", "ref-llama", "--mx-precision", "bf16,mxint8", "--mx-tier", "A",
        "--mx-block-size", "16", "--mx-max-samples", "4", "--mx-batch-size", "3",
    )  # fmt: skip
    assert names == ["ref-llama-bf16+samples4", "ref-llama-mxint8-A+block16+samples4"]


def test_a_hub_id_is_encoded(project: Project) -> None:
    names = collected(project, "--mx-models", "some/model", "--mx-precision", "bf16")
    assert names == ["some--model-bf16"]


def test_every_suite_file_has_its_thin_file() -> None:
    """One import each, and no name twice: a snapshot's path and `-k` must mean one thing."""
    suites = sorted((PACKAGE / "suite").rglob("test_*.py"))
    assert len({path.name for path in suites}) == len(suites) > 1
    for path in suites:
        thin = ROOT / "tests" / path.relative_to(PACKAGE / "suite")
        module = f"mxcheck.suite.{path.parent.name}.{path.stem}"
        lines = [line for line in thin.read_text().splitlines() if line.startswith(("from ", "import "))]
        assert [line.partition("  #")[0] for line in lines] == [f"from {module} import *"]
    assert sum(1 for folder in ("kernels", "models") for _ in (ROOT / "tests" / folder).glob("*.py")) == len(
        suites
    )


def test_debug_lists_the_replaced_modules(accepted: Project) -> None:
    run = accepted.gate(
        "--mx-models", "ref-moe", "--mx-precision", "mxint8", "--mx-tier", "A", "--mx-debug", "-n", "1"
    )
    assert run.code == 0, run.output
    assert "ref-moe-mxint8-A: model.layers.0.mlp.experts (mlp)" in run.output
    assert run.output.count("experts (mlp)") == 3
