"""Pages: they load nothing, run nothing, and what comes from a catalogue is words."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from pathlib import Path

import numpy as np
import pytest
from page_reader import PageReader
from pictures import jpeg
from PIL import Image

from training.charts import bar, histogram, matrix, plot, share_range, short, shortened
from training.page import Card, Facts, Figure, Gallery, Page, Paragraph, Section, Table
from training.thumbnails import SIDE, thumbnail

EVIL = "</title></style></svg><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


def page_of(words: str) -> Page:
    """A page with `words` wherever a word can stand."""
    table = Table(caption=words, head=(words, words), rows=[(words, words)])
    folded = Table(caption=words, head=(words,), rows=[(words,)], folded=True)
    figure = Figure(
        caption=words,
        drawing=matrix(words, np.array([[3, 1], [0, 2]]), [words, words]),
        table=folded,
        wide=True,
    )
    drawn = Figure(caption=words, drawing=plot(words, x_label=words, y_label=words))
    counted = Figure(caption=words, drawing=histogram(words, [1, 2], [0, 1, 2], x_label=words))
    card = Card(picture=thumbnail(jpeg("red")), title=words, facts=[(words, words)])
    blocks = [
        Paragraph(words=words),
        Paragraph(words=words, warning=True),
        Facts(rows=[(words, words)]),
        *(table, folded, figure, drawn, counted),
        Gallery(cards=[card, Card(picture="", title=words, facts=[])]),
    ]
    return Page(title=words, lead=words, sections=[Section(anchor="a", title=words, blocks=blocks)])


def test_markup_in_words_stays_words() -> None:
    harmless, evil = PageReader(page_of("words").render()), PageReader(page_of(EVIL).render())
    assert [name for name, _ in evil.tags] == [name for name, _ in harmless.tags]
    names = [[*attrs] for _, attrs in evil.tags]
    assert names == [[*attrs] for _, attrs in harmless.tags]
    assert EVIL in evil.words


def test_nothing_is_loaded_from_elsewhere() -> None:
    reader = PageReader(page_of("words").render())
    addresses = [v or "" for k, v in reader.attributes() if k in ("src", "href", "srcset", "action", "data")]
    assert addresses
    assert [a for a in addresses if not a.startswith(("data:image/jpeg;base64,", "#"))] == []
    assert not re.search(r"@import|url\(", page_of("words").render())


def test_there_is_no_script_and_no_inline_style() -> None:
    reader = PageReader(page_of("words").render())
    assert reader.all("script") == []
    assert [k for k, _ in reader.attributes() if k == "style" or k.startswith("on")] == []


def test_the_policy_allows_the_page_s_own_style_and_nothing_else() -> None:
    html = page_of("words").render()
    [style] = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = PageReader(html).all("meta")[1]
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert policy["content"] == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def test_every_drawing_says_what_it_shows_or_is_hidden() -> None:
    for drawing in PageReader(page_of("what it shows").render()).all("svg"):
        assert drawing.get("aria-label") == "what it shows" or drawing.get("aria-hidden") == "true"


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "page.html"
    page_of("first").write(path)
    broken = Page(title="second", lead="", sections=[Section(anchor="a", title="", blocks=[None])])  # type: ignore[list-item]
    with pytest.raises(Exception, match="kind"):
        broken.write(path)
    assert "first" in path.read_text()
    assert [entry.name for entry in path.parent.iterdir()] == ["page.html"]


def test_a_bar_is_as_long_as_its_share() -> None:
    assert '<rect class="good" width="37.50%"' in bar(0.375)


def test_a_bar_stays_in_its_cell() -> None:
    assert 'width="100.00%"' in bar(1.7)


@pytest.mark.parametrize(
    ("number", "shown"), [(0, "0"), (0.25, "0.25"), (999, "999"), (1_200, "1.2k"), (3e6, "3M")]
)
def test_short_numbers(number: float, shown: str) -> None:
    assert short(number) == shown


@pytest.mark.parametrize(
    ("low", "high", "ends"),
    [
        (0.0, 0.05, (0.0, 0.08)),
        (0.0, 1.0, (0.0, 1.0)),
        (0.714, 0.772, (0.7, 0.78)),
        (0.258, 0.417, (0.25, 0.45)),
        (0.991, 1.0, (0.96, 1.0)),
        (0.5, 0.5, (0.5, 0.54)),
    ],
)
def test_an_axis_of_shares_has_round_ends(low: float, high: float, ends: tuple[float, float]) -> None:
    assert share_range(low, high) == ends


def test_epochs_are_named_by_whole_numbers() -> None:
    drawn = plot("46 epochs", x_label="epoch", y_label="macro-F1", x_range=(1, 46), percent=False)
    assert re.findall(r">(\d+)</text>", drawn)[:5] == ["1", "12", "24", "35", "46"]


def test_shortened_words_end_with_an_ellipsis() -> None:
    assert shortened("abcdef", 6) == "abcdef"
    assert shortened("abc defg", 5) == "abc…"


def test_a_thumbnail_is_a_small_jpeg_of_its_own() -> None:
    file = io.BytesIO()
    Image.new("RGB", (900, 600), "green").save(file, "JPEG", comment=b"a secret place", quality=95)
    uri = thumbnail(file.getvalue())
    data = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))
    assert b"a secret place" not in data
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (SIDE, SIDE))


@pytest.mark.parametrize("data", [None, b"", b"<svg onload=alert(1)>", jpeg("red")[:200]])
def test_what_is_no_picture_has_no_thumbnail(data: bytes | None) -> None:
    assert thumbnail(data) == ""


def test_a_thumbnail_is_bounded(tmp_path: Path) -> None:
    noise = Image.effect_noise((1_000, 1_000), 200).convert("RGB")
    file = io.BytesIO()
    noise.save(file, "PNG")
    assert len(thumbnail(file.getvalue())) < 30_000
