"""Bytes that no client should send: the filter never traps, nothing stays held or in flight, and the next request is served."""

import random
import re
import socket

import pytest

from harness import Model, Stack, statuses, wait_until
from traffic import chat_body, chats

SEED = 20_261_121
RANDOM_REQUESTS = 400
# Longest wait for an answer to bytes that may never get one.
PATIENCE = 3.0


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """An awake model, a sleeping one, and one under two segments."""
    models = [Model("alpha"), Model("beta"), Model("gamma", prefixes=("team-a/gamma",))]
    running = Stack(tmp_path_factory.mktemp("hostile"), models, top="hold: {budget: 2s}")
    try:
        running.start()
        running.wake_now("alpha")
        yield running
    finally:
        running.stop()


BODY = chat_body("alpha")


def request(target: bytes = b"/alpha/v1/chat/completions", method: bytes = b"POST", version: bytes = b"HTTP/1.1", headers: bytes = b"",
            host: bytes = b"host: gateway\r\n", length: bytes | None = None, body: bytes = BODY) -> bytes:
    length = b"content-length: %d\r\n" % len(body) if length is None else length
    return b"%s %s %s\r\n" % (method, target, version) + host + b"connection: close\r\n" + headers + length + b"\r\n" + body


def paths() -> dict[str, bytes]:
    """Paths around every decision of the filter."""
    model, sleeping = b"/alpha", b"/beta"
    return {
        "long": model + b"/v1/" + b"a" * 50_000,
        "many segments": model + b"/x" * 8_000,
        "only slashes": b"/" * 5_000,
        "dots": model + b"/v1/../../../beta/./..//sleep",
        "percent garbage": model + b"/%zz%%%2%g1%",
        "percent of everything": model + b"/" + b"".join(b"%%%02x" % byte for byte in range(256)),
        "encoded slash": b"/alpha%2Fv1%2Fchat%2Fcompletions",
        "encoded name": b"/%61lpha/v1/chat/completions",
        "upper case": b"/ALPHA/v1/chat/completions",
        "bytes above 127": model + b"/v1/\xff\xfe\x80\xc3\x28",
        "name with bytes above 127": b"/\xff\xfealpha/v1/chat/completions",
        "utf-8": model + "/v1/größe/\U0001f600".encode(),
        "query garbage": model + b"/v1/chat/completions?%00&&&==?;#\xff",
        "two question marks": model + b"?/v1/chat/completions?",
        "fragment": model + b"/v1/chat/completions#/beta",
        "no leading slash": b"alpha/v1/chat/completions",
        "empty model path": model,
        "model and slash": model + b"/",
        "half a prefix": b"/team-a",
        "half a prefix and slash": b"/team-a/",
        "prefix and more": b"/alphabet/v1/chat/completions",
        "double slash": b"//alpha//v1//chat//completions",
        "asterisk": b"*",
        "absolute form": b"http://gateway/alpha/v1/chat/completions",
        "absolute form of elsewhere": b"http://[::1]:99999/alpha/v1/models",
        "absolute form without path": b"http://gateway",
        "scheme only": b"http://",
        "control path": model + b"/sleep",
        "hidden control path": model + b"/%2e%2e/alpha/./%73leep/",
        "control path in disguise": model + b"//SLEEP%2f..%2fsleep?level=1",
        "tabs": model + b"/v1/\tchat",
        "sleeping and long": sleeping + b"/" + b"%41" * 15_000,
    }


