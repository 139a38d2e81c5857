"""The porter: who may pass which door, over every protocol, before a body is read.

Each door wants a key of some scope; a few are open. What is not named here wants `admin`.
"""

from __future__ import annotations

import hmac
import math
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass

import grpc
import starlette.types

from service import oip_door
from service.audit import Audit, address_of
from service.errors import OVERLOADED_STATUS, RequestError
from service.keys import Key, KeyRing, Scope, digest_of, split_key
from service.openapi import CLASSIFY, LABELS, MONITOR, OPENAPI, PREDICTIONS, PRODUCTS, UPLOAD
from service.rates import Rates

Wanted = frozenset[Scope]  # a key with any of these passes; none: no key is asked for
Headers = Iterable[tuple[str | bytes, str | bytes]]  # of HTTP, or a call's metadata; names in lower case

OPEN: Wanted = frozenset()
ANY_KEY: Wanted = frozenset(Scope)
_CLASSIFY, _ADMIN = frozenset({Scope.CLASSIFY}), frozenset({Scope.ADMIN})

HTTP: Mapping[str, Wanted] = {
    CLASSIFY: _CLASSIFY,
    UPLOAD: _CLASSIFY,
    **dict.fromkeys(oip_door.METHODS, _CLASSIFY),
    LABELS: frozenset({Scope.LABEL}),
    PREDICTIONS: _ADMIN,
    PRODUCTS: frozenset({Scope.INGEST, Scope.ADMIN}),
    MONITOR: _ADMIN,
    "/metrics": frozenset({Scope.METRICS}),
    OPENAPI: ANY_KEY,
    "/schema.json": ANY_KEY,
    "/livez": OPEN,
    "/readyz": OPEN,
}
_OIP = "/inference.GRPCInferenceService"
GRPC: Mapping[str, Wanted] = {
    "/aisle.v1.Classifier/Classify": _CLASSIFY,
    "/aisle.v1.Classifier/ClassifyStream": _CLASSIFY,
    f"{_OIP}/ServerLive": _CLASSIFY,
    f"{_OIP}/ServerReady": _CLASSIFY,
    f"{_OIP}/ServerMetadata": _CLASSIFY,
    f"{_OIP}/ModelReady": _CLASSIFY,
    f"{_OIP}/ModelMetadata": _CLASSIFY,
    f"{_OIP}/ModelInfer": _CLASSIFY,
    "/grpc.health.v1.Health/Check": OPEN,
    "/grpc.health.v1.Health/Watch": OPEN,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _ADMIN,
}

ALLOWED = "allowed"
_CHALLENGE = 'Bearer realm="aisle"'
_NOBODY = secrets.token_hex(32)  # the digest of no secret: an id that is not known is compared with it


@dataclass(kw_only=True, slots=True, eq=False)
class Visit:
    """One call. `presented` is the id that its key claims, `key` the key once it is proven; `prepaid`
    products are charged already."""

    protocol: str
    method: str
    path: str
    wanted: Wanted
    client: str = ""
    presented: str | None = None
    key: Key | None = None
    number: int = 0
    prepaid: int = 1
    refusal: RequestError | None = None

    @property
    def is_administration(self) -> bool:
        """Whether it is only as an administrator that the client may do this."""
        return self.wanted != ANY_KEY and self.key is not None and self.key.scopes & self.wanted == _ADMIN


# Of the call that is answered: each has a task, and a context, of its own over both protocols.
VISIT: ContextVar[Visit | None] = ContextVar("aisle_visit", default=None)


