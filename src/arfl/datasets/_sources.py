"""Source files: found in a mirror or downloaded, verified, and listed in a receipt.

The table of sources (``workflow/resources/datasets.csv``) has one row per file, or several for a
file that exists in several known versions:

===========  ==================================================================================
dataset      registry name
file         the name the file gets in the raw folder
accepts      other names, as patterns, under which people have it
member_of    the archive (a row of its own) that holds the file
url          addresses, separated by spaces, tried in turn; ``manual`` if there is none
bytes        size of the content
checksum     ``md5:`` or ``sha256:`` and the digest of the content; empty if none is known
rows         number of samples in the file
kind, note   what the file is, for captions; see `arfl.dataset.KINDS`
===========  ==================================================================================

The content is what the file holds once a ``.gz`` or ``.xz`` that is not part of its own name has
been undone: ``loan.csv``, ``loan.csv.gz`` and ``loan.csv.xz`` have the same content.
"""

import contextlib
import csv
import fnmatch
import gzip
import http.client
import lzma
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from arfl.dataset import RECEIPT
from arfl.errors import UserError
from arfl.files import atomic_path, checksum, disk_errors, read_json, write_json

_COLUMNS = ("dataset", "file", "accepts", "member_of", "url", "checksum", "rows", "kind", "note")
_OPENERS = {"": open, ".gz": gzip.open, ".xz": lzma.open}
_CHUNK = 1 << 20
_TIMEOUT = 60
# Seconds to wait before each further attempt at one address.
_PAUSES = (1, 2, 4, 8)
_BROKEN_FILE = (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error, tarfile.TarError)


def fetch(
    name: str, raw_dir: Path, sources: str | os.PathLike, mirror: str | os.PathLike | None
) -> None:
    """Put the files of a dataset and their receipt into ``raw_dir``; see `arfl.dataset.fetch`."""
    table = [row for row in _read_table(Path(sources)) if row["dataset"] == name]
    if not table:
        raise UserError(f"{sources} lists no file of dataset {name}; add one or use another table")
    if mirror is not None and not Path(mirror).is_dir():
        raise UserError(
            f"the data mirror {mirror} is not a folder; correct data_mirror or ARFL_DATA_MIRROR"
        )
    archives = {row["member_of"] for row in table if row["member_of"]}
    versions: dict[str, list[dict]] = {}
    for row in table:
        if row["file"] not in archives:
            versions.setdefault(row["file"], []).append(row)
    store = _Store(name, Path(raw_dir), None if mirror is None else Path(mirror), table)
    with disk_errors(raw_dir):
        Path(raw_dir).mkdir(parents=True, exist_ok=True)
    receipt = [store.obtain(file, rows) for file, rows in versions.items()]
    write_json(Path(raw_dir) / RECEIPT, {"dataset": name, "files": receipt})


def fetched(name: str, raw_dir: Path) -> dict[str, dict]:
    """The receipt's entry of each file in ``raw_dir``, after comparing the files with it."""
    receipt = read_json(raw_dir / RECEIPT)
    remedy = f"fetch {name} again"
    try:
        if receipt["dataset"] != name:
            raise UserError(f"{raw_dir} holds {receipt['dataset']}, not {name}; {remedy}")
        entries = {entry["file"]: entry for entry in receipt["files"]}
        for file, entry in entries.items():
            if checksum(raw_dir / file) != entry["sha256"]:
                raise UserError(f"{raw_dir / file} has changed since it was fetched; {remedy}")
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing; {remedy}") from None
    except (KeyError, TypeError) as error:
        raise UserError(f"{raw_dir / RECEIPT} is not a receipt ({error}); {remedy}") from None
    return entries


def what_it_is(entry: Mapping[str, object], rows: int, unit: str) -> tuple[str, str]:
    """Kind and note of a file that comes in many cuts.

    Args:
        entry: the file's entry in the receipt.
        rows: how many samples the file has.
        unit: what a sample is called, in the plural.

    Returns:
        The kind and note of the known version with this checksum or, failing that, this number of
        rows; for any other file "sample", so that an unknown cut is never taken for the whole.
    """
    if entry["kind"] is not None:
        return entry["kind"], entry["note"]
    complete = entry["complete"]
    if complete is not None and rows == complete["rows"]:
        return "complete", complete["note"]
    whole = "" if complete is None else f"; the paper's source has {complete['rows']:,}"
    return "sample", f"a file of {rows:,} {unit} unknown to this project{whole}"


