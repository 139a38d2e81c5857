"""The OpenAPI page, made from the models of `wire`, so that it cannot say anything else."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic.json_schema import models_json_schema

from aisle.prediction import DEFAULT_TOP_K
from service import predictions_door, product_door
from service.ledger_wire import Parameter
from service.wire import (
    MAX_LABELS,
    MAX_PRODUCTS,
    MAX_TOP_K,
    ClassifyIn,
    ClassifyOut,
    LabelsIn,
    LabelsOut,
    MonitorOut,
    PredictionsOut,
    ProductIn,
    ProductOut,
    RefusedOut,
)

CLASSIFY = "/v1/classify"
UPLOAD = "/v1/classify/upload"
LABELS = "/v1/labels"
PREDICTIONS = "/v1/predictions"
PRODUCTS = "/v1/products"
MONITOR = "/v1/monitor"
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
            "prediction_id": "5f0c7c1e6a0b4f0f9a3d5b6c7d8e9f00",
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
            "prediction_set": {"codes": ["2522", "2705"], "coverage": 0.95},
        },
    ],
}
_LABELS = {
    "labels": [
        {"prediction_id": "5f0c7c1e6a0b4f0f9a3d5b6c7d8e9f00", "category": "2522"},
        {"product_id": "3804725264", "category": "2705", "source": "audit"},
    ]
}
_RECORDED = {"results": [{"recorded": True, "new": True, "in_taxonomy": True}] * 2}
_ASKED = "Where AISLE_AUTH=keys: a key that `python -m service keys add` has made"
_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer", "description": _ASKED},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": _ASKED},
}
_LOCKED = {
    "401": "No key, or none that works",
    "403": "The key has another scope",
}
_FORM = {
    "type": "object",
    "properties": {
        "product_id": {"type": "string"},
        "title": {"type": "string"},
        "description": {"type": "string"},
        "top_k": {"type": "integer", "minimum": 1, "maximum": MAX_TOP_K, "default": DEFAULT_TOP_K},
        "explain": {"type": "string", "enum": ["true", "false"], "default": "false"},
        "image": {"type": "string", "contentMediaType": "application/octet-stream"},
    },
    "additionalProperties": False,
}


@cache
def specification() -> dict[str, Any]:
    """OpenAPI 3.1 of the HTTP interface."""
    _, schemas = models_json_schema(
        [
            (model, "validation")
            for model in (
                ClassifyIn,
                ClassifyOut,
                LabelsIn,
                LabelsOut,
                MonitorOut,
                PredictionsOut,
                ProductOut,
                RefusedOut,
            )
        ],
        ref_template=_REFERENCE,
    )
    json_body = {"application/json": {"schema": _schema("ClassifyIn"), "example": _REQUEST}}
    form_body = {"multipart/form-data": {"schema": _FORM, "example": {"title": "123", "top_k": 2}}}
    labels_body = {"application/json": {"schema": _schema("LabelsIn"), "example": _LABELS}}
    answer = {"schema": _schema("ClassifyOut"), "example": _ANSWER}
    recorded = {"schema": _schema("LabelsOut"), "example": _RECORDED}
    answered = "What was answered, newest first"
    label_it = f"Say the true category of 1 to {MAX_LABELS:,} answers or products"
    return {
        "openapi": "3.1.0",
        "info": {"title": "Aisle", "version": "1", "description": "Which aisle does this product go in?"},
        "paths": {
            CLASSIFY: {"post": _operation(f"Classify 1 to {MAX_PRODUCTS} products", json_body, answer)},
            UPLOAD: {"post": _operation("Classify one product", form_body, answer)},
            LABELS: {"post": _operation(label_it, labels_body, recorded)},
            PREDICTIONS: {"get": _locked(_read(answered, "PredictionsOut", predictions_door.PARAMETERS))},
            PRODUCTS: {"get": _locked(_product())},
            MONITOR: {"get": _locked(_json("How it goes", _schema("MonitorOut")))},
            "/livez": {"get": {**_plain("The process is alive"), "security": []}},
            "/readyz": {"get": {**_plain("The model is loaded and warm"), "security": []}},
            "/metrics": {"get": _locked(_plain("Metrics in Prometheus' text format"))},
        },
        "components": {"schemas": schemas["$defs"], "securitySchemes": _KEYS},
        "security": [{scheme: []} for scheme in _KEYS],
    }


def _operation(summary: str, content: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    refusals = {
        "400": "The body cannot be parsed",
        **_LOCKED,
        "408": "The body came too slowly",
        "413": "The body is too large",
        "415": "Another content type is wanted",
        "422": "The envelope is wrong, or every product is",
        "429": "Overloaded, or the key's rate is used up; come back after Retry-After seconds",
        "503": "Feature store, ledger or keys cannot be reached; come back after Retry-After seconds",
        "504": "No answer in time",
    }
    refused = {"application/json": {"schema": _schema("RefusedOut"), "example": {"error": _FAULT}}}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": content},
        "responses": {
            "200": {"description": "One result a product, in order", "content": {"application/json": answer}},
            **{status: {"description": text, "content": refused} for status, text in refusals.items()},
        },
    }


def _product() -> dict[str, Any]:
    """Of which an id must be given, and may be unknown."""
    operation = _read("What is known of a product", "ProductOut", product_door.PARAMETERS)
    for parameter in operation["parameters"]:
        parameter["required"] = True
    unknown = {**operation["responses"]["422"], "description": "The product was never answered"}
    return {**operation, "responses": {**operation["responses"], "404": unknown}}


def _read(summary: str, model: str, given: Mapping[str, Parameter]) -> dict[str, Any]:
    """A question to the ledger."""
    parameters = [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": parameter.wanted,
            "schema": dict(parameter.schema),
        }
        for name, parameter in given.items()
    ]
    refused = {"application/json": {"schema": _schema("RefusedOut"), "example": {"error": _FAULT}}}
    page = _json(summary, _schema(model))
    texts = {"422": "A parameter is wrong", "429": "Too many read", "503": "The ledger cannot be reached"}
    refusals = {status: {"description": text, "content": refused} for status, text in texts.items()}
    return {**page, "parameters": parameters, "responses": {**page["responses"], **refusals}}


def _json(summary: str, schema: dict[str, str]) -> dict[str, Any]:
    content = {"application/json": {"schema": schema}}
    return {"summary": summary, "responses": {"200": {"description": summary, "content": content}}}


def _locked(operation: dict[str, Any]) -> dict[str, Any]:
    refused = {"application/json": {"schema": _schema("RefusedOut")}}
    refusals = {status: {"description": text, "content": refused} for status, text in _LOCKED.items()}
    return {**operation, "responses": {**operation["responses"], **refusals}}


def _plain(summary: str) -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": {"description": summary, "content": {"text/plain": {}}}}}


def _schema(name: str) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(model=name)}
