"""What is counted of calls over gRPC, and what is refused before it is read: a real server and a real client,
around a classifier of toy size."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from half_message import half_of, rest_of, status_of
from tiny_service import MAX_BODY_BYTES, TinyService, tiny_classifier

from aisle.image import ImageEncoder
from aisle.text import TextEncoder
from service.grpc_door import STREAM_WINDOW, GrpcDoor
from service.grpc_server import GrpcServer
from service.guard import HeldBytes
from service.metrics import FAULTY_CODES, METHODS, UNARY_METHODS
from service.protos import classifier_pb2 as pb
from service.protos import inference_pb2 as oip_pb
from service.protos.classifier_pb2_grpc import ClassifierStub
from service.protos.inference_pb2_grpc import GRPCInferenceServiceStub

CLASSIFY, STREAM = "/aisle.v1.Classifier/Classify", "/aisle.v1.Classifier/ClassifyStream"
ONE = pb.ClassifyRequest(products=[pb.Product(title="train")])
LATE_S, LONG_S = 0.3, 20


@pytest.fixture
def service(tiny_text_encoder: TextEncoder, tiny_image_encoder: ImageEncoder) -> TinyService:
    return TinyService(tiny_classifier(tiny_text_encoder, tiny_image_encoder))


def server_of(
    service: TinyService,
    *,
    max_calls: int = 8,
    max_held_bytes: int = MAX_BODY_BYTES,
    message_timeout_s: float = LONG_S,
) -> GrpcServer:
    return GrpcServer(
        lambda: service.desk,
        telemetry=service.desk.telemetry,
        held=HeldBytes(max_held_bytes),
        max_message_bytes=MAX_BODY_BYTES,
        message_timeout_s=message_timeout_s,
        max_calls=max_calls,
    )


@asynccontextmanager
async def listening(service: TinyService, **settings: Any) -> AsyncIterator[int]:
    """Its port."""
    server = server_of(service, **settings)
    port = await server.start("127.0.0.1", 0)
    try:
        yield port
    finally:
        await server.stop(1)


@asynccontextmanager
async def served(service: TinyService, **settings: Any) -> AsyncIterator[grpc.aio.Channel]:
    async with (
        listening(service, **settings) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield channel


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG_S):
        while not true():
            await asyncio.sleep(0.005)


def counted(service: TinyService) -> dict[tuple[str, str], float]:
    """Calls that have ended, by method and status."""
    samples = [sample for metric in service.registry.collect() for sample in metric.samples]
    return {
        (sample.labels["method"], sample.labels["code"]): sample.value
        for sample in samples
        if sample.name == "aisle_grpc_requests_total" and sample.value
    }


def timed(service: TinyService) -> dict[str, float]:
    samples = [sample for metric in service.registry.collect() for sample in metric.samples]
    return {
        sample.labels["method"]: sample.value
        for sample in samples
        if sample.name == "aisle_grpc_request_seconds_count" and sample.value
    }


async def refused(call: grpc.aio.UnaryUnaryCall) -> tuple[grpc.StatusCode, ErrorInfo, RetryInfo]:
    """How it was refused, and the details for programs."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    info, retry = ErrorInfo(), RetryInfo()
    written = dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
    for detail in Status.FromString(written).details:
        for message in (info, retry):
            detail.Unpack(message)
    return caught.value.code(), info, retry


def test_an_answer_is_counted_and_timed(service: TinyService) -> None:
    async def run() -> None:
        async with served(service) as channel:
            for _ in range(2):
                assert len((await ClassifierStub(channel).Classify(ONE)).results) == 1
            await GRPCInferenceServiceStub(channel).ServerLive(oip_pb.ServerLiveRequest())

    asyncio.run(run())
    live = "/inference.GRPCInferenceService/ServerLive"
    assert counted(service) == {(CLASSIFY, "OK"): 2, (live, "OK"): 1}
    assert timed(service) == {CLASSIFY: 2, live: 1}


