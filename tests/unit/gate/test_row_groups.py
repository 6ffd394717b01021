import pytest

from mxcheck.gate.row_groups import RowGroups, changed_rows, row_groups_from_dict


def groups(rows: int, count: int, *changed: int) -> tuple[RowGroups, RowGroups]:
    then = [f"{number:016x}" for number in range(count)]
    now = ["moved" if number in changed else digest for number, digest in enumerate(then)]
    return RowGroups(rows=rows, groups=tuple(now)), RowGroups(rows=rows, groups=tuple(then))


@pytest.mark.parametrize(
    ("rows", "count", "changed", "expected"),
    [
        pytest.param(1024, 16, [], "", id="none"),
        pytest.param(1024, 16, [2], "rows 128 to 191 of 1024", id="one"),
        pytest.param(1024, 16, [2, 3], "rows 128 to 255 of 1024", id="neighbours"),
        pytest.param(
            1024, 16, [0, 2, 3, 15], "rows 0 to 63, 128 to 255, 960 to 1023 of 1024", id="stretches"
        ),
        pytest.param(1024, 16, list(range(16)), "all 1024 rows", id="all"),
        pytest.param(100, 15, [14], "rows 98 to 99 of 100", id="last-and-short"),
        pytest.param(33, 11, [10], "rows 30 to 32 of 33", id="eleven-groups"),
        pytest.param(3, 3, [1], "rows 1 of 3", id="one-row"),
        pytest.param(0, 1, [0], "all 0 rows", id="shape-of-nothing"),
        pytest.param(0, 1, [], "", id="nothing"),
    ],
)
def test_the_rows_of_changed_groups_are_named(
    rows: int, count: int, changed: list[int], expected: str
) -> None:
    assert changed_rows(*groups(rows, count, *changed)) == expected


def test_operands_are_called_so() -> None:
    assert changed_rows(*groups(2, 2, 1), what="operands") == "operands 1 of 2"


def test_another_number_of_digests_is_no_comparison() -> None:
    now, then = RowGroups(rows=3, groups=("a",) * 3), RowGroups(rows=2, groups=("a",) * 2)
    assert changed_rows(now, then) == "3 rows, accepted 2"


@pytest.mark.parametrize(("rows", "count"), [(1024, 100), (3, 16), (17, 16)])
def test_digests_that_are_not_of_so_many_rows_are_refused(rows: int, count: int) -> None:
    with pytest.raises(ValueError, match=rf"^{count} digests of {rows} rows; allowed: one of each ceil"):
        groups(rows, count)


def test_plain_json_and_back() -> None:
    one = RowGroups(rows=33, groups=("a",) * 11)
    assert row_groups_from_dict(one.as_dict()) == one


@pytest.mark.parametrize(
    "data",
    [
        *(None, [], {"rows": 1}, {"rows": 1, "groups": "a"}, {"rows": "1", "groups": ["a"]}),
        *({"rows": 1, "groups": []}, {"rows": 1, "groups": [1]}, {"rows": True, "groups": ["a"]}),
    ],
)
def test_what_is_no_digest_is_refused(data: object) -> None:
    with pytest.raises(ValueError, match=r"^(a digest must be|rows must be|groups must be)"):
        row_groups_from_dict(data)
