"""The BentoML service. `bentoml serve service.app:Aisle`, or better `python -m service serve`.

Importing it loads no model: the process that supervises the workers imports it too.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import itertools
import logging
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import bentoml
from bentoml import get_current_service  # as an attribute it is looked for anew each time
from starlette.types import ASGIApp

from aisle.allocator import keep_freed_memory
from aisle.child_process import end_with_parent
from aisle.errors import AisleError, KeysError, LedgerError, SettingError
from aisle.ledger import Ledger, ledger_url
from service import audit, gathering
from service.address import check_private, listening
from service.admission import Gate
from service.answers import Answers
from service.balance import Balance, balance_file
from service.bentoml_bridge import BridgedService, Dispatcher, access_logged, service_class, speaks_tls
from service.desk import IDS_A_PLACE, Desk, Job
from service.doors import METHODS, Doors, early_refusal
from service.drain import Drain, last_words
from service.grpc_server import GrpcServer
from service.guard import EdgeGuard, HeldBytes
from service.http_protocol import use_bounded_http
from service.keys import KeyRing
from service.labels import LabelBook
from service.ladder import largest_batch
from service.ledger_reader import LedgerReader
from service.loading import load_engine, newest_classifier, warm_item, warm_job
from service.models import Models, warm_engine
from service.porter import Porter
from service.rates import Rates
from service.recorder import Recorder, sampled
from service.settings import Places, Settings
from service.telemetry import Telemetry, forget_dead_workers
from service.terms import PROMISED_S
from service.tls import Tls

if TYPE_CHECKING:
    from service.shadow import Shadow

logger = logging.getLogger("aisle.service")

SETTINGS = Settings.from_environment()
PLACES = Places.from_environment()
DAY_S = 86_400.0
QUEUED_BATCHES = 4  # that may be under way in a worker, where AISLE_MAX_QUEUE says nothing


@functools.cache
def telemetry() -> Telemetry:
    """This worker's metrics."""
    return Telemetry(max_batch=IDS_A_PLACE * SETTINGS.max_batch, folder=PLACES.metrics)


def guarded(app: ASGIApp) -> ASGIApp:
    use_bounded_http(  # in the server that BentoML starts next
        answer_timeout_s=SETTINGS.body_timeout_s,
        on_unread=lambda: telemetry().error("answer_unread"),
    )
    watching = porter()
    doors: ASGIApp = Doors(current_desk, current_labels, current_reader, telemetry=telemetry(), beside=app)
    return EdgeGuard(
        access_logged(doors) if SETTINGS.access_log else doors,
        methods=METHODS,
        max_body_bytes=SETTINGS.max_body_bytes,
        body_timeout_s=SETTINGS.body_timeout_s,
        held=held(),
        on_refusal=telemetry().error,
        balance=balance(),
        admission=lambda path, headers: early_refusal(current_desk(), path, headers),
        admit=watching.admit if watching else None,
        is_ending=lambda: drain().begun,
    )


@functools.cache
def porter() -> Porter | None:
    """Who asks callers for their keys; None where AISLE_AUTH is off."""
    if SETTINGS.auth == "off":
        return None
    audit.to_stderr()
    return Porter(
        KeyRing(SETTINGS.keys_file, on_change=keys_changed),
        rates=Rates(PLACES.bentoml_home / "keys.rates"),
        audit=audit.Audit(),
        on_outcome=telemetry().asked,
    )


def keys_changed(count: int, fault: KeysError | None) -> None:
    if fault is not None:
        logger.error("nobody gets in: %s", fault)
    elif count == 0:
        logger.warning("nobody gets in: found no key in %s, wanted one", SETTINGS.keys_file)


def check_sockets(settings: Settings) -> Tls | None:
    """What gRPC needs for TLS. Raises SettingError where other machines would get in without a key, or where
    HTTP does not speak the TLS that the settings promise: whoever started this worker chose its socket."""
    for address in listening():
        check_private(settings.auth, address, "a server on")
    if settings.grpc_port:
        check_private(settings.auth, settings.grpc_host, "AISLE_GRPC_HOST")
    tls = settings.tls()
    if speaks_tls() != (tls is not None):
        found = "TLS over HTTP alone" if tls is None else "a server that speaks no TLS over HTTP"
        raise SettingError(
            f"AISLE_TLS_CERT: found {found}, wanted both servers alike: python -m service serve"
        )
    return tls


