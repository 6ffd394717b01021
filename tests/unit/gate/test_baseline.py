"""Baselines on disk: exact, sealed, atomic."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from sample_record import build_full_record

from mxcheck.files.write import WriteError, write_text
from mxcheck.gate.baseline import BaselineError, decode, encode, read
from mxcheck.gate.record import FORMAT_VERSION, Record

MakeRecord = Callable[..., Record]

#: Doubles that a careless format or parser would change.
AWKWARD = [0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, 2.0, 1e22, 9007199254740993.0]


def sealed(data: dict[str, Any]) -> str:
    """Any JSON object with a valid seal: the seal's definition once more, independent of the product's."""
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return json.dumps({**data, "seal": hashlib.sha256(canonical.encode()).hexdigest()})


def contents(record: Record) -> dict[str, Any]:
    return {"format_version": FORMAT_VERSION, **record.as_dict()}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="plain"),
        pytest.param({"noise": None, "tier": None}, id="none"),
        pytest.param({"replaced": {}, "digests": {}}, id="empty"),
        pytest.param(
            {"metrics": {"surprise": [0.25, 1.5, 2.0, 0.1]}, "unconverted": {"a.b": "width 48"}}, id="more"
        ),
        pytest.param({"environment": {"processor": 'Größe "±"\n\\'}}, id="text"),
    ],
)
def test_round_trip(make_record: MakeRecord, changes: dict[str, Any]) -> None:
    record = make_record(**changes)
    text = encode(record)
    assert decode(text, where="x") == record
    assert encode(decode(text, where="x")) == text


def test_every_figure_survives() -> None:
    record = build_full_record()
    text = encode(record)
    assert decode(text, where="x") == record
    assert encode(decode(text, where="x")) == text


def test_floats_survive_bit_for_bit(make_record: MakeRecord) -> None:
    ones = {name: [1.0] * len(AWKWARD) for name in ("sequence_kl", "sequence_losses", "reference_entropies")}
    record = make_record(
        **ones,
        **dict.fromkeys(("kl", "cross_entropy", "reference_entropy"), 1.0),
        perplexity=math.e,
        reference_losses=AWKWARD,
        reference_cross_entropy=fmean(AWKWARD),
        entropy=AWKWARD[0],
    )
    back = decode(encode(record), where="x")
    assert [value.hex() for value in back.reference_losses] == [value.hex() for value in AWKWARD]
    assert back.entropy.hex() == AWKWARD[0].hex()


def test_layout(make_record: MakeRecord) -> None:
    text = encode(make_record())
    data = json.loads(text)
    assert data["format_version"] == FORMAT_VERSION == 4
    assert data == json.loads(sealed(contents(make_record())))

    def in_order(value: Any) -> None:
        if isinstance(value, dict):
            assert list(value) == sorted(value)
            for inner in value.values():
                in_order(inner)

    in_order(data)
    assert text.endswith("}\n")
    assert not text.endswith("\n\n")
    assert text.isascii()
    # A list of numbers is one line of a diff, and each module is one.
    assert ' "sequence_losses": [2.001, 2.102, 1.9015, 2.0512],\n' in text
    assert '   "scales": {"groups": ["scales-1-layers.0.q", "scales-2"], "rows": 64}\n' in text


def test_text_does_not_depend_on_the_order_of_insertion(make_record: MakeRecord) -> None:
    record = make_record()
    turned = {name: dict(reversed(entry.items())) for name, entry in reversed(record.digests.items())}
    other = make_record(digests=turned, environment=dict(reversed(record.environment.items())))
    assert list(other.digests) != list(record.digests)
    assert encode(other) == encode(record)


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=["nan", "inf"])
def test_what_json_has_not_is_not_written(make_record: MakeRecord, value: float) -> None:
    record = make_record()
    assert record.noise is not None
    for spoilt in (replace(record, kl=value), replace(record, noise=replace(record.noise, kl_max=value))):
        with pytest.raises(ValueError, match="not JSON compliant"):
            encode(spoilt)


@pytest.mark.parametrize(
    ("accepted", "edited"),
    [
        pytest.param('"kl": 0.001', '"kl": 0.002', id="kl"),
        pytest.param("[2.001, 2.102,", "[2.001, 2.103,", id="a-sequence"),
        pytest.param('"loss_rms": 0.0001', '"loss_rms": 0.1', id="noise"),
        pytest.param('"loss_median": 8e-05', '"loss_median": 8e-03', id="noise-median"),
        pytest.param('"reference_max": 1.5e-05', '"reference_max": 1.5e-02', id="noise-of-the-reference"),
        pytest.param('"codes-1-layers.0.q"', '"codes-3-layers.0.q"', id="digest"),
        pytest.param('"torch": "2.9.0"', '"torch": "2.9.1"', id="environment"),
        pytest.param('"changes_bits": true', '"changes_bits": false', id="flag"),
        pytest.param('"scored_tokens": 1000000000', '"scored_tokens": 1000000000.0', id="type"),
        pytest.param('"format_version"', '"extra": 0, "format_version"', id="added"),
        pytest.param('"seal": "', '"seal": "0', id="seal"),
        pytest.param('"seal"', '"unsealed"', id="no-seal"),
    ],
)
def test_an_edit_breaks_the_seal(make_record: MakeRecord, accepted: str, edited: str) -> None:
    text = encode(make_record())
    assert text.count(accepted) == 1
    with pytest.raises(
        BaselineError, match=r"baseline m/x\.json .* do not bear its seal; restore it"
    ) as caught:
        decode(text.replace(accepted, edited), where="m/x.json")
    assert "\n" not in str(caught.value)


def test_white_space_is_no_edit(make_record: MakeRecord) -> None:
    """A checkout with CRLF or a reformatting hook changes no number."""
    record = make_record()
    assert decode(encode(record).replace("\n", "\r\n"), where="x") == record
    assert decode(json.dumps(json.loads(encode(record)), indent=4), where="x") == record


@pytest.mark.parametrize("edited", ["NaN", "Infinity", "1e999"])
def test_a_number_that_json_has_not_is_a_corrupt_baseline(make_record: MakeRecord, edited: str) -> None:
    text = encode(make_record()).replace('"kl": 0.001', f'"kl": {edited}')
    with pytest.raises(BaselineError, match=r"m/x\.json"):
        decode(text, where="m/x.json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("", "not JSON", id="empty"),
        pytest.param('{"kl": ', "not JSON", id="cut"),
        pytest.param("<<<<<<< HEAD\n{}\n", "not JSON", id="merge-conflict"),
        pytest.param("\ufeff{}", "not JSON", id="bom"),
        pytest.param("[1]", "format version 'list'", id="list"),
        pytest.param("null", "format version 'NoneType'", id="null"),
        pytest.param("{}", "format version None, this mxcheck reads 4", id="no-version"),
    ],
)
def test_what_is_no_baseline_is_refused(text: str, words: str) -> None:
    with pytest.raises(BaselineError) as caught:
        decode(text, where="m/x.json")
    message = str(caught.value)
    assert "baseline m/x.json" in message
    assert words in message
    assert "--snapshot-update" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "version", [FORMAT_VERSION + 1, FORMAT_VERSION - 1, "4"], ids=["newer", "older", "text"]
)
def test_another_format_version_is_refused_whatever_its_seal(
    make_record: MakeRecord, version: object
) -> None:
    text = sealed({**contents(make_record()), "format_version": version})
    with pytest.raises(BaselineError, match=rf"x\.json has format version {version!r}, .* reads 4"):
        decode(text, where="x.json")


@pytest.mark.parametrize(
    ("remove", "add", "words"),
    [
        pytest.param("kl", {}, r"missing fields: \['kl'\], unknown fields: none", id="missing"),
        pytest.param("kl", {"KL": 1.0}, r"missing fields: \['kl'\], unknown fields: \['KL'\]", id="renamed"),
        pytest.param("noise", {"noise": {"loss_rms": 1.0}}, "missing fields: ", id="noise-missing"),
        pytest.param("noise", {"noise": [1.0]}, "noise must be table or None", id="noise-no-object"),
    ],
)
def test_a_sealed_file_of_other_fields_is_refused(
    make_record: MakeRecord, remove: str, add: dict[str, Any], words: str
) -> None:
    data = contents(make_record())
    del data[remove]
    with pytest.raises(BaselineError, match=rf"corrupt baseline x\.json: .*{words}"):
        decode(sealed({**data, **add}), where="x.json")


def test_read(make_record: MakeRecord, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(FileNotFoundError):
        read(path)
    write_text(path, encode(make_record()))
    assert read(path) == make_record()
    path.write_bytes(b'{"kl": "\xff"}')
    with pytest.raises(BaselineError, match=r"corrupt baseline .*x\.json: not UTF-8 text"):
        read(path)


def test_write_makes_directories_and_a_file_that_all_may_read(tmp_path: Path) -> None:
    path = tmp_path / "ref-llama" / "bf16.json"
    write_text(path, "Größe\n")
    assert path.read_bytes() == "Größe\n".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    write_text(path, "new\n")
    assert path.read_text() == "new\n"
    assert list(path.parent.iterdir()) == [path]


def _fails(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _is_stopped(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("target", "fault", "error"),
    [
        pytest.param("os.fsync", _fails, WriteError, id="disk-full"),
        pytest.param("os.fsync", _is_stopped, KeyboardInterrupt, id="interrupted"),
        pytest.param("pathlib.Path.replace", _fails, WriteError, id="rename-fails"),
    ],
)
@pytest.mark.parametrize("before", ["old\n", None], ids=["over-old", "new"])
def test_a_failing_write_leaves_what_was_there(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    fault: Callable[..., None],
    error: type[BaseException],
    before: str | None,
) -> None:
    path = tmp_path / "x.json"
    if before is not None:
        path.write_text(before)
    with monkeypatch.context() as patch:
        patch.setattr(target, fault)
        with pytest.raises(error):
            write_text(path, "new\n")
    assert {entry.name: entry.read_text() for entry in tmp_path.iterdir()} == (
        {} if before is None else {"x.json": before}
    )


def test_text_that_cannot_be_encoded_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("old\n")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "x" * 100_000 + "\ud800")
    assert {entry.name: entry.read_text() for entry in tmp_path.iterdir()} == {"x.json": "old\n"}
