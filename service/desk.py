"""Where every door hands its products in, and gets answers back in the same order.

Gate -> prepare (pictures in threads that requests share in turns) -> adaptive batching -> answers. An
interactive request goes this way whole, a bulk one in portions of a batch.

Gate and queue count places, because products cost very different times: one that may have to be encoded takes
a place, as many as IDS_A_PLACE that are asked for by id alone take one together, a parcel.
"""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from aisle.columns import Columns, measure_columns
from aisle.errors import ProductError
from aisle.ledger_tables import TITLE_CHARS
from aisle.prediction import Prediction
from aisle.product import Product
from service.admission import Gate
from service.engine import Engine, Outcome
from service.errors import (
    CHALLENGER_FAILED,
    DEADLINE_SHORT,
    LATE_STATUS,
    OVERLOADED_STATUS,
    RequestError,
)
from service.fair_pool import FairPool
from service.gathering import Gathering
from service.telemetry import Telemetry
from service.terms import DEFAULT, Priority, Terms
from service.wire import Ask

if TYPE_CHECKING:
    from aisle.classifier import Item

Given = Product | ProductError  # a product of a request, or why it is none

PRODUCT_FAULT_STATUS = 422
IDS_A_PLACE = 8  # an id alone takes less than an eighth of the time of text and picture, on a GPU too
PORTIONS_AT_ONCE = 2  # of one bulk request: one is prepared while another is computed
_LONG_TEXT_CHARS = 4_000  # of a request: cleaning more takes longer than a trip to the pool and back


@dataclass(kw_only=True, slots=True)
class Ticket:
    """One request's, or one portion's of it. `began` is when the request came to the desk (perf_counter);
    `wanted` is False once nobody waits for its answers, so that no batch is spent on them."""

    began: float = field(default_factory=time.perf_counter)
    is_bulk: bool = False
    wanted: bool = True


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Job:
    """An item as it waits in the queue, with the engine that it was prepared for: preprocessing and
    answer are always of one model, whatever is promoted meanwhile."""

    item: Item
    columns: Columns
    engine: Engine
    title: str | None = None  # the beginning of the product's
    ticket: Ticket = field(default_factory=Ticket)
    product: Product | None = None  # what the item was made of, for a shadow that prepares otherwise

    @property
    def gathers(self) -> bool:
        """Whether it may wait for others like it: an interactive request's picture."""
        return self.item.pixels_HWC is not None and not self.ticket.is_bulk


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The outcome of one job, the id it is recorded under, and when its batch started (perf_counter)."""

    outcome: Outcome
    prediction_id: str
    started: float


Parcel = Sequence[Job]  # what takes one place in the queue


class Dispatch(Protocol):
    """What the desk needs of the batching queue: the answers of each parcel, or why it was shed, in order."""

    async def batch_infer(self, items: Sequence[Parcel]) -> Sequence[Sequence[Answer] | RequestError]: ...


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One outcome a product, in the order they were given, all of one model; and the ids under which
    predictions are recorded ("" for what is none)."""

    model: str
    outcomes: Sequence[Outcome]
    prediction_ids: Sequence[str]


