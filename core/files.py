"""Atomic writes and content hashes: a killed run leaves the old file or the new one, never half of one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from segc.core.errors import UserError

_CHUNK = 1 << 20
_WRITE_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EDQUOT: "the disk quota is used up",
    errno.ENOTDIR: "a parent of the path is a file",
    errno.EISDIR: "the path is a folder",
    errno.EEXIST: "the path exists as a file",
    errno.ENAMETOOLONG: "the name is too long",
}


def cache_folder() -> Path:
    """The user's cache folder of segc: ``$SEGC_CACHE``, else ``$XDG_CACHE_HOME/segc``, default ``~/.cache/segc``."""
    named = os.environ.get("SEGC_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "segc"


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` that the user can mend (disk full, read-only) into a ``UserError`` that names ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno not in _WRITE_ERRORS:
            raise
        raise UserError(f"cannot write {path}: {_WRITE_ERRORS[error.errno]}.", "Give another output path or free it.") from error


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` and rename it to ``path`` when the block ends without an error.

    Raises:
        UserError: the disk is full, read-only or not permitted.
    """
    path = Path(path)
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Named before it is made: an interrupt between the two leaves nothing that nobody knows.
        temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp{path.suffix}"
        try:
            temporary.touch(mode=0o600, exist_ok=False)
            yield temporary
            temporary.chmod(0o644)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``path`` when the block ends without an error; an older ``path`` is replaced.

    Raises:
        UserError: the disk is full, read-only or not permitted.
    """
    path = Path(path)
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.tmp"))
        try:
            yield temporary
            temporary.chmod(0o755)
            if path.exists():
                old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old"))
                os.replace(path, old / path.name)
                os.replace(temporary, path)
                shutil.rmtree(old)
            else:
                os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path | str, text: str) -> None:
    """Write ``text`` (UTF-8) atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write ``data`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path | str, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN and infinity are refused because JSON has no word for them."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=2, allow_nan=False)  # piece by piece: a result of 10^5 images has millions
        stream.write("\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is missing, unreadable or not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist.") from error
    except (OSError, ValueError, RecursionError) as error:  # a number of more than 4300 digits is a ValueError
        raise UserError(f"{path} is not a readable JSON file ({error}).") from error


def sha256_file(path: Path | str) -> str:
    """SHA-256 of a file's content, as hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sha256_files(paths: Iterable[Path | str]) -> str:
    """SHA-256 over the contents of several files in the given order; the names do not count."""
    return sha256_json([sha256_file(path) for path in paths])
