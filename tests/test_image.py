"""Pictures from the world: every kind decodes to the same shape, every damage is a ProductError."""

from __future__ import annotations

import io
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from aisle.errors import EncoderError, ProductError
from aisle.image import MAX_IMAGE_BYTES, ImageSettings, decode_image, image_hash, sniff
from aisle.picture_header import read_header

SMALL = ImageSettings(size=32)
WHOLE = ImageSettings(size=32, trim_white=False)
RED, GREEN, BLUE = (200, 0, 0), (0, 160, 0), (0, 0, 200)


def encoded(picture: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, image_format, **options)
    return file.getvalue()


def quarters(mode: str = "RGB", side: int = 40) -> Image.Image:
    """Red, green / blue, black: tells every orientation from every other."""
    picture = Image.new("RGB", (side, side))
    half = side // 2
    for colour, corner in ((RED, (0, 0)), (GREEN, (half, 0)), (BLUE, (0, half))):
        picture.paste(colour, (*corner, corner[0] + half, corner[1] + half))
    return picture.convert(mode)


def corners(pixels_HWC: np.ndarray) -> list[tuple[int, ...]]:
    """Colours in the middle of the four quarters, row by row, to the nearest 40."""
    points = [(8, 8), (8, 24), (24, 8), (24, 24)]
    return [tuple((pixels_HWC[at].astype(int) + 20) // 40 * 40) for at in points]


def reason_of(data: bytes, image_settings: ImageSettings = SMALL) -> str:
    with pytest.raises(ProductError) as caught:
        decode_image(data, image_settings)
    assert caught.value.field == "image"
    return caught.value.reason


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF"])
def test_each_format_gives_the_same_picture(image_format: str) -> None:
    data = encoded(quarters(), image_format, quality=95)
    pixels = decode_image(data, SMALL)
    assert sniff(data) == image_format.lower()
    assert (pixels.shape, pixels.dtype) == ((32, 32, 3), np.uint8)
    assert corners(pixels) == [(200, 0, 0), (0, 160, 0), (0, 0, 200), (0, 0, 0)]


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "I;16"])
def test_each_png_mode_keeps_its_greys(mode: str) -> None:
    ramp = np.repeat(np.arange(0, 256, 8, dtype=np.uint8)[None], 32, axis=0)
    if mode == "I;16":
        picture = Image.fromarray(ramp.astype(np.uint16) * 256)
    else:
        picture = Image.fromarray(ramp).convert(mode, dither=Image.Dither.NONE)
    pixels = decode_image(encoded(picture), WHOLE)
    wanted = (ramp >= 128) * 255 if mode == "1" else ramp
    assert np.abs(pixels - wanted[:, :, None].astype(int)).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(orientation: int, image_format: str) -> None:
    upright = quarters()
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(turn[orientation]) if orientation in turn else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, image_format, exif=exif.tobytes(), quality=95)
    assert corners(decode_image(data, SMALL)) == [(200, 0, 0), (0, 160, 0), (0, 0, 200), (0, 0, 0)]


def test_cmyk_jpeg_comes_out_in_its_colours() -> None:
    pixels = decode_image(encoded(quarters("CMYK"), "JPEG", quality=95), SMALL)
    assert corners(pixels) == [(200, 0, 0), (0, 160, 0), (0, 0, 200), (0, 0, 0)]


def test_transparency_lies_over_white() -> None:
    picture = quarters("RGBA")
    picture.paste((0, 0, 0, 0), (20, 20, 40, 40))
    assert tuple(decode_image(encoded(picture), WHOLE)[24, 24]) == (255, 255, 255)


def test_transparent_palette_colour_is_white() -> None:
    picture = Image.new("P", (32, 32), 0)
    picture.putpalette([0, 0, 0, 200, 0, 0])
    picture.paste(1, (0, 0, 16, 32))
    for image_format in ("PNG", "GIF"):
        pixels = decode_image(encoded(picture, image_format, transparency=0), WHOLE)
        assert tuple(pixels[16, 8]) == (200, 0, 0)
        assert tuple(pixels[16, 28]) == (255, 255, 255)


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation_counts(image_format: str) -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in (RED, GREEN, BLUE)]
    data = encoded(frames[0], image_format, save_all=True, append_images=frames[1:], lossless=True)
    assert tuple(decode_image(data, WHOLE)[16, 16]) == RED


