"""The OpenAPI page, made from the models of `wire`, so that it cannot say anything else."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic.json_schema import models_json_schema

from service.wire import MAX_PRODUCTS, MAX_TOP_K, ClassifyIn, ClassifyOut, ProductIn, RefusedOut

CLASSIFY = "/v1/classify"
UPLOAD = "/v1/classify/upload"
OPENAPI = "/openapi.json"

_REFERENCE = "#/components/schemas/{model}"

_REQUEST = {
    "products": [
        {"product_id": "3804725264"},
        {
            "title": "Carnet de voyage ligné, 150 pages",
            "description": "<p>Couverture souple, papier ivoire.</p>",
            "image": ProductIn.model_fields["image"].examples[0],  # type: ignore[index]
        },
    ],
    "top_k": 2,
}
_FAULT = {
    "reason": "nothing_known",
    "field": "product_id",
    "found": "no text and no image, given or stored",
    "wanted": "a title, a description, an image, or an id that the feature store knows",
    "message": "product_id: found no text and no image, given or stored, wanted a title, a description, "
    "an image, or an id that the feature store knows",
}
_NOTEBOOKS = {"code": "2522", "name": "Stationery"}
_ANSWER = {
    "model": "aisle-classifier:20261120-2a7f91c4",
    "results": [
        {"error": _FAULT},
        {
            "product_id": None,
            "category": _NOTEBOOKS,
            "confidence": 0.93,
            "accepted": True,
            "top": [
                {**_NOTEBOOKS, "probability": 0.93},
                {"code": "2705", "name": "Books", "probability": 0.05},
            ],
            "text_only": {**_NOTEBOOKS, "probability": 0.9},
            "image_only": {"code": "2705", "name": "Books", "probability": 0.41},
            "vectors": {"text": "computed", "image": "computed"},
        },
    ],
}
_FORM = {
    "type": "object",
    "properties": {
        "product_id": {"type": "string"},
        "title": {"type": "string"},
        "description": {"type": "string"},
        "top_k": {"type": "integer", "minimum": 1, "maximum": MAX_TOP_K, "default": 5},
        "image": {"type": "string", "contentMediaType": "application/octet-stream"},
    },
    "additionalProperties": False,
}


@cache
def specification() -> dict[str, Any]:
    """OpenAPI 3.1 of the HTTP interface."""
    _, schemas = models_json_schema(
        [(model, "validation") for model in (ClassifyIn, ClassifyOut, RefusedOut)], ref_template=_REFERENCE
    )
    json_body = {"schema": _schema("ClassifyIn"), "example": _REQUEST}
    form_body = {"schema": _FORM, "example": {"title": "123", "top_k": 2}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Aisle", "version": "1", "description": "Which aisle does this product go in?"},
        "paths": {
            CLASSIFY: {
                "post": _operation(f"Classify 1 to {MAX_PRODUCTS} products", {"application/json": json_body})
            },
            UPLOAD: {"post": _operation("Classify one product", {"multipart/form-data": form_body})},
            "/livez": {"get": _plain("The process is alive")},
            "/readyz": {"get": _plain("The model is loaded and warm")},
            "/metrics": {"get": _plain("Metrics in Prometheus' text format")},
        },
        "components": {"schemas": schemas["$defs"]},
    }


def _operation(summary: str, content: dict[str, Any]) -> dict[str, Any]:
    refusals = {
        "400": "The body cannot be parsed",
        "408": "The body came too slowly",
        "413": "The body is too large",
        "415": "Another content type is wanted",
        "422": "The envelope is wrong, or every product is",
        "503": "Overloaded; come back after Retry-After seconds",
        "504": "No answer in time",
    }
    refused = {"application/json": {"schema": _schema("RefusedOut"), "example": {"error": _FAULT}}}
    answered = {"application/json": {"schema": _schema("ClassifyOut"), "example": _ANSWER}}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": content},
        "responses": {
            "200": {"description": "One result a product, in order", "content": answered},
            **{status: {"description": text, "content": refused} for status, text in refusals.items()},
        },
    }


def _plain(summary: str) -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": {"description": summary, "content": {"text/plain": {}}}}}


def _schema(name: str) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(model=name)}
