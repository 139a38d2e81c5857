"""The page about a catalogue: what there is to learn from, and what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from training.catalog import Catalog
from training.charts import bar, histogram, shortened
from training.page import Block, Facts, Figure, Page, Paragraph, Section, Table
from training.survey import Survey
from training.twins import Twins

MOST_CATEGORIES = 200  # rows of a table; the rest is one row
FEW = 10  # products that `training fit` wants of a category by default
_BORDER = 0.05  # a border worth cutting off, as a share of the area
_CHARS = (0, 10, 20, 30, 40, 50, 60, 80, 100, 150, 200, 300, 500, 1_000, 2_000, 5_000, 20_000)
_PIXELS = (0, 25, 50, 75, 100, 150, 200, 300, 400, 500, 750, 1_000, 1_500, 2_000, 10_000)


def survey_page(survey: Survey) -> Page:
    """The page of a catalogue."""
    sections = [
        Section(anchor="read", title="What was read", blocks=list(_read(survey))),
        Section(anchor="balance", title="Categories", blocks=list(_balance(survey))),
        Section(anchor="texts", title="Texts", blocks=list(_texts(survey))),
        Section(anchor="pictures", title="Pictures", blocks=list(_pictures(survey))),
        Section(anchor="twins", title="Twins", blocks=list(_twins(survey))),
        Section(anchor="words", title="Telling words", blocks=list(_words(survey))),
    ]
    products = len(survey.catalog.products)
    return Page(
        title=f"Catalogue {catalog_name(survey.catalog)}",
        lead=f"{products:,} products in {_categories(survey):,} categories. {sampling(survey)}",
        sections=sections,
    )


def catalog_name(catalog: Catalog) -> str:
    """The name of its file, or of the folder where the file is called as all are."""
    path = catalog.path
    return path.parent.name if path.stem == "products" else path.stem


def sampling(survey: Survey) -> str:
    """Whether all products were looked at, in words."""
    if survey.is_whole:
        return "All of them were looked at."
    return (
        f"Texts and pictures were looked at for a random sample of {len(survey.row_N):,} products; "
        "categories, missing parts and equal texts were counted over all."
    )


def _categories(survey: Survey) -> int:
    return len(survey.counts.index.difference([""]))


def _read(survey: Survey) -> Iterator[Block]:
    report = survey.catalog.report
    yield Facts(
        rows=[
            ("rows read", f"{report.read:,}"),
            ("products kept", f"{report.kept:,}"),
            ("rows dropped", f"{sum(f.rows for f in report.dropped.values()):,}"),
        ]
    )
    rows = [
        (reason, verdict, shortened("; ".join(finding.examples), 300), f"{finding.rows:,}")
        for verdict, found in (("dropped", report.dropped), ("kept, with a part less", report.noted))
        for reason, finding in sorted(found.items(), key=lambda item: -item[1].rows)
    ]
    if rows:
        yield Table(
            caption="What was wrong with rows",
            head=("reason", "then", "examples", "rows"),
            rows=rows,
            words=3,
        )
    counts, products = survey.counts.sum(), len(survey.catalog.products)
    names = {"no_title": "no title", "no_description": "no description", "no_picture": "no picture"}
    missing = [
        (name, bar(counts[key] / products, style="bad"), f"{counts[key]:,}", f"{counts[key] / products:.1%}")
        for key, name in names.items()
    ]
    yield Table(caption="Missing parts", head=("", "", "products", "share"), rows=missing, words=2)


def _balance(survey: Survey) -> Iterator[Block]:
    known = survey.counts.drop(index="", errors="ignore")
    if known.empty:
        yield Paragraph(words="No product has a category: nothing can be trained on this catalogue.")
        return
    count_C = known.products.to_numpy()
    share_C = count_C / count_C.sum()
    few = known[known.products < FEW]
    yield Facts(
        rows=[
            ("largest over smallest category", f"{count_C.max() / count_C.min():,.1f} to 1"),
            (
                "effective number of categories (exponential of the entropy)",
                f"{np.exp(-(share_C * np.log(share_C)).sum()):.1f} of {len(count_C):,}",
            ),
            (
                f"categories with fewer than {FEW} products, which training leaves out",
                f"{len(few):,} with {int(few.products.sum()):,} products",
            ),
            ("products without a category", f"{int(survey.counts.products.get('', 0)):,}"),
        ]
    )
    words = _words_by_category(survey)
    rows = []
    for code, row in known[:MOST_CATEGORIES].iterrows():
        shares = [f"{row[key] / row.products:.1%}" for key in ("no_description", "no_picture")]
        drawn = bar(row.products / count_C.max())
        median = f"{np.median(words[str(code)]):.0f}" if words.get(str(code)) else "–"
        rows.append((_name(survey, str(code)), drawn, f"{row.products:,}", *shares, median))
    rest = known[MOST_CATEGORIES:]
    if len(rest):
        rows.append((f"{len(rest):,} smaller ones", "", f"{int(rest.products.sum()):,}", "", "", ""))
    yield Table(
        caption="Products by category, the largest first; words are the median of the cleaned texts"
        + ("" if survey.is_whole else " in the sample"),
        head=("category", "", "products", "no description", "no picture", "words"),
        rows=rows,
        words=2,
    )


def _words_by_category(survey: Survey) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for code, text in zip(survey.catalog.products.category.iloc[survey.row_N], survey.text_N, strict=True):
        if text:
            found.setdefault(code, []).append(len(text.split()))
    return found


def _name(survey: Survey, code: str) -> str:
    if not code:
        return "(no category)"
    name = survey.catalog.names.get(code, code)
    return code if name == code else f"{code} {name}"


def _texts(survey: Survey) -> Iterator[Block]:
    chars = np.array([len(text) for text in survey.text_N if text])
    if not len(chars):
        yield Paragraph(words="No product has a text.")
        return
    quarters = np.quantile(chars, (0.05, 0.25, 0.5, 0.75, 0.95)).round().astype(int)
    said = ", ".join(f"{q:,}" for q in quarters)
    yield _histogram(
        "Length of the cleaned texts, title and description together",
        f"5, 25, 50, 75 and 95% of texts have at most {said} characters",
        chars,
        _CHARS,
        "characters",
    )
    languages = Counter(language for language in survey.language_N if language)
    yield Table(
        caption="Languages, as py3langid guesses them from the text; short titles are often guessed wrongly",
        head=("language", "", "products", "share"),
        rows=[
            (name, bar(count / len(chars)), f"{count:,}", f"{count / len(chars):.1%}")
            for name, count in languages.most_common()
        ],
        words=2,
    )


def _pictures(survey: Survey) -> Iterator[Block]:
    readable, faults = survey.readable, survey.faults()
    if faults:
        yield Table(
            caption="Pictures that cannot be read",
            head=("reason", "pictures"),
            rows=[(reason, f"{count:,}") for reason, count in faults.most_common()],
        )
    if not readable:
        yield Paragraph(words="No product has a picture that can be read.")
        return
    shorter = np.array([min(look.width, look.height) for look in readable])
    said = ", ".join(f"{q:,.0f}" for q in np.quantile(shorter, (0.05, 0.5, 0.95)))
    yield _histogram(
        "Shorter side of the pictures",
        f"5, 50 and 95% of pictures have at most {said} pixels",
        shorter,
        _PIXELS,
        "pixels",
    )
    border = np.array([look.border for look in readable])
    yield _histogram(
        "White borders, as a share of the picture's area",
        f"{(border >= _BORDER).mean():.1%} of pictures have {_BORDER:.0%} or more of it; encoders cut it "
        f"off. {(border == 1.0).sum():,} pictures are white all over",
        100 * border,
        (0, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100.1),
        "percent of the area",
    )


def _histogram(title: str, said: str, values: np.ndarray, edges: Sequence[float], unit: str) -> Figure:
    """Values from the last edge on are in the last bin; bins behind the largest value are left out."""
    used = max(1, int(np.searchsorted(edges, values.max(), side="right")))
    edges = edges[: min(used, len(edges) - 1) + 1]
    counts = np.histogram(values.clip(max=np.nextafter(edges[-1], 0)), bins=np.asarray(edges, float))[0]
    rows = [
        (f"{low:,.0f} to {high:,.0f}", f"{count:,}", f"{count / len(values):.1%}")
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
    ]
    return Figure(
        caption=f"{title}. {said}. The ranges of the bars are not equally wide.",
        drawing=histogram(f"{title}: {said}", counts.tolist(), edges, x_label=unit),
        table=Table(caption="As numbers", head=(unit, "products", "share"), rows=rows, folded=True),
    )


def _twins(survey: Survey) -> Iterator[Block]:
    yield Paragraph(
        words="Products of different groups that are the same. Where one is trained on and the other tested, "
        "the test is easier than life: give them one item_group_id. Where their categories differ, one of "
        "them is filed wrongly, and the share of such sets bounds what any classifier can reach."
    )
    if not survey.is_whole:
        yield Paragraph(
            words="Pictures were compared within the sample only, which sees a small part of all pairs: "
            "that row is a lower bound."
        )
    yield Table(
        caption="Twins in different groups",
        head=(
            "",
            "looked at",
            "sets",
            "products",
            "sets of several categories",
            "tested with a trained twin",
        ),
        rows=[
            (
                t.kind,
                f"{t.looked_at:,}",
                f"{t.sets:,}",
                f"{t.products:,}",
                f"{t.disagreeing:,}",
                f"{t.leaked:,}",
            )
            for t in survey.twins
        ],
    )
    for twins in survey.twins:
        if twins.examples:
            yield _examples(survey, twins)


def _examples(survey: Survey, twins: Twins) -> Table:
    return Table(
        caption=f"{twins.kind.capitalize()}, several categories: the first {len(twins.examples)} sets",
        head=("title", "categories", "products"),
        rows=[
            (
                shortened(example.title or "(no title)", 100),
                "; ".join(_name(survey, code) for code in example.categories),
                ", ".join(example.product_ids),
            )
            for example in twins.examples
        ],
        words=3,
        folded=True,
    )


def _words(survey: Survey) -> Iterator[Block]:
    codes = [str(code) for code in survey.counts.index if survey.terms.get(str(code))]
    if not codes:
        yield Paragraph(words="No word tells one category from the others.")
        return
    yield Table(
        caption="Words that a category uses more than the others do, the most telling first (log-odds with a "
        "prior, Monroe et al., 2008); in brackets how many texts hold them"
        + ("" if survey.is_whole else "; from the sample"),
        head=("category", "words"),
        rows=[
            (_name(survey, c), ", ".join(f"{t.word} ({t.texts:,})" for t in survey.terms[c]))
            for c in codes[:MOST_CATEGORIES]
        ],
        words=2,
    )