def header_lines() -> dict[str, bytes]:
    """Header fields, legal and not."""
    prefer = [b"wait=", b"wait=-1", b"wait=1e9", b"wait=99999999999999999999999", b"wait=\xff", b"wait=0;x=y, wait=1", b"respond-async;;;,,=", b"wait =\t0",
              b'wait="1', b"WAIT=0", b"a" * 20_000, b"wait=0" + b",wait=0" * 2_000, b"wait=18446744073709551616", b"wait=00000000000000000001"]
    lines = {f"prefer {number}": b"prefer: " + value + b"\r\n" for number, value in enumerate(prefer)}
    lines |= {
        "value with \\xff": b"x-a: \xff\xfe\x80\r\n",
        "every value with \\xff": b"prefer: \xff\r\nupgrade: \xff\r\nx-request-id: \xff\r\nauthorization: \xff\r\nuser-agent: \xff\r\n",
        "name with \\xff": b"x-\xff: a\r\n",
        "empty value": b"x-empty:\r\nprefer:\r\nupgrade:\r\n",
        "empty name": b": a\r\n",
        "space before colon": b"x-a : b\r\n",
        "no colon": b"nonsense\r\n",
        "folded": b"x-a: b\r\n c\r\n",
        "nul": b"x-a: a\x00b\r\n",
        "bare line feed": b"x-a: b\nx-c: d\r\n",
        "60 KB in one": b"x-long: " + b"a" * 59_000 + b"\r\n",
        "70 KB in one": b"x-long: " + b"a" * 70_000 + b"\r\n",
        "99 of them": b"".join(b"x-%d: %d\r\n" % (number, number) for number in range(90)),
        "too many": b"".join(b"x-%d: %d\r\n" % (number, number) for number in range(500)),
        "ours, forged": b"x-greenthread-cluster: gt-000000000000\r\nX-GreenThread-Reason: draining\r\nx-greenthread-: \xff\r\n",
        "envoy's, forged": b"x-envoy-original-path: /sleep\r\nx-envoy-retry-on: 5xx\r\nx-envoy-max-retries: 100\r\nx-envoy-upstream-rq-timeout-ms: 1\r\n",
        "upgrade": b"upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-key: x\r\n",
        "upgrade to nonsense": b"upgrade: \x01\r\n",
        "expect": b"expect: 100-continue\r\n",
        "expect nonsense": b"expect: \xff\r\n",
        "two hosts": b"host: other\r\n",
        "te": b"te: trailers, \xff\r\n",
    }
    return lines


def whole_requests() -> dict[str, bytes]:
    """Requests whose frame is wrong."""
    chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
    chunked = b"transfer-encoding: chunked\r\n"
    return {
        "chunked": request(length=chunked, body=chunk),
        "chunked to a sleeper": request(b"/beta/v1/chat/completions", length=chunked, body=b"%x\r\n" % len(BODY) + chat_body("beta").ljust(len(BODY)) + b"\r\n0\r\n\r\n"),
        "chunked, garbage": request(length=chunked, body=b"zz\r\nxx\r\n"),
        "chunked, cut": request(length=chunked, body=b"ffff\r\nabc"),
        "chunked, huge size": request(length=chunked, body=b"ffffffffffffffffff\r\nabc"),
        "chunked and length": request(length=chunked + b"content-length: 5\r\n", body=chunk),
        "length too large": request(length=b"content-length: 99999\r\n"),
        "length too large, to a sleeper": request(b"/beta/v1/chat/completions", length=b"content-length: 99999\r\n"),
        "length too small": request(length=b"content-length: 3\r\n"),
        "length negative": request(length=b"content-length: -1\r\n"),
        "length of no number": request(length=b"content-length: \xff\r\n"),
        "length beyond 64 bits": request(b"/beta/v1/chat/completions", length=b"content-length: 99999999999999999999999999\r\n"),
        "two lengths": request(length=b"content-length: 3\r\ncontent-length: 4\r\n"),
        "HTTP/1.0": request(version=b"HTTP/1.0"),
        "HTTP/1.0 without host": request(version=b"HTTP/1.0", host=b""),
        "HTTP/1.1 without host": request(host=b""),
        "HTTP/0.9": b"GET /alpha/status\r\n\r\n",
        "HTTP/9.9": request(version=b"HTTP/9.9"),
        "host with \\xff": request(host=b"host: \xff\r\n"),
        "host empty": request(host=b"host:\r\n"),
        "method unknown": request(method=b"BREW"),
        "method empty": request(method=b""),
        "method long": request(method=b"A" * 10_000),
        "method with \\xff": request(method=b"PO\xff"),
        "CONNECT": request(b"gateway:443", method=b"CONNECT"),
        "TRACE": request(method=b"TRACE"),
        "OPTIONS *": request(b"*", method=b"OPTIONS"),
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        "HTTP/2 preface, then garbage": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 200,
        "HTTP/2 preface, then nothing": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
        "zeros": bytes(500),
        "line feeds": b"\n" * 500,
        "nothing": b"",
        "half a request": b"POST /beta/v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-",
        "two at once": request().replace(b"connection: close\r\n", b"") + request(),
        "100 at once": request(b"/alpha/status", method=b"GET", body=b"").replace(b"connection: close\r\n", b"") * 100 + request(),
    }


def cases() -> dict[str, bytes]:
    every = {f"path, {name}": request(path) for name, path in paths().items()}
    every |= {f"path with GET, {name}": request(path, method=b"GET", body=b"") for name, path in paths().items()}
    every |= {f"header, {name}": request(headers=line) for name, line in header_lines().items()}
    # To a sleeper the filter reads more of them, and what it holds for 2 s at most must end.
    every |= {f"header to a sleeper, {name}": request(b"/beta/v1/chat/completions", headers=line, body=chat_body("beta")) for name, line in header_lines().items()}
    return every | whole_requests()