def test_a_refusal_keeps_its_details_and_is_not_timed(service: TinyService) -> None:
    async def run() -> None:
        async with served(service) as channel:
            code, info, _ = await refused(ClassifierStub(channel).Classify(pb.ClassifyRequest()))
            assert (code, info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "product_count")
            assert info.metadata["wanted"] == "a list of 1 to 256 products"
            code, info, _ = await refused(
                GRPCInferenceServiceStub(channel).ModelInfer(oip_pb.ModelInferRequest(model_name="resnet"))
            )
            assert (code, info.reason) == (grpc.StatusCode.NOT_FOUND, "model_unknown")

    asyncio.run(run())
    infer = "/inference.GRPCInferenceService/ModelInfer"
    assert counted(service) == {(CLASSIFY, "INVALID_ARGUMENT"): 1, (infer, "NOT_FOUND"): 1}
    assert timed(service) == {}


def test_a_defect_is_counted_as_the_client_sees_it(service: TinyService) -> None:
    service.dispatch.batch_infer = None  # type: ignore[assignment, method-assign]

    async def run() -> None:
        async with served(service) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ClassifierStub(channel).Classify(ONE)
            assert caught.value.code() is grpc.StatusCode.UNKNOWN

    asyncio.run(run())
    assert counted(service) == {(CLASSIFY, "UNKNOWN"): 1}


def test_names_that_clients_make_up_are_one_method(service: TinyService) -> None:
    async def run() -> None:
        async with served(service) as channel:
            for number in range(3):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await channel.unary_unary(f"/aisle.v1.Classifier/Classify{number}")(b"")
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    asyncio.run(run())
    assert counted(service) == {("unknown", "UNIMPLEMENTED"): 3}


def test_a_client_that_leaves_stops_the_work_and_is_counted(service: TinyService) -> None:
    service.dispatch.delay_s = LONG_S

    async def run() -> None:
        async with served(service) as channel:
            call = ClassifierStub(channel).Classify(ONE, timeout=LONG_S)
            await until(lambda: service.gate.under_way == 1)
            call.cancel()
            await until(lambda: bool(counted(service)))
            assert service.gate.under_way == 0

    asyncio.run(run())
    assert counted(service) == {(CLASSIFY, "CANCELLED"): 1}


def test_a_deadline_that_is_over_is_no_client_that_left(service: TinyService) -> None:
    service.dispatch.delay_s = LONG_S
    service.gate.promised_s = 0.5

    async def run() -> None:
        async with served(service) as channel:
            # 1.234 s travels as 1.24 s: the client leaves before the server knows that it is late.
            calls = [ClassifierStub(channel).Classify(ONE, timeout=timeout) for timeout in (0.05, 1.234)]
            ends = await asyncio.gather(*(call.code() for call in calls))
            assert ends == [grpc.StatusCode.DEADLINE_EXCEEDED] * 2
            await until(lambda: sum(counted(service).values()) == 2)

    asyncio.run(run())
    assert counted(service) == {(CLASSIFY, "DEADLINE_EXCEEDED"): 2}
    assert service.sample("aisle_short_deadlines_total") == 1
    reasons = ("deadline_short", "timeout")
    assert [service.sample("aisle_errors_total", reason=reason) for reason in reasons] == [1, 1]


def test_a_deadline_as_long_as_is_promised_is_no_short_one(service: TinyService) -> None:
    service.dispatch.delay_s = LONG_S

    async def run() -> None:
        async with served(service) as channel:
            stream = ClassifierStub(channel).ClassifyStream(timeout=1.5)
            await stream.write(ONE)
            ends = await asyncio.gather(
                stream.code(), ClassifierStub(channel).Classify(ONE, timeout=1.5).code()
            )
            assert ends == [grpc.StatusCode.DEADLINE_EXCEEDED] * 2
            await until(lambda: sum(counted(service).values()) == 2)

    asyncio.run(run())
    assert service.sample("aisle_short_deadlines_total") == 0


