"""Engines die, hang and lie: their own requests get one clear answer or are served in the end, other models do not notice."""

import os
import signal

import pytest

from harness import Model, Stack, statuses, wait_until
from operators import greenthread
from traffic import Traffic, chats, check_all_served

# Answers that tell a client to come back, and why.
COME_BACK = ("wake_failed", "booting", "draining", "engine_failed", "too_long")


@pytest.fixture(scope="module")
def fragile(tmp_path_factory):
    """`liar` and `next` share one place, `mute` has one; `calm` has another and must never notice anything."""
    models = [Model("liar"), Model("next"), Model("calm", gpu=1), Model("mute", gpu=2)]
    running = Stack(tmp_path_factory.mktemp("engine"), models, gpu=20, gpus=3, times={"wake": "3s", "observe": "500ms"})
    try:
        yield running.start()
    finally:
        running.stop()


@pytest.fixture
def liar(fragile):
    """The stack with `liar` awake and honest, `next` asleep, and somebody who uses `calm` all the time."""
    recover(fragile)
    fragile.wake_now("calm")
    with Traffic(fragile, "calm", clients=1) as calm:
        yield fragile
        seen = calm.answered()
        wait_until(lambda: calm.answered() > seen + 3, "`calm` serves")
    check_all_served(calm.requests)
    assert max(request.took for request in calm.requests) < 5
    for name in ("liar", "next"):
        if fragile.engine_answers(name):
            assert fragile.sim(name)["tokens_asleep"] == 0, f"{name} computed without memory"


def recover(stack: Stack) -> None:
    """No faults, and `liar` awake; restarts what cannot be talked to."""
    for name in ("liar", "next"):
        if stack.engine_answers(name):
            stack.clear_faults(name)
    wait_until(lambda: stack.figures("next")["state"] in ("serving", "sleeping"), "next is at rest", 60)
    stack.sleep_now("next")
    stack.operator("liar", "wake").raise_for_status()
    stack.wait_state("liar", "serving", 60)


def kill_engine(stack: Stack, name: str) -> int:
    pid = stack.engine_pid(name)
    os.kill(pid, signal.SIGKILL)
    return pid


def served_in_the_end(stack: Stack, name: str) -> None:
    """A client that follows the advice of refusals gets its answer."""
    with Traffic(stack, name, clients=1) as traffic:
        wait_until(lambda: any(request.last.status == 200 for request in traffic.requests), f"{name} serves", 60)
    check_all_served(traffic.requests, but=COME_BACK)


def test_engine_killed_under_requests_fails_those_and_serves_the_next(liar):
    """502 with a reason for what was in the engine; whoever comes next is held while it starts again."""
    running = chats(liar, "liar", 10, max_tokens=4_000).start()
    wait_until(lambda: liar.sim("liar")["max_concurrent"] >= 10, "requests run in the engine")
    pid = kill_engine(liar, "liar")
    replies = running.result(30)
    assert statuses(replies) == {502: 10}
    assert {reply.headers["x-greenthread-reason"] for reply in replies} == {"engine_failed"}
    assert all(1 <= int(reply.headers["retry-after"]) <= 60 for reply in replies)
    wait_until(lambda: liar.figures("liar")["state"] != "serving", "control notices")
    assert statuses(chats(liar, "liar", 10).run()) == {200: 10}
    assert liar.engine_pid("liar") not in (None, pid)
    liar.wait_idle()


def test_engine_killed_while_asleep_is_started_by_the_next_request(liar):
    """A cold start instead of a wake; the request is held all the same."""
    liar.sleep_now("liar")
    pid = kill_engine(liar, "liar")
    assert statuses(chats(liar, "liar", 10).run()) == {200: 10}
    assert liar.engine_pid("liar") not in (None, pid)
    liar.wait_idle()


def test_engine_killed_while_it_wakes_is_started_again_for_those_who_wait(liar):
    """They waited for a wake and get a cold start; they are held all the while."""
    liar.sleep_now("liar")
    liar.faults("liar", hang_wake=True)
    held = chats(liar, "liar", 10).start()
    liar.wait_state("liar", "waking")
    pid = kill_engine(liar, "liar")
    assert statuses(held.result(60)) == {200: 10}
    assert liar.engine_pid("liar") not in (None, pid)
    liar.wait_idle()


