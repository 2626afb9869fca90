"""Truncated files, found before they are read: ITK fills what is missing with zeros and says nothing."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

from keramorph.errors import FileError
from keramorph.io.nifti import HEADER_SIZE, parse_header

_CHUNK = 1 << 20


def check_whole(path: Path) -> None:
    """Raise if a file is empty or shorter than its own header says; formats that ITK checks itself pass.

    Args:
        path: An existing file of any format.

    Raises:
        FileError: If something is missing from the file.
    """
    try:
        with path.open("rb") as stream:
            missing = _find_damage(stream, path.stat().st_size)
    except PermissionError as problem:
        raise FileError(
            f"The file may not be read. Received: path={str(path)!r}. Ask for permission to read it."
        ) from problem
    except (struct.error, ValueError, OverflowError, KeyError, IndexError, EOFError, OSError, zlib.error) as problem:
        raise FileError(
            f"The file is damaged: its header or its compression makes no sense. Received: path={str(path)!r}. "
            "Copy or download it again."
        ) from problem
    if missing:
        raise FileError(f"The file is {missing}. Received: path={str(path)!r}. Copy or download it again.")


def _find_damage(stream: BinaryIO, size: int) -> str:
    """Words for what is wrong with a file, by the first bytes of its format; empty if nothing is."""
    if size == 0:
        return "empty (0 bytes)"
    head = stream.read(HEADER_SIZE)
    stream.seek(0)
    if _nifti_size(head):
        return _shorter(size, _nifti_size(head))
    if b"Transform" in head[20:60] and head[12:16] == bytes(4):
        return _check_matrices(stream, size)
    return next((check(stream, size) for magic, check in _CHECKS if head.startswith(magic)), "")


def _shorter(size: int, expected: int) -> str:
    return f"truncated ({size} bytes of {expected})" if size < expected else ""


def _check_gzip(stream: BinaryIO, _: int) -> str:
    """Read a gzip file to its end, which checks its sums, and compare a NIfTI header with what came out."""
    with gzip.GzipFile(fileobj=stream) as unpacked:
        try:
            head = unpacked.read(HEADER_SIZE)
            size = len(head)
            while chunk := unpacked.read(_CHUNK):
                size += len(chunk)
        except EOFError:
            return "truncated: its compressed data end too early"
    return _shorter(size, _nifti_size(head))


def _nifti_size(head: bytes) -> int:
    """Bytes of a single-file NIfTI image according to its header; 0 if it is none."""
    header = parse_header(head)
    return header.start + header.size if header else 0


def _check_jpeg(stream: BinaryIO, _: int) -> str:
    """Whether the last scan has an end; entropy-coded data never contain the marker."""
    content = stream.read()
    ended = content.rfind(b"\xff\xd9") > content.rfind(b"\xff\xda")
    return "" if ended else "truncated: its end marker is missing"


def _check_hdf(stream: BinaryIO, size: int) -> str:
    """Compare the length of an HDF5 file with its superblock, if its addresses have 64 bits."""
    head = stream.read(64)
    version = head[8]
    width, place = (head[13], 40 + 4 * version) if version < 2 else (head[9], 28)
    return _shorter(size, struct.unpack("<Q", head[place : place + 8])[0]) if width == 8 else ""


def _check_bitmap(stream: BinaryIO, size: int) -> str:
    """Compare the length of a Windows bitmap with its header, if that says enough."""
    start, header, width, height, _, bits, compression = struct.unpack("<10xIIiiHHI", stream.read(34))
    if header < 40 or compression not in (0, 3):
        return ""
    return _shorter(size, start + (width * bits + 31) // 32 * 4 * abs(height))


def _check_tiff(stream: BinaryIO, size: int) -> str:
    """Follow the chain of pages, and see that each page's strips or tiles lie inside the file."""
    order = "<" if stream.read(2) == b"II" else ">"
    stream.seek(4)
    page = struct.unpack(order + "I", stream.read(4))[0]
    seen: set[int] = set()
    while page and page not in seen:
        seen.add(page)
        if page + 2 > size:
            return "truncated: a page is missing"
        stream.seek(page)
        count = struct.unpack(order + "H", stream.read(2))[0]
        entries = stream.read(12 * count + 4)
        if len(entries) < 12 * count + 4:
            return "truncated: a page is missing"
        tags = {
            tag: _tiff_values(stream, order, entries[12 * n : 12 * n + 12]) for n, tag in _tiff_tags(order, entries)
        }
        page = struct.unpack(order + "I", entries[-4:])[0]
        if max(map(sum, zip(*_tiff_strips(tags), strict=False)), default=0) > size:
            return "truncated: part of a page is missing"
    return ""


