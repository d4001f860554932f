"""Paths and headers: which model a request belongs to, which bytes its engine sees, and what no client can reach."""

import json

import pytest

FORWARDED = [
    ("/alpha/v1/thing", "/v1/thing"),
    ("/alpha/v1/thing?a=1&b=%2F&c=a/b", "/v1/thing?a=1&b=%2F&c=a/b"),
    ("/alpha", "/"),
    ("/alpha/", "/"),
    ("/alpha?x=1", "/?x=1"),
    ("/alpha/v1/v1/messages", "/v1/messages"),
    ("/alpha/v1/v1/messages/count_tokens?beta=true", "/v1/messages/count_tokens?beta=true"),
    ("/alpha/v1/v2/thing", "/v1/v2/thing"),
    ("/alpha/a%2Fb", "/a%2Fb"),
    ("/alpha/a//b/", "/a//b/"),
    ("/alpha//v1/thing", "//v1/thing"),
    ("/alpha/./a/../b", "/./a/../b"),
    ("/alpha/../beta/v1/thing", "/../beta/v1/thing"),
    ("/alpha/beta/v1/thing", "/beta/v1/thing"),
    ("/alpha/%2573leep", "/%2573leep"),
    ("/alpha/sleepy", "/sleepy"),
    ("/alpha/v1/sleep", "/v1/sleep"),
]

NOBODYS = [
    "/", "/alphax", "/alphax/v1/thing", "/alph", "/ALPHA/v1/thing", "//alpha/v1/thing", "/%61lpha/v1/thing", "/./alpha/v1/thing",
    "/team-a", "/team-a/", "/team-a/other/v1/thing", "/team-a/whisperer/v1/thing", "/team-a//whisper/v1/thing", "/v1/thing", "/x/../alpha/sleep",
    "/alpha%2fsleep", "/status", "/metrics", "/api/v1/models", "/clusters", "/quitquitquit", "/greenthread.gate.v1.Gates/Attach",
]

CONTROL = [
    "/sleep", "/SLEEP", "/sleep/", "//sleep", "/./sleep", "/v1/../sleep", "/%73leep", "/%53LEEP", "/sleep?level=1", "/%2e/sleep", "/v1/%2e%2e/sleep",
    "/%2Fsleep", "/x/..%2fsleep", "/../sleep", "/wake_up", "/is_sleeping", "/pause", "/resume", "/abort_requests", "/collective_rpc",
    "/v1/load_lora_adapter", "/v1/v1/load_lora_adapter", "/load", "/server_info", "/reset_prefix_cache", "/sim/faults", "/sim/stats", "/Sim//Faults",
]


def seen_targets(stack, name, mark):
    return [request["target"] for request in stack.seen(name, mark)]


def test_engines_see_the_clients_own_bytes_behind_the_prefix(stack):
    stack.wake_now("alpha")
    for number, (path, target) in enumerate(FORWARDED):
        stack.raw("POST", path, b"{}", {"x-mark": f"forwarded-{number}"})
        assert seen_targets(stack, "alpha", f"forwarded-{number}") == [target], path
        assert seen_targets(stack, "beta", f"forwarded-{number}") == []


def test_a_prefix_of_two_segments_wakes_its_model(stack):
    stack.sleep_now("whisper")
    body = json.dumps({"model": "org/whisper", "prompt": "x", "max_tokens": 3}).encode()
    answer = stack.raw("POST", "/team-a/whisper/v1/completions?q=1", body, {"x-mark": "whisper"})
    assert answer.status == 200
    assert seen_targets(stack, "whisper", "whisper") == ["/v1/completions?q=1"]


def test_paths_of_no_model_are_404_in_the_shape_of_the_api_and_reach_nobody(stack):
    stack.wake_now("alpha")
    for method in ("GET", "POST"):
        for path in NOBODYS:
            answer = stack.raw(method, path, b"{}" if method == "POST" else b"", {"x-mark": "nobody"})
            assert (answer.status, answer.headers.get("content-type")) == (404, "application/json"), path
            error = json.loads(answer.body)["error"]
            assert (error["code"], error["type"], error["param"]) == ("unknown_path", "invalid_request_error", None)
    for model in stack.models:
        assert stack.seen(model.name, "nobody") == []


@pytest.mark.parametrize("state", ["serving", "sleeping"])
def test_engines_are_not_controlled_through_the_gateway(stack, state):
    (stack.wake_now if state == "serving" else stack.sleep_now)("alpha")
    before = stack.sim("alpha")
    for method in ("GET", "POST"):
        for path in CONTROL:
            answer = stack.raw(method, f"/alpha{path}", headers={"x-mark": f"control-{state}"})
            assert (answer.status, answer.headers.get("x-greenthread-reason")) == (403, "control_path"), (method, path)
    assert stack.raw("POST", "/alpha/sleep#x", headers={"x-mark": f"control-{state}"}).status in (400, 403)
    assert stack.seen("alpha", f"control-{state}") == []
    after = stack.sim("alpha")
    assert (after["sleeps"], after["wakes"]) == (before["sleeps"], before["wakes"])
    assert stack.status("alpha")["state"] == state


def clusters(stack):
    document = json.loads((stack.state / "envoy" / "cds.json").read_text())
    named = {cluster["alt_stat_name"]: cluster["name"] for cluster in document["resources"]}
    return named | {"control": "greenthread-control"}


def test_forged_headers_reach_nobody_else(stack):
    """Not another model, not control, whatever the path and the spelling of the header."""
    stack.wake_now("alpha")
    stack.wake_now("beta")
    for target, cluster in clusters(stack).items():
        for header in ("x-greenthread-cluster", "X-GreenThread-Cluster"):
            forged = {header: cluster, "x-greenthread-model": target, "x-mark": "forged"}
            lost = stack.raw("POST", "/nothing/v1/thing", b"{}", forged)
            assert lost.status == 404 and b"unknown_path" in lost.body
            admitted = stack.raw("POST", "/alpha/v1/thing", b"{}", forged)
            assert json.loads(admitted.body) == {"detail": "Not Found"}
    assert len(stack.seen("alpha", "forged")) == 2 * len(clusters(stack))
    for other in ("beta", "gamma", "whisper"):
        assert stack.seen(other, "forged") == []


def test_forged_headers_do_not_help_a_held_request_either(stack):
    stack.wake_now("beta")
    stack.sleep_now("alpha")
    headers = {"x-greenthread-cluster": clusters(stack)["beta"], "connection": "close, x-greenthread-cluster", "x-mark": "forged-held"}
    stack.raw("POST", "/alpha/v1/thing", b"{}", headers)
    assert seen_targets(stack, "alpha", "forged-held") == ["/v1/thing"]
    assert stack.seen("beta", "forged-held") == []


def test_engines_see_the_clients_headers_and_none_of_ours(stack):
    stack.wake_now("alpha")
    headers = {"authorization": "Bearer not-needed", "x-api-key": "k", "x-greenthread-reason": "r", "x-envoy-retry-on": "5xx", "x-mark": "headers"}
    stack.raw("POST", "/alpha/v1/thing", b"{}", headers)
    (seen,) = stack.seen("alpha", "headers")
    assert (seen["headers"]["authorization"], seen["headers"]["x-api-key"]) == ("Bearer not-needed", "k")
    assert [name for name in seen["headers"] if name.startswith(("x-greenthread", "x-envoy-retry"))] == []
