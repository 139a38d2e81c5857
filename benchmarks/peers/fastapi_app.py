"""The model behind FastAPI, the way most people write it: one model call a request, text and all.

`uvicorn benchmarks.peers.fastapi_app:app`; BENTOML_HOME names the model store.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from aisle.classifier import Classifier
from aisle.errors import ProductError
from aisle.product import Product
from aisle.store import load_classifier


class ProductIn(BaseModel):
    title: str = ""
    description: str = ""
    image: str


class PredictionOut(BaseModel):
    code: str
    confidence: float


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.classifier = load_classifier()
    yield


app = FastAPI(lifespan=lifespan)


@app.get("/health")
def health() -> dict[str, bool]:
    return {"ready": True}


@app.post("/classify")
def classify(given: ProductIn) -> PredictionOut:
    classifier: Classifier = app.state.classifier
    try:
        image = base64.b64decode(given.image, validate=True)
        item = classifier.prepare(
            Product(title=given.title, description=given.description, image=image), top_k=1
        )
    except (ProductError, ValueError) as error:
        raise HTTPException(422, str(error)) from error
    [answer] = classifier.predict([item])
    if isinstance(answer, ProductError):
        raise HTTPException(422, str(answer))
    return PredictionOut(code=answer.category.code, confidence=answer.confidence)
