"""Envoy dies or stands still: its gates are waited for exactly as long as they could still forward something."""

import os
import signal
import time

import pytest

from harness import Model, Stack, statuses, wait_until
from traffic import Streams, Traffic, chats, check_all_served


@pytest.fixture(scope="module")
def fragile(tmp_path_factory):
    """Three models on two places."""
    models = [Model(name) for name in ("alpha", "beta", "gamma")]
    running = Stack(tmp_path_factory.mktemp("envoy"), models)
    try:
        yield running.start()
    finally:
        running.stop()


def gates(stack: Stack) -> list[dict]:
    """The gates that drains wait for."""
    return stack.client.get(f"{stack.control}/api/v1/status").raise_for_status().json()["gates"]


def restart_envoy(stack: Stack) -> None:
    """`kill -9`; returns when its successor's gates have a table."""
    old = stack.envoy_pid()
    os.kill(old, signal.SIGKILL)
    stack.drop_connections()
    wait_until(lambda: stack.envoy_pid() not in (None, old), "up starts Envoy again")
    stack.wait_gateway()


def test_envoy_killed_comes_back_and_sleeping_works_again(fragile):
    """Clients that try again are served; counts of the dead are dropped with the fence, which is all that a drain waits for."""
    fragile.wake_now("alpha")
    fragile.sleep_now("beta")
    old = {gate["id"] for gate in gates(fragile)}
    before = {name: fragile.sim(name) for name in ("alpha", "beta")}
    cut = chats(fragile, "alpha", 5, max_tokens=4_000).start()
    fragile.faults("beta", slow_wake_ms=1_000)
    held = chats(fragile, "beta", 5).start()
    fragile.wait_state("beta", "waking")
    wait_until(lambda: fragile.figures("alpha")["inFlight"] == 5, "requests are in flight")
    restart_envoy(fragile)
    assert statuses(cut.result(30)) == statuses(held.result(30)) == {0: 5}, "an Envoy that was killed cannot answer"
    assert statuses(chats(fragile, "beta", 5).run()) == {200: 5}
    assert statuses(chats(fragile, "alpha", 5).run()) == {200: 5}
    # Asked to sleep at once: it waits for the dead gates' lease and margin, and not for what they had in flight.
    began = time.monotonic()
    fragile.operator("alpha", "sleep").raise_for_status()
    fragile.wait_state("alpha", "sleeping")
    assert time.monotonic() - began < 2 + 4 + 4, "a drain waited for ghosts"
    assert fragile.sim("alpha")["requests_asleep"] == before["alpha"]["requests_asleep"]
    assert fragile.sim("beta")["wakes"] - before["beta"]["wakes"] == 1
    wait_until(lambda: not old & {gate["id"] for gate in gates(fragile)}, "the dead gates are forgotten")
    assert len(gates(fragile)) == 3
    fragile.wait_idle()


def test_envoy_stopped_during_a_drain_is_fenced_and_its_late_requests_are_answered_late(fragile):
    """The drain goes on without a frozen Envoy. What it forwards when it goes on meets a sleeping engine and wakes it: late, not lost."""
    for name, state in (("alpha", "wake"), ("beta", "sleep"), ("gamma", "sleep")):
        fragile.sleep_now(name) if state == "sleep" else fragile.wake_now(name)
    before = fragile.sim("alpha")
    stream = Streams(fragile, "alpha", count=1, tokens=300)
    wait_until(lambda: fragile.figures("alpha")["inFlight"] == 1, "the stream runs")
    envoy = fragile.envoy_pid()
    os.kill(envoy, signal.SIGSTOP)
    try:
        late = chats(fragile, "alpha", 10).start()
        began = time.monotonic()
        fragile.operator("alpha", "sleep").raise_for_status()
        wait_until(lambda: fragile.figures("alpha")["state"] == "sleeping", "the drain ends without the frozen gates")
        took = time.monotonic() - began
        assert took > 2, f"slept after {took:.1f} s, while the frozen gates still had their lease"
        assert took < 2 + 4 + 4, f"slept only after {took:.1f} s"
        assert not [gate for gate in gates(fragile) if gate["attached"]], "a fenced gate's stream is still open"
    finally:
        os.kill(envoy, signal.SIGCONT)
    # A worker may read the barrier before the request: then it says so, and that is demand as well.
    replies = late.result(60)
    refused = [reply for reply in replies if reply.status != 200]
    assert {(reply.status, reply.headers.get("x-greenthread-reason")) for reply in refused} <= {(503, "draining")}
    if refused:
        assert statuses(chats(fragile, "alpha", len(refused)).run()) == {200: len(refused)}
    stream.check()
    after = fragile.sim("alpha")
    assert (after["sleeps"] - before["sleeps"], after["wakes"] - before["wakes"]) == (1, 1)
    assert after["tokens_asleep"] == before["tokens_asleep"]
    # It is waited for again: the next sleep comes after its acknowledgement, and no request slips through.
    wait_until(lambda: len([gate for gate in gates(fragile) if gate["attached"]]) == 3, "the gates are back")
    with Traffic(fragile, "beta") as traffic:
        fragile.operator("alpha", "sleep").raise_for_status()
        fragile.wait_state("alpha", "sleeping")
    check_all_served(traffic.requests)
    assert fragile.sim("alpha")["requests_asleep"] == after["requests_asleep"]
    fragile.wait_idle()
