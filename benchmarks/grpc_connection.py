"""A gRPC client of the load generator: whole messages in, whole messages out, nothing parsed."""

from __future__ import annotations

import grpc

# As HTTP would say it, so that figures of both can be compared.
_STATUS = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}


class GrpcConnection:
    """One HTTP/2 connection of its own, which calls the unary method `path`."""

    def __init__(self, host: str, port: int, path: str, deadline_ms: int | None = None) -> None:
        self._timeout_s = None if deadline_ms is None else deadline_ms / 1000
        # Channels to one address share a connection otherwise, and all clients would meet one worker.
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.aio.insecure_channel(f"{host}:{port}", options=options)
        self._call = self._channel.unary_unary(path, None, None)

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Status (200 for OK) and message. Raises ConnectionError where the status has none in HTTP."""
        try:
            return 200, await self._call(request, timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            if (status := _STATUS.get(error.code())) is None:
                raise ConnectionError(f"{error.code().name}: {error.details()}") from error
            return status, b""

    def close(self) -> None:
        """The channel opens its connection again by itself; it ends with the process."""
