"""What gates answer themselves: the documents of every model in every state, and everything that must never wake a model."""

import json
import socket

import pytest

from harness import Model, Wave, wait_until
from traffic import Streams, chat_body

DOCUMENTS = ("status", "v1/models", "health")


def documents(stack, name) -> dict[str, dict]:
    """The three documents, the same by GET and HEAD."""
    found = {}
    for path in DOCUMENTS:
        url = f"{stack.gateway}/{stack.model(name).prefix}/{path}"
        answer = stack.client.get(url, headers={"x-mark": "documents"})
        head = stack.client.head(url, headers={"x-mark": "documents"})
        assert answer.headers["content-type"] == head.headers["content-type"] == "application/json"
        assert head.content == b""
        assert head.status_code == answer.status_code
        found[path] = answer.json() | {"http": answer.status_code}
    return found


def check_documents(stack, name, state, boot_ready=True, barriered=False, health=200, in_flight=None, asked=True):
    """As the API page shows them; none of these requests reaches the engine."""
    found = documents(stack, name)
    status = found["status"]
    assert (status["http"], status["model"], status["state"], status["bootReady"]) == (200, name, state, boot_ready)
    assert list(status)[:4] == ["model", "state", "bootReady", "queue"]
    assert status["queue"]["barriered"] is barriered
    assert isinstance(status["queue"]["inFlight"], int)
    assert in_flight is None or status["queue"]["inFlight"] == in_flight
    assert found["health"]["http"] == health
    served = stack.model(name).served or f"org/{name}"
    models = found["v1/models"]
    assert (models["http"], models["object"], len(models["data"])) == (200, "list", 1)
    entry = models["data"][0]
    assert (entry["id"], entry["object"], entry["owned_by"], entry["root"]) == (served, "model", "vllm", served)
    assert isinstance(entry["created"], int)
    if asked:  # the engine was asked for its figures once
        assert entry["max_model_len"] == 1 << 20
        assert stack.seen(name, "documents") == []


def test_documents_of_a_sleeping_model(stack):
    stack.sleep_now("alpha")
    wakes = stack.sim("alpha")["wakes"]
    check_documents(stack, "alpha", "sleeping", in_flight=0)
    assert stack.status("alpha")["state"] == "sleeping"
    assert stack.sim("alpha")["wakes"] == wakes


def test_documents_of_a_waking_model(stack):
    stack.sleep_now("alpha")
    stack.faults("alpha", hang_wake=True)
    held = Wave(stack, 3, "/alpha/v1/chat/completions", chat_body("alpha")).start()
    stack.wait_state("alpha", "waking")
    check_documents(stack, "alpha", "waking")
    assert stack.status("alpha")["state"] == "waking"
    stack.no_faults()
    assert {reply.status for reply in held.result(30)} == {200}


def test_documents_of_a_serving_model_with_its_number_in_flight(stack):
    stack.wake_now("alpha")
    streams = Streams(stack, "alpha", count=3, tokens=200)
    wait_until(lambda: stack.status("alpha")["queue"]["inFlight"] == 3, "all three are counted, whichever worker is asked")
    check_documents(stack, "alpha", "serving", in_flight=3)
    streams.check()
    wait_until(lambda: stack.status("alpha")["queue"]["inFlight"] == 0, "nothing is in flight any more")


def test_documents_of_a_draining_model_and_of_one_that_goes_to_sleep(stack):
    stack.wake_now("alpha")
    stack.faults("alpha", hang_sleep=True)
    streams = Streams(stack, "alpha", count=1, tokens=150)
    wait_until(lambda: stack.status("alpha")["queue"]["inFlight"] == 1, "the stream is on its way")
    stack.operator("alpha", "sleep").raise_for_status()
    wait_until(lambda: stack.status("alpha")["queue"]["barriered"], "the barrier is up")
    check_documents(stack, "alpha", "deactivating", barriered=True, in_flight=1)
    streams.check()
    # What other workers have in flight is known by their last heartbeat.
    wait_until(lambda: stack.status("alpha")["queue"] == {"inFlight": 0, "barriered": False}, "the engine is told to sleep")
    check_documents(stack, "alpha", "deactivating", barriered=False, in_flight=0)
    stack.no_faults()
    stack.wait_state("alpha", "sleeping")


