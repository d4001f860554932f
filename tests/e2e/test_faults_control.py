"""Control dies or stands still, at every kind of moment: no request is lost, no engine restarts, nobody wakes twice."""

import os
import signal
import time

import httpx
import pytest

from harness import Model, Stack, statuses, wait_until
from traffic import Streams, Traffic, chats, check_all_served

NAMES = ("alpha", "beta", "gamma")


@pytest.fixture(scope="module")
def fragile(tmp_path_factory):
    """Three models on two places, and one (`strict`) on a GPU of its own whose gates hold when control is away."""
    models = [Model(name) for name in NAMES]
    strict = Model("strict", gpu=1, extra="  onLeaseEnd: hold")
    running = Stack(tmp_path_factory.mktemp("control"), [*models, strict], gpus=2, sleep={"drainTimeout": "3s"})
    try:
        yield running.start()
    finally:
        running.stop()


def restart_control(stack: Stack) -> None:
    """`kill -9`; returns when its successor has given every gate a table."""
    old = stack.control_pid()
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: stack.control_pid() not in (None, old), "up starts control again")
    stack.wait_ready()


def engine_pids(stack: Stack) -> dict[str, int | None]:
    return {model.name: stack.engine_pid(model.name) for model in stack.models}


def reason(stack: Stack, name: str) -> str:
    """Why a request is refused; empty while the gateway is not there."""
    try:
        return stack.chat(name).headers.get("x-greenthread-reason", "")
    except httpx.TransportError:
        return ""


def arrange(stack: Stack, *, awake: tuple[str, ...], asleep: tuple[str, ...]) -> None:
    """Brings models into the states that a test starts with, without faults."""
    for name in (*awake, *asleep):
        stack.clear_faults(name)
    for name in asleep:
        stack.sleep_now(name)
    for name in awake:
        stack.wake_now(name)


def test_control_killed_while_models_serve_is_not_noticed(fragile):
    """Requests go on, streams run on, engines are adopted: same processes, no wake, nothing forwarded to a sleeper."""
    arrange(fragile, awake=("alpha", "beta"), asleep=("gamma",))
    before, pids = fragile.sim("alpha"), engine_pids(fragile)
    streams = Streams(fragile, "beta", tokens=1200)
    with Traffic(fragile, "alpha") as traffic:
        wait_until(lambda: traffic.answered() > 20, "traffic runs")
        restart_control(fragile)
        seen = traffic.answered()
        wait_until(lambda: traffic.answered() > seen + 20, "traffic goes on")
    check_all_served(traffic.requests)
    streams.check()
    assert engine_pids(fragile) == pids
    after = fragile.sim("alpha")
    assert (after["wakes"], after["sleeps"], after["requests_asleep"]) == (before["wakes"], before["sleeps"], before["requests_asleep"])
    fragile.wait_idle()


def test_control_killed_during_a_wake_loses_no_held_request_and_wakes_once(fragile):
    """The wake goes on in the engine; the successor finds it awake and lets the held requests through."""
    arrange(fragile, awake=("alpha",), asleep=("beta", "gamma"))
    before, pids = fragile.sim("beta"), engine_pids(fragile)
    # Longer than the successor needs to start and to look for the first time: it looks at an engine that does not answer yet.
    fragile.faults("beta", slow_wake_ms=6_000)
    held = chats(fragile, "beta", 40).start()
    fragile.wait_state("beta", "waking")
    with Traffic(fragile, "alpha") as traffic:
        restart_control(fragile)
        replies = held.result(120)
    assert statuses(replies) == {200: 40}, replies[0]
    check_all_served(traffic.requests)
    after = fragile.sim("beta")
    assert engine_pids(fragile) == pids, "an engine was restarted"
    assert after["wakes"] - before["wakes"] == 1
    assert after["requests_asleep"] == before["requests_asleep"]
    fragile.wait_idle()


def test_control_killed_during_a_sleep_call_wakes_the_engine_once_for_those_who_wait(fragile):
    """The engine falls asleep for a control that is gone; requests that arrived meanwhile wake it again, once."""
    arrange(fragile, awake=("alpha", "beta"), asleep=("gamma",))
    before, pids = fragile.sim("beta"), engine_pids(fragile)
    fragile.faults("beta", slow_sleep_ms=6_000)
    fragile.operator("beta", "sleep").raise_for_status()
    wait_until(lambda: (status := fragile.status("beta"))["state"] == "deactivating" and not status["queue"]["barriered"],
               "the engine is told to sleep")
    held = chats(fragile, "beta", 40).start()
    wait_until(lambda: fragile.figures("beta")["held"] == 40, "the requests are held")
    restart_control(fragile)
    assert statuses(held.result(120)) == {200: 40}
    after = fragile.sim("beta")
    assert engine_pids(fragile) == pids, "an engine was restarted"
    assert (after["sleeps"] - before["sleeps"], after["wakes"] - before["wakes"]) == (1, 1)
    assert after["requests_asleep"] == before["requests_asleep"]
    fragile.wait_idle()