def test_white_borders_are_trimmed() -> None:
    picture = Image.new("RGB", (400, 400), "white")
    picture.paste(quarters(side=80), (280, 40))
    assert decode_image(encoded(picture), SMALL)[:, :, 0].max() < 255
    assert (decode_image(encoded(picture), WHOLE)[:, :8] == 255).all()


def test_all_white_picture_survives() -> None:
    pixels = decode_image(encoded(Image.new("RGB", (300, 200), "white"), "JPEG"), SMALL)
    assert (pixels == 255).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 2), (2000, 30)])
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF"])
def test_extreme_sizes_keep_their_middle(size: tuple[int, int], image_format: str) -> None:
    data = encoded(Image.new("RGB", size, BLUE), image_format, quality=95)
    pixels = decode_image(data, SMALL)
    middle = pixels[15, 15].astype(int)
    assert np.abs(middle - BLUE).max() <= 12
    assert pixels.shape == (32, 32, 3)


def test_aspect_is_kept_by_white_bars() -> None:
    pixels = decode_image(encoded(Image.new("RGB", (100, 50), RED)), SMALL)
    assert (pixels[:8] == 255).all()
    assert (pixels[8:24] == RED).all()
    assert (pixels[24:] == 255).all()


def test_a_large_jpeg_is_decoded_at_reduced_scale_to_the_same_picture() -> None:
    pixels = decode_image(encoded(quarters(side=1600), "JPEG", quality=95), SMALL)
    assert corners(pixels) == [(200, 0, 0), (0, 160, 0), (0, 0, 200), (0, 0, 0)]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "image_format"),
        (b"a text file, not a picture", "image_format"),
        (b"%PDF-1.7", "image_format"),
        (b"\xff\xd8\xff", "image_truncated"),
        (b"GIF89a", "image_truncated"),
        (b"RIFF\x10\0\0\0WEBP", "image_truncated"),
        (b"\x89PNG\r\n\x1a\n", "image_truncated"),
        (b"\xff\xd8\xff" + bytes(MAX_IMAGE_BYTES), "image_too_large_bytes"),
    ],
)
def test_bytes_that_are_no_picture_are_named(data: bytes, reason: str) -> None:
    assert reason_of(data) == reason


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated_files_are_refused(image_format: str, share: float) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), image_format)
    assert reason_of(data[: int(len(data) * share)]) == "image_truncated"


def png_of_size(width: int, height: int, extra: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(20_000_000), 9))
    return b"\x89PNG\r\n\x1a\n" + header + extra + pixels + chunk(b"IEND", b"")


def gif_of_size(width: int, height: int) -> bytes:
    data = bytearray(encoded(Image.new("L", (4, 4)), "GIF"))
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