def provenance(entries: Mapping[str, Mapping[str, object]]) -> list[dict]:
    """What ``meta.json`` keeps of the receipt."""
    keys = ("file", "bytes", "sha256", "origin")
    return [{key: entry[key] for key in keys} for entry in entries.values()]


def _read_table(path: Path) -> list[dict]:
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            missing = set(_COLUMNS) - set(reader.fieldnames or ())
            if missing:
                raise UserError(f"{path} lacks the columns {', '.join(sorted(missing))}; add them")
            return list(reader)
    except OSError as error:
        raise UserError(f"cannot read the table of sources {path}: {error.strerror}") from None


class _WrongContent(UserError):
    """A file that is not what it should be, so that keeping it would not help."""


class _Store:
    """One dataset's raw folder and the places its files may come from."""

    def __init__(self, name: str, raw_dir: Path, mirror: Path | None, table: Sequence[Mapping]):
        self.name = name
        self.raw_dir = raw_dir
        self.mirror = mirror
        self.local = raw_dir if mirror is None else mirror / name
        self.table = table

    def obtain(self, file: str, rows: Sequence[Mapping]) -> dict:
        """Bring one file into the raw folder, verified; return its entry for the receipt."""
        target = self.raw_dir / file
        source = self._find(file, rows[0]["accepts"])
        archive = rows[0]["member_of"]
        if source is not None:
            origin = f"{'raw folder' if self.mirror is None else 'mirror'}: {source.name}"
            if source != target:
                suffix = "" if source.name == file else _packing(source.name)
                with _readable(source), _opened(source, suffix) as stream:
                    self._keep(stream, target, rows, source)
        elif archive:
            origin = self._extract(archive, target, rows)
        else:
            origin = self._download(file, rows)
        known = self._verify(target, rows, source or target)
        complete = next((row for row in rows if row["kind"] == "complete" and row["rows"]), None)
        return {
            "file": file,
            "bytes": target.stat().st_size,
            "sha256": checksum(target),
            "origin": origin,
            "kind": known and known["kind"],
            "note": known and known["note"],
            "complete": complete and {"rows": int(complete["rows"]), "note": complete["note"]},
        }

    def _find(self, file: str, accepts: str = "") -> Path | None:
        """The file, compressed or not, under its own name or the only one that a pattern fits."""
        if not self.local.is_dir():
            return None
        # What a killed run left half-written lies in a hidden folder.
        present = sorted(
            path
            for path in self.local.rglob("*")
            if path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(self.local).parts)
        )
        for suffix in _OPENERS:
            for path in present:
                if path.name == file + suffix:
                    return path
        fitting = [
            path
            for path in present
            for pattern in accepts.split()
            for suffix in _OPENERS
            if fnmatch.fnmatch(path.name, pattern + suffix) and path.name != RECEIPT
        ]
        if len(fitting) > 1:
            listed = ", ".join(path.name for path in fitting)
            raise UserError(
                f"{self.local} holds several files that may be {file} ({listed}); "
                f"keep one, or name one of them {file}"
            )
        return fitting[0] if fitting else None

    def _keep(
        self, stream: BinaryIO, target: Path, rows: Sequence[Mapping], source: Path | str
    ) -> None:
        with atomic_path(target) as temporary:
            with open(temporary, "wb") as output:
                shutil.copyfileobj(stream, output, _CHUNK)
            self._verify(temporary, rows, source)

    def _verify(self, path: Path, rows: Sequence[Mapping], source: Path | str) -> Mapping | None:
        """The known version that ``path`` is; None if it is another and others are allowed."""
        for row in rows:
            if row["checksum"]:
                algorithm, _, digest = row["checksum"].partition(":")
                if checksum(path, algorithm) == digest:
                    return row
        if all(row["checksum"] for row in rows):
            expected = " or ".join(row["checksum"] for row in rows)
            raise _WrongContent(
                f"{source} is not the {rows[0]['file']} of {self.name}: its checksum is not "
                f"{expected}; get it again"
            )
        return None

    def _extract(self, archive: str, target: Path, rows: Sequence[Mapping]) -> str:
        """Take one file out of an archive, which is found or downloaded like any other file."""
        archive_rows = [row for row in self.table if row["file"] == archive]
        path = self._find(archive)
        if path is None:
            origin = self._download(archive, archive_rows)
            path = self.raw_dir / archive
        else:
            origin = f"{'raw folder' if self.mirror is None else 'mirror'}: {path.name}"
            self._verify(path, archive_rows, path)
        with _readable(path), tarfile.open(path) as members:
            for member in members:
                if member.isfile() and Path(member.name).name == target.name:
                    self._keep(members.extractfile(member), target, rows, path)
                    return f"{origin} ({member.name})"
        raise UserError(f"{path} holds no {target.name}; delete it and get it again")

    def _download(self, file: str, rows: Sequence[Mapping]) -> str:
        where = f"{self.raw_dir}, or into {self.name}/ of a folder named by ARFL_DATA_MIRROR"
        addresses = next((row["url"] for row in rows if row["url"] != "manual"), "").split()
        if self.mirror is not None:
            get = f" from {addresses[0]}" if addresses else " (docs/data.md says where it is had)"
            raise UserError(
                f"{self.name}: the mirror has no {file}; get it{get} and put it into {self.local}"
            )
        if not addresses:
            raise UserError(
                f"{self.name}: {file} cannot be downloaded by a program; docs/data.md says where "
                f"it is had; put it (plain, .gz or .xz) into {where}"
            )
        reasons = []
        for url in addresses:
            part = self.raw_dir / f"{url.rpartition('/')[2]}.part"
            try:
                _download_resumed(url, part)
            except _DownloadError as error:
                reasons.append(f"{url}: {error}")
                continue
            packed = url.rpartition("/")[2]
            try:
                if packed == file:
                    self._verify(part, rows, url)
                    os.replace(part, self.raw_dir / file)
                else:
                    with _readable(url), _opened(part, _packing(packed)) as stream:
                        self._keep(stream, self.raw_dir / file, rows, url)
                    part.unlink()
            except _WrongContent:
                part.unlink()
                raise
            return url
        raise UserError(
            f"{self.name}: cannot download {file} ({'; '.join(reasons)}); "
            f"on a machine without internet put the file into {where}"
        )


