"""A digest of a folder, to compare the files of two runs."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path


def folder_digest(folder: Path, pattern: str = "*") -> str:
    """Return 16 hexadecimal digits over the files below a folder that match `pattern`, by path. Files that
    Python compiles are excluded: imports in other processes create and remove them under temporary names. A
    missing folder counts as empty."""
    digest = sha256()
    for path in sorted(folder.rglob(pattern)):
        name = path.relative_to(folder)
        if "__pycache__" not in name.parts and path.suffix != ".pyc" and path.is_file():
            digest.update(f"{name.as_posix()}\0".encode())
            digest.update(sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
