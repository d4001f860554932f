"""The main job: a request to a sleeping model is held, its model wakes, and the answer is the one of a warm model."""

import concurrent.futures
import json
import random

from harness import Model, Wave, statuses, stream_text, wait_until

# Never compared: the clock, and what Envoy adds.
OURS = {"date", "x-envoy-upstream-service-time"}


def chat(name, **fields):
    return json.dumps({"model": f"org/{name}", "messages": [{"role": "user", "content": "count"}], "max_tokens": 20, **fields}).encode()


def headers(reply):
    return {key: value for key, value in reply.headers.items() if key not in OURS}


def check_cold_like_warm(stack, path, body):
    stack.wake_now("alpha")
    warm = stack.raw("POST", path, body)
    stack.sleep_now("alpha")
    cold = stack.raw("POST", path, body)
    assert (cold.status, cold.error) == (200, "")
    assert cold.body == warm.body
    assert headers(cold) == headers(warm)


def test_a_held_request_is_answered_like_a_warm_one_byte_for_byte(stack):
    check_cold_like_warm(stack, "/alpha/v1/chat/completions", chat("alpha"))


def test_a_held_stream_is_answered_like_a_warm_one_byte_for_byte(stack):
    check_cold_like_warm(stack, "/alpha/v1/chat/completions", chat("alpha", stream=True))


def test_streams_flow_while_they_are_made(stack):
    """Nothing gathers an answer before it is sent on: the first words come long before the last."""
    stack.sleep_now("alpha")
    with stack.client.stream("POST", f"{stack.gateway}/alpha/v1/chat/completions", content=chat("alpha", stream=True, max_tokens=300)) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
        wait_until(lambda: stack.status("alpha")["queue"]["inFlight"] == 1, "the rest is still being made", timeout=1)
        rest = list(lines)
    assert [line for line in rest if line][-1] == "data: [DONE]"


def test_200_requests_at_once_cause_one_wake(stack):
    stack.sleep_now("beta")
    before = stack.sim("beta")
    replies = Wave(stack, 200, "/beta/v1/chat/completions", chat("beta")).run()
    assert statuses(replies) == {200: 200}
    assert len({reply.body for reply in replies}) == 1
    after = stack.sim("beta")
    assert after["wakes"] - before["wakes"] == 1
    assert after["requests_asleep"] == before["requests_asleep"], "a request reached a sleeping engine"
    wait_until(lambda: stack.status("beta")["queue"]["inFlight"] == 0, "nothing is counted in flight")


def stream_until_served(stack, name, tokens):
    """One stream of a client that tries again when it is told to."""
    while True:
        reply = stack.raw("POST", f"/{name}/v1/chat/completions", chat(name, stream=True, max_tokens=tokens))
        if reply.status != 503:
            return reply
        assert reply.headers["x-greenthread-reason"] == "draining", reply


def warm_texts(stack, names, lengths):
    """What each stream must say, asked while nothing else happens."""
    texts = {}
    for name in names:
        stack.wake_now(name)
        for tokens in lengths:
            text, done = stream_text(stream_until_served(stack, name, tokens).body)
            assert done and len(text.split()) == tokens
            texts[name, tokens] = text
    return texts


def check_streams(replies, texts):
    for (name, tokens), reply in replies:
        assert (reply.status, reply.error) == (200, ""), (name, tokens, reply.status, reply.error)
        assert stream_text(reply.body) == (texts[name, tokens], True), f"a stream of {name} is cut or garbled"


def test_three_models_take_turns_on_two_places_and_no_stream_is_cut(stack):
    """Several rounds, with streams of all three running all the time."""
    names, lengths = ("alpha", "beta", "gamma"), (20, 60, 120)
    texts = warm_texts(stack, names, lengths)
    before = {name: stack.sim(name) for name in names}
    order = [(name, random.Random(4).choice(lengths)) for name in names for _ in range(12)]
    random.Random(5).shuffle(order)
    with concurrent.futures.ThreadPoolExecutor(9) as pool:
        replies = list(zip(order, pool.map(lambda one: stream_until_served(stack, *one), order)))
    check_streams(replies, texts)
    after = {name: stack.sim(name) for name in names}
    assert sum(after[name]["wakes"] - before[name]["wakes"] for name in names) >= 3, "they took turns"
    for name in names:
        assert [after[name][key] - before[name][key] for key in ("aborted", "tokens_asleep", "disconnected")] == [0, 0, 0]


def test_a_busy_victim_is_frozen_and_its_streams_go_on_later(make_stack):
    """Streams that are much longer than a drain may last: each victim is frozen under way, more than once."""
    names = ("alpha", "beta", "gamma")
    stack = make_stack([Model(name) for name in names], sleep={"drainTimeout": "300ms"})
    texts = warm_texts(stack, names, (300,))
    before = {name: stack.sim(name) for name in names}
    order = [(name, 300) for _ in range(2) for name in names]
    with concurrent.futures.ThreadPoolExecutor(len(order)) as pool:
        replies = list(zip(order, pool.map(lambda one: stream_until_served(stack, *one), order)))
    check_streams(replies, texts)
    decisions = [entry["sentence"] for model in stack.fleet() for entry in model["decisions"]]
    assert [sentence for sentence in decisions if "frozen" in sentence], decisions
    for name in names:
        after = stack.sim(name)
        assert [after[key] - before[name][key] for key in ("aborted", "tokens_asleep", "disconnected")] == [0, 0, 0]
