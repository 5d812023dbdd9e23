"""Files that are either whole or not there: atomic writing, checksums, JSON."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arfl.errors import UserError

_DISK_ERRORS = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "your disk quota is used up; free some space",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "permission denied; choose a folder that you may write to",
    errno.EPERM: "operation not permitted; choose a folder that you may write to",
}


@contextlib.contextmanager
def disk_errors(path: str | os.PathLike) -> Iterator[None]:
    """Turn a full, read-only or forbidden disk met while writing ``path`` into a `UserError`."""
    try:
        yield
    except OSError as error:
        remedy = _DISK_ERRORS.get(error.errno)
        if remedy is None:
            raise
        raise UserError(f"cannot write {path}: {remedy} and run again") from error


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its name only when the block succeeds.

    Works for a file and for a folder (which the block creates). Whatever happens in the block,
    ``path`` is either the old thing or the whole new one, and no temporary is left behind.
    """
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            temporary = holder / path.name
            yield temporary
            if temporary.is_dir() and path.is_dir():
                shutil.rmtree(path)
            os.replace(temporary, path)
        finally:
            shutil.rmtree(holder, ignore_errors=True)


@contextlib.contextmanager
def alone(path: str | os.PathLike) -> Iterator[None]:
    """Be the only process in such a block for ``path``, a file that exists only meanwhile.

    A process that dies lets go. On a file system without such locks nobody waits.
    """
    path = Path(path)
    made = [folder for folder in path.parents if not folder.exists()]
    with disk_errors(path):
        while True:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                stream = open(path, "a")  # noqa: SIM115
            except FileNotFoundError:
                continue  # whoever held it before has removed the folder too
            try:
                fcntl.flock(stream, fcntl.LOCK_EX)
                # Whoever held it before has removed the file that it was.
                if os.path.samestat(os.fstat(stream.fileno()), path.stat()):
                    break
            except FileNotFoundError:
                pass
            except OSError:
                break
            stream.close()
    with stream:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                for folder in made:
                    folder.rmdir()


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: object, indent: int | None = 1) -> None:
    """Write ``value`` to ``path`` atomically as JSON; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=indent, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file; a missing or broken one is a `UserError` that says what to do."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run the step that makes it first") from None
    # Not only JSONDecodeError: a number of thousands of digits, or brackets without end.
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); delete it and run again") from None


def listing(folder: str | os.PathLike) -> str:
    """12 hex digits that change with the names, sizes and times of a folder's files.

    Empty if there is no such folder, or no file in it.
    """
    found = []
    for parent, _, names in os.walk(os.fspath(folder), followlinks=True):
        for name in names:
            path = Path(parent, name)
            with contextlib.suppress(OSError):
                state = path.stat()
                place = os.fspath(path.relative_to(folder))
                found.append((place, state.st_size, state.st_mtime_ns))
    text = json.dumps(sorted(found))
    return hashlib.sha256(text.encode()).hexdigest()[:12] if found else ""


def checksum(path: str | os.PathLike, algorithm: str = "sha256") -> str:
    """Hexadecimal digest of a file's content, read in chunks."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def link(target: str | os.PathLike, page: str | os.PathLike) -> str:
    """How the page, a file, refers to the target.

    >>> link("docs/figures/figure3.svg", "docs/findings.md")
    'figures/figure3.svg'
    """
    return Path(os.path.relpath(target, Path(page).parent)).as_posix()
