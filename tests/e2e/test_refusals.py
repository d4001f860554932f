"""Every refusal that a client can meet: status, reason, Retry-After, and a body in the shape of the API that it called."""

import json
import os
import signal
import time

from harness import Model, Wave, statuses, wait_until
from traffic import Streams, chat_body

# One request of each API: path and body.
APIS = {
    "openai": ("/v1/chat/completions", lambda name: chat_body(name)),
    "anthropic": ("/v1/messages", lambda name: json.dumps({"model": f"org/{name}", "max_tokens": 8, "messages": [{"role": "user", "content": "x"}]}).encode()),
    "plain": ("/own/endpoint", lambda name: b"{}"),
}
KINDS = {"openai": {503: "server_error", 502: "server_error", 429: "rate_limit_error"}, "anthropic": {503: "overloaded_error", 502: "api_error", 429: "rate_limit_error"}}


def ask(stack, name, api="openai", **headers):
    path, body = APIS[api]
    return stack.raw("POST", f"/{name}{path}", body(name), headers)


def check(reply, api, status, reason, retry_after=range(1, 61)):
    """One refusal, in the shape of its API."""
    assert (reply.status, reply.headers.get("x-greenthread-reason"), reply.error) == (status, reason, ""), reply
    assert int(reply.headers["retry-after"]) in retry_after
    if api == "plain":
        assert reply.headers["content-type"].startswith("text/plain")
        assert reply.body.endswith(b".\n")
        return
    assert reply.headers["content-type"] == "application/json"
    body = json.loads(reply.body)
    assert body["error"]["type"] == KINDS[api][status]
    assert body["error"]["message"]
    if api == "openai":
        assert (body["error"]["code"], body["error"]["param"]) == (reason, None)
    else:
        assert body["type"] == "error"


def check_all(stack, name, status, reason, **headers):
    for api in APIS:
        check(ask(stack, name, api, **headers), api, status, reason)


def test_draining(stack):
    stack.wake_now("alpha")
    streams = Streams(stack, "alpha", count=1, tokens=1_000)
    wait_until(lambda: stack.status("alpha")["queue"]["inFlight"] == 1, "the stream is on its way")
    stack.operator("alpha", "sleep").raise_for_status()
    wait_until(lambda: stack.status("alpha")["queue"]["barriered"], "the barrier is up")
    check_all(stack, "alpha", 503, "draining")
    streams.check()
    wait_until(lambda: ask(stack, "alpha").status == 200, "a retry succeeds")


def test_who_does_not_want_to_wait_is_told_at_once(stack):
    """`Prefer: wait=0`: not held; but the model wakes, so that a retry succeeds."""
    stack.sleep_now("alpha")
    stack.faults("alpha", hang_wake=True)
    for api in APIS:
        began = time.monotonic()
        reply = ask(stack, "alpha", api, prefer="respond-async, wait=0")
        assert time.monotonic() - began < 0.9
        check(reply, api, 503, "hold_expired")
    stack.no_faults()
    stack.wait_state("alpha", "serving")
    assert ask(stack, "alpha", prefer="wait=0").status == 200


def test_who_waits_a_second_is_told_after_a_second(stack):
    stack.wake_now("beta")
    stack.sleep_now("beta")
    stack.faults("beta", hang_wake=True)
    began = time.monotonic()
    replies = {api: Wave(stack, 1, f"/beta{path}", body("beta"), headers={"prefer": "wait=1"}).start() for api, (path, body) in APIS.items()}
    patient = Wave(stack, 1, "/beta/v1/chat/completions", chat_body("beta")).start()
    for api, reply in replies.items():
        (reply,) = reply.result(30)
        # By what was learned of earlier wakes a second can be too short from the start.
        check(reply, api, 503, "hold_expired" if reply.headers.get("x-greenthread-reason") != "too_long" else "too_long")
    assert time.monotonic() - began < 5
    stack.no_faults()
    assert patient.result(30)[0].status == 200


def test_a_wait_that_cannot_be_enough_is_refused_at_once(make_stack):
    """The estimate is learned from wakes; a request that would wait longer than it may is told so, and counts as demand."""
    stack = make_stack([Model("late", sim=("--wake-time", "1500ms"))])
    stack.sleep_now("late")
    wait_until(lambda: stack.status("late").get("estimatedWaitMs", 0) > 1000, "the wait is estimated")
    for api in APIS:
        began = time.monotonic()
        check(ask(stack, "late", api, prefer="wait=1"), api, 503, "too_long")
        assert time.monotonic() - began < 0.9
    stack.wait_state("late", "serving")
    assert ask(stack, "late", prefer="wait=1").status == 200


