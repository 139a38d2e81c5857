"""aisle.v1.Classifier: the typed gRPC door, and in bulk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc

from aisle.errors import ProductError
from aisle.prediction import DEFAULT_TOP_K, Candidate, Explanation, Prediction, PredictionSet, Source
from aisle.product import Product
from service.desk import Desk, Given, Reply, worst_fault
from service.engine import Outcome
from service.errors import RequestError, stopping
from service.grpc_calls import abort, holding, terms_of
from service.guard import HeldBytes
from service.protos import classifier_pb2 as pb
from service.protos.classifier_pb2_grpc import ClassifierServicer
from service.terms import Priority, Terms
from service.wire import MAX_PRODUCTS, MAX_TOP_K, Ask

STREAM_WINDOW = 4  # requests of one stream that are under way at once: decoding beside the model

# What stands in a stream's queue: an answer under way, why it ends, or None at its end.
_Begun = asyncio.Task[pb.ClassifyResponse] | RequestError | None

_SOURCES = {
    Source.STORED: pb.VECTOR_SOURCE_STORED,
    Source.COMPUTED: pb.VECTOR_SOURCE_COMPUTED,
    Source.ABSENT: pb.VECTOR_SOURCE_ABSENT,
}


class GrpcDoor(ClassifierServicer):
    """Messages to products, answers to messages. What is wrong is told as the JSON door tells it."""

    def __init__(self, desk: Callable[[], Desk], held: HeldBytes) -> None:
        self.desk = desk
        self.held = held
        self._streams: set[asyncio.Queue[_Begun]] = set()

    def end_streams(self) -> None:
        """Let each end with UNAVAILABLE behind the answers to what was read of it: its client knows by their
        number what it has to send elsewhere."""
        for begun in self._streams:
            begun.put_nowait(stopping("stream", "what is not answered yet, sent to another"))

    async def Classify(
        self, request: pb.ClassifyRequest, context: grpc.aio.ServicerContext
    ) -> pb.ClassifyResponse:
        try:
            given, reply = await self._classify(request, terms_of(context))
        except RequestError as error:
            self.desk().telemetry.error(error.reason)
            await abort(context, error)
        answer = response_of(given, reply)
        if (worst := worst_fault(reply.outcomes)) is not None:
            await abort(context, worst, answer)
        return answer

    async def ClassifyStream(
        self, requests: AsyncIterator[pb.ClassifyRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.ClassifyResponse]:
        try:
            whole = terms_of(context, Priority.BULK)
        except RequestError as error:
            await abort(context, error)
        begun: asyncio.Queue[_Begun] = asyncio.Queue()
        room = asyncio.Semaphore(STREAM_WINDOW - 1)  # behind the one that is begun
        tasks: set[asyncio.Task[pb.ClassifyResponse]] = set()

        async def begin() -> None:
            try:
                async for request in requests:
                    left_s = context.time_remaining()
                    terms = Terms(priority=whole.priority, timeout_s=left_s, stream_s=whole.timeout_s)
                    task = asyncio.create_task(self._answer(request, terms))
                    tasks.add(task)
                    begun.put_nowait(task)
                    await room.acquire()  # before the next is read: what is not read is not held
            finally:
                begun.put_nowait(None)

        self._streams.add(begun)
        reader = asyncio.create_task(begin())
        try:
            while (task := await begun.get()) is not None:
                if isinstance(task, RequestError):
                    raise task
                yield await task
                tasks.discard(task)
                room.release()
            await reader
        finally:
            self._streams.discard(begun)
            reader.cancel()
            for task in tasks:
                task.cancel()

    async def _answer(self, request: pb.ClassifyRequest, terms: Terms) -> pb.ClassifyResponse:
        try:
            return response_of(*await self._classify(request, terms))
        except RequestError as error:
            self.desk().telemetry.error(error.reason)
            return pb.ClassifyResponse(results=[pb.Result(error=fault_message(error))])

    async def _classify(self, request: pb.ClassifyRequest, terms: Terms) -> tuple[list[Given], Reply]:
        desk = self.desk()
        with desk.telemetry.stage("parse"):
            given, ask = read_request(request)
        with holding(self.held, given, desk):
            reply = await desk.classify(given, ask, terms)
        desk.telemetry.faults(reply.outcomes)
        return given, reply


def read_request(request: pb.ClassifyRequest) -> tuple[list[Given], Ask]:
    """Products, and what is wanted of each answer. Raises RequestError."""
    if not 1 <= len(request.products) <= MAX_PRODUCTS:
        raise RequestError(
            422,
            "product_count",
            field="products",
            found=f"{len(request.products):,} products",
            wanted=f"a list of 1 to {MAX_PRODUCTS} products",
        )
    if request.top_k > MAX_TOP_K:
        raise RequestError(
            422,
            "value_wrong",
            field="top_k",
            found=f"a number ({request.top_k})",
            wanted=f"a whole number from 1 to {MAX_TOP_K}, or 0 for {DEFAULT_TOP_K}",
        )
    ask = Ask(top_k=request.top_k or DEFAULT_TOP_K, explain=request.explain)
    return [_product_of(product) for product in request.products], ask


def _product_of(given: pb.Product) -> Given:
    try:
        return Product(
            product_id=given.product_id if given.HasField("product_id") else None,
            title=given.title,
            description=given.description,
            image=given.image if given.HasField("image") else None,
        )
    except ProductError as error:
        return error


def response_of(given: list[Given], reply: Reply) -> pb.ClassifyResponse:
    results = [
        _result(product, outcome, prediction_id)
        for product, outcome, prediction_id in zip(given, reply.outcomes, reply.prediction_ids, strict=True)
    ]
    return pb.ClassifyResponse(model=reply.model, results=results)


def _result(product: Given, outcome: Outcome, prediction_id: str) -> pb.Result:
    if not isinstance(outcome, Prediction):
        return pb.Result(error=fault_message(outcome))
    return pb.Result(
        prediction=pb.Prediction(
            prediction_id=prediction_id,
            product_id=product.product_id if isinstance(product, Product) else None,
            category=pb.Category(code=outcome.category.code, name=outcome.category.name),
            confidence=outcome.confidence,
            accepted=outcome.accepted,
            top=[_candidate(candidate) for candidate in outcome.top],
            text_only=_candidate(outcome.text_only) if outcome.text_only else None,
            image_only=_candidate(outcome.image_only) if outcome.image_only else None,
            text_vector=_SOURCES[outcome.text_source],
            image_vector=_SOURCES[outcome.image_source],
            prediction_set=_set(outcome.prediction_set) if outcome.prediction_set else None,
            explanation=_explanation(outcome.explanation) if outcome.explanation else None,
        )
    )


def _candidate(candidate: Candidate) -> pb.Candidate:
    category = pb.Category(code=candidate.category.code, name=candidate.category.name)
    return pb.Candidate(category=category, probability=candidate.probability)


def _set(given: PredictionSet) -> pb.PredictionSet:
    return pb.PredictionSet(codes=given.codes, coverage=given.coverage)


def _explanation(given: Explanation) -> pb.Explanation:
    return pb.Explanation(
        text_bits=given.text_bits,
        image_bits=given.image_bits,
        neighbours=[
            pb.Neighbour(
                product_id=near.product_id,
                category=pb.Category(code=near.category.code, name=near.category.name),
                similarity=near.similarity,
            )
            for near in given.neighbours
        ],
    )


def fault_message(fault: RequestError | ProductError) -> pb.Fault:
    return pb.Fault(
        reason=fault.reason, field=fault.field, found=fault.found, wanted=fault.wanted, message=str(fault)
    )