class Desk:
    """`champion` gives the engine in service, `route` the one for a request whose first product has this id:
    the champion or a canary. A request keeps the one it began with; a canary that fails is replaced.
    `charge` counts the products of each request on its caller; None where nobody is asked who they are."""

    def __init__(
        self,
        *,
        champion: Callable[[], Engine],
        route: Callable[[str | None], Engine] | None = None,
        dispatch: Dispatch,
        gate: Gate,
        telemetry: Telemetry,
        decode_threads: int,
        request_timeout_s: float,
        charge: Callable[[int], None] | None = None,
    ) -> None:
        self.champion = champion
        self.route = route or (lambda product_id: champion())
        self.dispatch = dispatch
        self.gate = gate
        self.telemetry = telemetry
        self.request_timeout_s = request_timeout_s
        self.charge = charge
        self.gathering = Gathering(gate)
        self._pool = FairPool(decode_threads, name="decode")

    async def classify(
        self, given: Sequence[Given], ask: Ask, terms: Terms = DEFAULT, *, pinned: bool = False
    ) -> Reply:
        """Raises RequestError only when the request as a whole has no answer (504, 429 or 401). More than
        a batch holds is bulk, whatever `terms` say. Where the client has `pinned` the version in service, a
        canary does not answer."""
        began = time.perf_counter()
        if self.charge is not None:
            self.charge(len(given))
        timeout_s = self._timeout_s(terms)
        is_bulk = terms.priority is Priority.BULK or places(given) > self.gate.batch
        work = self._classify_bulk if is_bulk else self._classify_at_once
        engine = self.champion() if pinned else self.route(_first_id(given))
        try:
            async with asyncio.timeout(timeout_s):
                reply = await work(given, ask, timeout_s, engine, began)
                if any(_is_challengers_failure(outcome) for outcome in reply.outcomes):
                    reply = await work(given, ask, timeout_s, self.champion(), began)
                return reply
        except TimeoutError as error:
            reason = DEADLINE_SHORT if self.is_short(terms.chosen_s) else "timeout"
            found, wanted = f"no answer after {timeout_s:.3g} s", "one in time"
            raise RequestError(LATE_STATUS, reason, field="request", found=found, wanted=wanted) from error
        except RequestError as error:
            if error.status == OVERLOADED_STATUS:
                self.telemetry.shed(error.reason, len(given))
            raise

    def refusal(self, terms: Terms = DEFAULT) -> RequestError | None:
        """Why no interactive request of such terms can enter now, whatever it holds; None where one may."""
        if terms.priority is Priority.BULK:
            return None
        if (refusal := self.gate.refusal(timeout_s=self._timeout_s(terms))) is not None:
            self.telemetry.shed(refusal.reason)
        return refusal

    def is_short(self, timeout_s: float | None) -> bool:
        """Whether a client that waits so long (None: it does not say) has chosen less than is promised."""
        return timeout_s is not None and timeout_s < self.gate.promised_s

    def close(self) -> None:
        self._pool.close()

    def _timeout_s(self, terms: Terms) -> float:
        own_s = self.request_timeout_s if terms.timeout_s is None else terms.timeout_s
        return min(self.request_timeout_s, own_s)

    async def _classify_at_once(
        self, given: Sequence[Given], ask: Ask, timeout_s: float, engine: Engine, began: float
    ) -> Reply:
        with self.gate.interactive(places(given), timeout_s):
            answers = await self._answer(given, ask, engine, Ticket(began=began))
        return _reply(engine, answers)

    async def _classify_bulk(
        self, given: Sequence[Given], ask: Ask, timeout_s: float, engine: Engine, began: float
    ) -> Reply:
        at_once = asyncio.Semaphore(PORTIONS_AT_ONCE)

        async def answer(portion: Sequence[Given]) -> list[Answer | Outcome]:
            async with at_once, self.gate.bulk(places(portion)):
                return await self._answer(portion, ask, engine, Ticket(began=began, is_bulk=True))

        with self.gate.bulk_request(places(given)):
            async with asyncio.TaskGroup() as tasks:
                begun = [tasks.create_task(answer(part)) for part in portions(given, self.gate.batch)]
        return _reply(engine, [one for task in begun for one in task.result()])

    async def _answer(
        self, given: Sequence[Given], ask: Ask, engine: Engine, ticket: Ticket
    ) -> list[Answer | Outcome]:
        """An Answer, or a fault, for each product of at most a batch."""
        with self.telemetry.stage("prepare"):
            prepared = await self._prepare(given, ask, engine, ticket)
        try:
            answers = iter(await self._dispatch([job for job in prepared if isinstance(job, Job)]))
        finally:
            ticket.wanted = False
        return [next(answers) if isinstance(job, Job) else job for job in prepared]

    async def _prepare(
        self, given: Sequence[Given], ask: Ask, engine: Engine, ticket: Ticket
    ) -> list[Job | ProductError]:
        """Pictures, and all texts of a request with much text, are prepared in the pool; the rest at once."""
        products = [(row, product) for row, product in enumerate(given) if isinstance(product, Product)]
        much_text = sum(_text_chars(product) for product in given) > _LONG_TEXT_CHARS
        pictures = [row for row, product in products if product.image is not None]
        slow = [row for row, _ in products] if much_text else pictures
        calls = [functools.partial(self._prepare_now, given[row], ask, engine, ticket) for row in slow]
        with self.gathering.reading(0 if ticket.is_bulk else len(pictures)):
            done = dict(zip(slow, await self._pool.run(calls), strict=True))
        return [
            done[row] if row in done else self._prepare_now(product, ask, engine, ticket)
            for row, product in enumerate(given)
        ]

    def _prepare_now(self, product: Given, ask: Ask, engine: Engine, ticket: Ticket) -> Job | ProductError:
        if isinstance(product, ProductError):
            return product
        try:
            item = engine.classifier.prepare(product, ask.top_k, explain=ask.explain)
        except ProductError as error:
            return error
        return Job(
            item=item,
            columns=measure_columns(item),
            engine=engine,
            title=brief(product.title),
            ticket=ticket,
            product=product,
        )

    async def _dispatch(self, jobs: Sequence[Job]) -> Sequence[Answer | RequestError]:
        """One answer a job, in order."""
        if not jobs:
            return []
        queued = time.perf_counter()
        rows = parcel_rows(jobs)
        parcels = [[jobs[row] for row in parcel] for parcel in rows]
        answered = await self.dispatch.batch_infer(parcels)
        answers: dict[int, Answer | RequestError] = {}
        for parcel, given in zip(rows, answered, strict=True):
            if isinstance(given, RequestError):
                self.telemetry.shed(given.reason, len(parcel))
                answers |= dict.fromkeys(parcel, given)
            else:
                answers |= zip(parcel, given, strict=True)
        # Products of one request may be in two batches; the first says how long they waited.
        first = next((answer for answer in answers.values() if isinstance(answer, Answer)), None)
        if first is not None:
            self.telemetry.waited(first.started - queued)
        return [answers[row] for row in range(len(jobs))]