def test_documents_of_a_model_that_waits_for_room(stack):
    stack.wake_now("alpha")
    stack.wake_now("beta")
    stack.sleep_now("gamma")
    streams = [Streams(stack, name, count=1, tokens=500) for name in ("alpha", "beta")]
    wait_until(lambda: all(stack.status(name)["queue"]["inFlight"] == 1 for name in ("alpha", "beta")), "both places are busy")
    held = Wave(stack, 1, "/gamma/v1/chat/completions", chat_body("gamma")).start()
    stack.wait_state("gamma", "pending")
    check_documents(stack, "gamma", "pending")
    assert held.result(60)[0].status == 200
    for stream in streams:
        stream.check()


def test_documents_of_a_booting_model_and_503_for_requests(make_stack):
    stack = make_stack([Model("slow", sim=("--cold-start", "60m"))], start=False).start(wait=False)
    wait_until(stack.is_ready, "gates have a table", 60)
    check_documents(stack, "slow", "pending", boot_ready=False, health=503, asked=False)
    answer = stack.chat("slow")
    assert (answer.status_code, answer.headers["x-greenthread-reason"]) == (503, "booting")
    assert 1 <= int(answer.headers["retry-after"]) <= 60


def test_documents_at_the_root(stack):
    stack.sleep_now("gamma")
    wakes = {model.name: stack.sim(model.name)["wakes"] for model in stack.models}
    models = stack.client.get(f"{stack.gateway}/v1/models").raise_for_status().json()
    assert models["object"] == "list"
    assert {model["id"] for model in models["data"]} == {"org/alpha", "org/beta", "org/gamma", "org/whisper"}
    assert stack.client.get(f"{stack.gateway}/health").json() == {"status": "ok"}
    assert stack.client.get(f"{stack.gateway}/liveness").status_code == 200
    readiness = stack.client.get(f"{stack.gateway}/readiness")
    assert readiness.json() == {"status": "ready", "healthy_workers": 4, "total_workers": 4}
    for path in ("v1/models", "health", "liveness", "readiness"):
        head = stack.client.head(f"{stack.gateway}/{path}")
        assert (head.status_code, head.content) == (200, b"")
        assert stack.client.post(f"{stack.gateway}/{path}").status_code == 405
    assert {model.name: stack.sim(model.name)["wakes"] for model in stack.models} == wakes


@pytest.mark.parametrize("method, path, status, reason", [
    ("GET", "/metrics", 403, "not_exposed"),
    ("POST", "/metrics", 403, "not_exposed"),
    ("GET", "/version", 403, "not_exposed"),
    ("GET", "/ping", 403, "not_exposed"),
    ("GET", "/docs", 403, "not_exposed"),
    ("GET", "/docs/oauth2-redirect", 403, "not_exposed"),
    ("GET", "/openapi.json", 403, "not_exposed"),
    ("GET", "/%6detrics", 403, "not_exposed"),
    ("OPTIONS", "/v1/chat/completions", 204, None),
    ("GET", "", 503, "asleep"),
    ("GET", "/", 503, "asleep"),
    ("GET", "/health_generate", 503, "asleep"),
    ("GET", "/tokenize", 503, "asleep"),
    ("DELETE", "/v1/responses/x", 503, "asleep"),
    ("PUT", "/v1/chat/completions", 503, "asleep"),
    ("POST", "/status", 405, "method_not_allowed"),
    ("POST", "/v1/models", 405, "method_not_allowed"),
])
def test_never_wakes(stack, method, path, status, reason):
    if stack.status("gamma")["state"] != "sleeping":
        stack.sleep_now("gamma")
    wakes = stack.sim("gamma")["wakes"]
    answer = stack.raw(method, f"/gamma{path}", headers={"x-mark": "never"})
    assert (answer.status, answer.headers.get("x-greenthread-reason")) == (status, reason)
    if status == 503:
        assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert stack.status("gamma")["state"] == "sleeping"
    assert stack.sim("gamma")["wakes"] == wakes
    assert stack.seen("gamma", "never") == []