@contextlib.contextmanager
def _readable(path: Path | str) -> Iterator[None]:
    """Turn a truncated, corrupt or unreadable compressed file into a `UserError`."""
    try:
        yield
    except _BROKEN_FILE as error:
        raise _WrongContent(f"{path} is truncated or corrupt ({error}); get it again") from None
    except PermissionError as error:
        raise UserError(f"cannot read {error.filename or path}: permission denied") from None


def _packing(name: str) -> str:
    """The suffix that says how a file of this name is compressed, empty if it is not."""
    suffix = Path(name).suffix
    return suffix if suffix in _OPENERS else ""


def _opened(path: Path, suffix: str) -> BinaryIO:
    """Open the content of a file packed as ``suffix`` says."""
    return _OPENERS[suffix](path, "rb")


class _DownloadError(Exception):
    """An address that did not give its file; the text says why."""


def _download_resumed(url: str, part: Path) -> None:
    """Download ``url`` to ``part``, going on from what an earlier attempt left there."""
    for pause in (*_PAUSES, None):
        try:
            with disk_errors(part):
                _download_once(url, part)
            return
        except urllib.error.HTTPError as error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                part.unlink()
            elif error.code < 500 and error.code not in (408, 429):
                raise _DownloadError(f"the server answers {error.code} {error.reason}") from None
            reason = f"the server answers {error.code} {error.reason}"
        except urllib.error.URLError as error:
            reason = str(error.reason)
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = f"the connection broke ({error or type(error).__name__})"
        if pause is None:
            raise _DownloadError(reason)
        time.sleep(pause)


def _download_once(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
        resumed = answer.status == http.HTTPStatus.PARTIAL_CONTENT
        expected = answer.headers.get("Content-Length")
        received = 0
        with open(part, "ab" if resumed else "wb") as output:
            while chunk := answer.read(_CHUNK):
                output.write(chunk)
                received += len(chunk)
        if expected is not None and received < int(expected):
            raise http.client.IncompleteRead(b"", int(expected) - received)