def _reply(engine: Engine, answers: Sequence[Answer | Outcome]) -> Reply:
    return Reply(
        model=engine.classifier.version,
        outcomes=[answer.outcome if isinstance(answer, Answer) else answer for answer in answers],
        prediction_ids=[answer.prediction_id if isinstance(answer, Answer) else "" for answer in answers],
    )


def places(given: Sequence[Given]) -> int:
    """What products take of gate and queue."""
    return math.ceil(sum(map(_place_share, given)))


def portions(given: Sequence[Given], size: int) -> Iterator[list[Given]]:
    """The products in order, cut so that each portion takes at most `size` places."""
    portion: list[Given] = []
    taken = 0.0
    for product in given:
        share = _place_share(product)
        if taken + share > size:
            yield portion
            portion, taken = [], 0.0
        portion.append(product)
        taken += share
    yield portion


def parcel_rows(jobs: Sequence[Job]) -> list[list[int]]:
    """The rows of jobs that take a place each, then of those that share one."""
    alone = [row for row, job in enumerate(jobs) if job.item.text is None and job.item.pixels_HWC is None]
    encoded = sorted(set(range(len(jobs))) - set(alone))
    shared = [alone[start : start + IDS_A_PLACE] for start in range(0, len(alone), IDS_A_PLACE)]
    return [[row] for row in encoded] + shared


def brief(title: str) -> str | None:
    """The beginning of a title, on one line; PostgreSQL cannot hold a NUL."""
    return " ".join(title[: 2 * TITLE_CHARS].replace("\0", " ").split())[:TITLE_CHARS] or None


def _place_share(given: Given) -> float:
    is_encoded = isinstance(given, Product) and (given.title or given.description or given.image)
    return 1.0 if is_encoded else 1 / IDS_A_PLACE


def _first_id(given: Sequence[Given]) -> str | None:
    first = next(iter(given), None)
    return first.product_id if isinstance(first, Product) else None


def _is_challengers_failure(outcome: Outcome) -> bool:
    return isinstance(outcome, RequestError) and outcome.reason == CHALLENGER_FAILED


def worst_fault(outcomes: Sequence[Outcome]) -> ProductError | RequestError | None:
    """Why a request has no answer at all: the first fault of the highest status; None where a product has
    one."""
    faults = [outcome for outcome in outcomes if not isinstance(outcome, Prediction)]
    return max(faults, key=_status) if len(faults) == len(outcomes) else None


def _status(fault: ProductError | RequestError) -> int:
    return fault.status if isinstance(fault, RequestError) else PRODUCT_FAULT_STATUS


def size_bytes(given: Sequence[Given]) -> int:
    """What products hold while they are answered, near enough: a character of text is taken for a byte."""
    products = [product for product in given if isinstance(product, Product)]
    return sum(_text_chars(product) + len(product.image or b"") for product in products)


def _text_chars(product: Given) -> int:
    return len(product.title) + len(product.description) if isinstance(product, Product) else 0
