"""What travels over HTTP: the request and the answer, as OpenAPI shows them and as JSON carries them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from aisle.errors import ProductError
from aisle.prediction import DEFAULT_TOP_K, Candidate, Explanation, Prediction, PredictionSet
from aisle.product import MAX_PRODUCT_ID_CHARS
from service.errors import RequestError, error_object

MAX_PRODUCTS = 256
MAX_TOP_K = 100
MAX_LABELS = 1_000
MAX_CODE_CHARS = 128

_NO_CONTROLS = r"^[^\x00-\x1f]+$"  # PostgreSQL cannot hold a NUL
_GIF = "R0lGODlhAQABAIAAAP///wAAACH5BAAAAAAALAAAAAABAAEAAAICRAEAOw=="  # a whole picture of one white pixel


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """What a request wants of each answer. `explain`: what each part added to it, and products like it."""

    top_k: int = DEFAULT_TOP_K
    explain: bool = False


class Strict(BaseModel):
    """Unknown fields and lenient conversions are refused; base64 is decoded while JSON is parsed."""

    model_config = ConfigDict(extra="forbid", strict=True, val_json_bytes="base64", frozen=True)


TopK = Annotated[int, Field(ge=1, le=MAX_TOP_K, description="how many candidates to answer with, best first")]
Explain = Annotated[
    bool, Field(description="say what text and picture each added, and name products like it")
]


class ProductIn(Strict):
    """A product: any of its parts, at least one. What is not given is looked up by `product_id`."""

    product_id: str | None = Field(None, description="key of stored embeddings", examples=["3804725264"])
    title: str | None = Field(None, examples=["Carnet de voyage ligné, 150 pages"])
    description: str | None = Field(None, examples=["<p>Couverture souple, papier ivoire.</p>"])
    image: bytes | None = Field(
        None,
        description="a JPEG, PNG, WebP or GIF file of at most 10 MB, in base64",
        examples=[_GIF],
        json_schema_extra={"contentEncoding": "base64"},
    )


class ClassifyIn(Strict):
    """1 to 256 products; the answer has one result each, in the same order."""

    products: Annotated[list[ProductIn], Field(min_length=1, max_length=MAX_PRODUCTS)]
    top_k: TopK = DEFAULT_TOP_K
    explain: Explain = False


class Envelope(Strict):
    """ClassifyIn with its products unread: what is checked before them."""

    products: Annotated[list[Any], Field(min_length=1, max_length=MAX_PRODUCTS)]
    top_k: TopK = DEFAULT_TOP_K
    explain: Explain = False


class LabelIn(Strict):
    """The true category of one answer, or of a product."""

    prediction_id: str | None = Field(
        None,
        min_length=1,
        max_length=32,
        pattern=_NO_CONTROLS,
        description="the prediction_id of an answer",
    )
    product_id: str | None = Field(
        None,
        min_length=1,
        max_length=MAX_PRODUCT_ID_CHARS,
        pattern=_NO_CONTROLS,
        description="a product that was classified",
    )
    category: str = Field(
        min_length=1,
        max_length=MAX_CODE_CHARS,
        pattern=_NO_CONTROLS,
        description=f"a category code of 1 to {MAX_CODE_CHARS} characters",
    )
    source: Literal["review", "audit", "seller"] = Field("review", description="review, audit or seller")


class LabelsIn(Strict):
    """1 to 1,000 labels; the answer has one result each, in the same order."""

    labels: Annotated[list[LabelIn], Field(min_length=1, max_length=MAX_LABELS)]


class LabelsEnvelope(Strict):
    """LabelsIn with its labels unread: what is checked before them."""

    labels: Annotated[list[Any], Field(min_length=1, max_length=MAX_LABELS)]


class LabelRecordedOut(Strict):
    recorded: Literal[True]
    new: bool = Field(description="false where its source had said the same last")
    in_taxonomy: bool = Field(description="whether the model in service knows this category")


class CategoryOut(Strict):
    code: str
    name: str


class CandidateOut(CategoryOut):
    probability: float = Field(ge=0, le=1, description="calibrated")


class VectorsOut(Strict):
    """Where each embedding came from: stored, computed or absent."""

    text: str
    image: str


class PredictionSetOut(Strict):
    codes: list[str] = Field(description="likeliest first")
    coverage: float = Field(gt=0, lt=1, description="how often the true category is among them")


class NeighbourOut(Strict):
    """A product that the model learned from."""

    product_id: str
    category: CategoryOut
    similarity: float = Field(description="at most 1: the mean cosine of the parts that were given")


class ExplanationOut(Strict):
    """Bits of a part are what it added to the answer's probability: one doubles it, a negative one spoke
    against it. Those of both lead from "any category alike" to the confidence."""

    text_bits: float | None = Field(description="null without text")
    image_bits: float | None = Field(description="null without a picture")
    neighbours: list[NeighbourOut] = Field(description="nearest first; none where the model carries none")


class PredictionOut(Strict):
    prediction_id: str = Field(description="what a label of this answer refers to")
    product_id: str | None
    category: CategoryOut
    confidence: float = Field(ge=0, le=1, description="calibrated probability of the category")
    accepted: bool = Field(description="confident enough to be filed without a person looking")
    top: list[CandidateOut]
    text_only: CandidateOut | None = Field(description="what the text says alone; null without text")
    image_only: CandidateOut | None = Field(description="what the picture says alone; null without one")
    vectors: VectorsOut
    prediction_set: PredictionSetOut | None = Field(
        None, description="codes that hold the true one; null where the model promises none"
    )
    explanation: ExplanationOut | None = Field(None, description="where the request asks for it")


class ErrorOut(Strict):
    """`reason` is a constant for programs; `message` is for people."""

    reason: str
    field: str
    found: str
    wanted: str
    message: str


class FaultOut(Strict):
    error: ErrorOut


class ClassifyOut(Strict):
    """One result a product, in the order of the request: a prediction, or what is wrong with it."""

    model: str = Field(description="the classifier that answered")
    results: list[PredictionOut | FaultOut]


class LabelsOut(Strict):
    """One result a label, in the order of the request: recorded, or what is wrong with it."""

    results: list[LabelRecordedOut | FaultOut]


class NamedOut(Strict):
    code: str
    name: str | None = Field(description="null of a code that the model in service does not know")


class GivenLabelOut(Strict):
    category: NamedOut
    source: str
    at: str


class RecordedOut(Strict):
    """A prediction, as the ledger holds it."""

    prediction_id: str
    at: str = Field(description="RFC 3339, UTC")
    model: str
    role: str = Field(description="what the model was to the product: champion or canary")
    product_id: str | None
    title: str | None = Field(description="its beginning")
    category: NamedOut
    confidence: float
    accepted: bool
    vectors: VectorsOut
    latency_s: float | None = Field(description="from the request, once read, to the answer, waits included")
    text_chars: int | None
    language: str | None
    image_width: int | None
    image_height: int | None
    label: GivenLabelOut | None = Field(description="the last one of this prediction")


class PredictionsOut(Strict):
    """Newest first."""

    predictions: list[RecordedOut]
    next: str | None = Field(description="the cursor of the next page; null where this is the last")


class ProductOut(Strict):
    """A product that was answered, with its last answer. Times are RFC 3339, in UTC."""

    product_id: str
    title: str | None
    first_at: str
    last_at: str
    prediction_id: str
    model: str
    category: NamedOut
    confidence: float
    accepted: bool
    label: GivenLabelOut | None = Field(description="the last that names the product or this answer")


class ServedOut(Strict):
    version: str
    since: str | None = Field(description="when it was promoted; RFC 3339, UTC")


class CountsOut(Strict):
    predictions: int
    accepted: int
    labels: int
    errors: int
    shed_products: int


class LatencyOut(Strict):
    p50_s: float
    p99_s: float
    answers: int = Field(description="of the newest")


class AccuracyOut(Strict):
    """On the labels of late, with its 95 % interval."""

    value: float
    low: float
    high: float
    labels: int


class MonitorOut(Strict):
    """How it goes. What is null is not known yet, and named in `not_known_yet`."""

    model: ServedOut
    uptime_s: float
    since_start: CountsOut
    latency: LatencyOut | None
    accepted_share: float | None = Field(description="of the newest answers")
    accuracy: AccuracyOut | None
    drift: dict[str, Any] | None = Field(description="what the monitor said of its last window")
    ledger: str = Field(description="reachable, or why it is not")
    not_known_yet: list[str]


class RefusedOut(FaultOut):
    """Nothing was answered. Where every product is bad, `results` says why, one by one."""

    results: list[FaultOut] | None = None


def result_object(
    product_id: str | None, prediction_id: str, outcome: Prediction | ProductError | RequestError
) -> dict[str, Any]:
    """The PredictionOut or FaultOut of one product, as plain JSON values."""
    if not isinstance(outcome, Prediction):
        return {"error": error_object(outcome)}
    answer = {
        "prediction_id": prediction_id,
        "product_id": product_id,
        "category": {"code": outcome.category.code, "name": outcome.category.name},
        "confidence": outcome.confidence,
        "accepted": outcome.accepted,
        "top": [_candidate(candidate) for candidate in outcome.top],
        "text_only": _candidate(outcome.text_only),
        "image_only": _candidate(outcome.image_only),
        "vectors": {"text": outcome.text_source.value, "image": outcome.image_source.value},
        "prediction_set": _set(outcome.prediction_set),
    }
    if outcome.explanation is not None:
        answer["explanation"] = _explanation(outcome.explanation)
    return answer


def _set(given: PredictionSet | None) -> dict[str, Any] | None:
    return {"codes": list(given.codes), "coverage": given.coverage} if given else None


def _explanation(given: Explanation) -> dict[str, Any]:
    return {
        "text_bits": given.text_bits,
        "image_bits": given.image_bits,
        "neighbours": [
            {
                "product_id": near.product_id,
                "category": {"code": near.category.code, "name": near.category.name},
                "similarity": near.similarity,
            }
            for near in given.neighbours
        ],
    }


def _candidate(candidate: Candidate | None) -> dict[str, Any] | None:
    if candidate is None:
        return None
    category = candidate.category
    return {"code": category.code, "name": category.name, "probability": candidate.probability}
