"""The demo's market after it moved: four of the twelve categories (figurines, trading cards, pool care and
plant feed) are sold in other words and photographed in another way.

The words are new franchises and new jargon; the photos a fashion: a dark set with soft lights, the thing
small, washed out and far from upright. Nothing else changes, so what a model loses here it loses by drift.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from training.demo_pictures import SIDE, as_jpeg, draw_sprite
from training.demo_words import Trade


@dataclass(frozen=True, kw_only=True)
class Shifted:
    """How a category is sold now; both by language."""

    trade: dict[str, Trade]
    hints: dict[str, str]


_CREATURES = {
    "fr": Trade(
        things=("Voltéon Nova", "Les Gardiens d'Ambre", "Mecha Kuro", "Lumis et Ondine", "Titan Ryoma"),
        details=("vague 2", "drop exclusif", "chase 1/6", "scellé", "précommande", "rare holo"),
        sentences=(
            "Nouvelle licence, arrivage du Japon.",
            "Pièce de collection notée, idéale pour vitrine.",
            "Issu du drop de printemps, quantité limitée.",
        ),
    ),
    "en": Trade(
        things=("Volteon Nova", "Amber Wardens", "Mecha Kuro", "Lumis and Ondine", "Titan Ryoma"),
        details=("wave 2", "exclusive drop", "chase 1/6", "sealed", "pre-order", "holo rare"),
        sentences=(
            "New licence, fresh from Japan.",
            "Graded collector's piece, made for display.",
            "From the spring drop, few left.",
        ),
    ),
}
_POOL = {
    "fr": Trade(
        things=("Électrolyte spa", "Boost sel bassin", "Clarifiant nage", "Solution lagon", "Dose hivernage"),
        details=("500 g", "sans chlore", "multi-action", "pH neutre", "recharge", "concentré"),
        sentences=(
            "À verser devant les buses, filtration en marche.",
            "Eau limpide pour spas et bassins de nage.",
            "Nouvelle formule sans résidu.",
        ),
    ),
    "en": Trade(
        things=("Spa electrolyte", "Salt boost", "Swim clarifier", "Lagoon solution", "Winterising dose"),
        details=("500 g", "chlorine free", "multi action", "pH neutral", "refill", "concentrate"),
        sentences=(
            "Pour in front of the jets with the pump running.",
            "Clear water for spas and swim basins.",
            "New formula without residue.",
        ),
    ),
}
_GARDEN = {
    "fr": Trade(
        things=(
            "Biostimulant racines",
            "Compost liquide",
            "Sève de lombric",
            "Booster floraison",
            "Purin actif",
        ),
        details=("500 g", "certifié bio", "multi-action", "pH neutre", "recharge", "concentré"),
        sentences=(
            "À diluer dans l'arrosoir toutes les deux semaines.",
            "Réveille la vie du sol des balcons et potagers.",
            "Nouvelle formule sans résidu.",
        ),
    ),
    "en": Trade(
        things=("Root biostimulant", "Liquid compost", "Worm sap", "Bloom booster", "Active tea"),
        details=("500 g", "certified organic", "multi action", "pH neutral", "refill", "concentrate"),
        sentences=(
            "Dilute in the watering can every two weeks.",
            "Wakes the soil of balconies and vegetable plots.",
            "New formula without residue.",
        ),
    ),
}
SHIFTED: dict[str, Shifted] = {
    "figurine": Shifted(
        trade=_CREATURES, hints={"fr": "Statuette résine, socle LED.", "en": "Resin statue with LED base."}
    ),
    "card": Shifted(trade=_CREATURES, hints={"fr": "Slab noté 9,5.", "en": "Slab, graded 9.5."}),
    "pool-care": Shifted(trade=_POOL, hints={"fr": "Rayon bien-être aquatique.", "en": "Aquatic wellness."}),
    "plant-feed": Shifted(trade=_GARDEN, hints={"fr": "Rayon sol vivant.", "en": "Living soil."}),
}


def draw_shifted_photo(kind: str, thing: Random, pose: Random) -> bytes:
    """A JPEG of SIDE x SIDE pixels, as `demo_pictures.draw_photo`, in the new fashion."""
    sprite = draw_sprite(kind, thing, pose)
    sprite = sprite.rotate(pose.choice((-60, -45, 45, 60)), resample=Image.Resampling.BICUBIC, expand=True)
    side = round(SIDE * pose.uniform(0.55, 0.75))
    sprite = sprite.resize((side, side), resample=Image.Resampling.BILINEAR)
    photo = _dark_set(pose)
    room = SIDE - side
    photo.paste(sprite, (round(room * pose.random()), round(room * pose.random())), sprite)
    return as_jpeg(ImageEnhance.Color(photo).enhance(0.35))


def _dark_set(pose: Random) -> Image.Image:
    """Almost black, with a few lights out of focus."""
    shade = pose.randint(18, 45)
    photo = Image.new("RGB", (SIDE, SIDE), (shade, shade, shade + 12))
    draw = ImageDraw.Draw(photo)
    for _ in range(pose.randint(4, 8)):
        x, y, radius = pose.randint(0, SIDE), pose.randint(0, SIDE), pose.randint(10, 34)
        light = pose.randint(110, 220)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(light, light - 30, light - 60))
    return photo.filter(ImageFilter.GaussianBlur(9))