def test_short_deadlines_count_once_a_call_and_only_where_products_are_answered(service: TinyService) -> None:
    service.dispatch.delay_s = LONG_S

    wanted = {(STREAM, "DEADLINE_EXCEEDED"), ("/grpc.health.v1.Health/Watch", "DEADLINE_EXCEEDED")}

    async def run() -> None:
        async with served(service) as channel:
            calls = 0
            # Where the client's own clock ends a call a few milliseconds too soon, it is one that left.
            while not wanted <= set(counted(service)):
                watch = health_pb2_grpc.HealthStub(channel).Watch(
                    health_pb2.HealthCheckRequest(), timeout=0.2
                )
                stream = ClassifierStub(channel).ClassifyStream(timeout=0.2)
                for _ in range(3):
                    await stream.write(ONE)
                await asyncio.gather(stream.code(), watch.code())
                calls += 2
                await until(lambda: sum(counted(service).values()) == calls)  # noqa: B023 - asked at once

    asyncio.run(asyncio.wait_for(run(), LONG_S))
    assert service.sample("aisle_short_deadlines_total") == counted(service)[STREAM, "DEADLINE_EXCEEDED"]


def test_a_stream_still_streams_and_counts_once_at_its_end(service: TinyService) -> None:
    async def run() -> None:
        async with served(service) as channel:
            call = ClassifierStub(channel).ClassifyStream()
            for _ in range(9):
                await call.write(ONE)
                assert len((await call.read()).results) == 1
                assert counted(service) == {}
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            await until(lambda: bool(counted(service)))

    asyncio.run(run())
    assert counted(service) == {(STREAM, "OK"): 1}
    assert timed(service) == {}


def test_a_stream_whose_client_leaves_is_counted(service: TinyService) -> None:
    async def run() -> None:
        async with served(service) as channel:
            waiting, reading = (ClassifierStub(channel).ClassifyStream() for _ in range(2))
            await waiting.write(ONE)
            await waiting.read()
            service.dispatch.delay_s = LONG_S
            await reading.write(ONE)
            await until(lambda: service.gate.under_way == 1)
            waiting.cancel()
            reading.cancel()
            await until(lambda: bool(counted(service).get((STREAM, "CANCELLED"), 0) == 2))
            await until(lambda: service.gate.under_way == 0)

    asyncio.run(run())
    assert counted(service) == {(STREAM, "CANCELLED"): 2}


def test_a_stream_that_is_refused_keeps_its_status(service: TinyService) -> None:
    def detail(port: int) -> str:
        # grpc.aio's client may show an error of its own for a message that meets the end (grpc issue 36066).
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            metadata = [("aisle-priority", "urgent")]
            call = ClassifierStub(channel).ClassifyStream(iter([ONE]), metadata=metadata)
            with pytest.raises(grpc.RpcError) as caught:
                next(call)
            return str(caught.value.details())

    async def run() -> None:
        async with listening(service) as port:
            refused = await asyncio.to_thread(detail, port)
            assert refused.startswith("Aisle-Priority: found 'urgent'")

    asyncio.run(run())
    assert counted(service) == {(STREAM, "INVALID_ARGUMENT"): 1}


def test_health_is_watched_as_before(service: TinyService) -> None:
    async def run() -> None:
        async with served(service) as channel:
            call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await call.read()).status == health_pb2.HealthCheckResponse.SERVING
            call.cancel()
            await until(lambda: bool(counted(service)))

    asyncio.run(run())
    assert counted(service) == {("/grpc.health.v1.Health/Watch", "CANCELLED"): 1}