def _tiff_tags(order: str, entries: bytes) -> list[tuple[int, int]]:
    """Position and number of each tag that says where pixels are."""
    tags = [struct.unpack(order + "H", entries[n : n + 2])[0] for n in range(0, len(entries) - 4, 12)]
    return [(n, tag) for n, tag in enumerate(tags) if tag in (273, 279, 324, 325)]


def _tiff_values(stream: BinaryIO, order: str, entry: bytes) -> tuple[int, ...]:
    """Values of a tag of 16-bit or 32-bit integers, which stand in the entry if they fit and elsewhere if not."""
    kind, count = struct.unpack(order + "HI", entry[2:8])
    if kind not in (3, 4):
        return ()
    letter, width = {3: ("H", 2), 4: ("I", 4)}[kind]
    content = entry[8 : 8 + width * count]
    if width * count > 4:
        stream.seek(struct.unpack(order + "I", entry[8:12])[0])
        content = stream.read(width * count)
    return struct.unpack(f"{order}{count}{letter}", content)


def _tiff_strips(tags: dict[int, tuple[int, ...]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Offsets and lengths of the strips, or of the tiles."""
    return tags.get(273) or tags.get(324) or (), tags.get(279) or tags.get(325) or ()


def _check_text(stream: BinaryIO, _: int) -> str:
    """Whether each transform of an ITK text file has its parameters: ITK takes an identity for what is missing."""
    for block in stream.read().split(b"\nTransform:")[1:]:
        wanted = 0 if block.lstrip().startswith(b"Composite") else 1
        if block.count(b"\nParameters:") < wanted or block.count(b"\nFixedParameters:") < wanted:
            return "truncated: a transform has no parameters"
    return ""


def _check_matrices(stream: BinaryIO, size: int) -> str:
    """Walk through the matrices of a MATLAB 4 file, in which ITK stores a transform's parameters, two for each."""
    end, count = 0, 0
    while end < size:
        stream.seek(end)
        kind, rows, columns, _, name = struct.unpack("<5i", stream.read(20))
        end += 20 + name + rows * columns * (8, 4, 4, 2, 2, 1)[kind // 10 % 10]
        count += 1
    return "truncated: a matrix is missing" if end > size or count % 2 else ""


def _check_nrrd(stream: BinaryIO, size: int) -> str:
    """Unpack the data behind a NRRD header if they are compressed; ITK measures but does not check their sum."""
    packed = False
    while line := stream.readline().strip().lower():
        packed = packed or line in (b"encoding: gzip", b"encoding: gz")
        if line.startswith((b"data file:", b"datafile:")):
            return ""
    return _check_gzip(stream, size) if packed else ""


def _check_meta(stream: BinaryIO, size: int) -> str:
    """Compare a MetaImage header with the length of the data behind it, and unpack these if they are compressed."""
    fields: dict[str, str] = {}
    while "ElementDataFile" not in fields:
        line = stream.readline().decode("latin-1")
        if not line:
            return "truncated: its header has no end"
        name, _, value = line.partition("=")
        fields[name.strip()] = value.strip()
    if fields["ElementDataFile"].upper() != "LOCAL":
        return ""
    if fields.get("CompressedData", "False").lower() != "true":
        return _shorter(size - stream.tell(), _meta_size(fields))
    return _check_deflated(stream, _meta_size(fields))


def _meta_size(fields: dict[str, str]) -> int:
    """Bytes of the voxels of a MetaImage."""
    widths = {"CHAR": 1, "SHORT": 2, "INT": 4, "LONG": 4, "LONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8}
    name = fields["ElementType"].removeprefix("MET_").removesuffix("_ARRAY").replace("UCHAR", "CHAR")
    for long in ("USHORT", "UINT", "ULONG"):
        name = name.replace(long, long[1:])
    channels = int(fields.get("ElementNumberOfChannels", "1"))
    return math.prod(int(n) for n in fields["DimSize"].split()) * channels * widths.get(name, 0)


def _check_deflated(stream: BinaryIO, expected: int) -> str:
    """Unpack zlib data without keeping them; the sum behind them is checked on the way."""
    unpacker, size = zlib.decompressobj(), 0
    while chunk := stream.read(_CHUNK):
        size += len(unpacker.decompress(chunk))
    return "" if unpacker.eof and size >= expected else "truncated: its compressed data end too early"


_CHECKS = (
    (b"\x1f\x8b", _check_gzip),
    (b"II*\0", _check_tiff),
    (b"MM\0*", _check_tiff),
    (b"\xff\xd8", _check_jpeg),
    (b"BM", _check_bitmap),
    (b"NRRD", _check_nrrd),
    (b"ObjectType", _check_meta),
    (b"\x89HDF\r\n\x1a\n", _check_hdf),
    (b"#Insight Transform File", _check_text),
)
