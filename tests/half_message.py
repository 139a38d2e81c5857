"""A client over gRPC that sends a part of its message: no library does, so HTTP/2 is written by hand."""

from __future__ import annotations

import asyncio

import grpc

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS, _GOAWAY = 0, 1, 4, 7
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_CODES = {code.value[0]: code for code in grpc.StatusCode}
HALF = b"half of it"


def half_of(method: str, message: bytes = 2 * HALF) -> bytes:
    """A connection's first bytes: a call, and half of its message."""
    pairs = {
        ":method": "POST",
        ":scheme": "http",
        ":path": method,
        ":authority": "127.0.0.1",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    headers = b"".join(b"\0" + _text(name) + _text(value) for name, value in pairs.items())
    begun = b"\0" + len(message).to_bytes(4, "big") + message[: len(message) // 2]
    start = _PREFACE + _frame(_SETTINGS, 0, 0, b"") + _frame(_SETTINGS, _ACK, 0, b"")
    return start + _frame(_HEADERS, _END_HEADERS, 1, headers) + part(begun)


def rest_of(message: bytes) -> bytes:
    return part(message[len(message) // 2 :], ends=True)


def part(data: bytes, *, ends: bool = False) -> bytes:
    return _frame(_DATA, _END_STREAM if ends else 0, 1, data)


async def status_of(reader: asyncio.StreamReader) -> tuple[grpc.StatusCode, bytes]:
    """How the call ends, and the headers that say so. Raises EOFError where the connection ends before."""
    while True:
        head = await reader.readexactly(9)
        payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
        kind, flags = head[3], head[4]
        if kind == _GOAWAY:
            raise EOFError(payload)
        if kind == _HEADERS and flags & _END_STREAM:
            value = payload.partition(b"grpc-status")[2]
            return _CODES[int(value[1 : 1 + value[0]])], payload


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _text(value: str) -> bytes:
    """HPACK, without Huffman's code."""
    return bytes([len(value)]) + value.encode()
