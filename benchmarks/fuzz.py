"""`make fuzz`: 10,000 hostile requests on each door of a real server; see benchmarks/hostile.py.

A fault is: no answer where one is due, an answer after more than PATIENCE_S, a status of 500 or more, a
refusal that has not the house's shape, another answer to a good request afterwards, a worker that is another
one, and resident memory that has grown.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from rich.console import Console
from rich.table import Table

from benchmarks.hostile import ATTEMPTS, HOST, RIGHT_MESSAGES, WRONG_METHODS, Attempt, Call, grpc_call
from benchmarks.servers import aisle_service, running
from service.metrics import FAULTY_CODES

COUNT = 10_000
SEED = 27
AT_ONCE = 8
PATIENCE_S = 20.0
WARM_SHARE = 0.2  # of the requests, before memory is first measured
GROWTH = 1.10  # times the memory after the first requests that the workers may hold after the last
OUT = Path("out") / "fuzz.json"
GOOD = {"products": [{"title": "train bois"}, {"title": "livre roman"}]}
# Ends of calls that are not the server's fault.
FAIR = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.CANCELLED,
}
# What grpc's client says where a call has ended before it had sent all. The server's own count is asked too.
CLIENTS_OWN = "Internal error from Core"
EXPLAINED = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}


@dataclass(kw_only=True)
class Figures:
    """Of one door: requests by what came back, and what was wrong, each with the number of its request."""

    requests: int = 0
    seconds: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


Send = Callable[[int], Awaitable[tuple[str, str | None]]]  # number to (status, fault)


async def pour(send: Send, numbers: Sequence[int], figures: Figures) -> None:
    """AT_ONCE requests at a time."""
    left = iter(numbers)

    async def work() -> None:
        for number in left:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    status, fault = await send(number)
            except TimeoutError:
                status, fault = "hangs", f"no end after {PATIENCE_S:g} s"
            figures.statuses[status] += 1
            if fault is not None:
                figures.faults.append(f"{number}: {fault}")

    began = time.monotonic()
    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    figures.requests += len(numbers)
    figures.seconds += time.monotonic() - began


def chance_of(door: str, seed: int, number: int) -> random.Random:
    """So that one request can be made again alone."""
    return random.Random(f"{seed} {door} {number}")


async def send_http(port: int, door: str, seed: int, number: int) -> tuple[str, str | None]:
    attempt = ATTEMPTS[door](chance_of(door, seed, number))
    answer = final(await ask(port, attempt))
    status = answer.split(b" ", 2)[1].decode() if answer else "closed"
    fault = http_fault(attempt, answer)
    return status, f"{attempt.kind}: {fault}" if fault else None


async def ask(port: int, attempt: Attempt) -> bytes:
    """All that the server says before it ends the connection; nothing where it just ends it. What is not
    whole is followed by the end of what this client sends."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(attempt.sent)
        await writer.drain()
        if not attempt.is_whole:
            writer.write_eof()
        return await reader.read()
    except OSError:
        return b""
    finally:
        writer.close()


def final(answer: bytes) -> bytes:
    """Without the interim answer that some ask for."""
    return answer.partition(b"\r\n\r\n")[2] if answer.startswith(b"HTTP/1.1 100 ") else answer


def http_fault(attempt: Attempt, answer: bytes) -> str | None:
    """What is wrong with an answer."""
    if not answer:
        return "no answer" if attempt.is_whole else None
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    if status >= 500:
        return f"status {status}, {body[:300]!r}"
    if status < 400 or attempt.sent.startswith(b"HEAD "):
        return None
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return f"status {status} with another body: {body[:300]!r}"
    is_shaped = isinstance(error, dict) and {"reason", "field", "found", "wanted", "message"} <= set(error)
    is_sentence = isinstance(error, str) and attempt.path.startswith("/v2")
    return None if is_shaped or is_sentence else f"status {status} with another error: {error!r}"


async def send_grpc(channel: grpc.aio.Channel, door: str, seed: int, number: int) -> tuple[str, str | None]:
    call = grpc_call(chance_of(door, seed, number), door)
    is_stream = door == "ClassifyStream" and call.method not in WRONG_METHODS
    begun = begin_stream(channel, call) if is_stream else begin_unary(channel, call)
    if call.leaves_after_s is not None:
        await asyncio.sleep(call.leaves_after_s)
        begun.cancel()
    try:
        if is_stream:
            async for _ in begun:
                pass
        else:
            await begun
    except (grpc.aio.AioRpcError, asyncio.CancelledError):
        pass
    code = await begun.code()
    fault = await grpc_fault(begun, code)
    return code.name, f"{call.kind}: {fault}" if fault else None


def begin_unary(channel: grpc.aio.Channel, call: Call) -> Any:
    return channel.unary_unary(call.method, None, None)(call.messages[0], metadata=call.metadata)


def begin_stream(channel: grpc.aio.Channel, call: Call) -> Any:
    return channel.stream_stream(call.method, None, None)(iter(call.messages), metadata=call.metadata)


