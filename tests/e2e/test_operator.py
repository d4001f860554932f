"""What operators use: the command line, the HTTP API and its rules, metrics, the module."""

import hashlib
import json
import re

import pytest

from harness import Model, Wave, wait_until
from operators import greenthread, samples
from traffic import chat_body


def test_status_shows_every_model_and_why(stack):
    stack.wake_now("alpha")
    shown = greenthread(stack, "status")
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert lines[0].split()[:2] == ["MODEL", "STATE"]
    assert {line.split()[0] for line in lines[1:5]} == {"alpha", "beta", "gamma", "whisper"}
    assert re.search(r"^alpha +serving", shown.stdout, re.M)
    assert "GPU 0:" in shown.stdout
    one = greenthread(stack, "status", "alpha").stdout
    assert "decisions" in one and "an operator asked for it to wake" in one


def test_status_as_json_is_the_document_of_the_api(stack):
    document = json.loads(greenthread(stack, "status", "--output", "json").stdout)
    assert [model["name"] for model in document["models"]] == ["alpha", "beta", "gamma", "whisper"]
    one = json.loads(greenthread(stack, "status", "alpha", "--output", "json").stdout)
    assert one["name"] == "alpha"
    assert one.keys() == stack.figures("alpha").keys()


def test_wake_and_sleep_wait_for_the_end(stack):
    stack.sleep_now("alpha")
    woken = greenthread(stack, "wake", "alpha")
    assert (woken.returncode, woken.stdout.strip()) == (0, "alpha is serving"), woken
    assert stack.status("alpha")["state"] == "serving"
    slept = greenthread(stack, "sleep", "alpha", "--output", "json")
    assert slept.returncode == 0, slept
    assert json.loads(slept.stdout)["state"] == "sleeping"
    assert stack.status("alpha")["state"] == "sleeping"


def test_who_was_put_to_sleep_for_whom_is_told(stack):
    for name in ("alpha", "beta"):
        stack.wake_now(name)
    stack.sleep_now("gamma")
    assert stack.chat("gamma").status_code == 200
    told = [entry["sentence"] for name in ("alpha", "beta") for entry in stack.figures(name)["decisions"]]
    assert [sentence for sentence in told if "gamma" in sentence], told


def test_a_wake_that_fails_is_an_error_with_its_reason(stack):
    stack.sleep_now("beta")
    stack.faults("beta", wake_500=True)
    failed = greenthread(stack, "wake", "beta", "--timeout", "20")
    assert failed.returncode == 1
    assert failed.stderr.count("\n") >= 1 and "fault switched on" in failed.stderr
    stack.no_faults()
    assert greenthread(stack, "wake", "beta").returncode == 0


def test_a_model_out_of_service_does_not_wake_and_says_what_would_help(stack):
    assert greenthread(stack, "disable", "gamma").returncode == 0
    refused = greenthread(stack, "wake", "gamma")
    assert refused.returncode == 1 and "`greenthread enable gamma` puts it back" in refused.stderr, refused
    assert greenthread(stack, "enable", "gamma").returncode == 0


def test_unknown_models_and_unreachable_control_say_what_to_do(stack):
    unknown = greenthread(stack, "wake", "nobody")
    assert unknown.returncode == 1
    assert "alpha" in unknown.stderr, "known models are listed"
    away = greenthread(stack, "status", "--control", "http://127.0.0.1:1")
    assert away.returncode == 1 and "greenthread up" in away.stderr
    assert greenthread(stack, "status", "--output", "xml").returncode == 2


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/api/v1/status", "/api/v1/models/alpha"])
def test_web_pages_are_kept_out_of_loopback(stack, path):
    url = stack.control + path
    assert stack.client.get(url).status_code == 200
    assert stack.client.get(url, headers={"origin": "http://127.0.0.1:3000"}).status_code == 403
    assert stack.client.get(url, headers={"origin": "null"}).status_code == 403
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "10.0.0.1"):
        assert stack.client.get(url, headers={"host": host}).status_code == 403
    for host in ("localhost", "localhost:1234", "[::1]:80", "127.0.0.1"):
        assert stack.client.get(url, headers={"host": host}).status_code == 200


