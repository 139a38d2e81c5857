"""Product photos, drawn: nine kinds of thing, each in any colour, pose and light.

A kind is told by silhouette and texture, never by colour or place. Nothing here depends on fonts or
files of the machine: the same generator gives the same bytes (with one version of Pillow).
"""

from __future__ import annotations

import colorsys
import io
import math
from collections.abc import Callable
from random import Random

from PIL import Image, ImageDraw

SIDE = 300  # pixels of a finished photo
_CANVAS = 320  # pixels that a thing is drawn on before it is turned and scaled
_JPEG_QUALITY = 82
Colour = tuple[int, int, int]


def draw_photo(kind: str, thing: Random, pose: Random) -> bytes:
    """A JPEG of SIDE x SIDE pixels. `thing` decides colours and details, `pose` place and background;
    two variants of a product share the first."""
    sprite = draw_sprite(kind, thing, pose)
    side = round(SIDE * pose.uniform(0.72, 1.0))
    sprite = sprite.resize((side, side), resample=Image.Resampling.BILINEAR)
    photo = _background(pose)
    room = SIDE - side
    place = (round(room * pose.random()), round(room * pose.random()))
    photo.paste(sprite, place, sprite)
    if pose.random() < 0.12:
        _badge(ImageDraw.Draw(photo), pose)
    return as_jpeg(photo)


def draw_sprite(kind: str, thing: Random, pose: Random) -> Image.Image:
    """The thing alone, RGBA, flipped and turned."""
    sprite = Image.new("RGBA", (_CANVAS, _CANVAS))
    DRAWINGS[kind](ImageDraw.Draw(sprite), thing)
    if pose.random() < 0.5:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return sprite.rotate(pose.uniform(-18, 18), resample=Image.Resampling.BICUBIC, expand=True)


def as_jpeg(photo: Image.Image) -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, format="JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def _background(pose: Random) -> Image.Image:
    """White as shops want it, or a pale wall, a light that falls off, a table of planks."""
    style = pose.random()
    if style < 0.55:
        return Image.new("RGB", (SIDE, SIDE), (255, 255, 255))
    pale = _colour(pose, lightness=(0.78, 0.94), saturation=(0.1, 0.5))
    if style < 0.75:
        return Image.new("RGB", (SIDE, SIDE), pale)
    if style < 0.9:
        light = Image.linear_gradient("L").rotate(pose.choice((0, 90, 180, 270))).resize((SIDE, SIDE))
        dark = Image.new("RGB", (SIDE, SIDE), _shade(pale, 0.7))
        return Image.composite(Image.new("RGB", (SIDE, SIDE), pale), dark, light)
    table = Image.new("RGB", (SIDE, SIDE), pale)
    draw = ImageDraw.Draw(table)
    for top in range(0, SIDE, 50):
        draw.rectangle((0, top, SIDE, top + 48), fill=_shade(pale, pose.uniform(0.86, 1.0)))
    return table


def _badge(draw: ImageDraw.ImageDraw, pose: Random) -> None:
    """A shop's "promo" sticker in a corner."""
    x, y = pose.choice((24, SIDE - 74)), pose.choice((24, SIDE - 74))
    draw.ellipse((x, y, x + 50, y + 50), fill=_colour(pose, lightness=(0.4, 0.55), saturation=(0.8, 1.0)))
    draw.rectangle((x + 10, y + 20, x + 40, y + 29), fill=(255, 255, 255))


def _colour(
    rng: Random, lightness: tuple[float, float] = (0.3, 0.65), saturation: tuple[float, float] = (0.3, 0.95)
) -> Colour:
    red, green, blue = colorsys.hls_to_rgb(rng.random(), rng.uniform(*lightness), rng.uniform(*saturation))
    return round(red * 255), round(green * 255), round(blue * 255)


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255, round(part * factor)) for part in colour)
    return red, green, blue


def _comic(draw: ImageDraw.ImageDraw, rng: Random) -> None:
    """An open page: a tall sheet of framed panels with speech bubbles."""
    draw.rectangle((62, 14, 258, 306), fill=(250, 247, 238), outline=(40, 40, 40), width=3)
    top, rows = 26, rng.choice((3, 4))
    height = 268 // rows
    for _ in range(rows):
        cut = rng.randint(110, 210)
        for left, right in ((74, cut - 4), (cut + 4, 246)):
            box = (left, top, right, top + height - 8)
            draw.rectangle(box, fill=_colour(rng, (0.4, 0.75)), outline=(20, 20, 20), width=4)
            if right - left > 50:
                draw.ellipse((left + 8, top + 8, left + 44, top + 30), fill=(255, 255, 255))
        top += height


