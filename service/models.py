"""Which models answer, and to whom. Two slots: the champion, which the newest deployment of the ledger names,
and beside it at most one challenger, which answers a share of the traffic: as a shadow, copies of it, to
nobody; as a canary, requests whose first product's id falls into its share. Every worker follows within
seconds: load, verify, check its feature views, warm up, ask golden products, swap.

A model that fails any of these is refused: the champion stays, and metric, ledger and log say why.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aisle.errors import AisleError, LedgerError
from aisle.ledger import CHALLENGER, CHAMPION, Deployment, Ledger
from aisle.prediction import Role
from service.engine import Engine, Outcome

if TYPE_CHECKING:
    from aisle.classifier import Item
    from service.features import FeatureReader

FOLLOW_S = 1.0  # between looks at the ledger
WARM_BATCH = 8  # what is served waits for it: engines of one worker take turns
WARM_PAUSE_S = 0.002  # between batches of a warm-up: the lock that engines share knows no queue
REFUSED_AGAIN_S = 60.0  # a refused deployment is tried again: what it lacked may have come
MOST_FAILURES = 3  # batches of a challenger that fail before it is taken out of traffic

logger = logging.getLogger("aisle.service")


@dataclass(frozen=True, kw_only=True)
class Retired:
    """A feature reader that no new request uses; those that began with it may until then."""

    features: FeatureReader
    until: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Challenger:
    """A model beside the champion: `mode` is Role.SHADOW or Role.CANARY, `share` in (0, 1]."""

    engine: Engine
    mode: Role
    share: float

    def takes(self, product_id: str | None) -> bool:
        """Whether a canary answers this product: always the same ones, others for another model."""
        if self.mode is not Role.CANARY or product_id is None:
            return False
        salt = self.engine.classifier.version.encode()[-hashlib.blake2b.MAX_KEY_SIZE :]
        digest = hashlib.blake2b(product_id.encode(), digest_size=8, key=salt).digest()
        return int.from_bytes(digest, "big") < self.share * 2**64


@dataclass(kw_only=True, slots=True)
class Followed:
    """The newest deployment of a slot that was followed or refused; when a refused one is tried again."""

    number: int = 0
    again_at: float = 0.0

    def is_news(self, deployment: Deployment) -> bool:
        refused_before = deployment.number == self.number and self.again_at > 0
        return deployment.number > self.number or (refused_before and time.monotonic() >= self.again_at)


class Models:
    """`load` makes an engine of a tag, sharing with the engine in service what both need; `warm` runs it and
    checks its answers. Both raise AisleError. `on_swap` hears "done" or "refused", the slot, and the engine
    in it after that. `keep_s` is how long a request that began with a model may last.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        wanted: str,
        newest: Callable[[], str],
        load: Callable[[str, Engine | None], Engine],
        warm: Callable[[Engine], None],
        on_swap: Callable[[str, str, Engine | None], None],
        keep_s: float,
    ) -> None:
        self.ledger = ledger
        self.wanted = wanted
        self.newest = newest
        self.load = load
        self.warm = warm
        self.on_swap = on_swap
        self.keep_s = keep_s
        self._champion: Engine | None = None
        self._challenger: Challenger | None = None
        self._failures = 0  # of the challenger's batches
        self._broken: list[tuple[str, str]] = []  # challengers that were taken out, and why: to be told
        self._changing = threading.Lock()  # the three above, and what is retired
        self._followed = {CHAMPION: Followed(), CHALLENGER: Followed()}
        self._retired: list[Retired] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def champion(self) -> Engine:
        """The engine that new requests begin with."""
        assert self._champion is not None  # `open` comes first
        return self._champion

    @property
    def challenger(self) -> Challenger | None:
        return self._challenger

    def route(self, product_id: str | None) -> Engine:
        """The engine for a request whose first product has this id."""
        challenger = self._challenger
        return challenger.engine if challenger and challenger.takes(product_id) else self.champion

    def open(self) -> None:
        """Load what is wanted. Where the champion fails, the deployments before it are tried, and at last
        the newest model of the store. Raises the first failure when none can be served."""
        deployments = self._deployments()
        self._followed[CHAMPION].number = deployments[0].number if deployments else 0
        first_failure: Exception | None = None
        for tag in self._candidates(deployments):
            try:
                engine = self.load(tag, None)
                self.warm(engine)
            except Exception as error:  # whatever is wrong with it, another may answer
                logger.error("%s is not served: %s", tag, error)
                first_failure = first_failure or error
                continue
            self._champion = engine
            self.on_swap("done", CHAMPION, engine)
            if first_failure is not None:
                wanted = deployments[0].model if deployments else self.wanted
                self._refuse(CHAMPION, wanted, first_failure)
                self._followed[CHAMPION].again_at = time.monotonic() + REFUSED_AGAIN_S
            return
        raise first_failure or AisleError("no model to serve: found none, wanted a registered classifier")

    def follow(self) -> None:
        """Keep following in a thread of its own. A fixed model is never swapped, and has no challenger."""
        if self.wanted == CHAMPION:
            self._thread = threading.Thread(target=self._follow, name="models", daemon=True)
            self._thread.start()

    def look(self) -> None:
        """Swap where there is a newer deployment. Never raises."""
        self._close_retired()
        self._tell_broken()
        try:
            champion, challenger = self.ledger.champion(), self.ledger.challenger()
        except LedgerError as error:
            logger.debug("the models stay while the ledger is away: %s", error)
            return
        if champion is not None and self._followed[CHAMPION].is_news(champion):
            self._try_champion(champion)
        if challenger is None:
            self._withdraw()
        elif self._followed[CHALLENGER].is_news(challenger):
            self._try_challenger(challenger)

    def failed(self, engine: Engine) -> None:
        """A batch of `engine` failed. A challenger is taken out of traffic after a few; the ledger hears of
        it at the next look, because no batch waits for a database."""
        with self._changing:
            challenger = self._challenger
            if challenger is None or challenger.engine is not engine:
                return
            self._failures += 1
            if self._failures == MOST_FAILURES:
                self._challenger = None
                self._broken.append((engine.classifier.version, f"{MOST_FAILURES} of its batches failed"))
        if self._challenger is None:
            self._retire(engine)

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=2)
        readers = [retired.features for retired in self._retired] + [self.champion.features]
        if self._challenger is not None:
            readers.append(self._challenger.engine.features)
        for features in {id(one): one for one in readers}.values():
            features.close()

    def _follow(self) -> None:
        while not self._stop.wait(FOLLOW_S):
            self.look()

    def _try_champion(self, deployment: Deployment) -> None:
        old = self.champion
        if deployment.model == old.classifier.version:
            self._followed[CHAMPION] = Followed(number=deployment.number)
            return
        engine = self._ready(CHAMPION, deployment)
        if engine is None:
            return
        engine.role = Role.CHAMPION
        self._champion = engine
        with self._changing:
            if self._challenger is not None and self._challenger.engine is engine:
                self._challenger = None  # it is promoted
        self._retire(old)
        self.on_swap("done", CHAMPION, engine)

    def _try_challenger(self, deployment: Deployment) -> None:
        old = self._challenger
        if deployment.model == self.champion.classifier.version:
            self._followed[CHALLENGER] = Followed(number=deployment.number)
            self._withdraw()
            return
        engine = self._ready(CHALLENGER, deployment)
        if engine is None:
            self._withdraw()
            return
        # Whatever else a row may say, it does not get to clients.
        mode = Role.CANARY if deployment.mode == Role.CANARY else Role.SHADOW
        engine.role = mode
        with self._changing:
            self._challenger = Challenger(engine=engine, mode=mode, share=deployment.share or 0.0)
            self._failures = 0
        if old is not None and old.engine is not engine:
            self._retire(old.engine)
        self.on_swap("done", CHALLENGER, engine)

    def _ready(self, slot: str, deployment: Deployment) -> Engine | None:
        """The engine of a deployment, warm and checked; None where it is refused."""
        self._followed[slot] = Followed(number=deployment.number)
        held = self._challenger
        if held is not None and held.engine.classifier.version == deployment.model:
            return held.engine
        started = time.monotonic()
        try:
            engine = self.load(deployment.model, self.champion)
            self.warm(engine)
        except Exception as error:  # whatever is wrong with it, the champion answers on
            self._followed[slot].again_at = time.monotonic() + REFUSED_AGAIN_S
            self._refuse(slot, deployment.model, error)
            return None
        seconds = time.monotonic() - started
        logger.info("%s is ready as the %s, %.1f s after it was seen", deployment.model, slot, seconds)
        return engine

    def _withdraw(self) -> None:
        with self._changing:
            challenger, self._challenger = self._challenger, None
        if challenger is not None:
            logger.info("%s challenges no more", challenger.engine.classifier.version)
            self._retire(challenger.engine)
            self.on_swap("done", CHALLENGER, None)

    def _tell_broken(self) -> None:
        with self._changing:
            broken, self._broken = self._broken, []
        for tag, why in broken:
            self._refuse(CHALLENGER, tag, AisleError(why))

    def _refuse(self, slot: str, tag: str, error: Exception) -> None:
        logger.error(
            "%s is refused as the %s, %s stays: %s", tag, slot, self.champion.classifier.version, error
        )
        self.on_swap("refused", slot, self.champion if slot == CHAMPION else None)
        detail = {"model": tag, "role": slot, "why": f"{error}"[:1000], "worker": os.getpid()}
        try:
            self.ledger.record_event("deploy.refused", detail)
        except LedgerError as failure:
            logger.warning("the refusal is not in the ledger: %s", failure)

    def _deployments(self) -> list[Deployment]:
        if self.wanted != CHAMPION:
            return []
        try:
            return self.ledger.deployments()
        except LedgerError as error:
            logger.warning("the newest model of the store is served while the ledger is away: %s", error)
            return []

    def _candidates(self, deployments: list[Deployment]) -> Iterable[str]:
        if self.wanted != CHAMPION:
            yield self.wanted
            return
        yield from dict.fromkeys(deployment.model for deployment in deployments)
        newest = self.newest()
        if newest not in {deployment.model for deployment in deployments}:
            yield newest

    def _retire(self, engine: Engine) -> None:
        """Close its feature reader when no request can still use it. The model itself goes with the last job
        that holds it: what a swap leaves behind is not kept in memory."""
        retired = Retired(features=engine.features, until=time.monotonic() + self.keep_s)
        with self._changing:
            self._retired.append(retired)

    def _close_retired(self) -> None:
        now = time.monotonic()
        with self._changing:
            over = [retired for retired in self._retired if retired.until <= now]
            self._retired = [retired for retired in self._retired if retired.until > now]
            used = [self.champion.features, *(retired.features for retired in self._retired)]
            if self._challenger is not None:
                used.append(self._challenger.engine.features)
        still_used = {id(features) for features in used}
        for features in {id(one.features): one.features for one in over}.values():
            if id(features) not in still_used:
                features.close()


def warm_engine(engine: Engine, item: Item) -> None:
    """Answer with one item and with several, so that no request meets a cold model, and then the bundle's
    golden products. Raises AisleError where it cannot, or answers otherwise than when it was made."""
    for size in (1, WARM_BATCH):
        batch = engine.answer([item] * size)
        if batch.embedded is None:
            raise AisleError(f"{engine.classifier.version}: cannot answer a warm-up batch of {size} products")
    check_golden(engine)


def check_golden(engine: Engine) -> None:
    """Raises BundleError where a golden product is not answered as when the bundle was made."""
    classifier = engine.classifier
    golden = classifier.bundle.golden
    if golden is None:
        logger.warning(
            "%s carries no golden products (an older bundle): its answers are not checked", classifier.version
        )
        return

    def answer(items: Sequence[Item]) -> Sequence[Outcome]:
        time.sleep(WARM_PAUSE_S)
        return engine.answer(items).outcomes

    worst = golden.check(classifier, answer)
    logger.info(
        "%s answers its %d golden products as it did, within %.1e",
        classifier.version,
        len(golden.products),
        worst,
    )