def test_verbs_are_kept_from_web_pages_too(stack):
    stack.wake_now("alpha")
    url = f"{stack.control}/api/v1/models/alpha/sleep"
    assert stack.client.post(url, headers={"origin": "http://evil.example"}).status_code == 403
    assert stack.client.post(url, headers={"host": "evil.example"}).status_code == 403
    assert stack.client.get(url).status_code == 405
    assert stack.status("alpha")["state"] == "serving"


def test_with_a_token_only_health_and_modules_are_open(make_stack):
    stack = make_stack([Model("alpha")], token="a-secret-token")
    import httpx
    with httpx.Client(base_url=stack.control) as stranger:
        assert stranger.get("/healthz").status_code == 200
        assert stranger.get("/readyz").status_code == 200
        for path in ("/metrics", "/api/v1/status", "/api/v1/models/alpha", "/api/v1/models/alpha/explain", "/api/v1/models/alpha/why-not",
                     "/api/v1/choices/1", "/api/v1/gpus", "/api/v1/events", "/nothing"):
            for headers in ({}, {"authorization": "Bearer another-token"}, {"authorization": "Basic a-secret-token"}):
                assert stranger.get(path, headers=headers).status_code == 401, path
        for path in ("/api/v1/models/alpha/sleep", "/api/v1/gpus/0/accept"):
            assert stranger.post(path).status_code == 401, path
        assert stranger.get("/api/v1/status", headers={"authorization": "Bearer a-secret-token"}).status_code == 200
    assert greenthread(stack, "status").returncode == 1
    assert greenthread(stack, "status", token="a-secret-token").returncode == 0
    assert stack.chat("alpha").status_code == 200, "gates have the token"
    assert "a-secret-token" not in stack.output.read_text()


def test_metrics_agree_with_what_happened(stack):
    stack.sleep_now("alpha")
    before = samples(stack)
    assert before['greenthread_model_state{model="alpha",state="sleeping"}'] == 1
    assert {reply.status for reply in Wave(stack, 7, "/alpha/v1/chat/completions", chat_body("alpha")).run()} == {200}
    assert stack.chat("alpha").status_code == 200
    assert stack.raw("POST", "/alpha/sleep").status == 403

    def changed(name):
        return samples(stack).get(name, 0) - before.get(name, 0)

    wait_until(lambda: changed('greenthread_request_wait_seconds_count{model="alpha"}') == 7, "seven waited")
    outcomes = lambda: {key: changed(key) for key in samples(stack) if key.startswith('greenthread_requests_total{model="alpha"') and changed(key)}
    wait_until(lambda: sorted(outcomes().values()) == [1, 1, 7] or sorted(outcomes().values()) == [1, 8], f"eight were forwarded and one refused: {outcomes()}")
    assert changed('greenthread_wakes_total{model="alpha"}') == 1
    after = samples(stack)
    assert after['greenthread_model_state{model="alpha",state="serving"}'] == 1
    assert sum(value for key, value in after.items() if key.startswith('greenthread_model_state{model="alpha"')) == 1
    assert after['greenthread_request_wait_seconds_bucket{model="alpha",le="+Inf"}'] == after['greenthread_request_wait_seconds_count{model="alpha"}']
    reserved = sum(value for key, value in after.items() if key.startswith("greenthread_model_reserved_bytes"))
    assert after['greenthread_gpu_info{gpu="0",source="simulated"}'] == 1
    assert reserved == after['greenthread_gpu_reserved_bytes{gpu="0"}'] <= after['greenthread_gpu_capacity_bytes{gpu="0"}'] == stack.gpu << 30


def test_the_module_is_served_under_its_digest(stack):
    unknown = stack.client.get(f"{stack.control}/filter/{'0' * 64}.wasm")
    assert unknown.status_code == 404
    current = re.search(r"/filter/([0-9a-f]{64})\.wasm", unknown.json()["error"]["remedy"])[1]
    module = stack.client.get(f"{stack.control}/filter/{current}.wasm")
    assert (module.status_code, module.headers["content-type"]) == (200, "application/wasm")
    assert module.content[:4] == b"\0asm"
    assert hashlib.sha256(module.content).hexdigest() == current


def test_events_stream_as_they_are_decided(stack):
    stack.sleep_now("alpha")
    with stack.client.stream("GET", f"{stack.control}/api/v1/events") as events:
        stack.operator("alpha", "wake").raise_for_status()
        line = next(line for line in events.iter_lines() if json.loads(line).get("model") == "alpha")
    assert "operator" in json.loads(line)["sentence"]
