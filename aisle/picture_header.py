"""What an encoded picture says of itself, read before a decoder sees it.

`read_header` finds format, size and orientation, and repacks the file with nothing but what pixels
need. Metadata (text chunks, colour profiles, comments, thumbnails, later frames of a PNG) never reaches
the decoder: reading it there costs minutes when a file is made to hurt, and no answer depends on it.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

from aisle.errors import ProductError

MAX_IMAGE_BYTES = 10 * 2**20
MAX_IMAGE_PIXELS = 25_000_000
# Honest files stay far below these; each bounds a loop over parts that may be 1 byte long.
_MAX_PARTS = 65_536
_MAX_JPEG_SEGMENTS = 4_096
# Each scan of a JPEG may cost a pass over all pixels, 2.5 ms of 25 million; encoders write about 10.
_MAX_JPEG_SCANS = 64

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
_JPEG_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Where libjpeg goes on after a segment: it passes over stuffed bytes, restarts and whatever is no marker.
_JPEG_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
_JPEG_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
# They have no length, which would be read of them here and not by libjpeg.
_JPEG_BARE = frozenset(range(0xC0)) | frozenset(range(0xD0, 0xDA))
_JPEG_FILL = re.compile(rb"\xff+")
_ORIENTATION_TAG = 0x0112


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """`width` and `height` in pixels as stored, `orientation` 1 to 8 as in EXIF, and the bytes to decode."""

    format: str
    width: int
    height: int
    orientation: int
    data: bytes


class TruncatedError(Exception):
    """The file ends before it says that it does."""


class BrokenError(Exception):
    """The file contradicts itself, or is made of more parts than an honest one."""


def sniff(data: bytes) -> str:
    """Format by magic bytes: "jpeg", "png", "webp" or "gif". Raises ProductError for anything else."""
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(_PNG_MAGIC):
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    raise ProductError(
        "image_format",
        field="image",
        found=f"bytes that start with {data[:8]!r}" if data else "no bytes",
        wanted="a JPEG, PNG, WebP or GIF",
    )


def read_header(data: bytes) -> Header:
    """Check an encoded picture's bounds and repack it.

    Raises ProductError with reason image_format, image_too_large_bytes, image_too_many_pixels,
    image_truncated or image_broken.
    """
    if len(data) > MAX_IMAGE_BYTES:
        raise ProductError(
            "image_too_large_bytes",
            field="image",
            found=f"{len(data):,} bytes",
            wanted=f"at most {MAX_IMAGE_BYTES:,}",
        )
    image_format = sniff(data)
    try:
        header = _READERS[image_format](data)
    except BrokenError as error:
        raise broken(image_format, str(error)) from error
    except (TruncatedError, struct.error, IndexError) as error:
        raise truncated(image_format, len(data)) from error
    check_pixels(header.width, header.height)
    return header


def check_pixels(width: int, height: int) -> None:
    """Raise ProductError unless a picture of this size may be decoded."""
    if width < 1 or height < 1:
        raise ProductError(
            "image_broken", field="image", found=f"a size of {width} x {height}", wanted="1 x 1 or more"
        )
    if width * height > MAX_IMAGE_PIXELS:
        raise ProductError(
            "image_too_many_pixels",
            field="image",
            found=f"{width} x {height} = {width * height:,} pixels",
            wanted=f"at most {MAX_IMAGE_PIXELS:,}",
        )


def truncated(image_format: str, size_bytes: int) -> ProductError:
    """The error for a picture whose bytes end too early."""
    return ProductError(
        "image_truncated",
        field="image",
        found=f"a {image_format} that ends too early, after {size_bytes:,} bytes",
        wanted="the whole file",
    )


def broken(image_format: str, why: str) -> ProductError:
    """The error for a picture that cannot be decoded."""
    return ProductError(
        "image_broken",
        field="image",
        found=f"a {image_format} that cannot be decoded ({why[:120]})",
        wanted=f"a valid {image_format}",
    )


def _jpeg(data: bytes) -> Header:
    """Keep tables, frame, scans and Adobe's colour transform; drop every other APPn and comments."""
    kept, at, size, orientation = [data[:2]], 2, (0, 0), 1
    components, progressive = 0, False
    for _ in range(_MAX_JPEG_SEGMENTS):
        if data[at] != 0xFF:
            raise BrokenError(f"byte {at:,} is no marker")
        at = _JPEG_FILL.match(data, at).end() - 1  # type: ignore[union-attr]  # there is one 0xFF or more
        marker = data[at + 1]
        if marker == 0xDA:
            # A scan that has all components is the only one, and libjpeg reads no other.
            if progressive or data[at + 4] < components:
                _check_scans(data, at)
            return Header(
                format="jpeg",
                width=size[0],
                height=size[1],
                orientation=orientation,
                data=b"".join([*kept, data[at:]]),
            )
        if marker in _JPEG_BARE:
            raise BrokenError(f"marker {marker:#x} before the first scan")
        (length,) = struct.unpack_from(">H", data, at + 2)
        body = data[at + 4 : at + 2 + length]
        if length < 2:
            raise BrokenError(f"segment {marker:#x} has length {length}")
        if len(body) != length - 2:
            raise TruncatedError
        if marker in _JPEG_SOF:
            height, width, components = struct.unpack_from(">HHB", body, 1)
            size, progressive = (width, height), marker in _JPEG_PROGRESSIVE
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            orientation = _exif_orientation(body[6:])
        elif not (0xE0 < marker < 0xEE or marker in (0xEF, 0xFE)):
            kept.append(data[at : at + 2 + length])
        at += 2 + length
    raise BrokenError(f"more than {_MAX_JPEG_SEGMENTS:,} segments")