class Porter:
    """`on_outcome` is told how each call with a lock fared: `allowed`, or a refusal's reason."""

    def __init__(
        self, ring: KeyRing, *, rates: Rates, audit: Audit, on_outcome: Callable[[str], None]
    ) -> None:
        self.ring = ring
        self.rates = rates
        self.audit = audit
        self.on_outcome = on_outcome

    def admit(self, scope: starlette.types.Scope) -> None:
        """Let a request over HTTP in, by its headers. Raises RequestError (401, 403, 429, 503)."""
        path = scope["path"]
        wanted = HTTP.get(path, _ADMIN)
        if not wanted:
            VISIT.set(None)  # of a request before it on the same connection
            return
        visit = Visit(protocol="http", method=scope["method"], path=path, wanted=wanted)
        VISIT.set(visit)
        visit.refusal = self._judge(visit, scope["headers"])
        self._note(visit, (scope.get("client") or ("",))[0])
        if visit.refusal is not None:
            raise visit.refusal

    def judge(self, method: str, metadata: Headers) -> RequestError | None:
        """Why a call over gRPC is refused; None where it may go on. `meet` comes next, in the same task."""
        wanted = GRPC.get(method, _ADMIN)
        if not wanted:
            return None
        visit = Visit(protocol="grpc", method="POST", path=method, wanted=wanted)
        VISIT.set(visit)
        visit.refusal = self._judge(visit, metadata)
        return visit.refusal

    def meet(self, context: grpc.aio.ServicerContext) -> None:
        """Count and write down what was judged: only now it is known where the call comes from."""
        if (visit := VISIT.get()) is not None:
            self._note(visit, context.peer())

    def charge(self, products: int) -> None:
        """Count the products of the present call on its key, before any work is done on them. Raises
        RequestError (429; 401 where the key was revoked since the call began)."""
        visit = VISIT.get()
        if visit is None or visit.key is None:
            return
        cost, visit.prepaid = products - visit.prepaid, 0
        found = self.ring.find(visit.key.id)
        refusal = _not_live(found[1]) if found else _wrong("a key that is gone")
        refusal = refusal or self._over_rate(visit, cost)
        if refusal is not None:
            visit.refusal = refusal
            self._note(visit, visit.client)
            raise refusal

    def _judge(self, visit: Visit, headers: Headers) -> RequestError | None:
        texts = _presented(headers)
        if not texts:
            return _refusal(
                401, "key_missing", "no key", "Bearer KEY, or KEY in the header X-API-Key", _CHALLENGE
            )
        parts = split_key(texts.pop()) if len(texts) == 1 else None
        if parts is None:
            return _wrong("what is no key, or several")
        visit.presented, secret = parts
        key = self._prove(visit, secret)
        if key is None and self.ring.is_damaged:
            return _refusal(503, "keys_unavailable", "a key file that cannot be read", "a retry later")
        if key is None:
            return _wrong("a key that is not known")
        visit.key = key
        if (refusal := _not_live(key)) is not None:
            return refusal
        if not key.scopes & visit.wanted:
            scopes = sorted(visit.wanted)
            return _refusal(
                403,
                "scope_missing",
                f"a key for {', '.join(sorted(key.scopes))}",
                f"one for {' or '.join(scopes)}",
                f'{_CHALLENGE}, error="insufficient_scope", scope="{" ".join(scopes)}"',
            )
        return self._over_rate(visit, visit.prepaid)

    def _prove(self, visit: Visit, secret: str) -> Key | None:
        """The key whose secret this is. One that is not known takes the same steps as a wrong secret, and
        digests are compared in constant time."""
        found = self.ring.find(visit.presented or "")
        sha256 = found[1].sha256 if found else _NOBODY
        if not hmac.compare_digest(digest_of(secret), sha256) or found is None:
            return None
        visit.number, key = found
        return key

    def _over_rate(self, visit: Visit, products: int) -> RequestError | None:
        key = visit.key
        if key is None or key.rate is None or products <= 0:
            return None
        wait_s = self.rates.charge(visit.number, products, key.rate)
        if wait_s == 0.0:
            return None
        return RequestError(
            OVERLOADED_STATUS,
            "rate_exceeded",
            field="key",
            found=f"{products:,} more than its rate has room for",
            wanted=f"at most {key.rate:g} products a second, or a retry",
            headers={"Retry-After": str(math.ceil(wait_s))},
        )

    def _note(self, visit: Visit, client: str) -> None:
        visit.client = client
        outcome = visit.refusal.reason if visit.refusal else ALLOWED
        self.on_outcome(outcome)
        if visit.refusal is None and not visit.is_administration:
            return
        write = self.audit.refused if visit.refusal else self.audit.admitted
        write(
            outcome=outcome,
            protocol=visit.protocol,
            method=visit.method,
            path=visit.path,
            key=visit.presented,
            name=visit.key.name if visit.key else None,
            client=address_of(client),
        )


def _presented(headers: Headers) -> set[str]:
    """What stands where keys stand: `authorization: Bearer KEY` and `x-api-key: KEY`."""
    texts = set()
    for name, value in headers:
        if name in (b"authorization", "authorization", b"x-api-key", "x-api-key"):
            text = value.decode("latin-1") if isinstance(value, bytes) else value
            if name in (b"authorization", "authorization"):
                scheme, _, rest = text.strip().partition(" ")
                text = rest if scheme.lower() == "bearer" else ""
            texts.add(text.strip())
    return texts


def _not_live(key: Key) -> RequestError | None:
    """Only who holds the secret is told."""
    state = key.state(time.time())
    return None if state == "live" else _wrong(f"a key that is {state}", f"key_{state}")


def _wrong(found: str, reason: str = "key_wrong") -> RequestError:
    return _refusal(401, reason, found, "a key in use", f'{_CHALLENGE}, error="invalid_token"')


def _refusal(status: int, reason: str, found: str, wanted: str, challenge: str = "") -> RequestError:
    headers = {"WWW-Authenticate": challenge} if challenge else {"Retry-After": "1"}
    return RequestError(status, reason, field="Authorization", found=found, wanted=wanted, headers=headers)