def test_a_stop_waits_for_answers_and_not_for_who_only_listens(service: TinyService) -> None:
    async def run() -> float:
        server = server_of(service)
        port = await server.start("127.0.0.1", 0)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = ClassifierStub(channel)
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            idle, busy = stub.ClassifyStream(), stub.ClassifyStream()
            await idle.write(ONE)
            assert len((await idle.read()).results) == 1
            service.dispatch.delay_s = 0.5
            await busy.write(ONE)
            single = stub.Classify(ONE)
            await until(lambda: service.gate.under_way == 2)
            began = time.perf_counter()
            stopping = asyncio.ensure_future(server.stop(LONG_S))
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert len((await single).results) == 1
            assert len((await busy.read()).results) == 1
            for stream in (idle, busy):
                with pytest.raises(grpc.aio.AioRpcError, match="found a server that stops"):
                    await stream.read()
                assert await stream.code() is grpc.StatusCode.UNAVAILABLE
            await stopping
        return time.perf_counter() - began

    assert asyncio.run(run()) < LONG_S / 2
    assert counted(service)[STREAM, "UNAVAILABLE"] == 2
    assert counted(service)[CLASSIFY, "OK"] == 1


def test_calls_beyond_the_limit_are_refused_and_told_to_come_back(service: TinyService) -> None:
    service.dispatch.delay_s = LATE_S

    async def run() -> None:
        async with served(service, max_calls=2) as channel:
            stub = ClassifierStub(channel)
            idle, call = stub.ClassifyStream(), stub.Classify(ONE)
            await idle.write(ONE)
            await until(lambda: service.gate.under_way == 2)
            code, info, retry = await refused(stub.Classify(ONE))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert (info.reason, info.metadata["found"]) == ("calls_full", "2 calls under way")
            assert retry.retry_delay.seconds == 1
            await call
            idle.cancel()
            await until(lambda: (STREAM, "CANCELLED") in counted(service))
            await stub.Classify(ONE)

    asyncio.run(run())
    assert counted(service) == {
        (CLASSIFY, "OK"): 2,
        (CLASSIFY, "RESOURCE_EXHAUSTED"): 1,
        (STREAM, "CANCELLED"): 1,
    }
    assert service.sample("aisle_shed_products_total", reason="calls_full") == 1
    assert service.sample("aisle_errors_total", reason="calls_full") == 1


def test_who_only_probes_fills_nobodys_room(service: TinyService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.grpc_edge.MAX_PROBES", 2)

    async def run() -> None:
        async with served(service, max_calls=1) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(2)]
            for watch in watches:
                await watch.read()
            code, info, _ = await refused(stub.Check(health_pb2.HealthCheckRequest()))
            assert (code, info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "probes_full")
            await ClassifierStub(channel).Classify(ONE)
            for watch in watches:
                watch.cancel()

    asyncio.run(run())
    assert service.sample("aisle_shed_products_total", reason="calls_full") == 0


def test_a_message_is_not_read_where_nothing_can_enter(service: TinyService) -> None:
    large = pb.ClassifyRequest(products=[pb.Product(title="a", image=bytes(MAX_BODY_BYTES + 1))])

    async def run() -> None:
        async with served(service) as channel:
            stub = ClassifierStub(channel)
            with service.gate.interactive(512, timeout_s=9):
                # Read, it would be too large, and refused for that.
                code, info, _ = await refused(stub.Classify(large))
                assert (code, info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "queue_full")
                bulk = stub.Classify(ONE, metadata=[("aisle-priority", "Bulk")])
                await until(lambda: service.gate.bulk_products == 1)
                health = health_pb2_grpc.HealthStub(channel)
                await health.Check(health_pb2.HealthCheckRequest())
            await bulk

    asyncio.run(run())
    assert counted(service)[CLASSIFY, "RESOURCE_EXHAUSTED"] == 1
    assert service.sample("aisle_shed_products_total", reason="queue_full") == 1


