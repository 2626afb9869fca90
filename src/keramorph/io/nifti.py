"""NIfTI-1 headers, as far as it takes to see that a file is whole and what its stored values are."""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

HEADER_SIZE = 352
_FLOATS = {16: "f4", 64: "f8"}


class Header(NamedTuple):
    """Where the voxels of a single-file NIfTI-1 image lie; `dtype` is empty unless they are floating numbers."""

    start: int
    size: int
    dtype: str


def parse_header(head: bytes) -> Header | None:
    """Return what the first bytes of a file say about its voxels; None if it is no NIfTI-1 image in one file."""
    for order in "<>":
        if head[:4] == struct.pack(order + "i", 348) and head[344:347] == b"n+1":
            dims = struct.unpack(order + "8h", head[40:56])
            code, bits = struct.unpack(order + "2h", head[70:74])
            start = int(struct.unpack(order + "f", head[108:112])[0])
            count = math.prod(max(1, n) for n in dims[1 : dims[0] + 1])
            return Header(start, count * bits // 8, order + _FLOATS[code] if code in _FLOATS else "")
    return None


def has_finite_value(path: Path) -> bool:
    """Whether a NIfTI file stores a finite value: ITK turns NaN and infinities into zeros without a word."""
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    content = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    header = parse_header(content[:HEADER_SIZE])
    if header is None or not header.dtype:
        return True
    values = np.frombuffer(content[header.start : header.start + header.size], dtype=header.dtype)
    return bool(np.isfinite(values).any())
