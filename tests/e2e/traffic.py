"""Clients that go on while something breaks: traffic that runs until it is stopped, and streams that are compared word by word.

A well-behaved client is simulated: an answer that says when to come back (503, 429 with Retry-After) is followed, and a request
counts once, with every answer that it got on the way.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import json
import threading
import time

from harness import Reply, Stack, Wave, parse_reply, stream_text

# Retry-After is in whole seconds; tests do not wait for all of it.
LONGEST_PAUSE = 0.3


@dataclasses.dataclass
class Request:
    """One request of a client, with the answers to all its tries."""

    began: float
    replies: list[Reply]
    took: float = 0.0

    @property
    def last(self) -> Reply:
        return self.replies[-1]

    @property
    def reasons(self) -> list[str]:
        return [reply.headers.get("x-greenthread-reason", "") for reply in self.replies]


def chat_body(name: str, text: str = "hello", **fields) -> bytes:
    return json.dumps({"model": f"org/{name}", "messages": [{"role": "user", "content": text}], "max_tokens": 8, **fields}).encode()


def chats(stack: Stack, name: str, count: int, timeout: float = 120, headers: dict | None = None, **fields) -> Wave:
    """`count` chat requests for a model at once."""
    return Wave(stack, count, f"/{name}/v1/chat/completions", chat_body(name, **fields), headers=headers, timeout=timeout)


class Traffic:
    """Clients that ask one request after the other, from `start` to `stop`. Refusals that allow it are tried again."""

    def __init__(self, stack: Stack, name: str, clients: int = 3, pause: float = 0.02, **fields):
        self.stack, self.name, self.clients, self.pause, self.fields = stack, name, clients, pause, fields
        self.requests: list[Request] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()), daemon=True)

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def stop(self) -> list[Request]:
        """No new requests; waits for those under way."""
        self._stopped.set()
        self._thread.join(180)
        assert not self._thread.is_alive(), "clients still wait for answers"
        return self.requests

    def answered(self) -> int:
        """How many requests have been answered so far."""
        return len(self.requests)

    async def _all(self) -> None:
        await asyncio.gather(*(self._client() for _ in range(self.clients)))

    async def _client(self) -> None:
        wave = chats(self.stack, self.name, 1, **self.fields)
        limit = asyncio.Semaphore(1)
        while not self._stopped.is_set():
            began = time.monotonic()
            request = Request(began, [await wave._one(limit)])
            while "retry-after" in request.last.headers and request.last.headers.get("x-should-retry") != "false":
                await asyncio.sleep(min(LONGEST_PAUSE, float(request.last.headers["retry-after"])))
                request.replies.append(await wave._one(limit))
            request.took = time.monotonic() - began
            self.requests.append(request)
            await asyncio.sleep(self.pause)


def check_all_served(requests: list[Request], but: tuple[str, ...] = ()) -> None:
    """Every request got one complete 200, perhaps after refusals for one of the reasons in `but`."""
    assert requests, "there was no traffic"
    for request in requests:
        assert (request.last.status, request.last.error) == (200, ""), request
        strange = [reply for reply in request.replies[:-1] if reply.headers.get("x-greenthread-reason") not in but]
        assert not strange, strange
    bodies = collections.Counter(request.last.body for request in requests)
    assert len(bodies) == 1, f"the same question got different answers: {bodies.most_common(3)}"


class Streams:
    """Long streams, started at once; their text must be the one of an undisturbed stream."""

    def __init__(self, stack: Stack, name: str, count: int = 3, tokens: int = 400):
        self.tokens = tokens
        self.future = chats(stack, name, count, stream=True, max_tokens=tokens, text="tell me a story").start()

    def check(self, timeout: float = 120) -> None:
        """Waits for their ends: complete, in order, nothing missing and nothing twice."""
        replies = self.future.result(timeout)
        texts = []
        for reply in replies:
            assert (reply.status, reply.error) == (200, ""), (reply.status, reply.error, reply.body[-200:])
            text, done = stream_text(reply.body)
            assert done, f"cut off: …{reply.body[-200:]!r}"
            assert len(text.split()) == self.tokens, f"{len(text.split())} words of {self.tokens}"
            texts.append(text)
        assert len(set(texts)) == 1, "the same question got different streams"
