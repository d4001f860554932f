"""The main job: a request to a sleeping model is held, its model wakes, and the answer is the one of a warm model."""

import json

from harness import Wave, statuses, wait_until

CHAT = json.dumps({"model": "org/alpha", "messages": [{"role": "user", "content": "count"}], "max_tokens": 20}).encode()


def test_a_held_request_is_answered_like_a_warm_one_byte_for_byte(stack):
    stack.wake_now("alpha")
    warm = Wave(stack, 1, "/alpha/v1/chat/completions", CHAT).run()[0]
    stack.sleep_now("alpha")
    cold = Wave(stack, 1, "/alpha/v1/chat/completions", CHAT).run()[0]
    assert (cold.status, cold.error) == (200, "")
    assert cold.body == warm.body
    ours = {"date", "x-envoy-upstream-service-time"}
    assert {key: value for key, value in cold.headers.items() if key not in ours} == {key: value for key, value in warm.headers.items() if key not in ours}


def test_200_requests_at_once_cause_one_wake(stack):
    stack.sleep_now("beta")
    before = stack.sim("beta")
    replies = Wave(stack, 200, "/beta/v1/chat/completions", CHAT.replace(b"alpha", b"beta")).run()
    assert statuses(replies) == {200: 200}
    after = stack.sim("beta")
    assert after["wakes"] - before["wakes"] == 1
    assert after["requests_asleep"] == before["requests_asleep"], "a request reached a sleeping engine"
    wait_until(lambda: stack.status("beta")["queue"]["inFlight"] == 0, "nothing is counted in flight")
