"""A digest of a folder: whether two runs rested on the same files."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path


def folder_digest(folder: Path, pattern: str = "*") -> str:
    """16 hexadecimal digits of the files below a folder that match `pattern`, by path, but for what Python
    compiles: that appears and goes, under names of its own, while others import. A folder that is not there
    counts as an empty one."""
    digest = sha256()
    for path in sorted(folder.rglob(pattern)):
        name = path.relative_to(folder)
        if "__pycache__" not in name.parts and path.suffix != ".pyc" and path.is_file():
            digest.update(f"{name.as_posix()}\0".encode())
            digest.update(sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