def test_control_killed_during_a_drain_ends_with_every_request_answered(fragile):
    """At the barrier clients are told to come back, streams run on, and who waits for room gets it from the successor."""
    arrange(fragile, awake=("alpha", "beta"), asleep=("gamma",))
    before, pids = fragile.sim("gamma"), engine_pids(fragile)
    streams = [Streams(fragile, name, tokens=1200) for name in ("alpha", "beta")]
    wait_until(lambda: all(fragile.figures(name)["inFlight"] == 3 for name in ("alpha", "beta")), "streams run")
    held = chats(fragile, "gamma", 40).start()
    victim = wait_until(lambda: next((name for name in ("alpha", "beta") if fragile.status(name)["queue"]["barriered"]), None), "a victim drains")
    with Traffic(fragile, victim, clients=2) as traffic:
        wait_until(lambda: fragile.figures(victim)["outcomes"].get("draining", 0) > 0, "the barrier refuses")
        restart_control(fragile)
        assert statuses(held.result(120)) == {200: 40}
    check_all_served(traffic.requests, but=("draining",))
    for stream in streams:
        stream.check()
    after = fragile.sim("gamma")
    assert engine_pids(fragile) == pids, "an engine was restarted"
    assert after["wakes"] - before["wakes"] == 1
    assert all(fragile.sim(name)["tokens_asleep"] == 0 for name in NAMES)
    fragile.wait_idle()


def test_control_killed_during_the_first_start_of_engines_starts_each_once(make_stack):
    """Requests of a booting model are told to come back; after the restart its engine is the one that was started before."""
    stack = make_stack([Model("alpha", sim=("--cold-start", "4s"))], start=False).start(wait=False)
    pid = wait_until(lambda: stack.engine_pid("alpha"), "the engine starts")
    wait_until(lambda: reason(stack, "alpha") == "booting", "requests are told that it boots", 60)
    with Traffic(stack, "alpha", clients=2) as traffic:
        os.kill(stack.control_pid(), signal.SIGKILL)
        stack.wait_ready()
        wait_until(lambda: any(request.last.status == 200 for request in list(traffic.requests)), "it serves")
    assert stack.engine_pid("alpha") == pid, "the engine was started again"
    check_all_served(traffic.requests, but=("booting",))


def test_control_stopped_for_a_minute(fragile):
    """Serving `flow` models do not notice; a `hold` model holds; requests for a sleeping model wait; all are answered in the end."""
    arrange(fragile, awake=("alpha", "strict"), asleep=("beta", "gamma"))
    before, pids = {name: fragile.sim(name) for name in ("alpha", "beta", "strict")}, engine_pids(fragile)
    stream = Streams(fragile, "alpha", count=2, tokens=8_000)
    control = fragile.control_pid()
    with Traffic(fragile, "alpha") as traffic:
        wait_until(lambda: traffic.answered() > 50, "traffic runs")
        os.kill(control, signal.SIGSTOP)
        asleep = chats(fragile, "beta", 30).start()
        with Traffic(fragile, "strict", clients=1) as strict:
            wait_until(lambda: strict.requests and time.monotonic() - strict.requests[-1].began > 5, "the lease ends and the `hold` model holds", 20)
            served_strictly = strict.answered()
            began = traffic.requests[0].began
            wait_until(lambda: traffic.requests[-1].began - began > 60, "a minute passes", 90, every=0.5)
            assert not asleep.done(), "a sleeping model answered without control"
            assert strict.answered() == served_strictly, "a `hold` model went on without a lease"
            os.kill(control, signal.SIGCONT)
            assert statuses(asleep.result(60)) == {200: 30}
            wait_until(lambda: strict.answered() > served_strictly + 5, "the `hold` model goes on")
    check_all_served(strict.requests)
    check_all_served(traffic.requests)
    slowest = sorted(request.took for request in traffic.requests)
    assert slowest[len(slowest) * 99 // 100] < 2.0, f"p99 {slowest[len(slowest) * 99 // 100]:.2f} s, longest {slowest[-1]:.2f} s"
    stream.check()
    after = {name: fragile.sim(name) for name in before}
    assert {name: after[name]["wakes"] - before[name]["wakes"] for name in before} == {"alpha": 0, "beta": 1, "strict": 0}
    assert {name: after[name]["requests_asleep"] - before[name]["requests_asleep"] for name in before} == {"alpha": 0, "beta": 0, "strict": 0}
    assert engine_pids(fragile) == pids
    assert fragile.control_pid() == control, "control was restarted although it came back"
    fragile.wait_idle()
    fragile.sleep_now("alpha")
