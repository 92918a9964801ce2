"""Opening what lies in the input folder: files only, of it only, and never more than is allowed."""

import gzip
import hashlib
import io
import os
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from file_processing.inbound import open_file
from file_processing.inbound.limits import Limits
from file_processing.inbound.open_file import OpenFile
from models.errors import FileGone, RejectFile, RetryLater
from services.files.directory import OpenFolders
from services.files.move import Identity

LIMIT = 10 << 20


@contextmanager
def opened(path: Path, *, root: Path | None, max_bytes: int) -> Iterator[OpenFile]:
    with OpenFolders() as folders:
        entry = open_file.entry_of(folders, str(path), None if root is None else str(root))
        with open_file.opened(entry, max_bytes=max_bytes) as source:
            yield source


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = (tmp_path / "input").resolve()
    folder.mkdir()
    return folder


@pytest.mark.parametrize("size", [0, 1, 1000, open_file.READ_BYTES, open_file.READ_BYTES + 1, 3 * open_file.READ_BYTES])
def test_a_file_gives_its_digest_and_its_bytes_as_often_as_asked(root: Path, size: int) -> None:
    data = os.urandom(size)
    (root / "x.json").write_bytes(data)
    with opened(root / "x.json", root=root, max_bytes=LIMIT) as source:
        for _ in range(2):
            assert source.raw().read() == data
            assert source.sha256() == hashlib.sha256(data).digest()
            assert open_file.content(source, max_bytes=LIMIT).read() == data
        source.check_unchanged()


def test_a_file_that_is_gone_is_no_fault(root: Path) -> None:
    for path in (root / "x.json", root / "no" / "x.json"):
        with pytest.raises(FileGone), opened(path, root=root, max_bytes=LIMIT):
            pass


def test_a_folder_on_the_way_may_not_lead_out(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x.json").write_text("[]")
    (root / "link").symlink_to(outside)
    path = root / "link" / "x.json"
    with pytest.raises(RetryLater, match="leads out of the input folder"):
        with opened(path, root=root, max_bytes=LIMIT):
            pass
    with opened(path, root=None, max_bytes=LIMIT) as source:
        assert source.raw().read() == b"[]"


def test_a_folder_with_a_name_that_begins_alike_is_outside(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "input2"
    other.mkdir()
    (other / "x.json").write_text("[]")
    with pytest.raises(RetryLater, match="leads out"), opened(other / "x.json", root=root, max_bytes=LIMIT):
        pass


def test_a_folder_is_no_file(root: Path) -> None:
    with pytest.raises(RejectFile, match="not a regular file"), opened(root, root=None, max_bytes=LIMIT):
        pass


def test_a_pipe_without_a_writer_does_not_block(root: Path) -> None:
    os.mkfifo(root / "x.json")
    with pytest.raises(RejectFile, match="not a regular file"):
        with opened(root / "x.json", root=root, max_bytes=LIMIT):
            pass


@pytest.mark.parametrize("change", ["grows", "is touched", "shrinks"])
def test_a_change_is_noticed(root: Path, change: str) -> None:
    path = root / "x.json"
    path.write_bytes(b"[" + b" " * open_file.READ_BYTES)
    with opened(path, root=root, max_bytes=LIMIT) as source:
        match change:
            case "grows":
                with path.open("ab") as file:
                    file.write(b" ")
            case "shrinks":
                os.truncate(path, 1)
            case _:
                os.utime(path, (1, 1))
        with pytest.raises(RetryLater, match="changed while it was read"):
            source.check_unchanged()


def test_a_disk_that_cannot_be_read_is_not_the_file_s_fault() -> None:
    # The memory of a process is a regular file of which page 0 gives an input/output error.
    memory = os.open("/proc/self/mem", os.O_RDONLY)
    with OpenFile("mem", memory, Identity.of(os.fstat(memory)), times_tell=True) as source:
        with pytest.raises(RetryLater, match="cannot be read: Input/output error"):
            source.raw().read(1)


def test_exactly_the_limit_is_allowed(root: Path) -> None:
    (root / "x.json").write_bytes(b"x" * 100)
    with opened(root / "x.json", root=root, max_bytes=100):
        pass
    with pytest.raises(RejectFile, match="100 bytes are more than MAX_FILE_BYTES allows"):
        with opened(root / "x.json", root=root, max_bytes=99):
            pass


def unpacked(root: Path, data: bytes, limit: int) -> bytes:
    path = root / "x.json.gz"
    path.write_bytes(data)
    with opened(path, root=None, max_bytes=LIMIT) as source:
        return open_file.content(source, max_bytes=limit).read()


def test_exactly_the_limit_may_come_out_of_a_packed_file(root: Path) -> None:
    data = os.urandom(5000)
    assert unpacked(root, gzip.compress(data), 5000) == data
    with pytest.raises(RejectFile, match="decompressed it is larger"):
        unpacked(root, gzip.compress(data), 4999)


def test_a_packed_file_may_unpack_into_so_many_times_its_bytes(root: Path) -> None:
    path = root / "x.json.gz"
    path.write_bytes(gzip.compress(bytes(5000)))
    with opened(path, root=None, max_bytes=LIMIT) as source:
        assert len(open_file.content(source, max_bytes=LIMIT, max_unpacked=5000).read()) == 5000
        with pytest.raises(RejectFile, match="MAX_UNPACK_RATIO"):
            open_file.content(source, max_bytes=LIMIT, max_unpacked=4999).read()


@pytest.mark.parametrize(("packed", "unpacked"), [(429, 1 << 20), (10_485, 1 << 20), (10_486, 1_048_600)])
def test_a_short_packed_file_may_unpack_into_a_mebibyte(packed: int, unpacked: int) -> None:
    assert Limits(max_bytes=LIMIT, max_unpack_ratio=100, max_rejects=0).unpacked_bytes(packed) == unpacked


def test_a_bomb_takes_no_memory(root: Path) -> None:
    packed = io.BytesIO()
    with gzip.open(packed, "wb") as file:
        for _ in range(100):
            file.write(bytes(1 << 20))
    path = root / "bomb.gz"
    path.write_bytes(packed.getvalue())
    tracemalloc.start()
    try:
        with opened(path, root=root, max_bytes=LIMIT) as source:
            content = open_file.content(source, max_bytes=90 << 20)
            with pytest.raises(RejectFile, match="decompressed it is larger"):
                hashlib.file_digest(content, "sha256")
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=300), st.integers(0, 300), st.binary(max_size=3))
def test_a_spoiled_packed_file_gives_its_content_or_is_rejected(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int, junk: bytes
) -> None:
    packed = bytearray(gzip.compress(data))
    packed[at : at + len(junk)] = junk
    try:
        found = unpacked(tmp_path_factory.getbasetemp(), bytes(packed), 1000)
    except RejectFile as error:
        found, reason = b"", error.reason
    else:
        reason = "broken gzip"
    assert reason.startswith("broken gzip")
    assert found in (data, b"")  # the checksum leaves no third way
