"""Baselines as syrupy snapshots: one JSON file for each case. The gate judges; syrupy stores and counts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from syrupy.data import Snapshot, SnapshotCollection, SnapshotCollections
from syrupy.extensions.base import AbstractSyrupyExtension

from mxcheck.files.write import write_text
from mxcheck.gate.baseline import encode

if TYPE_CHECKING:
    from syrupy.location import PyTestLocation
    from syrupy.types import SerializedData, SnapshotIndex


class BaselineExtension(AbstractSyrupyExtension):
    """Storage and comparison of one case; `extension_for` binds it to a file.

    It discovers and deletes nothing: syrupy's clean-up of unused snapshots would remove the baselines of
    every case that a narrowed, stopped or crashed run did not reach. `mxcheck baselines prune` finds orphans
    instead.
    """

    file_extension = "json"
    write_immediately = True  # a worker that dies later must not lose what it accepted
    path: ClassVar[Path]
    holds: ClassVar[bool]

    # Arguments are syrupy's; most methods need only the file that the class is bound to.
    # ruff: noqa: ARG002, ARG003

    def serialize(self, data: Any, **_: Any) -> str:
        return encode(data)

    def matches(self, *, serialized_data: SerializedData, snapshot_data: SerializedData) -> bool:
        return self.holds or serialized_data == snapshot_data

    @classmethod
    def get_location(cls, *, test_location: PyTestLocation, index: SnapshotIndex) -> str:
        return str(cls.path)

    @classmethod
    def dirname(cls, *, test_location: PyTestLocation) -> str:
        return str(cls.path.parent)

    @classmethod
    def matches_test_location(cls, *, test_location: PyTestLocation, snapshot_location: str) -> bool:
        return True

    def discover_snapshots(self, **_: Any) -> SnapshotCollections:
        return SnapshotCollections()

    def delete_snapshots(self, *, snapshot_location: str, snapshot_names: set[str]) -> None:
        raise AssertionError("nothing is discovered, so syrupy has nothing to delete")

    def read_snapshot_collection(self, *, snapshot_location: str) -> SnapshotCollection:
        collection = SnapshotCollection(location=snapshot_location)
        collection.add(Snapshot(name=Path(snapshot_location).stem))
        return collection

    def read_snapshot_data_from_location(
        self, *, snapshot_location: str, snapshot_name: str, session_id: str
    ) -> SerializedData | None:
        path = Path(snapshot_location)
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None

    @classmethod
    def write_snapshot_collection(
        cls, *, snapshot_collection: SnapshotCollection, name_order: dict[str, int] | None = None
    ) -> None:
        for snapshot in snapshot_collection:
            write_text(Path(snapshot_collection.location), str(snapshot.data))


def extension_for(path: Path, *, holds: bool) -> type[BaselineExtension]:
    """Return the extension of the case whose baseline is `path`. `holds` says that the gate passed the record
    against it; otherwise texts are compared, for acceptance and re-centring."""
    return type("CaseBaseline", (BaselineExtension,), {"path": path, "holds": holds})
