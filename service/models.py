"""Which model answers. The champion is the newest row of the ledger's `deployments`; every worker follows
it within seconds: load, verify, check its feature views, warm up, swap.

A model that fails any of these is refused: the champion stays, and metric, ledger and log say why.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aisle.errors import AisleError, LedgerError
from aisle.ledger import Deployment, Ledger
from service.engine import Engine
from service.settings import CHAMPION

if TYPE_CHECKING:
    from aisle.classifier import Item

FOLLOW_S = 1.0  # between looks at the ledger
WARM_BATCH = 16
REFUSED_AGAIN_S = 60.0  # a refused deployment is tried again: what it lacked may have come

logger = logging.getLogger("aisle.service")


@dataclass(frozen=True, kw_only=True)
class Retired:
    """An engine that takes no new requests; those that began with it still use it."""

    engine: Engine
    until: float


class Models:
    """`load` makes an engine of a tag, sharing with the engine in service what both need; `warm` runs it.

    Both raise AisleError. `on_swap` hears "done" or "refused" and the engine in service after it.
    `keep_s` is how long a request that began with a model may last.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        wanted: str,
        newest: Callable[[], str],
        load: Callable[[str, Engine | None], Engine],
        warm: Callable[[Engine], None],
        on_swap: Callable[[str, Engine], None],
        keep_s: float,
    ) -> None:
        self.ledger = ledger
        self.wanted = wanted
        self.newest = newest
        self.load = load
        self.warm = warm
        self.on_swap = on_swap
        self.keep_s = keep_s
        self._engine: Engine | None = None
        self._seen = 0  # number of the newest deployment that was followed or refused
        self._again_at = 0.0
        self._retired: list[Retired] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def champion(self) -> Engine:
        """The engine that new requests begin with."""
        assert self._engine is not None  # `open` comes first
        return self._engine

    def open(self) -> None:
        """Load what is wanted. Where the champion fails, the deployments before it are tried, and at last
        the newest model of the store. Raises the first failure when none can be served."""
        deployments = self._deployments()
        self._seen = deployments[0].number if deployments else 0
        first_failure: AisleError | None = None
        for tag in self._candidates(deployments):
            try:
                engine = self.load(tag, None)
                self.warm(engine)
            except AisleError as error:
                logger.error("%s is not served: %s", tag, error)
                first_failure = first_failure or error
                continue
            self._engine = engine
            self.on_swap("done", engine)
            if first_failure is not None:
                self._refuse(deployments[0].model if deployments else self.wanted, first_failure)
            return
        raise first_failure or AisleError("no model to serve: found none, wanted a registered classifier")

    def follow(self) -> None:
        """Keep following in a thread of its own. A fixed model is never swapped."""
        if self.wanted == CHAMPION:
            self._thread = threading.Thread(target=self._follow, name="models", daemon=True)
            self._thread.start()

    def look(self) -> None:
        """Swap if there is a newer deployment. Never raises."""
        self._close_retired()
        try:
            newest = self.ledger.champion()
        except LedgerError as error:
            logger.debug("the champion stays while the ledger is away: %s", error)
            return
        if newest is None:
            return
        refused_before = newest.number == self._seen and self._again_at > 0
        if newest.number > self._seen or (refused_before and time.monotonic() >= self._again_at):
            self._try(newest)

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=2)
        for engine in [retired.engine for retired in self._retired] + [self.champion]:
            engine.close()

    def _follow(self) -> None:
        while not self._stop.wait(FOLLOW_S):
            self.look()

    def _try(self, deployment: Deployment) -> None:
        self._seen, self._again_at = deployment.number, 0.0
        old = self.champion
        if deployment.model == old.classifier.version:
            return
        started = time.monotonic()
        try:
            engine = self.load(deployment.model, old)
            self.warm(engine)
        except Exception as error:  # whatever is wrong with it, the champion answers on
            self._again_at = time.monotonic() + REFUSED_AGAIN_S
            self._refuse(deployment.model, error)
            return
        self._engine = engine
        self._retired.append(Retired(engine=old, until=time.monotonic() + self.keep_s))
        self.on_swap("done", engine)
        logger.info("%s is served, %.1f s after it was seen", deployment.model, time.monotonic() - started)

    def _refuse(self, tag: str, error: Exception) -> None:
        logger.error("%s is refused, %s stays: %s", tag, self.champion.classifier.version, error)
        self.on_swap("refused", self.champion)
        try:
            self.ledger.record_event(
                "deploy.refused", {"model": tag, "why": f"{error}"[:1000], "worker": os.getpid()}
            )
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

    def _close_retired(self) -> None:
        now = time.monotonic()
        over = [retired for retired in self._retired if retired.until <= now]
        self._retired = [retired for retired in self._retired if retired.until > now]
        still_used = {id(self.champion.features)} | {id(retired.engine.features) for retired in self._retired}
        for retired in over:
            if id(retired.engine.features) not in still_used:
                retired.engine.close()


def warm_engine(engine: Engine, item: Item) -> None:
    """Answer with one item and with several, so that no request meets a cold model."""
    for size in (1, WARM_BATCH):
        batch = engine.answer([item] * size)
        if batch.embedded is None:
            raise AisleError(f"{engine.classifier.version}: cannot answer a warm-up batch of {size} products")