def _check_scans(data: bytes, at: int) -> None:
    """Raise BrokenError where more than _MAX_JPEG_SCANS begin from the scan at `at` on."""
    scans = 0
    for _ in range(_MAX_JPEG_SEGMENTS):
        marker = data[at + 1]
        scans += marker == 0xDA
        if scans > _MAX_JPEG_SCANS:
            raise BrokenError(f"more than {_MAX_JPEG_SCANS} scans")
        if marker == 0xD9:
            return
        (length,) = struct.unpack_from(">H", data, at + 2)
        found = _JPEG_MARKER.search(data, at + 2 + max(length, 2))
        if found is None:  # the decoder says where it ends
            return
        at = found.start()
    raise BrokenError(f"more than {_MAX_JPEG_SEGMENTS:,} segments")


def _png(data: bytes) -> Header:
    """Keep size, palette, transparency and pixels, the latter as one chunk; check their CRCs."""
    at, before, pixels, orientation = 8, [], [], 1
    for _ in range(_MAX_PARTS):
        length, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        (crc,) = struct.unpack_from(">I", data, at + 8 + length)
        if kind == b"IEND":
            break
        if kind in _PNG_KEPT:
            if zlib.crc32(body, zlib.crc32(kind)) != crc:
                raise BrokenError(f"chunk {kind.decode()} fails its checksum")
            if kind == b"IDAT":
                pixels.append(body)
            else:
                before.append(_png_chunk(kind, body))
        elif kind == b"eXIf":
            orientation = _exif_orientation(body)
        at += 12 + length
    else:
        raise BrokenError(f"more than {_MAX_PARTS:,} chunks")
    if not before or before[0][4:8] != b"IHDR" or len(before[0]) != 25 or len(before) > 3:
        raise BrokenError("chunks out of order")
    if not pixels:
        raise BrokenError("no pixels")
    width, height = struct.unpack_from(">II", before[0], 8)
    return Header(
        format="png",
        width=width,
        height=height,
        orientation=orientation,
        data=b"".join([_PNG_MAGIC, *before, _png_chunk(b"IDAT", b"".join(pixels)), _png_chunk(b"IEND", b"")]),
    )


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", len(body), kind) + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _gif(data: bytes) -> Header:
    """Keep the palette, the first frame and the control block before it; drop other extensions."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0)
    screen, control = data[:at], b""
    for _ in range(_MAX_PARTS):
        if data[at] == 0x2C:
            left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, at + 1)
            return Header(
                format="gif",
                width=max(width, left + frame_width),
                height=max(height, top + frame_height),
                orientation=1,
                data=b"".join([screen, control, data[at:]]),
            )
        if data[at] != 0x21:
            raise BrokenError(f"block {data[at]:#x} before the first frame")
        if data[at + 1] == 0xF9:
            control = data[at : at + 8]
        at = _gif_blocks_end(data, at + 2)
    raise BrokenError(f"more than {_MAX_PARTS:,} extensions before the first frame")


def _gif_blocks_end(data: bytes, at: int) -> int:
    for _ in range(_MAX_PARTS):
        if data[at] == 0:
            return at + 1
        at += 1 + data[at]
    raise BrokenError(f"an extension of more than {_MAX_PARTS:,} blocks")


def _webp(data: bytes) -> Header:
    """Read the canvas size, which the decoder allocates when it is made. Bytes are kept as they are."""
    if struct.unpack_from("<I", data, 4)[0] + 8 > len(data):
        raise TruncatedError
    kind, orientation = data[12:16], 1
    if kind == b"VP8X":
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
        if data[20] & 0x08:
            orientation = _webp_orientation(data)
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise BrokenError(f"first chunk {kind!r}")
    return Header(format="webp", width=width, height=height, orientation=orientation, data=data)


def _webp_orientation(data: bytes) -> int:
    at = 12
    for _ in range(_MAX_PARTS):
        if at + 8 > len(data):
            return 1
        kind, length = struct.unpack_from("<4sI", data, at)
        if kind == b"EXIF":
            return _exif_orientation(data[at + 8 : at + 8 + length].removeprefix(b"Exif\0\0"))
        at += 8 + length + length % 2
    raise BrokenError(f"more than {_MAX_PARTS:,} chunks")


def _exif_orientation(tiff: bytes) -> int:
    """Orientation out of an EXIF block; 1 (upright) where it has none or is damaged."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, directory)
        for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
            tag, _kind, _count, value = struct.unpack_from(order + "HHIH", tiff, entry)
            if tag == _ORIENTATION_TAG:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1


_READERS = {"jpeg": _jpeg, "png": _png, "webp": _webp, "gif": _gif}