def _disc(draw: ImageDraw.ImageDraw, rng: Random) -> None:
    """A game's disc: rays of light round a hole."""
    colour = _colour(rng, (0.45, 0.7))
    draw.ellipse((20, 20, 300, 300), fill=colour, outline=_shade(colour, 0.5), width=4)
    turn = rng.uniform(0, 360)
    for ray in range(0, 360, 60):
        start = turn + ray
        draw.pieslice((26, 26, 294, 294), start, start + rng.uniform(15, 30), fill=_shade(colour, 1.35))
    draw.ellipse((104, 104, 216, 216), fill=_colour(rng), outline=(235, 235, 235), width=8)
    draw.ellipse((136, 136, 184, 184), fill=(255, 255, 255), outline=(120, 120, 120), width=4)


def _figurine(draw: ImageDraw.ImageDraw, rng: Random) -> None:
    """A little person with arms, legs and a stand."""
    body, trousers, skin = _colour(rng), _colour(rng), _colour(rng, (0.55, 0.8), (0.2, 0.6))
    draw.ellipse((90, 270, 230, 306), fill=_colour(rng, (0.15, 0.4), (0.0, 0.5)))
    spread = rng.randint(10, 34)
    draw.line((148, 200, 148 - spread, 284), fill=trousers, width=26)
    draw.line((172, 200, 172 + spread, 284), fill=trousers, width=26)
    for side in (-1, 1):
        lift = rng.randint(-70, 60)
        hand = (160 + side * 92, 150 + lift)
        draw.line((160 + side * 34, 128, *hand), fill=body, width=22)
        draw.ellipse((hand[0] - 13, hand[1] - 13, hand[0] + 13, hand[1] + 13), fill=skin)
    draw.polygon([(112, 112), (208, 112), (194, 214), (126, 214)], fill=body)
    draw.ellipse((116, 16, 204, 108), fill=skin)
    draw.pieslice((112, 8, 208, 104), 180, 360, fill=_colour(rng, (0.1, 0.6)))
    draw.ellipse((138, 62, 148, 74), fill=(20, 20, 20))
    draw.ellipse((172, 62, 182, 74), fill=(20, 20, 20))


def _cards(draw: ImageDraw.ImageDraw, rng: Random) -> None:
    """A fan of three cards with round corners, a frame and a star."""
    frame = _colour(rng, (0.45, 0.7))
    opening = rng.uniform(20, 28)
    for angle in (-opening, 0.0, opening):
        inner = _colour(rng, (0.35, 0.8))
        draw.polygon(_card_corners(angle, 58, 92), fill=(30, 30, 30))
        draw.polygon(_card_corners(angle, 55, 89), fill=frame)
        draw.polygon(_card_corners(angle, 43, 77), fill=inner)
        x, y = _card_point(angle, 0, -20)
        draw.polygon(_star(x, y, 32), fill=(250, 240, 120), outline=(60, 60, 60))
        left, right = _card_point(angle, -32, 45), _card_point(angle, 32, 45)
        draw.line((*left, *right), fill=(240, 240, 240), width=14)


def _card_point(angle: float, x: float, y: float) -> tuple[float, float]:
    """A point of a card of the fan, which opens round a point below its foot."""
    turn = math.radians(angle)
    x, y = x, y - 130
    return 160 + x * math.cos(turn) - y * math.sin(turn), 275 + x * math.sin(turn) + y * math.cos(turn)


def _card_corners(angle: float, half_width: float, half_height: float) -> list[tuple[float, float]]:
    w, h, cut = half_width, half_height, 10
    outline = [
        (-w + cut, -h), (w - cut, -h), (w, -h + cut), (w, h - cut),
        (w - cut, h), (-w + cut, h), (-w, h - cut), (-w, -h + cut),
    ]  # fmt: skip
    return [_card_point(angle, x, y) for x, y in outline]


def _star(x: float, y: float, radius: float) -> list[tuple[float, float]]:
    points = []
    for i in range(10):
        reach = radius if i % 2 == 0 else radius * 0.42
        turn = math.pi * i / 5 - math.pi / 2
        points.append((x + reach * math.cos(turn), y + reach * math.sin(turn)))
    return points