@pytest.mark.parametrize("lie", ["lie_asleep", "keep_memory"])
def test_memory_that_an_engine_only_says_to_have_freed_is_given_to_nobody(liar, lie):
    """`liar` says that it sleeps and keeps its memory: `next` is not woken into it, and is served once the memory is really there."""
    liar.faults("liar", **{lie: True})
    failures = liar.sim("next")["wake_failures"]
    with Traffic(liar, "next", clients=2) as waiting:
        wait_until(lambda: liar.figures("liar")["lastError"] or waiting.answered() > 0, "the lie is found out", 60)
        wait_until(lambda: any(request.last.status == 200 for request in waiting.requests), "next is served", 60)
    check_all_served(waiting.requests, but=COME_BACK)
    assert liar.sim("next")["wake_failures"] == failures, "it was woken without memory"


def test_an_engine_that_only_says_to_be_awake_gets_no_request(liar):
    """A wake counts when the engine was seen awake. Until then its waiters get one clear error, and nothing is forwarded."""
    liar.sleep_now("liar")
    asked = liar.sim("liar")["requests_asleep"]
    liar.faults("liar", lie_awake=True)
    replies = chats(liar, "liar", 10).run()
    assert statuses(replies) == {503: 10}
    assert {reply.headers["x-greenthread-reason"] for reply in replies} == {"wake_failed"}
    assert all(1 <= int(reply.headers["retry-after"]) <= 60 for reply in replies)
    assert liar.sim("liar")["requests_asleep"] == asked
    liar.clear_faults("liar")
    liar.operator("liar", "wake").raise_for_status()
    assert statuses(chats(liar, "liar", 10).run()) == {200: 10}


@pytest.mark.parametrize("fault", ["wake_500", "hang_wake"])
def test_a_wake_that_fails_is_one_clear_error_and_is_tried_again_later(liar, fault):
    """503 `wake_failed` for each waiter; meanwhile nobody else is put to sleep for it; afterwards it wakes."""
    liar.sleep_now("liar")
    liar.faults("liar", **{fault: True})
    replies = chats(liar, "liar", 10).run()
    assert statuses(replies) == {503: 10}
    assert {reply.headers["x-greenthread-reason"] for reply in replies} == {"wake_failed"}
    if fault == "wake_500":
        liar.clear_faults("liar")
    else:
        # Control ends an engine that answers nothing; its successor has no faults.
        wait_until(lambda: not liar.engine_answers("liar"), "control ends it")
    served_in_the_end(liar, "liar")


def test_a_slow_wake_is_waited_for(liar):
    """Slow, but in time: held requests are answered."""
    liar.sleep_now("liar")
    liar.faults("liar", slow_wake_ms=1_500)
    assert statuses(chats(liar, "liar", 10).run()) == {200: 10}


def test_a_sleep_that_hangs_reopens_nothing_until_its_outcome_is_known(liar):
    """Neither a wake nor a request overtakes it; when it ends, those who wait are served."""
    before = liar.sim("liar")
    liar.faults("liar", hang_sleep=True)
    liar.operator("liar", "sleep").raise_for_status()
    wait_until(lambda: (status := liar.status("liar"))["state"] == "deactivating" and not status["queue"]["barriered"], "it is told to sleep")
    held = chats(liar, "liar", 10).start()
    wait_until(lambda: liar.figures("liar")["held"] == 10, "requests are held")
    assert liar.sim("liar")["wakes"] == before["wakes"]
    liar.clear_faults("liar")
    assert statuses(held.result(60)) == {200: 10}
    assert liar.sim("liar")["requests_asleep"] == before["requests_asleep"]


def test_an_engine_that_answers_nothing_any_more_is_replaced(liar):
    """Its requests end with one clear error when it is ended; the next ones are served by its successor."""
    liar.wake_now("mute")
    pid = liar.engine_pid("mute")
    liar.faults("mute", silent=True)
    lost = chats(liar, "mute", 5).start()
    wait_until(lambda: "has not answered the last" in greenthread(liar, "status").stdout, "operators are told", 30)
    assert "after 15 it is ended" in greenthread(liar, "why-not", "mute").stdout
    wait_until(lambda: liar.engine_pid("mute") != pid, "control ends it", 60)
    assert statuses(lost.result(60)) == {502: 5}
    served_in_the_end(liar, "mute")
    liar.wait_idle()
