"""What is classified: a product as the world describes it."""

from __future__ import annotations

from dataclasses import dataclass

from aisle.errors import ProductError

MAX_TITLE_CHARS = 1_000
MAX_DESCRIPTION_CHARS = 20_000
MAX_PRODUCT_ID_CHARS = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Product:
    """A marketplace listing. `image` is an encoded picture (JPEG, PNG, WebP, GIF), not pixels.

    Raises ProductError when a field is longer than its limit, or when `product_id` holds a brace
    (Redis Cluster hashes only what stands between braces, so such an id would move other keys).
    """

    product_id: str | None = None
    title: str = ""
    description: str = ""
    image: bytes | None = None

    def __post_init__(self) -> None:
        if self.product_id is not None:
            check_product_id(self.product_id)
        _check_text("title", self.title, MAX_TITLE_CHARS)
        _check_text("description", self.description, MAX_DESCRIPTION_CHARS)

    @property
    def is_empty(self) -> bool:
        """Neither text nor image nor an id to look them up by."""
        has_text = bool(self.title.strip() or self.description.strip())
        return not (has_text or self.image or self.product_id)


def check_product_id(product_id: str) -> None:
    """Raise ProductError unless `product_id` can be a key of the feature store."""
    if not product_id.strip():
        raise ProductError(
            "product_id_empty", field="product_id", found="an empty id", wanted="1 or more characters"
        )
    _check_text("product_id", product_id, MAX_PRODUCT_ID_CHARS)
    if not product_id.isprintable():
        raise ProductError(
            "product_id_control",
            field="product_id",
            found=repr(product_id),
            wanted="an id of printable characters",
        )
    if "{" in product_id or "}" in product_id:
        raise ProductError(
            "product_id_brace", field="product_id", found=repr(product_id), wanted="an id without { and }"
        )


def _check_text(field: str, value: str, limit: int) -> None:
    if len(value) > limit:
        raise ProductError(
            "text_too_long",
            field=field,
            found=f"{len(value):,} characters",
            wanted=f"at most {limit:,}",
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ProductError(
            "text_broken",
            field=field,
            found=f"half of a surrogate pair at character {error.start:,}",
            wanted="Unicode text",
        ) from error