async def grpc_fault(begun: Any, code: grpc.StatusCode) -> str | None:
    """What is wrong with how a call ended."""
    if await begun.details() == CLIENTS_OWN:
        return None
    if code not in FAIR:
        return f"{code.name}, {await begun.details()}"
    if code not in EXPLAINED:
        return None
    written = dict(await begun.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    info = ErrorInfo()
    details = Status.FromString(written).details
    if not any(detail.Unpack(info) for detail in details) or not info.reason:
        return f"{code.name} without a reason, {await begun.details()}"
    return None


async def fuzz_http(port: int, door: str, seed: int, numbers: Sequence[int], figures: Figures) -> None:
    await pour(partial(send_http, port, door, seed), numbers, figures)


async def fuzz_grpc(port: int, door: str, seed: int, numbers: Sequence[int], figures: Figures) -> None:
    # Channels to one address share a connection otherwise, and one worker would get everything.
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"{HOST}:{port}", options=options) as channel:
        await pour(partial(send_grpc, channel, door, seed), numbers, figures)


def fuzz(door: str, port: int, grpc_port: int, seed: int, numbers: Sequence[int], figures: Figures) -> None:
    """Send the requests of these numbers to one door; what came back is added to `figures`."""
    work = fuzz_http(port, door, seed, numbers, figures)
    if door in RIGHT_MESSAGES:
        work.close()
        work = fuzz_grpc(grpc_port, door, seed, numbers, figures)
    asyncio.run(work)


def doors() -> list[str]:
    return [*ATTEMPTS, *RIGHT_MESSAGES]


def good_answer(port: int) -> list[Any]:
    """What a good request is answered with, but for the ids of its predictions."""
    answer = httpx.post(f"http://{HOST}:{port}/v1/classify", json=GOOD, timeout=PATIENCE_S)
    answer.raise_for_status()
    return [
        (one["category"]["code"], [round(each["probability"], 4) for each in one["top"]])
        for one in answer.json()["results"]
    ]


def failures(port: int) -> dict[str, float]:
    """What the server itself has counted as its own: answers of 500 and more, failed calls."""
    faulty = [f'code="{code}"' for code in FAULTY_CODES] + ['aisle_http_requests_total{code="5']
    lines = httpx.get(f"http://{HOST}:{port}/metrics", timeout=PATIENCE_S).text.splitlines()
    counted = [line.rpartition(" ") for line in lines if "_total{" in line]
    return {name: float(n) for name, _, n in counted if float(n) and any(one in name for one in faulty)}


def workers_of(pid: int) -> dict[int, int]:
    """Resident bytes of each worker of a server, by its pid."""
    found = {}
    for process in psutil.Process(pid).children(recursive=True):
        if any("_bentoml_impl.worker.service" in word for word in process.cmdline()):
            found[process.pid] = process.memory_info().rss
    return found


def run(port: int, grpc_port: int, pid: int, seed: int, count: int) -> dict[str, Any]:
    """All doors of a running server, and what was wrong with it as a whole."""
    figures = {door: Figures() for door in doors()}
    good, warm = good_answer(port), int(WARM_SHARE * count)
    for door in doors():
        fuzz(door, port, grpc_port, seed, range(warm), figures[door])
    before = workers_of(pid)
    for door in doors():
        fuzz(door, port, grpc_port, seed, range(warm, count), figures[door])
    after = workers_of(pid)
    faults = []
    if good_answer(port) != good:
        faults.append("a good request is answered otherwise than before")
    if failed := failures(port):
        faults.append(f"the server counted {failed}")
    if set(before) != set(after):
        faults.append(f"workers {sorted(before)} were followed by {sorted(after)}")
    if sum(after.values()) > GROWTH * sum(before.values()):
        faults.append(f"workers hold {sum(after.values()):,} bytes, {sum(before.values()):,} before")
    return {
        "seed": seed,
        "doors": {door: {**vars(one), "statuses": dict(one.statuses)} for door, one in figures.items()},
        "resident_bytes": {"before": sum(before.values()), "after": sum(after.values())},
        "faults": faults,
    }


def show(told: dict[str, Any]) -> None:
    table = Table("door", "requests", "a second", "what came back", "faults")
    for door, one in told["doors"].items():
        statuses = ", ".join(f"{status} {count:,}" for status, count in sorted(one["statuses"].items()))
        pace = f"{one['requests'] / one['seconds']:.0f}"
        table.add_row(door, f"{one['requests']:,}", pace, statuses, str(len(one["faults"])))
    console = Console()
    console.print(table)
    memory = {name: f"{size / 2**20:,.0f} MiB" for name, size in told["resident_bytes"].items()}
    console.print(f"resident memory of the workers: {memory['before']} before, {memory['after']} after")
    for fault in [
        *told["faults"],
        *(f"{door} {one}" for door, of in told["doors"].items() for one in of["faults"][:9]),
    ]:
        console.print(f"[red]{fault}[/red]")


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Hostile requests on every door of the service of AISLE_HOME."
    )
    parser.add_argument("--count", type=int, default=COUNT, help="requests on each door")
    parser.add_argument("--seed", type=int, default=SEED)
    given = parser.parse_args()
    OUT.parent.mkdir(exist_ok=True)
    # Refusals for want of room would hide what is looked for.
    environ = {**os.environ, "AISLE_MAX_QUEUE": "100000", "AISLE_MAX_BULK": "100000"}
    with running(aisle_service(workers=2), environ, OUT.with_suffix(".log")) as server:
        told = run(server.port, server.other_port, server.pid, given.seed, given.count)
    OUT.write_text(json.dumps(told, indent=1))
    show(told)
    failed = told["faults"] or any(one["faults"] for one in told["doors"].values())
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
