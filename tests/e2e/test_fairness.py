"""Who gets room and when, as clients and operators see it: popular models, models that fail, and waits that are told."""

import json
import math

from harness import Model, Stack, Wave, wait_until
from operators import explain, greenthread, why_not
from traffic import Traffic, chat_body, chats, check_all_served


def state(stack: Stack, name: str) -> str:
    return stack.figures(name)["state"]


def test_a_popular_model_comes_back_when_there_is_room_and_nobody_waits(make_stack):
    """Displaced by a request for `beta`, back as soon as `beta` sleeps; a model that is not popular stays asleep."""
    stack = make_stack([Model("loved", extra="  fairness: {popular: true}"), Model("plain"), Model("beta", awake=33)])
    for name in ("loved", "plain"):
        stack.wake_now(name)
    assert stack.chat("beta").status_code == 200
    assert (state(stack, "loved"), state(stack, "plain")) == ("sleeping", "sleeping")
    stack.wait_idle()
    assert state(stack, "beta") == "serving", "nobody makes room for one that only comes back"
    stack.sleep_now("beta")
    stack.wait_state("loved", "serving")
    assert state(stack, "plain") == "sleeping", "nobody asked for it"
    back = explain(stack, "loved", 1)[0]
    assert (back["trigger"], back["taken"]["action"]) == ({"cause": "popular"}, "wake")
    assert "it is popular and was displaced" in greenthread(stack, "explain", "loved").stdout
    assert "since it is popular and there is room" in greenthread(stack, "status", "loved").stdout
    # Put to sleep by an operator it was displaced by nobody.
    stack.sleep_now("loved")
    assert stack.chat("plain").status_code == 200
    stack.wait_idle()
    assert state(stack, "loved") == "sleeping"


def test_a_model_that_fails_displaces_nobody_while_it_cools_down(make_stack):
    """It is asked for all the time; the one that it would displace serves on. Afterwards it gets its turn."""
    stack = make_stack([Model("broken"), Model("steady")], gpu=20)
    stack.faults("broken", wake_500=True)
    first = chats(stack, "broken", 1).run()[0]
    assert (first.status, first.headers["x-greenthread-reason"]) == (503, "wake_failed")
    failed = explain(stack, "broken", 1)[0]
    assert "did not come" in failed["followed"][-1]["what"] and "fault switched on" in failed["followed"][-1]["what"], failed
    assert "did not come" in greenthread(stack, "explain", "broken").stdout
    assert any("its wake failed; it is tried again in" in reason for reason in why_not(stack, "broken")["reasons"])
    assert stack.chat("steady").status_code == 200
    failures, sleeps, asked = stack.sim("broken")["wake_failures"], stack.sim("steady")["sleeps"], 0
    for _ in range(5):
        reply = chats(stack, "broken", 1).run()[0]
        if stack.sim("broken")["wake_failures"] > failures:
            break  # its cool-down was over: this was its next turn
        assert (reply.status, reply.headers["x-greenthread-reason"]) == (503, "wake_failed")
        assert 1 <= int(reply.headers["retry-after"]) <= 10
        assert stack.chat("steady").status_code == 200
        assert stack.sim("steady")["sleeps"] == sleeps
        asked += 1
    assert asked > 0
    stack.clear_faults("broken")
    with Traffic(stack, "broken", clients=1) as traffic:
        wait_until(lambda: any(request.last.status == 200 for request in traffic.requests), "it serves in the end", 60)
    check_all_served(traffic.requests, but=("wake_failed", "draining", "booting"))


def test_waits_that_are_told_agree_and_are_kept(make_stack):
    """One figure everywhere: the public status, Retry-After, what operators see. And the wait is no longer than that."""
    stack = make_stack([Model("late", sim=("--wake-time", "3s")), Model("other")], gpu=20)
    stack.wake_now("other")
    stack.wait_idle()
    def told() -> int:
        """The published estimate in ms, when all say the same; one made at this moment may differ by what is not worth publishing."""
        public, inside, why = (document["estimatedWaitMs"] for document in (stack.status("late"), stack.figures("late"), why_not(stack, "late")))
        return public if all(abs(public - now) <= max(500, public / 4) for now in (inside, why)) else 0

    # Once `other` has been awake for its minRuntime only its sleep is waited for.
    estimate = wait_until(lambda: 3_000 <= told() < 10_000 and told(), lambda: f"one figure: {stack.status('late')}, {why_not(stack, 'late')}")
    refused = Wave(stack, 1, "/late/v1/chat/completions", chat_body("late"), headers={"prefer": "wait=1"}).run()[0]
    assert (refused.status, refused.headers["x-greenthread-reason"]) == (503, "too_long")
    assert int(refused.headers["retry-after"]) == math.ceil(estimate / 1_000)
    assert json.loads(refused.body)["error"]["code"] == "too_long"
    wait_until(lambda: state(stack, "late") == "serving", "the refusal was demand", 30)
