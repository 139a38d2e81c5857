"""POST /v1/labels: what people found to be true goes into the ledger, where retraining reads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

from pydantic import ValidationError

from aisle.errors import ProductError
from aisle.ledger import Label, Ledger
from aisle.product import check_product_id
from aisle.taxonomy import Taxonomy
from service.errors import RequestError, error_object
from service.json_door import check_content_type, describe, field_of, parse_json, with_one_unknown
from service.ledger_reader import LedgerReader
from service.wire import MAX_LABELS, LabelIn, LabelsEnvelope

MAX_REQUESTS = 8  # of a worker; each may wait 5 s for a lock, so that all are answered in time

Given = Label | ProductError  # a label of a request, or why it is none


class LabelBook:
    """The ledger's labels as a request sees them. One thread writes, so that a database that is away holds
    up labels and nothing else."""

    def __init__(self, ledger: Ledger, taxonomy: Callable[[], Taxonomy]) -> None:
        self.taxonomy = taxonomy
        self._writer = LedgerReader(ledger, threads=1, most=MAX_REQUESTS, what="labels")

    async def record(self, given: Sequence[Given]) -> list[dict[str, Any]]:
        """Write the good ones, in one transaction; one result object each, in order. Raises RequestError
        (503) when the ledger cannot be reached, and (429) while too many wait for it; nothing is then
        written."""
        unknown, is_new = await self._writer.ask(
            lambda ledger: _record(ledger, given),
            field="labels",
            wanted="a retry with the same labels: none of them was recorded",
        )
        news = iter(is_new)
        return [
            self._recorded(label, next(news)) if _is_known(label, unknown) else self._fault(label)
            for label in given
        ]

    def close(self) -> None:
        self._writer.close()

    def _recorded(self, label: Label, is_new: bool) -> dict[str, Any]:
        known = label.category in self.taxonomy().codes
        return {"recorded": True, "new": is_new, "in_taxonomy": known}

    def _fault(self, label: Given) -> dict[str, Any]:
        if isinstance(label, ProductError):
            return {"error": error_object(label)}
        return {
            "error": error_object(
                ProductError(
                    "prediction_unknown",
                    field="prediction_id",
                    found=f"{label.prediction_id!r}, which the ledger does not hold",
                    wanted="the prediction_id of an answer; it is recorded about a second after it",
                )
            )
        }


def _record(ledger: Ledger, given: Sequence[Given]) -> tuple[set[str], list[bool]]:
    """Record what can be; the prediction ids that the ledger does not know, and of each that was recorded
    whether it is new."""
    good = [label for label in given if isinstance(label, Label)]
    wanted = {label.prediction_id for label in good if label.prediction_id is not None}
    unknown = wanted - ledger.has_prediction(sorted(wanted)) if wanted else set()
    return unknown, ledger.record_labels([one for one in good if _is_known(one, unknown)])


def _is_known(label: Given, unknown: set[str]) -> TypeGuard[Label]:
    return isinstance(label, Label) and label.prediction_id not in unknown


def read_labels(content_type: str, body: bytes) -> list[Given]:
    """The labels of a request. Raises RequestError for a fault of the envelope."""
    check_content_type(content_type, "/v1/labels")
    data = parse_json(body)
    try:
        envelope = LabelsEnvelope.model_validate(with_one_unknown(data, LabelsEnvelope))
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        field = field_of(detail, "body")
        wanted = f"an object with labels, a list of 1 to {MAX_LABELS:,} labels"
        raise RequestError(
            422, "value_wrong", field=field, found=describe(detail["input"]), wanted=wanted
        ) from error
    return [_read_label(label) for label in envelope.labels]


def _read_label(data: Any) -> Given:
    try:
        given = LabelIn.model_validate(with_one_unknown(data, LabelIn))
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        field = field_of(detail, "label")
        wanted = "an object with prediction_id or product_id, category, and source if it is not review"
        if detail["loc"] and detail["loc"][0] in LabelIn.model_fields:
            wanted = str(LabelIn.model_fields[str(detail["loc"][0])].description)
        found = "nothing" if detail["type"] == "missing" else describe(detail["input"])
        return ProductError("label_wrong", field=field, found=found, wanted=wanted)
    if (given.prediction_id is None) == (given.product_id is None):
        found = "both" if given.prediction_id is not None else "neither"
        return ProductError(
            "label_wrong",
            field="label",
            found=f"{found} of prediction_id and product_id",
            wanted="exactly one of them",
        )
    if given.product_id is not None:
        try:
            check_product_id(given.product_id)
        except ProductError as error:
            return error
    return Label(
        prediction_id=given.prediction_id,
        product_id=given.product_id,
        category=given.category,
        source=given.source,
    )