def webp_canvas(width: int, height: int) -> bytes:
    body = b"VP8X" + struct.pack("<I", 10) + bytes(4)
    body += (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def jpeg_of_size(width: int, height: int) -> bytes:
    data = encoded(Image.new("RGB", (8, 8)), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


@pytest.mark.parametrize(
    "data",
    [
        png_of_size(100_000, 100_000),
        gif_of_size(65_535, 65_535),
        webp_canvas(16_000, 16_000),
        jpeg_of_size(65_000, 65_000),
    ],
    ids=["png", "gif", "webp", "jpeg"],
)
def test_bombs_are_refused_before_a_pixel_is_decoded(data: bytes) -> None:
    start = time.thread_time()
    assert reason_of(data) == "image_too_many_pixels"
    assert time.thread_time() - start < 0.1


def test_bound_on_pixels_is_named() -> None:
    with pytest.raises(ProductError, match=r"image: found 6000 x 5000 = 30,000,000 pixels, wanted at most"):
        decode_image(jpeg_of_size(6000, 5000), SMALL)


def test_metadata_never_reaches_the_decoder() -> None:
    plain = encoded(quarters(), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", 60_002) + b"Exif\0\0" + bytes(59_994)
    heavy = plain[:2] + segment * 100 + plain[2:]
    assert read_header(heavy).data == read_header(plain).data
    text = zlib.compress(bytes(5_000_000))
    body = b"zTXt" + b"k\0\0" + text
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    plain = encoded(quarters(), "PNG")
    assert read_header(plain[:33] + chunk * 50 + plain[33:]).data == read_header(plain).data
    plain = encoded(quarters(), "GIF")
    at = read_header(plain).data.index(b"\x2c", 13)
    comment = b"\x21\xfe" + b"\xff" + bytes(255) + b"\0"
    assert read_header(plain[:at] + comment * 500 + plain[at:]).data == read_header(plain).data


def scan_of(*components: int, spectral: bytes) -> bytes:
    """A scan without a bit of entropy data."""
    named = b"".join(bytes([component, 0]) for component in components)
    return b"\xff\xda" + struct.pack(">HB", 6 + len(named), len(components)) + named + spectral


SEQUENTIAL, PROGRESSIVE = b"\0\x3f\0", b"\0\0\0"
COMMENT_WITH_END = b"\xff\xfe\0\x04\xff\xd9"


@pytest.mark.parametrize("between", [b"", COMMENT_WITH_END, b"\xff\x01", b"\xff\xff", b"\xff\xd0\0"])
@pytest.mark.parametrize(("progressive", "spectral"), [(False, SEQUENTIAL), (True, PROGRESSIVE)])
def test_a_jpeg_of_countless_scans_is_refused(progressive: bool, spectral: bytes, between: bytes) -> None:
    data = encoded(quarters(), "JPEG", progressive=progressive)
    head, scan = data[: data.index(b"\xff\xda")], scan_of(1, spectral=spectral)
    for scans, refused in ((63, False), (64, True)):  # and one more
        file = head + (scan + between) * scans + scan_of(2, spectral=spectral) + b"\xff\xd9"
        if refused:
            assert reason_of(file) == "image_broken"
        else:
            assert read_header(file).width == 40


def test_what_stands_behind_a_jpegs_end_counts_no_scans() -> None:
    data = encoded(quarters(), "JPEG", progressive=True)
    same = decode_image(data + scan_of(1, spectral=PROGRESSIVE) * 100, SMALL)
    assert np.array_equal(same, decode_image(data, SMALL))


@pytest.mark.parametrize("marker", [0x01, 0x02, 0xD0, 0xD8, 0xD9])
def test_a_jpeg_whose_marker_hides_others_is_refused(marker: int) -> None:
    data = encoded(quarters(), "JPEG")
    hidden = jpeg_of_size(6000, 5000)[2:]
    assert reason_of(data[:2] + bytes([0xFF, marker, 0x7F, 0xFF]) + hidden + data[2:]) == "image_broken"


def test_settings_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(EncoderError, match="image size: found 4, wanted 16 to 1024 pixels"):
        ImageSettings(size=4)
    assert ImageSettings.from_json(SMALL.to_json()) == SMALL


def test_hash_is_of_the_encoded_bytes() -> None:
    assert image_hash(b"") == "e3b0c44298fc1c14"


def test_threads_decode_the_same_pixels() -> None:
    data = [encoded(quarters(side=side), "JPEG") for side in (40, 300, 900)] * 8
    alone = [decode_image(one, SMALL) for one in data]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda one: decode_image(one, SMALL), data))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


VALID = [
    encoded(quarters(), "JPEG"),
    encoded(quarters(), "JPEG", progressive=True, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"),
    encoded(quarters("CMYK"), "JPEG"),
    encoded(quarters("P"), "PNG", transparency=0),
    encoded(quarters("RGBA"), "PNG"),
    encoded(quarters("L"), "PNG"),
    encoded(quarters(), "WEBP"),
    encoded(quarters("RGBA"), "WEBP", lossless=True, exif=b"II*\0\x08\0\0\0\0\0"),
    encoded(quarters(), "GIF", save_all=True, append_images=[Image.new("RGB", (40, 40), RED)]),
]


@settings(max_examples=400, deadline=None)
@given(
    data=st.sampled_from(VALID),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    cut=st.floats(0, 1),
)
@example(data=VALID[0], changes=[], cut=1.0)
def test_damaged_pictures_give_pixels_or_a_product_error(
    data: bytes, changes: list[tuple[float, int]], cut: float
) -> None:
    damaged = bytearray(data)
    for share, value in changes:
        damaged[int(share * len(damaged))] = value
    reason = None
    try:
        pixels = decode_image(bytes(damaged[: max(1, int(cut * len(damaged)))]), SMALL)
    except ProductError as error:
        reason = error.reason
    if reason is None:
        assert (pixels.shape, pixels.dtype) == ((32, 32, 3), np.uint8)
    else:
        assert reason in {"image_format", "image_too_many_pixels", "image_truncated", "image_broken"}