def test_a_failed_wake_is_told_and_an_operator_can_try_again(stack):
    stack.sleep_now("alpha")
    stack.faults("alpha", wake_500=True)
    held = Wave(stack, 5, "/alpha/v1/chat/completions", chat_body("alpha")).run()
    for reply in held:
        check(reply, "openai", 503, "wake_failed")
    check_all(stack, "alpha", 503, "wake_failed")
    status = stack.status("alpha")
    assert (status["state"], status["lastError"]) == ("sleeping", "wake_failed")
    assert "fault" not in json.dumps(status), "an engine's own words are for operators"
    assert stack.client.get(f"{stack.gateway}/alpha/health").status_code == 503
    attempts = stack.sim("alpha")["wake_failures"]
    assert ask(stack, "alpha").status == 503
    assert stack.sim("alpha")["wake_failures"] == attempts, "nothing is tried while it cools down"
    stack.faults("alpha", wake_500=False)
    stack.wake_now("alpha")
    assert ask(stack, "alpha").status == 200


def test_a_failed_wake_is_tried_again_by_itself_after_its_cool_down(stack):
    stack.sleep_now("beta")
    stack.faults("beta", wake_500=True)
    refused = ask(stack, "beta")
    check(refused, "openai", 503, "wake_failed")
    stack.faults("beta", wake_500=False)
    wait_until(lambda: ask(stack, "beta").status == 200, "the next wake succeeds", timeout=int(refused.headers["retry-after"]) + 15, every=0.5)


def test_an_engine_that_dies_under_requests_is_a_502_and_comes_back(stack):
    stack.wake_now("gamma")
    replies = {api: Wave(stack, 1, f"/gamma{path}", body("gamma").replace(b'"max_tokens": 8', b'"max_tokens": 2000')).start()
               for api, (path, body) in APIS.items() if api != "plain"}
    wait_until(lambda: stack.status("gamma")["queue"]["inFlight"] == 2, "both are in the engine")
    os.kill(stack.engine_pid("gamma"), signal.SIGKILL)
    for api, reply in replies.items():
        check(reply.result(30)[0], api, 502, "engine_failed", retry_after=[5])
    wait_until(lambda: ask(stack, "gamma").status == 200, "it is started again for who asks", 60)


def test_full_holds_and_a_model_that_never_fits(make_stack):
    """Two models of which only one can ever be awake, beside what the other leaves behind, and neither may be stopped; at most three may
    wait for one, and with 64 KiB of bodies at most."""
    names = ("one", "two")
    top = "hold: {limit: 4, perModel: 3, bytes: 64KiB, bodyBuffer: 64KiB}"
    stack = make_stack([Model(name, asleep=4, extra="  sleep: {tier: ram}") for name in names], gpu=20, top=top, start=False).start(wait=False)
    wait_until(stack.is_ready, "gates have a table", 60)
    wait_until(lambda: any(stack.status(name)["bootReady"] for name in names), "whichever was first has booted", 60)
    lucky, never = sorted(names, key=lambda name: not stack.status(name)["bootReady"])
    assert stack.client.get(f"{stack.gateway}/{never}/health").json()["status"] == "never_fits"
    refused = ask(stack, never)
    assert (refused.status, refused.headers["x-greenthread-reason"], refused.headers["x-should-retry"]) == (503, "never_fits", "false")
    assert "retry-after" not in refused.headers

    stack.sleep_now(lucky)
    stack.faults(lucky, hang_wake=True)
    path, large = f"/{lucky}/v1/chat/completions", chat_body(lucky, text="x" * 40_000)
    held = [Wave(stack, 1, path, large).start()]
    wait_until(lambda: stack.figures(lucky)["held"] == 1, "a large one is held")
    check(stack.raw("POST", path, large), "openai", 429, "hold_full")
    held += [Wave(stack, 2, path, chat_body(lucky)).start()]
    wait_until(lambda: stack.figures(lucky)["held"] == 3, "small ones beside it")
    for api in APIS:
        check(ask(stack, lucky, api), api, 429, "hold_full")
    stack.no_faults()
    assert [statuses(wave.result(30)) for wave in held] == [{200: 1}, {200: 2}]
    assert ask(stack, lucky).status == 200