def test_messages_share_the_memory_that_requests_have_together(service: TinyService) -> None:
    service.dispatch.delay_s = LONG_S
    products = pb.ClassifyRequest(products=[pb.Product(title="train " * 10)] * 3)  # 180 bytes

    async def run() -> None:
        async with served(service, max_held_bytes=300) as channel:
            stub = ClassifierStub(channel)
            first = stub.Classify(products)
            await until(lambda: service.gate.under_way == 3)
            code, info, retry = await refused(stub.Classify(products))
            assert (code, retry.retry_delay.seconds) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 1)
            assert info.metadata["found"] == "180 bytes of requests held already"
            infer = oip_pb.ModelInferRequest(model_name="aisle-classifier")
            tensor = infer.inputs.add(name="title", datatype="BYTES", shape=[1])
            tensor.contents.bytes_contents.append(b"a" * 121)
            _, info, _ = await refused(GRPCInferenceServiceStub(channel).ModelInfer(infer))
            assert info.reason == "messages_full"
            stream = stub.ClassifyStream(iter([products]))
            assert (await stream.read()).results[0].error.reason == "messages_full"
            first.cancel()
            await until(lambda: service.gate.under_way == 0)
            service.dispatch.delay_s = 0
            for _ in range(2):
                await stub.Classify(products)

    asyncio.run(run())
    assert service.sample("aisle_shed_products_total", reason="messages_full") == 3 + 1 + 3
    assert service.sample("aisle_errors_total", reason="messages_full") == 3


class Call:
    """A call's context, as far as a door asks it."""

    def invocation_metadata(self) -> None:
        return None

    def time_remaining(self) -> None:
        return None


def test_a_stream_reads_no_more_than_is_under_way(service: TinyService) -> None:
    service.dispatch.delay_s = 0.01
    read: list[int] = []

    async def requests() -> AsyncIterator[pb.ClassifyRequest]:
        for number in range(10):
            read.append(number)
            yield ONE

    async def run() -> None:
        door = GrpcDoor(lambda: service.desk, HeldBytes(MAX_BODY_BYTES))
        answered = 0
        async for _ in door.ClassifyStream(requests(), Call()):
            assert len(read) <= answered + STREAM_WINDOW
            answered += 1
        assert answered == 10

    asyncio.run(run())


def test_a_stream_that_cannot_be_read_on_ends(service: TinyService) -> None:
    async def run() -> None:
        async with served(service) as channel:
            call = channel.stream_stream(STREAM)(iter([ONE.SerializeToString(), b"\xff"]), timeout=LONG_S)
            assert len(pb.ClassifyResponse.FromString(await call.read()).results) == 1
            assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert (await call.details()).startswith("message: found 1 bytes that cannot be read")

    asyncio.run(run())
    assert counted(service) == {(STREAM, "INVALID_ARGUMENT"): 1}


def test_a_message_of_a_million_empty_products_is_refused_unparsed(service: TinyService) -> None:
    async def run() -> None:
        async with served(service) as channel:
            raw = channel.unary_unary(CLASSIFY)
            code, info, _ = await refused(raw(b"\x0a\x00" * 1_000_000))
            assert (code, info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "message_broken")
            assert info.metadata["found"] == "more than 1,024 fields"

    asyncio.run(run())


def test_a_message_that_cannot_be_read_is_its_senders_fault(service: TinyService) -> None:
    async def run() -> None:
        async with served(service) as channel:
            raw = channel.unary_unary(CLASSIFY)
            code, info, _ = await refused(raw(b"\xff\xfe"))
            assert (code, info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "message_broken")
            assert info.metadata["found"] == "2 bytes that cannot be read"
            await ClassifierStub(channel).Classify(ONE)

    asyncio.run(run())
    assert counted(service) == {(CLASSIFY, "INVALID_ARGUMENT"): 1, (CLASSIFY, "OK"): 1}


