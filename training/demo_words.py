"""Titles and descriptions as sellers write them: French or English, sold in nine trades.

A trade is what the words tell. Where two categories share a trade, only a hint now and then tells
them apart.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from random import Random

BRANDS = ("Norvel", "Kestrio", "Atelier Vaubert", "Zephlor", "Brumelle", "Oktavia", "Tilmar", "Lunéa")
COLOURS = {
    "fr": ("bleu", "rouge", "vert", "gris", "noir", "blanc", "jaune", "rose"),
    "en": ("blue", "red", "green", "grey", "black", "white", "yellow", "pink"),
}
OFFERS = {
    "fr": ("livraison rapide", "neuf", "envoi soigné sous 24h", "stock limité", "garantie 2 ans"),
    "en": ("fast delivery", "brand new", "ships within 24h", "limited stock", "2 year warranty"),
}
BLANK_TITLES = {
    "fr": ("Article neuf voir photo", "Lot à saisir", "Produit comme sur la photo", "Réf."),
    "en": ("New item see picture", "Bargain lot", "Product as shown", "Ref."),
}


@dataclass(frozen=True, kw_only=True)
class Trade:
    """Words of one language: what a title is made of, and sentences of a description."""

    things: tuple[str, ...]
    details: tuple[str, ...]
    sentences: tuple[str, ...]


TRADES: dict[str, dict[str, Trade]] = {
    "saga": {
        "fr": Trade(
            things=(
                "Dragons d'Azur",
                "La Légende de Korv",
                "Chevaliers de Mirande",
                "Ninja Zéro",
                "Galaxie Perdue",
            ),
            details=(
                "tome 3",
                "volume 1",
                "édition collector",
                "intégrale",
                "version française",
                "chapitre final",
            ),
            sentences=(
                "Retrouvez les héros dans une nouvelle aventure épique.",
                "Le royaume est en danger et l'empereur prépare sa revanche.",
                "La suite très attendue de la saga culte.",
            ),
        ),
        "en": Trade(
            things=("Azure Dragons", "Legend of Korv", "Knights of Mirande", "Ninja Zero", "Lost Galaxy"),
            details=(
                "vol. 3",
                "volume 1",
                "collector's edition",
                "complete saga",
                "English version",
                "final chapter",
            ),
            sentences=(
                "Join the heroes in a new epic adventure.",
                "The kingdom is in danger and the emperor plans his revenge.",
                "The long awaited sequel of the cult saga.",
            ),
        ),
    },
    "creature": {
        "fr": Trade(
            things=("Pikazor", "Draconyx légendaire", "Felinou évolution", "Ombremage", "Titanor"),
            details=(
                "ultra rare",
                "série limitée",
                "n° 12/150",
                "1ère édition",
                "pour collectionneur",
                "état neuf",
            ),
            sentences=(
                "Complétez votre collection de créatures légendaires.",
                "Pièce rare recherchée par les collectionneurs.",
                "Vendu sous protection, jamais manipulé.",
            ),
        ),
        "en": Trade(
            things=("Pikazor", "legendary Draconyx", "Felinou evolution", "Shadowmage", "Titanor"),
            details=(
                "ultra rare",
                "limited series",
                "no. 12/150",
                "1st edition",
                "for collectors",
                "mint condition",
            ),
            sentences=(
                "Complete your collection of legendary creatures.",
                "Rare piece wanted by collectors.",
                "Sold in protective sleeve, never handled.",
            ),
        ),
    },
    "linen": {
        "fr": Trade(
            things=("lin lavé", "velours côtelé", "coton bio imprimé", "jacquard", "toile naturelle"),
            details=(
                "motif scandinave",
                "style bohème",
                "salon chambre",
                "décoration intérieure",
                "tissu épais",
            ),
            sentences=(
                "Un tissu doux qui habille votre salon avec élégance.",
                "Lavable en machine à 30 degrés, repassage doux.",
                "Coloris assortis disponibles dans la même gamme.",
            ),
        ),
        "en": Trade(
            things=("washed linen", "ribbed velvet", "printed organic cotton", "jacquard", "natural canvas"),
            details=("scandinavian pattern", "boho style", "living room", "home decoration", "thick fabric"),
            sentences=(
                "A soft fabric that dresses your living room with elegance.",
                "Machine washable at 30 degrees, iron gently.",
                "Matching colours available in the same range.",
            ),
        ),
    },
    "pool": {
        "fr": Trade(
            things=(
                "Chlore choc piscine",
                "Anti-algues piscine",
                "pH moins liquide spa",
                "Clarifiant eau de piscine",
            ),
            details=("5 L", "action rapide", "hivernage", "bassin et spa", "sans cuivre"),
            sentences=(
                "Pour une eau de baignade limpide toute la saison.",
                "Verser devant les buses de refoulement, filtration en marche.",
            ),
        ),
        "en": Trade(
            things=(
                "Shock chlorine pool",
                "Swimming pool algaecide",
                "pH minus spa water",
                "Pool water clarifier",
            ),
            details=("5 L", "fast acting", "winterizing", "pool and hot tub", "copper free"),
            sentences=(
                "For crystal clear swimming water all season.",
                "Pour in front of the pool inlets with the filter running.",
            ),
        ),
    },
    "garden": {
        "fr": Trade(
            things=(
                "Engrais tomates",
                "Purin d'ortie",
                "Désherbant allées",
                "Fertilisant gazon",
                "Engrais rosiers",
            ),
            details=("5 L", "action rapide", "potager bio", "plantes et fleurs", "concentré"),
            sentences=(
                "Nourrit les racines et stimule la floraison du jardin.",
                "Diluer dans l'arrosoir et arroser au pied des plantes.",
            ),
        ),
        "en": Trade(
            things=(
                "Tomato plant feed",
                "Nettle manure",
                "Weed killer for paths",
                "Lawn fertilizer",
                "Rose feed",
            ),
            details=("5 L", "fast acting", "organic vegetable garden", "plants and flowers", "concentrate"),
            sentences=(
                "Feeds the roots and makes the garden bloom.",
                "Dilute in a watering can and water the soil around the plants.",
            ),
        ),
    },
    "pets": {
        "fr": Trade(
            things=(
                "Croquettes chat stérilisé",
                "Croquettes chien adulte",
                "Litière végétale chat",
                "Friandises chiot",
            ),
            details=("saumon", "sans céréales", "4 kg", "au poulet", "petite race"),
            sentences=(
                "Recommandé par les vétérinaires pour un poil brillant.",
                "Votre animal adore le goût, digestion facile.",
            ),
        ),
        "en": Trade(
            things=("Dry food sterilised cat", "Adult dog kibble", "Plant based cat litter", "Puppy treats"),
            details=("salmon", "grain free", "4 kg", "with chicken", "small breed"),
            sentences=(
                "Recommended by veterinarians for a shiny coat.",
                "Your pet will love the taste, easy digestion.",
            ),
        ),
    },
    "coffee": {
        "fr": Trade(
            things=(
                "Café en grains arabica",
                "Café moulu expresso",
                "Thé vert sencha vrac",
                "Infusion verveine",
            ),
            details=("torréfaction lente", "commerce équitable", "1 kg", "Éthiopie", "corsé"),
            sentences=(
                "Des arômes de chocolat et de noisette en tasse.",
                "Torréfié par un artisan, à déguster au petit déjeuner.",
            ),
        ),
        "en": Trade(
            things=(
                "Arabica coffee beans",
                "Ground espresso coffee",
                "Loose sencha green tea",
                "Verbena herbal tea",
            ),
            details=("slow roast", "fair trade", "1 kg", "Ethiopia", "full bodied"),
            sentences=(
                "Notes of chocolate and hazelnut in the cup.",
                "Roasted by a craftsman, to be enjoyed at breakfast.",
            ),
        ),
    },
    "games": {
        "fr": Trade(
            things=(
                "Jeu de société famille",
                "Jeu de plateau stratégie",
                "Jeu d'ambiance quiz",
                "Jeu de dés coopératif",
            ),
            details=("2 à 6 joueurs", "dès 8 ans", "30 minutes", "extension", "soirée entre amis"),
            sentences=(
                "Lancez les dés, avancez vos pions et déjouez vos adversaires.",
                "Des parties animées pour petits et grands.",
            ),
        ),
        "en": Trade(
            things=("Family board game", "Strategy board game", "Party quiz game", "Cooperative dice game"),
            details=("2 to 6 players", "ages 8 and up", "30 minutes", "expansion", "game night"),
            sentences=(
                "Roll the dice, move your pawns and outwit your opponents.",
                "Lively rounds for young and old.",
            ),
        ),
    },
    "printer": {
        "fr": Trade(
            things=(
                "Cartouche d'encre",
                "Toner laser",
                "Pack cartouches imprimante",
                "Papier photo brillant A4",
            ),
            details=("noir XL", "compatible HP", "compatible Epson", "haute capacité", "2500 pages"),
            sentences=(
                "Impression nette, compatible avec les principales imprimantes de bureau.",
                "Puce reconnue, installation simple, sans bavure.",
            ),
        ),
        "en": Trade(
            things=("Ink cartridge", "Laser toner", "Printer cartridge pack", "Glossy photo paper A4"),
            details=("black XL", "compatible with HP", "compatible with Epson", "high yield", "2500 pages"),
            sentences=(
                "Sharp prints, works with the main office printers.",
                "Recognised chip, simple to install, no smudging.",
            ),
        ),
    },
}


@dataclass(frozen=True, kw_only=True)
class Words:
    """What a product says: its title and its description."""

    title: str
    description: str


def write_words(trade: dict[str, Trade], hints: dict[str, str], listing: Random, seller: Random) -> Words:
    """`listing` decides what is said (variants of a product share it), `seller` how it is mangled.

    `trade` and `hints` are by language; hints are the sentences that only this category's sellers write.
    """
    language = "fr" if listing.random() < 0.6 else "en"
    words = trade[language]
    if listing.random() < 0.03:  # tells nothing
        title = f"{listing.choice(BLANK_TITLES[language])} {listing.randint(100, 9999)}"
        return Words(title=title, description="")
    parts = [listing.choice(words.things), *listing.sample(words.details, listing.choice((1, 2, 2, 3)))]
    if listing.random() < 0.6:
        parts.insert(listing.choice((0, len(parts))), listing.choice(BRANDS))
    sentences = list(listing.sample(words.sentences, listing.choice((1, 2))))
    sentences.append(listing.choice(OFFERS[language]).capitalize() + ".")
    has_description = listing.random() < 0.7
    if listing.random() < 0.2:
        sentences.insert(0, hints[language])
    parts.append(seller.choice(COLOURS[language]))
    return Words(
        title=_mangle(" ".join(parts), seller),
        description=_dress(sentences, seller) if has_description else "",
    )


def _mangle(title: str, seller: Random) -> str:
    """Shouting, mojibake, a doubled word, two letters swapped: as feeds have them."""
    fault = seller.random()
    if fault < 0.08:
        return title.upper()
    if fault < 0.14:
        return title.encode().decode("cp1252", errors="ignore")
    if fault < 0.18:
        return title.replace(" ", "  ", 1) + " " + title.rsplit(" ", 1)[-1]
    if fault < 0.26:
        at = seller.randrange(1, len(title) - 2)
        return title[:at] + title[at + 1] + title[at] + title[at + 2 :]
    if fault < 0.30:
        return html.escape(title)
    return title


def _dress(sentences: list[str], seller: Random) -> str:
    """HTML scraps round the sentences."""
    style = seller.random()
    if style < 0.25:
        return "<p>" + "</p><p>".join(sentences) + "</p>"
    if style < 0.45:
        return "<br />".join(sentences) + "<br/>&nbsp;"
    if style < 0.55:
        entities = " ".join(sentences).encode("ascii", errors="xmlcharrefreplace").decode()
        return f'<div class="desc"><b>{entities}</b></div><!-- v2 -->'
    return " ".join(sentences)
