"""The gRPC server of a worker: started and stopped with it, on its own event loop.

Workers share one port (SO_REUSEPORT): the kernel spreads connections over them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from aisle.errors import SettingError
from service.desk import Desk
from service.grpc_calls import early_refusal
from service.grpc_door import GrpcDoor
from service.grpc_edge import GrpcEdge
from service.grpc_oip import GrpcOip
from service.guard import HeldBytes
from service.porter import Porter
from service.protos import classifier_pb2, inference_pb2
from service.protos.classifier_pb2_grpc import add_ClassifierServicer_to_server
from service.protos.inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from service.telemetry import Telemetry
from service.tls import Tls

SERVICES = (
    classifier_pb2.DESCRIPTOR.services_by_name["Classifier"].full_name,
    inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name,
)
_TELL_S = 0.2  # in which watchers hear that we end
_LOOK_S = 0.05
MAX_CALLS = 512  # at once in a worker; more are refused before their messages are read

logger = logging.getLogger("aisle.service")


class GrpcServer:
    """The typed door, the Open Inference Protocol, health, and reflection where it is asked for."""

    def __init__(
        self,
        desk: Callable[[], Desk],
        *,
        telemetry: Telemetry,
        held: HeldBytes,
        max_message_bytes: int,
        message_timeout_s: float,
        max_calls: int = MAX_CALLS,
        reflect: bool = False,
        porter: Porter | None = None,
        tls: Tls | None = None,
    ) -> None:
        self._tls = tls
        options = (
            ("grpc.so_reuseport", 1),
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", -1),
        )
        self._edge = GrpcEdge(
            telemetry,
            max_calls=max_calls,
            message_timeout_s=message_timeout_s,
            admission=lambda method, metadata: early_refusal(desk(), method, metadata),
            is_short=lambda timeout_s: desk().is_short(timeout_s),
            porter=porter,
        )
        self._server = grpc.aio.server(interceptors=[self._edge], options=options)
        self._door = GrpcDoor(desk, held)
        add_ClassifierServicer_to_server(self._door, self._server)
        add_GRPCInferenceServiceServicer_to_server(GrpcOip(desk, held), self._server)
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # its stubs are older
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if reflect:
            names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)

    async def start(self, host: str, port: int) -> int:
        """Listen, and say that all is well; return the port. Raises SettingError where it is taken."""
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if self._tls is None:
                bound = self._server.add_insecure_port(address)
            else:
                bound = self._server.add_secure_port(address, self._tls.grpc_credentials())
        except RuntimeError as error:
            raise SettingError(
                f"AISLE_GRPC_PORT: found {port} on {host} taken, wanted a free port"
            ) from error
        await self._server.start()
        for service in ("", *SERVICES):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return bound

    async def stop(self, grace_s: float) -> None:
        """Answer what is under way, for at most `grace_s`; take nothing new. Streams end behind what was read
        of them; who watches our health is told, and not waited for."""
        await self._health.enter_graceful_shutdown()
        self._door.end_streams()
        stopping = asyncio.ensure_future(self._server.stop(grace_s))
        await asyncio.wait([stopping], timeout=_TELL_S)
        while self._edge.calls.under_way and not stopping.done():
            await asyncio.wait([stopping], timeout=_LOOK_S)
        await self._server.stop(None)
        await stopping
