"""Pictures that are made on the spot, as PNG (https://www.w3.org/TR/png-3/)."""

from __future__ import annotations

import struct
import zlib


def png(side: int, rows: bytes) -> bytes:
    """A picture of `side` x `side` pixels. `rows` are its scan lines: each a byte for the filter,
    then three bytes (red, green, blue) a pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))  # 8 bits, RGB
    return (
        b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")
    )