def test_documents_of_the_engine_stay_hidden_while_it_serves(stack):
    stack.wake_now("alpha")
    for path in ("/metrics", "/version", "/docs", "/openapi.json"):
        assert stack.raw("GET", f"/alpha{path}", headers={"x-mark": "hidden"}).status == 403
    assert stack.seen("alpha", "hidden") == []


def test_get_under_v1_wakes(stack):
    stack.sleep_now("alpha")
    wakes = stack.sim("alpha")["wakes"]
    answer = stack.raw("GET", "/alpha/v1/responses/x", headers={"x-mark": "response"})
    assert (answer.status, json.loads(answer.body)) == (404, {"detail": "Not Found"}), "the engine's own answer"
    assert stack.sim("alpha")["wakes"] == wakes + 1
    assert [(seen["method"], seen["target"]) for seen in stack.seen("alpha", "response")] == [("GET", "/v1/responses/x")]


def test_an_upgrade_wakes_and_reaches_the_engine(stack):
    stack.sleep_now("alpha")
    request = "GET /alpha/v1/realtime?x=1 HTTP/1.1\r\nhost: here\r\nconnection: upgrade\r\nupgrade: websocket\r\nx-mark: socket\r\n"
    request += "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    with socket.create_connection(("127.0.0.1", stack.port), timeout=30) as connection:
        connection.sendall(request.encode())
        status = connection.recv(4096).split(b"\r\n")[0].decode()
    assert status.startswith("HTTP/1.1 404"), "the engine's own answer: it has no such path"
    seen = stack.seen("alpha", "socket")
    assert [(one["target"], one["headers"].get("upgrade")) for one in seen] == [("/v1/realtime?x=1", "websocket")]


def test_503_at_the_barrier_and_success_on_retry(stack):
    stack.wake_now("alpha")
    streams = Streams(stack, "alpha", count=1, tokens=300)
    wait_until(lambda: stack.status("alpha")["queue"]["inFlight"] == 1, "the stream is on its way")
    stack.operator("alpha", "sleep").raise_for_status()
    wait_until(lambda: stack.status("alpha")["queue"]["barriered"], "the barrier is up")
    refused = stack.chat("alpha")
    assert (refused.status_code, refused.headers["x-greenthread-reason"]) == (503, "draining")
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    streams.check()
    wait_until(lambda: stack.chat("alpha").status_code == 200, "a retry succeeds")


def test_a_held_request_stays_held_when_a_barrier_rises(stack):
    """An operator's sleep arrives while the model wakes: it drains as soon as it is awake, and is woken again for who waits."""
    stack.sleep_now("alpha")
    stack.faults("alpha", hang_wake=True)
    before = stack.sim("alpha")
    held = Wave(stack, 20, "/alpha/v1/chat/completions", chat_body("alpha")).start()
    wait_until(lambda: stack.figures("alpha")["held"] == 20, "all are held")
    stack.operator("alpha", "sleep").raise_for_status()
    stack.no_faults()
    replies = held.result(60)
    assert {(reply.status, reply.error) for reply in replies} == {(200, "")}
    assert stack.sim("alpha")["requests_asleep"] == before["requests_asleep"]


def test_a_model_taken_out_of_service_refuses_until_it_is_enabled(stack):
    stack.wake_now("alpha")
    stack.operator("alpha", "disable").raise_for_status()
    try:
        stack.wait_state("alpha", "sleeping")
        refused = stack.chat("alpha")
        assert (refused.status_code, refused.headers["x-greenthread-reason"]) == (503, "disabled")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        check_documents(stack, "alpha", "sleeping", health=503)
    finally:
        stack.operator("alpha", "enable").raise_for_status()
    wait_until(lambda: stack.chat("alpha").status_code == 200, "it is back")
