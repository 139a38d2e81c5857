"""GET /v1/products?product_id=...: what is known of one product: its last answer, and its last label."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import QueryParams

from aisle.ledger import KnownProduct, Label, Ledger
from aisle.taxonomy import Taxonomy
from service.errors import RequestError
from service.ledger_reader import LedgerReader
from service.ledger_wire import category_object, label_object, of_text, read_query, time_text

PARAMETERS = {"product_id": of_text("product_id")}


async def read_product(query: QueryParams, reader: LedgerReader, taxonomy: Taxonomy) -> dict[str, Any]:
    """Raises RequestError: 422 without one `product_id`, 404 where it was never answered."""
    product_id = read_query(query, PARAMETERS).get("product_id")
    if product_id is None:
        raise RequestError(422, "value_missing", field="product_id", found="nothing", wanted="a product's id")

    def ask(ledger: Ledger) -> tuple[KnownProduct | None, Label | None]:
        product = ledger.product(product_id)
        return product, None if product is None else ledger.label_of(product)

    product, label = await reader.ask(ask)
    if product is None:
        wanted = "a product that was answered, and not forgotten since"
        raise RequestError(404, "product_unknown", field="product_id", found=repr(product_id), wanted=wanted)
    return {
        "product_id": product.product_id,
        "title": product.title,
        "first_at": time_text(product.first_at_s),
        "last_at": time_text(product.last_at_s),
        "prediction_id": product.prediction_id,
        "model": product.model,
        "category": category_object(product.category, taxonomy),
        "confidence": product.confidence,
        "accepted": product.accepted,
        "label": None if label is None else label_object(label, taxonomy),
    }