@pytest.mark.parametrize(
    "method", [CLASSIFY, "/inference.GRPCInferenceService/ServerLive", "/grpc.health.v1.Health/Watch"]
)
def test_a_call_whose_message_does_not_come_whole_ends(service: TinyService, method: str) -> None:
    async def run() -> None:
        async with (
            listening(service, max_calls=2, message_timeout_s=LATE_S) as port,
            grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
        ):
            for _ in range(3):  # more than there is room for
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                began = asyncio.get_running_loop().time()
                writer.write(half_of(method))
                await ClassifierStub(channel).Classify(ONE)
                status, trailers = await asyncio.wait_for(status_of(reader), LONG_S)
                assert asyncio.get_running_loop().time() - began > LATE_S
                assert status is grpc.StatusCode.DEADLINE_EXCEEDED
                found = b"message: found no whole message after 0.3 s, wanted the whole message within 0.3 s"
                assert found in trailers
                writer.close()

    asyncio.run(run())
    assert counted(service) == {(CLASSIFY, "OK"): 3}  # as over HTTP, where a slow body is no request
    assert service.sample("aisle_errors_total", reason="message_too_slow") == 3


def test_a_message_that_comes_slowly_and_in_time_is_answered(service: TinyService) -> None:
    async def run() -> None:
        async with listening(service) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(half_of(CLASSIFY, ONE.SerializeToString()))
            await asyncio.sleep(LATE_S)
            writer.write(rest_of(ONE.SerializeToString()))
            status, _ = await asyncio.wait_for(status_of(reader), LONG_S)
            assert status is grpc.StatusCode.OK
            writer.close()

    asyncio.run(run())
    assert counted(service) == {(CLASSIFY, "OK"): 1}


def test_a_client_that_leaves_within_its_message_is_not_counted(service: TinyService) -> None:
    async def run() -> None:
        async with (
            listening(service, max_calls=1) as port,
            grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
        ):
            for _ in range(10):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(half_of(CLASSIFY))
                await asyncio.sleep(0.02)
                writer.close()
            stub = ClassifierStub(channel)
            async with asyncio.timeout(LONG_S):
                while await stub.Classify(ONE).code() is not grpc.StatusCode.OK:
                    await asyncio.sleep(0.02)

    asyncio.run(run())
    assert {code for _, code in counted(service)} <= {"OK", "RESOURCE_EXHAUSTED"}
    assert service.sample("aisle_errors_total", reason="message_broken") is None


def test_a_call_without_a_message_is_told_so(service: TinyService) -> None:
    async def run() -> None:
        async with served(service) as channel:
            nothing = channel.stream_unary(CLASSIFY)(iter([]), timeout=LONG_S)
            code, info, _ = await refused(nothing)
            assert (code, info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "message_broken")
            assert (info.metadata["found"], info.metadata["wanted"]) == ("no message", "one message")

    asyncio.run(run())
    assert counted(service) == {(CLASSIFY, "INVALID_ARGUMENT"): 1}


def test_of_two_messages_the_first_is_answered(service: TinyService) -> None:
    async def run() -> None:
        async with served(service) as channel:
            call = channel.stream_unary(CLASSIFY)(iter([ONE.SerializeToString(), b"\xff"]), timeout=LONG_S)
            assert len(pb.ClassifyResponse.FromString(await call).results) == 1

    asyncio.run(run())
    assert counted(service) == {(CLASSIFY, "OK"): 1}


def test_a_stream_may_be_idle(service: TinyService) -> None:
    async def run() -> None:
        async with served(service, message_timeout_s=LATE_S) as channel:
            call = ClassifierStub(channel).ClassifyStream()
            for _ in range(2):
                await asyncio.sleep(2 * LATE_S)
                await call.write(ONE)
                assert len((await call.read()).results) == 1
            await call.done_writing()
            assert await call.code() is grpc.StatusCode.OK

    asyncio.run(run())


def test_methods_and_codes_that_begin_at_zero_are_grpcs() -> None:
    services = [
        pb.DESCRIPTOR.services_by_name["Classifier"],
        oip_pb.DESCRIPTOR.services_by_name["GRPCInferenceService"],
    ]
    streams = {
        f"/{service.full_name}/{method.name}": method.client_streaming or method.server_streaming
        for service in services
        for method in service.methods
    }
    assert {method for method in METHODS if streams[method]} == set(METHODS) - set(UNARY_METHODS)
    assert set(FAULTY_CODES) <= {code.name for code in grpc.StatusCode}
