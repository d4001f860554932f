"""Many requests at once: each is answered, nothing is counted twice or for ever, and limits are told."""

import collections
import json
import pathlib
import socket

import pytest

from harness import Model, Stack, Wave, statuses, wait_until
from traffic import chat_body, chats

HELD = 5_000


@pytest.fixture(scope="module")
def busy(tmp_path_factory):
    """Three models on two places, tokens almost for free."""
    models = [Model(name, sim=("--token-time", "1ms")) for name in ("alpha", "beta", "gamma")]
    running = Stack(tmp_path_factory.mktemp("load"), models, top="hold: {perModel: 6000}")
    try:
        yield running.start()
    finally:
        running.stop()


def resident_mib(pid: int) -> int:
    """Memory of a process."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]) // 1024


def test_5000_requests_are_held_and_answered_after_one_wake(busy):
    """All of them, completely, by one wake; Envoy's memory stays bounded."""
    busy.sleep_now("alpha")
    before, memory = busy.sim("alpha"), resident_mib(busy.envoy_pid())
    busy.faults("alpha", hang_wake=True)
    wave = chats(busy, "alpha", HELD).start()
    wait_until(lambda: busy.figures("alpha")["held"] == HELD, "all are held", 60)
    held_memory = resident_mib(busy.envoy_pid())
    busy.clear_faults("alpha")
    replies = wave.result(120)
    print(f"Envoy: {memory} MiB before, {held_memory} MiB with {HELD} held, {resident_mib(busy.envoy_pid())} MiB after")
    assert statuses(replies) == {200: HELD}, collections.Counter(reply.error for reply in replies)
    assert not [reply for reply in replies if reply.error]
    after = busy.sim("alpha")
    assert after["wakes"] - before["wakes"] == 1
    assert after["requests_asleep"] == before["requests_asleep"]
    assert held_memory - memory < 400, "more than 80 KiB per held request"
    busy.wait_idle()


def test_3_times_1000_requests_for_three_models_on_two_places(busy):
    """All are held before the first model wakes; then models take turns, and every request is answered."""
    for name in ("alpha", "beta", "gamma"):
        busy.sleep_now(name)
        busy.faults(name, hang_wake=True)
    waves = {name: chats(busy, name, 1_000).start() for name in ("alpha", "beta", "gamma")}
    wait_until(lambda: all(busy.figures(name)["held"] == 1_000 for name in waves), "all are held")
    for name in waves:
        busy.clear_faults(name)
    for name, wave in waves.items():
        replies = wave.result(120)
        assert statuses(replies) == {200: 1_000}, name
        assert len({reply.body for reply in replies}) == 1
    assert all(busy.sim(name)["tokens_asleep"] == 0 for name in waves)
    busy.wait_idle()


def test_clients_that_leave_while_held_withdraw_their_demand(busy):
    """With both places taken by busy models nothing was started for them: held goes to zero and the model is not woken."""
    for name in ("alpha", "beta"):
        busy.wake_now(name)
    busy.sleep_now("gamma")
    before = busy.sim("gamma")
    left = busy.figures("gamma")["outcomes"].get("left", 0)
    for name in ("alpha", "beta"):
        busy.faults(name, hang_sleep=True)
    body = chat_body("gamma")
    head = f"POST /gamma/v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    clients = [socket.create_connection(("127.0.0.1", busy.port)) for _ in range(200)]
    for client in clients:
        client.sendall(head + body)
    wait_until(lambda: busy.figures("gamma")["held"] == 200, "all are held")
    for client in clients:
        client.close()
    wait_until(lambda: busy.figures("gamma")["held"] == 0, "nobody waits any more")
    wait_until(lambda: busy.figures("gamma")["outcomes"].get("left", 0) == left + 200, "they are counted as gone")
    for name in ("alpha", "beta"):
        busy.clear_faults(name)
    # Somebody may be on the way out for them; whoever comes next is served all the same.
    wait_until(lambda: all(model["state"] in ("serving", "sleeping") for model in busy.fleet()), "models are at rest")
    assert busy.sim("gamma")["wakes"] == before["wakes"], "it was woken for nobody"
    assert statuses(chats(busy, "gamma", 3).run()) == {200: 3}
    busy.wait_idle()


