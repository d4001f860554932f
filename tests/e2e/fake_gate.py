"""A gate made by hand: speaks the gate protocol over gRPC without generated code, so that it can say what no real gate would.

Only the few fields that tests use are written and read; numbers are those of proto/greenthread/gate/v1/gate.proto.
"""

from __future__ import annotations

import queue

import grpc


def varint(number: int) -> bytes:
    out = bytearray()
    while True:
        out.append(number & 0x7F | (0x80 if number > 0x7F else 0))
        number >>= 7
        if not number:
            return bytes(out)


def field(number: int, value: int | bytes) -> bytes:
    """One field of a message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def fields(message: bytes) -> dict[int, list]:
    """The fields of a message: numbers as they are, everything else as bytes."""
    found: dict[int, list] = {}
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = number()
        if key & 7 == 0:
            value: int | bytes = number()
        else:
            length = number()
            value = message[at:at + length]
            at += length
        found.setdefault(key >> 3, []).append(value)
    return found


class FakeGate:
    """One stream to control. `messages()` yields what control says, as (term, fields)."""

    def __init__(self, port: int, name: str, token: str | None = None):
        self.name = name
        self.sequence = 0
        self.said: queue.Queue = queue.Queue()
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        attach = self.channel.stream_stream("/greenthread.gate.v1.GateControl/Attach", request_serializer=bytes, response_deserializer=bytes)
        metadata = [("authorization", f"Bearer {token}")] if token else None
        self.stream = attach(iter(self.said.get, None), metadata=metadata, timeout=60)

    def say(self, body: int, message: bytes) -> None:
        self.sequence += 1
        self.said.put(field(1, self.sequence) + field(body, message))

    def hello(self, largest_term: int) -> None:
        self.say(2, field(1, self.name.encode()) + field(2, b"fake") + field(4, 1) + field(5, 1) + field(6, largest_term))

    def report(self) -> None:
        self.say(3, b"")

    def bye(self) -> None:
        self.say(5, b"")

    def messages(self):
        """Until control closes the stream; raises grpc.RpcError when it does so with an error."""
        for raw in self.stream:
            message = fields(raw)
            yield message.get(1, [0])[0], message

    def outcome(self) -> grpc.StatusCode:
        """Reads to the end of the stream; how it ended."""
        try:
            for _ in self.stream:
                pass
        except grpc.RpcError:
            pass
        return self.stream.code()

    def close(self) -> None:
        self.said.put(None)
        self.stream.cancel()
        self.channel.close()
