"""Zip and tar archives as streams: of any size, of files that come one after the other, with no file of their own."""

import struct
import tarfile
import time
import zlib
from collections.abc import Generator, Iterable, Iterator
from typing import NamedTuple

from service.objects import StorageError

LOCAL = struct.Struct("<4s5H3L2H")
CENTRAL = struct.Struct("<4s6H3L5H2L")
END = struct.Struct("<4s4H2LH")
END_64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR_64 = struct.Struct("<4sLQL")
EXTRA_64 = struct.Struct("<2H3Q")
LATER_64 = struct.Struct("<4sL2Q")
NEEDS, NEEDS_64 = 20, 45
UTF8, SIZES_LATER = 0x800, 0x8
FULL, FULL_16 = 0xFFFFFFFF, 0xFFFF
FILE_MODE = 0o100644 << 16
PACKED = 16 << 10
LEAST = 256 << 10
"""Bytes of a chunk: each costs a change of thread on its way out."""


class Member(NamedTuple):
    """A file of an archive: its bytes, or, where they are too many for memory, pieces that come to `size`.

    A zip also takes those of which nobody knows what they come to.
    """

    name: str
    size: int | None
    modified: float
    data: bytes | Iterable[bytes]


def tarred(members: Iterable[Member]) -> Iterator[bytes]:
    """A tar (pax) of these files, in their order. Raises StorageError if one is not as long as it was to be."""
    for member in members:
        info = tarfile.TarInfo(member.name)
        info.size, info.mtime = member.size or 0, int(member.modified)
        yield info.tobuf(tarfile.PAX_FORMAT)
        yield from _pieces(member)
        yield bytes(-info.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def zipped(members: Iterable[Member]) -> Iterator[bytes]:
    """A zip of these files, in their order, not deflated. Raises StorageError as `tarred` does.

    Its directory, at the end, is the one thing that grows with the number of files; deflated, by some 20 bytes each.
    """
    directory, packer = bytearray(), zlib.compressobj(1)
    offset = count = length = 0
    for member in members:
        entry = _Entry(member, offset)
        for piece in entry.written():
            offset += len(piece)
            yield piece
        record = entry.record()
        directory += packer.compress(record)
        count, length = count + 1, length + len(record)
    directory += packer.flush()
    unpacker = zlib.decompressobj()
    for start in range(0, len(directory), PACKED):
        yield unpacker.decompress(directory[start : start + PACKED])
    yield _end(count, length, offset)


class _Entry:
    """A file in a zip. What is in memory has its checksum before its bytes, so that any reader can stream it."""

    def __init__(self, member: Member, offset: int) -> None:
        self.member, self.offset, self.name = member, offset, member.name.encode()
        data = member.data if isinstance(member.data, bytes) else b""
        self.held, self.size, self.crc = data is member.data, len(data), zlib.crc32(data)
        year, month, day, hour, minute, second = time.gmtime(member.modified)[:6]
        self.time, self.date = hour << 11 | minute << 5 | second // 2, max(year - 1980, 0) << 9 | month << 5 | day
        self.flags = UTF8 if self.held else UTF8 | SIZES_LATER

    def written(self) -> Iterator[bytes]:
        size, extra = (self.size, b"") if self.held else (FULL, EXTRA_64.pack(1, 16, 0, 0, 0)[:20])
        needs = NEEDS if self.held else NEEDS_64
        yield LOCAL.pack(b"PK\3\4", needs, self.flags, 0, self.time, self.date, self.crc, size, size, len(self.name),
                         len(extra)) + self.name + extra  # fmt: skip
        for piece in _pieces(self.member):
            if not self.held:
                self.size, self.crc = self.size + len(piece), zlib.crc32(piece, self.crc)
            yield piece
        if not self.held:
            yield LATER_64.pack(b"PK\7\x08", self.crc, self.size, self.size)

    def record(self) -> bytes:
        """Its place in the directory."""
        large = not self.held or self.offset >= FULL
        size, offset = (FULL, FULL) if large else (self.size, self.offset)
        extra = EXTRA_64.pack(1, 24, self.size, self.size, self.offset) if large else b""
        needs = NEEDS_64 if large else NEEDS
        return CENTRAL.pack(b"PK\1\2", 3 << 8 | needs, needs, self.flags, 0, self.time, self.date, self.crc, size, size,
                            len(self.name), len(extra), 0, 0, 0, FILE_MODE, offset) + self.name + extra  # fmt: skip


def _end(count: int, length: int, offset: int) -> bytes:
    """What ends a zip whose directory of so many records and bytes begins at this offset."""
    more = b""
    if count >= FULL_16 or offset + length >= FULL:
        more = END_64.pack(b"PK\6\6", 44, 3 << 8 | NEEDS_64, NEEDS_64, 0, 0, count, count, length, offset)
        more += LOCATOR_64.pack(b"PK\6\7", 0, offset + length, 1)
    n = min(count, FULL_16)
    return more + END.pack(b"PK\5\6", 0, 0, n, n, min(length, FULL), min(offset, FULL), 0)


def _pieces(member: Member) -> Iterator[bytes]:
    size = 0
    for piece in [member.data] if isinstance(member.data, bytes) else member.data:
        size += len(piece)
        yield piece
    if member.size not in (size, None):
        raise StorageError(f"{member.name} is not {member.size} bytes long, as it was to be")


def gathered(pieces: Iterable[bytes], least: int = LEAST) -> Generator[bytes, None, None]:
    """The same bytes in chunks of at least so many, but for the last."""
    chunk = bytearray()
    for piece in pieces:
        chunk += piece
        if len(chunk) >= least:
            yield bytes(chunk)
            chunk.clear()
    if chunk:
        yield bytes(chunk)