@functools.cache
def held() -> HeldBytes:
    """What this worker's requests hold, whichever door they came through."""
    return HeldBytes(SETTINGS.max_held_bytes)


@functools.cache
def balance() -> Balance:
    """What this worker and the others know of each other's load."""
    return Balance(balance_file(PLACES.bentoml_home), SETTINGS.workers)


@functools.cache
def drain() -> Drain:
    """Whether this worker is about to end."""
    return Drain()


def current_desk() -> Desk:
    desk: Desk = get_current_service().desk
    return desk


def current_labels() -> LabelBook:
    labels: LabelBook = get_current_service().labels
    return labels


def current_reader() -> LedgerReader:
    reader: LedgerReader = get_current_service().reader
    return reader


@bentoml.service(
    name="aisle",
    service_class=service_class(guarded),
    workers=SETTINGS.workers,
    endpoints={"livez": "/livez", "readyz": "/readyz"},
    # Its middlewares see probes, /metrics and /schema.json alone: our doors pass them by (service/doors.py).
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},  # nothing exports spans
)
class Aisle:
    """Files products into categories."""

    desk: Desk
    labels: LabelBook
    reader: LedgerReader
    models: Models
    recorder: Recorder
    shadow: Shadow
    answers: Answers
    dispatch: Dispatcher
    gate: Gate
    warming: bool  # batches of the start, which nobody asked for
    grpc: GrpcServer | None = None
    grpc_end: asyncio.Future[None] | None = None
    bento_service: BridgedService  # set by BentoML

    @bentoml.on_startup
    async def open(self) -> None:
        """Load the model, reach the feature store, warm both up. The worker answers nothing before."""
        try:
            await self._open()
        except AisleError as error:
            # Raised, it would be logged twice with all its frames. BentoML tries again in ten seconds.
            logger.critical("this worker cannot start: %s", error)
            os._exit(1)

    async def _open(self) -> None:
        tls = check_sockets(SETTINGS)
        end_with_parent()
        # It warns of every form that is broken; the client is told, and nobody else need be.
        logging.getLogger("python_multipart.multipart").setLevel(logging.ERROR)
        keep_freed_memory()
        if PLACES.metrics is not None:
            forget_dead_workers(PLACES.metrics)
        ledger = reach_ledger(SETTINGS)
        self._open_models(ledger)
        self._open_answers(ledger)
        await self._open_queue()
        self._open_desk(ledger)
        await self._open_grpc(tls)
        self.models.follow()
        # A full collection walks every object of torch and feast: 0.3 s in which nothing is answered.
        gc.collect()
        gc.freeze()
        balance().join()
        drain().listen(asyncio.get_running_loop(), self._end_grpc)

    def _open_models(self, ledger: Ledger) -> None:
        self.models = Models(
            ledger,
            wanted=SETTINGS.model,
            newest=newest_classifier,
            load=functools.partial(load_engine, SETTINGS, telemetry().error),
            warm=lambda engine: warm_engine(engine, warm_item(engine.classifier)),
            on_swap=telemetry().swapped,
            keep_s=2 * SETTINGS.request_timeout_s,
        )
        self.models.open()

    def _open_answers(self, ledger: Ledger) -> None:
        """Who hears of answers: the ledger, and the shadow."""
        from service.shadow import Shadow  # imports torch

        self.recorder = Recorder(
            ledger,
            folder=SETTINGS.home / "spool",
            limit_bytes=SETTINGS.spool_bytes,
            sample=sampled(SETTINGS.ledger_embeddings),
            observer=telemetry(),
            keep_s=SETTINGS.keep_days * DAY_S,
        )
        self.shadow = Shadow(
            challenger=lambda: self.models.challenger,
            idle=lambda: self.gate.under_way == 0,
            telemetry=telemetry(),
            recorder=self.recorder,
            on_failure=self.models.failed,
        )
        self.answers = Answers(
            telemetry=telemetry(),
            recorder=self.recorder,
            shadow=self.shadow,
            on_failure=self.models.failed,
        )

    async def _open_queue(self) -> None:
        """The batching queue, and the gate before it; both warm."""
        self.dispatch = Dispatcher(self.bento_service, "classify")
        self.dispatch.max_batch = batch = self._largest_batch()
        on_gpu = self.models.champion.classifier.device != "cpu"
        self.dispatch.allow_at_once(SETTINGS.batches_at_once or (2 if on_gpu else 1))
        max_queue = SETTINGS.max_queue or QUEUED_BATCHES * batch
        portion = max(1, min(batch, max_queue // QUEUED_BATCHES))  # bulk has two of them under way
        self.gate = Gate(
            max_queue=max_queue,
            max_bulk=SETTINGS.max_bulk,
            batch=portion,
            promised_s=min(PROMISED_S, SETTINGS.request_timeout_s),
        )
        self.warming = True
        await self.dispatch.lead_through_training([warm_job(self.models.champion)])
        self.warming = False

    def _open_desk(self, ledger: Ledger) -> None:
        """What the doors ask."""
        watching = porter()
        self.desk = Desk(
            champion=lambda: self.models.champion,
            route=self.models.route,
            dispatch=self.dispatch,
            gate=self.gate,
            telemetry=telemetry(),
            decode_threads=SETTINGS.decode_threads,
            request_timeout_s=SETTINGS.request_timeout_s,
            charge=watching.charge if watching else None,
        )
        if gathering.pays(
            self.models.champion.classifier.device,
            reading_threads=SETTINGS.workers * SETTINGS.decode_threads,
            cores=len(os.sched_getaffinity(0)),
        ):
            self.dispatch.hold_while(self.desk.gathering.goes_on, telemetry().batch_held)
        self.labels = LabelBook(ledger, lambda: self.models.champion.classifier.taxonomy)
        self.reader = LedgerReader(ledger)

    async def _open_grpc(self, tls: Tls | None) -> None:
        if not SETTINGS.grpc_port:
            return
        self.grpc = GrpcServer(
            lambda: self.desk,
            telemetry=telemetry(),
            held=held(),
            max_message_bytes=SETTINGS.max_body_bytes,
            message_timeout_s=SETTINGS.body_timeout_s,
            reflect=SETTINGS.grpc_reflection,
            porter=porter(),
            tls=tls,
        )
        await self.grpc.start(SETTINGS.grpc_host, SETTINGS.grpc_port)

    def _largest_batch(self) -> int:
        engine = self.models.champion
        return largest_batch(
            engine,
            warm_item(engine.classifier),
            most=SETTINGS.max_batch,
            target_s=SETTINGS.batch_latency_s,
            cache=SETTINGS.home / "cache",
        )

    def _end_grpc(self) -> None:
        """Beside HTTP, not after it: the supervisor does not wait for both in turn."""
        if self.grpc is not None and self.grpc_end is None:
            self.grpc_end = asyncio.ensure_future(self.grpc.stop(SETTINGS.stop_timeout_s))

    @bentoml.on_shutdown
    async def close(self) -> None:
        await last_words(lambda: balance().in_flight > 0)
        self._end_grpc()
        if self.grpc_end is not None:
            await self.grpc_end
        balance().close()
        self.desk.close()
        self.dispatch.close()
        self.labels.close()
        self.shadow.close()
        self.reader.close()
        self.models.close()
        self.recorder.close()

    @bentoml.api(
        batchable=True,
        max_batch_size=SETTINGS.max_batch,
        max_latency_ms=int(SETTINGS.max_latency_s * 1000),
    )
    def classify(self, parcels: list[Any]) -> list[Any]:
        """A batch of Parcel to a list of Answer each, in order; nothing where nobody waits any more.
        EdgeGuard lets no HTTP request reach this method's own route; the doors use the dispatcher."""
        counted = not self.warming
        if counted:
            telemetry().queued(sum(map(len, self.dispatch.waiting())))
        wanted = [parcel for parcel in parcels if parcel[0].ticket.wanted]
        jobs = itertools.chain.from_iterable(wanted)
        answers = iter(
            [answer for same in by_engine(jobs) for answer in self.answers.answer(same, counted=counted)]
        )
        if wanted and counted:
            self.gate.completed(len(wanted))
        kept = {id(parcel) for parcel in wanted}
        return [[next(answers) for _ in parcel] if id(parcel) in kept else [] for parcel in parcels]


def by_engine(jobs: Iterable[Job]) -> Iterator[list[Job]]:
    """Neighbours of one engine together, in order: during a swap a batch may hold jobs of two."""
    for _, same in itertools.groupby(jobs, key=lambda job: id(job.engine)):
        yield list(same)


def reach_ledger(settings: Settings) -> Ledger:
    """The ledger, with its tables where the database can be reached."""
    ledger = Ledger.open(ledger_url(settings.home, settings.database_url))
    try:
        ledger.create_tables()
    except LedgerError as error:
        logger.warning("answers go on without the ledger: %s", error)
    return ledger