def exchange(stack: Stack, payload: bytes) -> bytes:
    """What comes back until the other end closes or says nothing for a while; the connection is then dropped."""
    with socket.create_connection(("127.0.0.1", stack.port), timeout=PATIENCE) as client:
        answer = b""
        try:
            client.sendall(payload)
            while chunk := client.recv(65_536):
                answer += chunk
        except OSError:
            pass
        return answer


def exchange_all(stack: Stack, payloads: list[bytes]) -> list[bytes]:
    """Many at a time: most of the wait is for answers that never come."""
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(32) as pool:
        return list(pool.map(lambda payload: exchange(stack, payload), payloads))


def traps(stack: Stack) -> dict[str, int]:
    """Envoy's own counts of virtual machines that failed or were made again."""
    stats = stack.envoy_stats("wasm")
    return {name: value for name, value in stats.items() if re.search(r"reload|fail|error|crash|created", name)}


@pytest.fixture
def unharmed(target):
    """Afterwards: no trap, nothing left, and ordinary requests are served by both workers, awake and asleep."""
    before, envoy, pids = traps(target), target.envoy_pid(), [target.engine_pid(model.name) for model in target.models]
    assert any("created" in name for name in before), f"Envoy counts no virtual machines: {target.envoy_stats('wasm')}"
    yield target
    assert target.envoy_pid() == envoy, "Envoy died"
    assert traps(target) == before
    log = (target.state / "logs" / "envoy.log").read_text(errors="replace")
    assert not re.search(r"panicked at|RuntimeError|Proxy-Wasm plugin .* failed|Function: .* failed", log), log[-2000:]
    wait_until(lambda: target.envoy_stats("http.gateway.downstream_rq_active").get("http.gateway.downstream_rq_active", 0) <= 1, "no request is left in Envoy")
    target.wait_idle()
    assert statuses(chats(target, "alpha", 20).run()) == {200: 20}
    target.sleep_now("beta")
    assert statuses(chats(target, "beta", 20).run()) == {200: 20}
    assert [target.engine_pid(model.name) for model in target.models] == pids, "an engine was restarted"
    target.sleep_now("beta")


def test_hostile_paths_headers_and_frames_do_no_harm(unharmed):
    every = cases()
    answers = dict(zip(every, exchange_all(unharmed, list(every.values()))))
    heads = {name: answer.split(b"\r\n", 1)[0] for name, answer in answers.items()}
    strange = {name: head for name, head in heads.items() if head and not re.match(rb"HTTP/1\.[01] [1-5]\d\d ", head) and b"HTTP/2" not in name.encode()}
    assert not strange, strange
    # What is legal is answered, whatever is in it.
    for name in ("header, value with \\xff", "header, every value with \\xff", "header, empty value", "header, 99 of them", "chunked", "header, ours, forged",
                 "header, envoy's, forged", "header, prefer 4", "header, prefer 10"):
        assert heads[name].startswith(b"HTTP/1.1 200"), (name, answers[name][:300])
    # Engines cannot be controlled, in whatever disguise.
    for name in ("path, control path", "path, hidden control path", "path, control path in disguise"):
        assert re.match(rb"HTTP/1.1 40[0345] ", heads[name]), (name, heads[name])
    assert unharmed.sim("alpha")["sleeps"] == 0 or unharmed.status("alpha")["state"] == "serving"


def test_random_bytes_do_no_harm(unharmed):
    """A few hundred requests from a seed: mutations of good ones."""
    chance = random.Random(SEED)
    good = [request(), request(b"/beta/v1/chat/completions", body=chat_body("beta")), request(b"/team-a/gamma/status", method=b"GET", body=b""),
            request(b"/beta/v1/models", method=b"GET", body=b""), request(b"/v1/models", method=b"GET", body=b"")]

    def mutated() -> bytes:
        payload = bytearray(chance.choice(good))
        for _ in range(chance.randrange(1, 12)):
            at = chance.randrange(len(payload))
            kind = chance.randrange(4)
            if kind == 0:
                payload[at] = chance.randrange(256)
            elif kind == 1 and len(payload) > 20:
                del payload[at:at + chance.randrange(1, 20)]
            elif kind == 2:
                payload[at:at] = chance.randbytes(chance.randrange(1, 20))
            else:
                payload[at:at] = payload[at:at + 30] * chance.randrange(1, 50)
        return bytes(payload)

    answers = exchange_all(unharmed, [mutated() for _ in range(RANDOM_REQUESTS)])
    assert any(answer.startswith(b"HTTP/1.1 200") for answer in answers), "mutations were too wild to reach anything"