def _cushion(draw: ImageDraw.ImageDraw, rng: Random) -> None:
    """A square with drawn-in sides, dots all over and a tassel at each corner."""
    colour, dots = _colour(rng, (0.45, 0.75)), _colour(rng, (0.85, 0.97))
    corners = [(30, 30), (160, 52), (290, 30), (268, 160), (290, 290), (160, 268), (30, 290), (52, 160)]
    draw.polygon(corners, fill=colour, outline=_shade(colour, 0.6), width=4)
    step = rng.choice((34, 40, 46))
    for row, y in enumerate(range(72, 256, step)):
        for x in range(72 + (row % 2) * step // 2, 256, step):
            draw.ellipse((x - 8, y - 8, x + 8, y + 8), fill=dots)
    for x, y in ((30, 30), (290, 30), (290, 290), (30, 290)):
        draw.ellipse((x - 15, y - 15, x + 15, y + 15), fill=_shade(colour, 0.7))


def _curtains(draw: ImageDraw.ImageDraw, rng: Random) -> None:
    """Two hanging widths of folds on a rod with knobs."""
    colour = _colour(rng, (0.4, 0.75))
    gap = rng.randint(14, 44)
    fold = rng.choice((12, 14, 16))
    for left, right in ((34, 160 - gap), (160 + gap, 286)):
        for i, x in enumerate(range(left, right, fold)):
            shade = _shade(colour, (1.15, 0.9, 0.65)[i % 3])
            draw.rectangle((x, 44, min(x + fold, right), 296), fill=shade)
    metal = _colour(rng, (0.2, 0.5), (0.0, 0.4))
    draw.rectangle((18, 30, 302, 42), fill=metal)
    for x in (16, 304):
        draw.ellipse((x - 14, 22, x + 14, 50), fill=metal)


def _bottle(draw: ImageDraw.ImageDraw, rng: Random) -> None:
    """A bottle: cap, neck, shoulders, and a label of printed lines."""
    colour, half = _colour(rng), rng.randint(52, 70)
    draw.rectangle((138, 10, 182, 44), fill=_colour(rng, (0.15, 0.5)))
    draw.rectangle((144, 44, 176, 84), fill=colour)
    shoulders = [
        (144, 78),
        (176, 78),
        (160 + half, 124),
        (160 + half, 308),
        (160 - half, 308),
        (160 - half, 124),
    ]
    draw.polygon(shoulders, fill=colour)
    draw.rectangle((160 - half, 150, 160 + half, 262), fill=(248, 248, 244))
    for y in range(164, 250, 16):
        draw.rectangle((170 - half, y, 150 + half - rng.randint(0, 40), y + 6), fill=_shade(colour, 0.6))


def _pouch(draw: ImageDraw.ImageDraw, rng: Random) -> None:
    """A bag that stands: toothed top and bottom, a wide belly, a round emblem."""
    colour = _colour(rng)
    teeth = 12
    xs = [60 + i * 200 / teeth for i in range(teeth + 1)]
    top = [(x, 18 if i % 2 else 34) for i, x in enumerate(xs)]
    belly = [(276, 120), (284, 220)]
    bottom = [(x + (x - 160) * 0.15, 302 if i % 2 else 288) for i, x in enumerate(xs)][::-1]
    draw.polygon([*top, *belly, *bottom, (36, 220), (44, 120)], fill=colour)
    draw.rectangle((62, 48, 258, 58), fill=_shade(colour, 0.55))
    ring = _colour(rng, (0.75, 0.92))
    draw.ellipse((96, 110, 224, 238), fill=ring, outline=_shade(colour, 0.5), width=8)
    draw.ellipse((136, 150, 184, 198), fill=_shade(colour, 0.7))


def _box(draw: ImageDraw.ImageDraw, rng: Random) -> None:
    """A cardboard box seen from its edge: three faces and a strip of tape."""
    colour = _colour(rng, (0.45, 0.65))
    rise = rng.randint(54, 76)
    draw.polygon(
        [(160, 20), (294, 20 + rise), (160, 20 + 2 * rise), (26, 20 + rise)], fill=_shade(colour, 1.3)
    )
    draw.polygon([(26, 20 + rise), (160, 20 + 2 * rise), (160, 304), (26, 304 - rise)], fill=colour)
    draw.polygon(
        [(294, 20 + rise), (160, 20 + 2 * rise), (160, 304), (294, 304 - rise)], fill=_shade(colour, 0.6)
    )
    tape = _colour(rng, (0.7, 0.9))
    draw.polygon(
        [(80, 20 + rise * 0.6), (106, 20 + rise * 0.4), (240, 20 + rise * 1.4), (214, 20 + rise * 1.6)],
        fill=tape,
    )
    draw.polygon(
        [(214, 20 + rise * 1.6), (240, 20 + rise * 1.4), (240, 78 + rise * 1.4), (214, 78 + rise * 1.6)],
        fill=tape,
    )


DRAWINGS: dict[str, Callable[[ImageDraw.ImageDraw, Random], None]] = {
    "comic": _comic,
    "disc": _disc,
    "figurine": _figurine,
    "cards": _cards,
    "cushion": _cushion,
    "curtains": _curtains,
    "bottle": _bottle,
    "pouch": _pouch,
    "box": _box,
}
