"""Fetching against a server on this machine and against mirrors made for the test."""

import csv
import errno
import gzip
import hashlib
import http.server
import lzma
import os
import re
import socket
import tarfile
import threading

import pytest

from arfl import dataset
from arfl.datasets import _sources
from arfl.errors import UserError
from arfl.files import read_json

CONTENT = bytes(range(256)) * 2000
COLUMNS = (
    *("dataset", "file", "accepts", "member_of", "url"),
    *("bytes", "checksum", "rows", "kind", "note"),
)


class Server(http.server.ThreadingHTTPServer):
    """Serves ``content``, with the misbehaviour that a test asks for."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = {}
        self.cut_after = []  # per answer to come, how many bytes to send before hanging up
        self.ranges = True
        self.requests = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.requests.append((self.path, wanted))
        body = self.server.content.get(self.path)
        if body is None:
            self.send_error(404)
            return
        start = 0
        if wanted and self.server.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted).group(1))
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        cut = self.server.cut_after.pop(0) if self.server.cut_after else None
        self.wfile.write(body[start:] if cut is None else body[start : start + cut])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(_sources, "_PAUSES", (0, 0, 0))
    monkeypatch.delenv("ARFL_DATA_MIRROR", raising=False)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)


def md5(content):
    return "md5:" + hashlib.md5(content).hexdigest()


def table(folder, *rows):
    path = folder / "sources.csv"
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def one_file(folder, url, checksum=None, **others):
    checksum = md5(CONTENT) if checksum is None else checksum
    row = {"dataset": "mnist", "file": "images", "url": url, "checksum": checksum}
    return table(folder, row | {"kind": "complete"} | others)


def leftovers(raw):
    return sorted(path.name for path in raw.iterdir()) if raw.exists() else []


def test_download_is_verified_and_listed(tmp_path, server):
    server.content["/images"] = CONTENT
    raw = tmp_path / "raw"
    dataset.fetch("mnist", raw, one_file(tmp_path, server.url + "/images"))
    assert (raw / "images").read_bytes() == CONTENT
    (entry,) = read_json(raw / "fetched.json")["files"]
    assert entry["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert entry["origin"] == server.url + "/images"
    assert leftovers(raw) == ["fetched.json", "images"]


def test_fetching_again_does_not_download_again(tmp_path, server):
    server.content["/images"] = CONTENT
    sources = one_file(tmp_path, server.url + "/images")
    dataset.fetch("mnist", tmp_path / "raw", sources)
    dataset.fetch("mnist", tmp_path / "raw", sources)
    assert len(server.requests) == 1


def test_broken_connection_is_resumed_where_it_broke(tmp_path, server):
    server.content["/images"] = CONTENT
    server.cut_after = [100_000, 50_000]
    dataset.fetch("mnist", tmp_path / "raw", one_file(tmp_path, server.url + "/images"))
    assert (tmp_path / "raw/images").read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, "bytes=100000-", "bytes=150000-"]


def test_a_later_run_resumes_what_an_earlier_one_left(tmp_path, server):
    server.content["/images"] = CONTENT
    server.cut_after = [1000, 1000, 1000, 1000]
    sources, raw = one_file(tmp_path, server.url + "/images"), tmp_path / "raw"
    with pytest.raises(UserError, match="the connection broke"):
        dataset.fetch("mnist", raw, sources)
    assert leftovers(raw) == ["images.part"]
    dataset.fetch("mnist", raw, sources)
    assert server.requests[-1] == ("/images", "bytes=4000-")
    assert (raw / "images").read_bytes() == CONTENT


def test_server_without_ranges_starts_again(tmp_path, server):
    server.content["/images"] = CONTENT
    server.cut_after, server.ranges = [100_000], False
    dataset.fetch("mnist", tmp_path / "raw", one_file(tmp_path, server.url + "/images"))
    assert (tmp_path / "raw/images").read_bytes() == CONTENT


def test_remainder_longer_than_the_file_is_thrown_away(tmp_path, server):
    server.content["/images"] = CONTENT
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "images.part").write_bytes(CONTENT + b"more")
    dataset.fetch("mnist", raw, one_file(tmp_path, server.url + "/images"))
    assert (raw / "images").read_bytes() == CONTENT


def test_wrong_checksum_leaves_nothing(tmp_path, server):
    server.content["/images"] = b"something else"
    raw = tmp_path / "raw"
    with pytest.raises(UserError, match=r"images is not the images of mnist: its checksum"):
        dataset.fetch("mnist", raw, one_file(tmp_path, server.url + "/images"))
    assert leftovers(raw) == []


def test_missing_page_is_not_retried_and_the_next_address_is(tmp_path, server):
    server.content["/copy/images"] = CONTENT
    sources = one_file(tmp_path, f"{server.url}/gone/images {server.url}/copy/images")
    dataset.fetch("mnist", tmp_path / "raw", sources)
    assert [path for path, _ in server.requests] == ["/gone/images", "/copy/images"]


def test_missing_page_names_file_address_and_place(tmp_path, server):
    sources, raw = one_file(tmp_path, server.url + "/images"), tmp_path / "raw"
    with pytest.raises(UserError) as caught:
        dataset.fetch("mnist", raw, sources)
    for part in ("images", server.url, "404", str(raw), "ARFL_DATA_MIRROR"):
        assert part in str(caught.value)
    assert leftovers(raw) == []


def test_refused_connection_is_one_clear_message(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/images"
        with pytest.raises(UserError, match=r"cannot download images .*refused.*internet"):
            dataset.fetch("mnist", tmp_path / "raw", one_file(tmp_path, url))


def test_full_disk_keeps_what_was_received(tmp_path, server, monkeypatch):
    server.content["/images"] = CONTENT
    sources, raw = one_file(tmp_path, server.url + "/images"), tmp_path / "raw"

    def full(source, output, length):
        raise OSError(errno.ENOSPC, "No space left on device")

    server.content["/images.gz"] = gzip.compress(CONTENT)
    sources = one_file(tmp_path, server.url + "/images.gz")
    monkeypatch.setattr(_sources.shutil, "copyfileobj", full)
    with pytest.raises(UserError, match="the disk is full"):
        dataset.fetch("mnist", raw, sources)
    assert leftovers(raw) == ["images.gz.part"]


def test_full_disk_while_downloading(tmp_path, server, monkeypatch):
    server.content["/images"] = CONTENT

    def full(url, part):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_sources, "_download_once", full)
    with pytest.raises(UserError, match="the disk is full"):
        dataset.fetch("mnist", tmp_path / "raw", one_file(tmp_path, server.url + "/images"))


def test_packed_download_is_unpacked(tmp_path, server):
    server.content["/images.gz"] = gzip.compress(CONTENT)
    dataset.fetch("mnist", tmp_path / "raw", one_file(tmp_path, server.url + "/images.gz"))
    assert (tmp_path / "raw/images").read_bytes() == CONTENT
    assert leftovers(tmp_path / "raw") == ["fetched.json", "images"]


@pytest.mark.parametrize(
    ("suffix", "pack"), [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)]
)
def test_mirror_plain_or_packed_and_read_only(tmp_path, suffix, pack):
    mirror = tmp_path / "mirror"
    (mirror / "mnist").mkdir(parents=True)
    (mirror / "mnist" / f"images{suffix}").write_bytes(pack(CONTENT))
    before = os.stat(mirror / "mnist").st_mtime_ns
    (mirror / "mnist").chmod(0o555)
    try:
        sources = one_file(tmp_path, "http://127.0.0.1:9/never")
        dataset.fetch("mnist", tmp_path / "raw", sources, mirror)
    finally:
        (mirror / "mnist").chmod(0o755)
    assert (tmp_path / "raw/images").read_bytes() == CONTENT
    assert os.stat(mirror / "mnist").st_mtime_ns == before


def test_mirror_by_environment_variable(tmp_path, monkeypatch):
    (tmp_path / "mirror/mnist").mkdir(parents=True)
    (tmp_path / "mirror/mnist/images").write_bytes(CONTENT)
    monkeypatch.setenv("ARFL_DATA_MIRROR", str(tmp_path / "mirror"))
    dataset.fetch("mnist", tmp_path / "raw", one_file(tmp_path, "manual"))
    assert (tmp_path / "raw/images").read_bytes() == CONTENT


def test_mirror_without_the_file_is_not_replaced_by_the_network(tmp_path, server):
    server.content["/images"] = CONTENT
    (tmp_path / "mirror").mkdir()
    with pytest.raises(
        UserError, match=r"the mirror has no images; get it from http.* put it into"
    ):
        dataset.fetch(
            "mnist",
            tmp_path / "raw",
            one_file(tmp_path, server.url + "/images"),
            tmp_path / "mirror",
        )
    assert server.requests == []


def test_mirror_that_is_no_folder(tmp_path):
    with pytest.raises(UserError, match="nowhere is not a folder; correct data_mirror"):
        dataset.fetch("mnist", tmp_path / "raw", one_file(tmp_path, "x"), tmp_path / "nowhere")


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_truncated_packed_file(tmp_path, suffix, pack):
    (tmp_path / "mirror/mnist").mkdir(parents=True)
    whole = pack(os.urandom(100_000))
    (tmp_path / "mirror/mnist" / f"images{suffix}").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=f"images{suffix} is truncated or corrupt"):
        dataset.fetch("mnist", tmp_path / "raw", one_file(tmp_path, "x"), tmp_path / "mirror")
    assert leftovers(tmp_path / "raw") == []


def test_wrong_checksum_in_a_mirror(tmp_path):
    (tmp_path / "mirror/mnist").mkdir(parents=True)
    (tmp_path / "mirror/mnist/images").write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match="its checksum is not md5"):
        dataset.fetch("mnist", tmp_path / "raw", one_file(tmp_path, "x"), tmp_path / "mirror")
    assert leftovers(tmp_path / "raw") == []


def archive_table(folder, url, archive):
    archive_row = {"dataset": "cifar10", "file": "all.tar.gz", "url": url}
    archive_row["checksum"] = md5(archive)
    member = {"dataset": "cifar10", "member_of": "all.tar.gz", "kind": "complete"}
    return table(
        folder,
        archive_row,
        member | {"file": "one", "checksum": md5(b"first")},
        member | {"file": "two", "checksum": md5(b"second")},
    )


@pytest.fixture
def archive(tmp_path):
    inner = tmp_path / "batches"
    inner.mkdir()
    (inner / "one").write_bytes(b"first")
    (inner / "two").write_bytes(b"second")
    with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as tar:
        tar.add(inner, "batches")
    return (tmp_path / "all.tar.gz").read_bytes()


@pytest.mark.parametrize("where", ["network", "mirror", "mirror, unpacked"])
def test_archive_or_its_members(tmp_path, server, archive, where):
    server.content["/all.tar.gz"] = archive
    sources = archive_table(tmp_path, server.url + "/all.tar.gz", archive)
    mirror = None
    if where != "network":
        mirror = tmp_path / "mirror"
        (mirror / "cifar10").mkdir(parents=True)
        if where == "mirror":
            (mirror / "cifar10/all.tar.gz").write_bytes(archive)
        else:
            (tmp_path / "batches").rename(mirror / "cifar10/batches")
    dataset.fetch("cifar10", tmp_path / "raw", sources, mirror)
    assert (tmp_path / "raw/one").read_bytes() == b"first"
    assert (tmp_path / "raw/two").read_bytes() == b"second"
    assert len(server.requests) == (where == "network")


def test_truncated_archive(tmp_path, archive):
    (tmp_path / "mirror/cifar10").mkdir(parents=True)
    half = archive[: len(archive) // 2]
    (tmp_path / "mirror/cifar10/all.tar.gz").write_bytes(half)
    sources = archive_table(tmp_path, "x", half)
    with pytest.raises(UserError, match=r"all.tar.gz is truncated or corrupt"):
        dataset.fetch("cifar10", tmp_path / "raw", sources, tmp_path / "mirror")


def versions(folder):
    common = {"dataset": "amazon", "file": "reviews.jsonl", "accepts": "*.json", "url": "manual"}
    return table(
        folder,
        common | {"kind": "complete", "rows": "7", "note": "everything"},
        common | {"kind": "sample", "rows": "3", "note": "three", "checksum": md5(b"known")},
    )


def test_known_sample_is_recognised(tmp_path):
    (tmp_path / "mirror/amazon").mkdir(parents=True)
    (tmp_path / "mirror/amazon/Books.json").write_bytes(b"known")
    dataset.fetch("amazon", tmp_path / "raw", versions(tmp_path), tmp_path / "mirror")
    (entry,) = read_json(tmp_path / "raw/fetched.json")["files"]
    assert _sources.what_it_is(entry, 3, "reviews") == ("sample", "three")


def test_unknown_file_is_complete_only_by_its_size(tmp_path):
    (tmp_path / "mirror/amazon").mkdir(parents=True)
    (tmp_path / "mirror/amazon/reviews.jsonl").write_bytes(b"unknown")
    dataset.fetch("amazon", tmp_path / "raw", versions(tmp_path), tmp_path / "mirror")
    (entry,) = read_json(tmp_path / "raw/fetched.json")["files"]
    assert _sources.what_it_is(entry, 7, "reviews") == ("complete", "everything")
    kind, note = _sources.what_it_is(entry, 6, "reviews")
    assert kind == "sample"
    assert note == "a file of 6 reviews unknown to this project; the paper's source has 7"


def test_several_files_that_may_be_meant(tmp_path):
    (tmp_path / "mirror/amazon").mkdir(parents=True)
    for name in ("Books.json", "Music.json"):
        (tmp_path / "mirror/amazon" / name).write_bytes(b"unknown")
    with pytest.raises(UserError, match=r"several files .*Books.json, Music.json"):
        dataset.fetch("amazon", tmp_path / "raw", versions(tmp_path), tmp_path / "mirror")


def test_manual_file_says_where_to_put_it_and_is_found_there(tmp_path):
    raw = tmp_path / "raw"
    with pytest.raises(UserError, match=f"docs/data.md .* put it .* into {raw}"):
        dataset.fetch("amazon", raw, versions(tmp_path))
    (raw / "reviews.jsonl.gz").write_bytes(gzip.compress(b"known"))
    dataset.fetch("amazon", raw, versions(tmp_path))
    assert (raw / "reviews.jsonl").read_bytes() == b"known"


def test_what_a_killed_run_left_is_not_taken_for_the_file(tmp_path):
    half = tmp_path / "raw/.reviews.jsonl.x7f3/reviews.jsonl"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"kno")
    with pytest.raises(UserError, match=r"docs/data\.md"):
        dataset.fetch("amazon", tmp_path / "raw", versions(tmp_path))


def test_embedded_datasets_need_no_file(tmp_path):
    dataset.fetch("digits", tmp_path / "raw", tmp_path / "no table")
    assert read_json(tmp_path / "raw/fetched.json") == {"dataset": "digits", "files": []}


def test_raw_file_that_changed_after_fetching(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "images").write_bytes(CONTENT)
    dataset.fetch("mnist", raw, one_file(tmp_path, "x"))
    (raw / "images").write_bytes(CONTENT[1:])
    with pytest.raises(UserError, match="images has changed since it was fetched; fetch mnist"):
        _sources.fetched("mnist", raw)
    (raw / "images").unlink()
    with pytest.raises(UserError, match="images is missing; fetch mnist again"):
        _sources.fetched("mnist", raw)


def test_table_of_sources_without_the_dataset(tmp_path):
    with pytest.raises(UserError, match="lists no file of dataset mnist"):
        dataset.fetch("mnist", tmp_path / "raw", table(tmp_path))
    (tmp_path / "sources.csv").write_text("dataset,file\n")
    with pytest.raises(UserError, match="lacks the columns accepts, checksum"):
        dataset.fetch("mnist", tmp_path / "raw", tmp_path / "sources.csv")