def test_bodies_of_1_mb_are_held_and_arrive_whole(busy):
    """50 of them: each is answered as a warm one is, byte for byte, and the engine got every byte."""
    name = "beta"
    body = chat_body(name, text="x" * 1_000_000)
    busy.wake_now(name)
    warm = Wave(busy, 1, f"/{name}/v1/chat/completions", body).run()[0]
    assert warm.status == 200
    busy.sleep_now(name)
    before = busy.sim(name)
    replies = Wave(busy, 50, f"/{name}/v1/chat/completions", body).run()
    assert statuses(replies) == {200: 50}
    assert {reply.body for reply in replies} == {warm.body}
    after = busy.sim(name)
    assert after["body_bytes"] - before["body_bytes"] >= 50 * len(body)
    assert after["wakes"] - before["wakes"] == 1
    busy.wait_idle()


def test_a_full_hold_is_told_with_429(make_stack):
    """By number and by bytes, over all workers; those who are held are served, and the others once there is room."""
    stack = make_stack([Model("alpha"), Model("beta")], top="hold: {limit: 60, perModel: 40, bytes: 8MiB, bodyBuffer: 1MiB}")
    for name, count, limit, body in (("alpha", 100, 40, chat_body("alpha")), ("beta", 30, 8, chat_body("beta", text="x" * 1_000_000))):
        stack.sleep_now(name)
        stack.faults(name, hang_wake=True)
        first = Wave(stack, limit // 2, f"/{name}/v1/chat/completions", body).start()
        wait_until(lambda: stack.figures(name)["held"] == limit // 2, "the first are held")
        wave = Wave(stack, count, f"/{name}/v1/chat/completions", body).start()
        wait_until(lambda: stack.figures(name)["outcomes"].get("hold_full", 0) > 0, "the hold is full")
        wait_until(lambda: stack.figures(name)["held"] + stack.figures(name)["outcomes"]["hold_full"] == count + limit // 2, "all have arrived")
        stack.clear_faults(name)
        assert statuses(first.result(60)) == {200: limit // 2}
        replies = wave.result(60)
        refused = [reply for reply in replies if reply.status == 429]
        assert statuses(replies) == {200: count - len(refused), 429: len(refused)}
        # Two workers learn of each other's holds with a little delay; the limit may be passed by what arrives meanwhile, not by more.
        held = count - len(refused) + limit // 2
        assert limit <= held <= limit * 3 // 2, f"{held} held at a limit of {limit}"
        for reply in refused:
            assert reply.headers["x-greenthread-reason"] == "hold_full"
            assert 1 <= int(reply.headers["retry-after"]) <= 60
            assert json.loads(reply.body)["error"]["type"] == "rate_limit_error"
        assert statuses(Wave(stack, 1, f"/{name}/v1/chat/completions", body).run()) == {200: 1}
        stack.wait_idle()


def test_bursts_of_retries_over_all_workers_cause_one_wake(busy):
    """A client that gives up and tries again at once, on other connections and so on other workers, wakes the model once."""
    busy.sleep_now("alpha")
    before = busy.sim("alpha")
    busy.faults("alpha", slow_wake_ms=1_000)
    for _ in range(5):
        impatient = [chats(busy, "alpha", 10, timeout=0.15) for _ in range(2)]
        for future in [wave.start() for wave in impatient]:
            future.result(10)
    patient = chats(busy, "alpha", 20).run()
    assert statuses(patient) == {200: 20}
    after = busy.sim("alpha")
    assert after["wakes"] - before["wakes"] == 1
    assert after["requests_asleep"] == before["requests_asleep"]
    busy.wait_idle()


def test_retries_of_the_openai_sdk_cause_one_wake(busy):
    """The SDK's own retries, after refusals at a barrier and time-outs, are answered; the model wakes once."""
    openai = pytest.importorskip("openai")
    busy.sleep_now("beta")
    before = busy.sim("beta")
    busy.faults("beta", slow_wake_ms=1_500)
    client = openai.OpenAI(base_url=f"{busy.gateway}/beta/v1", api_key="not-needed", max_retries=8, timeout=0.5)
    answer = client.chat.completions.create(model="org/beta", messages=[{"role": "user", "content": "hello"}], max_tokens=8)
    assert answer.choices[0].message.content
    assert busy.sim("beta")["wakes"] - before["wakes"] == 1
    busy.wait_idle()
