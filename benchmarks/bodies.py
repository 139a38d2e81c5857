"""Request bodies of the benchmark: one file a request, in a folder a kind."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aisle.product import Product
from benchmarks.model import stored_id
from benchmarks.systems import BULK_IDS
from service.protos import classifier_pb2

BULKS = 16  # requests


def write_bodies(products: Sequence[Product], folder: Path) -> None:
    """`product`: as peers take one; `cold`: the same as a list of one; `known`: with its id; `grpc`: that as
    a message; `id`: the id alone of a product of which both vectors are stored; `bulk`: BULK_IDS such."""
    for product in products:
        assert product.image is not None  # the benchmark's own products have one
        flat = {
            "title": product.title,
            "description": product.description,
            "image": base64.b64encode(product.image).decode(),
        }
        name = str(product.product_id)
        _write(folder / "product" / name, flat)
        _write(folder / "cold" / name, {"products": [flat]})
        _write(folder / "known" / name, {"products": [{"product_id": product.product_id, **flat}]})
        _write(folder / "id" / name, {"products": [{"product_id": stored_id(product)}]})
        message = classifier_pb2.ClassifyRequest(
            products=[
                classifier_pb2.Product(
                    product_id=name,
                    title=product.title,
                    description=product.description,
                    image=product.image,
                )
            ]
        )
        _write(folder / "grpc" / name, message.SerializeToString())
    ids = [stored_id(product) for product in products]
    for number in range(BULKS):
        chosen = [ids[(number + at) % len(ids)] for at in range(BULK_IDS)]
        _write(folder / "bulk" / f"{number:02d}", {"products": [{"product_id": one} for one in chosen]})


def _write(path: Path, body: dict[str, Any] | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body if isinstance(body, bytes) else json.dumps(body).encode())
