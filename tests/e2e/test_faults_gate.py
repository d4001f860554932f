"""Gates that lie: a term from the far future, and a Hello without the token."""

import threading

import grpc
import pytest

from fake_gate import FakeGate
from harness import Model, statuses, wait_until
from traffic import Traffic, chats, check_all_served

TOKEN = "only-for-tests-0123456789"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """Three models on two places, behind a token."""
    from harness import Stack
    running = Stack(tmp_path_factory.mktemp("gate"), [Model("alpha"), Model("beta"), Model("gamma")], token=TOKEN)
    try:
        yield running.start()
    finally:
        running.stop()


def term(stack) -> int:
    return stack.client.get(f"{stack.control}/api/v1/status").raise_for_status().json()["term"]


@pytest.mark.parametrize("future", [10**12, 2**64 - 1])
def test_a_term_from_the_far_future_stops_nothing(guarded, future):
    """Control raises its own term above it, or refuses it; its gates follow, and no request reaches a sleeping engine."""
    guarded.wake_now("alpha")
    guarded.sleep_now("beta")
    before = {name: guarded.sim(name) for name in ("alpha", "beta")}
    gate = FakeGate(guarded.grpc_port, f"fake-{future}", TOKEN)
    held = chats(guarded, "beta", 20).start()
    with Traffic(guarded, "alpha") as traffic:
        gate.hello(future)
        ended = threading.Thread(target=gate.outcome, daemon=True)
        ended.start()
        wait_until(lambda: not ended.is_alive(), "control closes the liar's stream")
        guarded.wait_ready()
        seen = traffic.answered()
        wait_until(lambda: traffic.answered() > seen + 10, "traffic goes on")
        assert statuses(held.result(60)) == {200: 20}
    gate.close()
    check_all_served(traffic.requests)
    if future < 2**63:
        assert term(guarded) > future
    guarded.sleep_now("alpha")
    assert statuses(chats(guarded, "alpha", 5).run()) == {200: 5}
    for name in before:
        assert guarded.sim(name)["requests_asleep"] == before[name]["requests_asleep"]
    guarded.wait_idle()


@pytest.mark.parametrize("token", [None, "another-token-0123456789"])
def test_a_hello_without_the_token_is_refused(guarded, token):
    """It is told so, and drains do not wait for it."""
    gate = FakeGate(guarded.grpc_port, "forged", token)
    gate.hello(1)
    assert gate.outcome() == grpc.StatusCode.UNAUTHENTICATED
    gate.close()
    gates = guarded.client.get(f"{guarded.control}/api/v1/status").raise_for_status().json()["gates"]
    assert "forged" not in {gate["id"] for gate in gates}
    guarded.wake_now("alpha")
    guarded.sleep_now("alpha")
