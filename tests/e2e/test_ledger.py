"""Memory, as an operator sees it: tiers when host RAM is short, GPUs that somebody else uses too, peaks while models move."""

import re
import signal

import pytest

from harness import GIB, Model, Stack, send, statuses, wait_until
from memory import gpu_document, hosts_document, in_ram, on_gpu, stranger
from operators import explain, greenthread, samples, why_not
from traffic import Streams, chats

NAMES = ("alpha", "beta", "gamma")


def tiers(stack: Stack) -> dict[str, str]:
    return {model["name"]: model["tier"] for model in stack.fleet()}


def levels(stack: Stack, name: str) -> list[str]:
    """How an engine was told to sleep, in this life of its process: level and mode of each sleep."""
    return [operation["asked"] for operation in stack.sim(name)["operations"] if operation["kind"] == "sleep"]


def answered(stack: Stack, name: str) -> dict:
    """A request that must be answered; what the host and the GPUs hold then is within what they have. Returns the model's document."""
    assert stack.chat(name).status_code == 200
    assert on_gpu(stack) <= stack.gpu * GIB
    for host in hosts_document(stack):
        assert max(in_ram(stack), host["reservedBytes"]) <= host["capacityBytes"]
    return stack.figures(name)


def test_copies_that_do_not_fit_into_host_ram_are_on_disk_and_answer_from_there(make_stack):
    """Two copies fit. Whoever comes last sleeps on disk from its first sleep on, and its wake from there is learned by itself."""
    stack = make_stack([Model(name, sim=("--wake-from-disk", "1s")) for name in NAMES], top="hosts: [{memory: 32GiB}]")
    (deep,) = [name for name in NAMES if tiers(stack)[name] == "disk"]
    assert sorted(tiers(stack).values()) == ["disk", "ram", "ram"]
    assert levels(stack, deep) == ["level=2&mode=keep"] * 2, "the first sleep and the one after the measurement"
    for _ in range(2):
        for name in NAMES:
            answered(stack, name)
    stack.sleep_now(deep)
    takes = stack.figures(deep)["takes"]
    assert takes["disk"]["ms"] >= 1_000 and takes["disk"]["measured"] >= 2
    shown = greenthread(stack, "status").stdout
    assert re.search(rf"^{deep} +sleeping +disk ", shown, re.M), shown
    assert "host RAM: 30.0 GiB of 32.0 GiB taken by sleeping copies" in shown
    one = greenthread(stack, "status", deep).stdout
    assert re.search(r"^wakes in .* from host RAM \(not measured since control started\), 1\.\d s from disk \(of \d measured\)", one, re.M), one
    assert re.search(r"^weights +on disk, its engine reloads them$", one, re.M), one
    page = samples(stack)
    assert page['greenthread_models{tier="disk"}'] == 1
    assert page['greenthread_host_reserved_bytes{node="0"}'] == 30 * GIB <= page['greenthread_host_capacity_bytes{node="0"}']


def test_the_copy_that_is_worth_least_leaves_host_ram_and_is_started_for_the_next_request(make_stack):
    """One copy fits. The one that is not in RAM is asked for again and again, the other never: their places change."""
    stack = make_stack([Model(name, sim=("--wake-from-disk", "3s")) for name in ("alpha", "beta")], top="hosts: [{memory: 17GiB}]")
    loser, winner = sorted(("alpha", "beta"), key=lambda name: tiers(stack)[name] != "ram")
    assert tiers(stack)[loser] == "ram" != tiers(stack)[winner], "which of the two was first is chance"
    process = stack.engine_pid(loser)
    for _ in range(5):
        answered(stack, winner)
    stack.sleep_now(winner)
    wait_until(lambda: tiers(stack) == {loser: "stopped", winner: "ram"}, lambda: f"they change places: {tiers(stack)}")
    assert explain(stack, winner, 1)[0]["taken"] == {"action": "sleep", "tier": "ram"}
    left = explain(stack, loser, 1)[0]
    assert (left["trigger"], left["taken"]) == ({"cause": "host_ram"}, {"action": "demote", "tier": "stopped"})
    assert f"{loser} leaves host RAM, its engine stopped: " in greenthread(stack, "explain", loser).stdout
    assert any(f"its copy leaves host RAM for {winner}" in entry["sentence"] for entry in stack.figures(loser)["decisions"])
    assert re.search(rf"^{loser} +sleeping +stopped ", greenthread(stack, "status").stdout, re.M)
    assert on_gpu(stack) == GIB, "what ended holds nothing"
    before = {name: stack.figures(name)["takes"] for name in ("alpha", "beta")}
    learned = lambda name, tier: answered(stack, name)["takes"][tier]["measured"] - before[name][tier]["measured"]
    assert (learned(winner, "ram"), learned(loser, "stopped")) == (1, 1), "each from its new place"
    assert stack.engine_pid(loser) not in (None, process)


def test_a_model_that_sleeps_on_disk_never_takes_host_ram(make_stack):
    stack = make_stack([Model("deep", sim=("--wake-from-disk", "300ms"), extra="  sleep: {tier: disk}"), Model("other")])
    for _ in range(2):
        answered(stack, "deep")
        stack.sleep_now("deep")
    assert set(levels(stack, "deep")) == {"level=2&mode=keep"}
    assert stack.figures("deep")["tier"] == "disk"
    assert in_ram(stack) == 15 * GIB, "the copy of the other one"
    assert explain(stack, "deep", 1)[0]["taken"] == {"action": "sleep", "tier": "disk"}
    assert "goes to sleep, its weights only on disk" in greenthread(stack, "explain", "deep").stdout


def test_where_weights_are_and_what_wakes_take_outlives_control(make_stack):
    """Killed while one copy is in RAM and one model on disk: its successor knows both, and how to wake from each."""
    stack = make_stack([Model("deep", sim=("--wake-from-disk", "1s"), extra="  sleep: {tier: disk}"), Model("other")], top="hosts: [{memory: 17GiB}]")
    assert tiers(stack) == {"deep": "disk", "other": "ram"}
    control = stack.control_pid()
    send(control, signal.SIGKILL)
    wait_until(lambda: stack.control_pid() not in (None, control), "control runs again", 60)
    stack.drop_connections()
    stack.wait_ready()
    assert tiers(stack) == {"deep": "disk", "other": "ram"}
    assert hosts_document(stack)[0]["reservedBytes"] == 15 * GIB
    takes = stack.figures("deep")["takes"]["disk"]
    assert takes["ms"] >= 1_000 and takes["measured"] == 0, "an earlier life measured it"
    assert answered(stack, "deep")["takes"]["disk"]["measured"] == 1
    assert answered(stack, "other")["takes"]["ram"]["measured"] == 1
    assert [stack.sim(name)["tokens_asleep"] for name in ("deep", "other")] == [0, 0]


@pytest.mark.parametrize("tier, level", [("disk", 2), ("stopped", 1)])
def test_frozen_requests_outlive_every_tier(make_stack, tier, level):
    """On disk the engine keeps them; a model that would be stopped sleeps in RAM for their sake, and is stopped when they have ended."""
    stack = make_stack([Model("deep", sim=("--wake-from-disk", "300ms"), extra=f"  sleep: {{tier: {tier}, drainTimeout: 300ms}}"), Model("other")], gpu=20, times={"maxFlow": "1s"})
    stack.wake_now("deep")
    process = stack.engine_pid("deep")
    streams = Streams(stack, "deep", count=2, tokens=600)
    wait_until(lambda: stack.status("deep")["queue"]["inFlight"] == 2, "streams run")
    assert stack.chat("other").status_code == 200
    assert stack.figures("deep")["tier"] == {"disk": "disk", "stopped": "ram"}[tier]
    streams.check()
    assert stack.engine_pid("deep") == process
    assert levels(stack, "deep")[-1] == f"level={level}&mode=keep"
    assert [stack.sim("deep")[count] for count in ("aborted", "tokens_asleep", "disconnected")] == [0, 0, 0]
    stack.sleep_now("deep")
    wait_until(lambda: stack.figures("deep")["tier"] == tier, "as configured when nothing is in it")
    assert stack.chat("deep").status_code == 200


def test_copies_that_cannot_leave_host_ram_are_warned_of(make_stack):
    """It starts all the same: they may never have to sleep all at once."""
    stack = make_stack([Model(name, extra="  sleep: {tier: ram}") for name in ("alpha", "beta")], top="hosts: [{memory: 20GiB}]", start=False)
    stack.start(wait=False)
    wait_until(stack.is_ready, "gates have a table", 60)
    (warning,) = [line for line in stack.output.read_text().splitlines() if line.startswith("warning: ")]
    assert re.search(r"fleet file:\d+: models\[1\]\.memory\.host: .*\(alpha, beta\) take 32\.0 GiB of host 0, which has 20\.0 GiB", warning), warning
    assert "hosts[0].memory" in warning and "sleep.tier" in warning


def test_a_gpu_that_somebody_else_uses_stands_still_until_they_leave_and_nobody_is_lost(make_stack):
    """What serves goes on; who waits is held, told the reason, and answered when the memory is free again."""
    stack = make_stack([Model("alpha"), Model("beta")])
    stack.wake_now("alpha")
    wakes = stack.sim("beta")["wakes"]
    with stranger(stack, gib=5):
        wait_until(lambda: gpu_document(stack)["stopped"], "the GPU is stopped")
        held = chats(stack, "beta", 20).start()
        wait_until(lambda: stack.figures("beta")["held"] == 20, "they are held")
        for remedy in (gpu_document(stack)["stopped"], why_not(stack, "beta")["reasons"][0], greenthread(stack, "status").stdout, stack.tail(100)):
            assert "greenthread accept-gpu 0" in remedy and "22.0 GiB" in remedy, remedy
        assert samples(stack)['greenthread_gpu_stopped{gpu="0"}'] == 1
        wait_until(lambda: (why_not(stack, "beta")["estimatedWaitMs"], stack.status("beta")["estimatedWaitMs"]) == (None, 60_000), "nobody knows how long")
        assert stack.chat("alpha").status_code == 200
        stack.operator("alpha", "sleep").raise_for_status()
        assert stack.chat("alpha").status_code == 200, "a barrier would refuse requests for nothing"
        assert stack.sim("beta")["wakes"] == wakes and not held.done()
    assert statuses(held.result(60)) == {200: 20}
    assert stack.sim("beta")["wakes"] == wakes + 1
    assert gpu_document(stack)["stopped"] is None
    # One line for both models, which is not what happened last to either.
    told = [line for line in stack.tail(100).splitlines() if "wakes and sleeps go on" in line]
    assert len(told) == 1 and re.fullmatch(r"\S+ GPU 0  what is in use .*", told[0]), told
    status = greenthread(stack, "status").stdout
    assert "wakes and sleeps go on" not in status
    assert "GPU 0: what is in use" in greenthread(stack, "status", "alpha").stdout


def test_a_gpu_that_stands_still_stops_no_other(make_stack):
    stack = make_stack([Model("alpha"), Model("beta", gpu=1)], gpus=2)
    with stranger(stack, gib=5, gpu=1):
        wait_until(lambda: gpu_document(stack, 1)["stopped"], "GPU 1 is stopped")
        held = chats(stack, "beta", 1).start()
        wait_until(lambda: stack.figures("beta")["held"] == 1, "it is held")
        assert gpu_document(stack, 0)["stopped"] is None
        answered(stack, "alpha")
        stack.sleep_now("alpha")
        assert any("GPU 1" in reason for reason in why_not(stack, "beta")["reasons"])
        assert not held.done()
    assert statuses(held.result(60)) == {200: 1}


def test_what_an_operator_accepts_goes_on_without_that_memory(make_stack):
    """Two models fit without the stranger, one beside it: the held request is answered when its neighbour has gone."""
    stack = make_stack([Model("alpha"), Model("beta")])
    stack.wake_now("alpha")
    with stranger(stack, gib=10):
        wait_until(lambda: gpu_document(stack)["stopped"], "the GPU is stopped")
        held = chats(stack, "beta", 3).start()
        wait_until(lambda: stack.figures("beta")["held"] == 3, "they are held")
        accepted = greenthread(stack, "accept-gpu", "0")
        assert (accepted.returncode, accepted.stderr) == (0, "")
        assert "10.0 GiB somebody else's" in accepted.stdout
        assert statuses(held.result(60)) == {200: 3}
        assert stack.status("alpha")["state"] == "sleeping"
        assert on_gpu(stack) <= stack.gpu * GIB
        assert stack.sim("beta")["wake_failures"] == 0
        made_room = [choice for choice in explain(stack, "beta") if choice["taken"]["action"] == "evict"]
        assert made_room and made_room[-1]["taken"]["victims"] == ["alpha"]


def test_who_is_too_large_for_what_is_accepted_is_named(make_stack):
    """Nobody has to find out by the first refusal, and it is over as soon as the memory is free again, without another word."""
    stack = make_stack([Model("alpha")])
    with stranger(stack, gib=30):
        wait_until(lambda: gpu_document(stack)["stopped"], "the GPU is stopped")
        told = "too large for 10.0 GiB, their requests get 503 `never_fits`: alpha"
        assert told in greenthread(stack, "accept-gpu", "0").stdout
        assert stack.chat("alpha").headers["x-greenthread-reason"] == "never_fits"
    wait_until(lambda: stack.figures("alpha")["lastError"] is None, "it fits again")
    assert (gpu_document(stack)["foreignBytes"], gpu_document(stack)["stopped"]) == (0, None)
    assert stack.chat("alpha").status_code == 200


def test_what_is_accepted_while_something_moves_counts_afterwards_and_says_so(make_stack):
    stack = make_stack([Model("alpha")])
    wait_until(lambda: gpu_document(stack)["usedBytes"] is not None, "the GPU was read")
    stack.faults("alpha", slow_wake_ms=4_000)
    held = chats(stack, "alpha", 1).start()
    stack.wait_state("alpha", "waking")
    with stranger(stack, gib=5):
        accepted = greenthread(stack, "accept-gpu", "0")
        assert accepted.returncode == 0, accepted.stderr
        assert "accepted: what is in use there once nothing moves any more" in accepted.stdout
        assert gpu_document(stack)["accepting"] and gpu_document(stack)["foreignBytes"] == 0
        assert statuses(held.result(60)) == {200: 1}
        wait_until(lambda: gpu_document(stack)["foreignBytes"] == 5 * GIB, lambda: f"it counts: {gpu_document(stack)}")
        assert (gpu_document(stack)["accepting"], gpu_document(stack)["stopped"]) == (False, None)


def test_the_peak_of_a_wake_needs_room_too(make_stack):
    """16 GiB each fit beside each other; 10 GiB more while `gamma` wakes do not."""
    stack = make_stack([Model("alpha"), Model("gamma", sim=("--wake-peak", "10GiB"))])
    assert stack.figures("gamma")["sizes"]["waking"] == {"bytes": 10 * GIB, "source": "measured"}
    stack.wake_now("alpha")
    answered(stack, "gamma")
    assert stack.status("alpha")["state"] == "sleeping", "there was no room for the peak beside it"
    (need,) = explain(stack, "gamma", 1)[0]["need"]
    assert (need["needsBytes"], need["missingBytes"]) == ((16 + 10 - 1) * GIB, 2 * GIB), need
    # Once it is awake the peak is over.
    answered(stack, "alpha")
    assert {stack.status(name)["state"] for name in ("alpha", "gamma")} == {"serving"}
    assert [stack.sim(name)["wake_failures"] for name in ("alpha", "gamma")] == [0, 0]
    assert "10.0 GiB more while it wakes (measured)" in greenthread(stack, "status", "gamma").stdout


def test_the_peak_of_a_sleep_is_kept_free_beside_whoever_is_awake(make_stack):
    """`alpha` takes 10 GiB more while it goes to sleep: beside it nobody else may fill the GPU, or it could never leave."""
    stack = make_stack([Model("alpha", sim=("--sleep-peak", "10GiB")), Model("beta")])
    assert stack.figures("alpha")["sizes"]["sleeping"] == {"bytes": 10 * GIB, "source": "measured"}
    before = stack.figures("alpha")["transitions"]
    for name in ("alpha", "beta", "alpha", "beta"):
        answered(stack, name)
        assert [model["name"] for model in stack.fleet() if model["state"] == "serving"] == [name]
    after = stack.figures("alpha")["transitions"]
    assert after["sleeps"] == before["sleeps"] + 2 and after["failedSleeps"] == before["failedSleeps"], after
    assert [stack.sim(name)["wake_failures"] for name in ("alpha", "beta")] == [0, 0]


def test_a_sleeping_engine_ends_where_what_it_keeps_is_needed(make_stack):
    """17 GiB awake and 4 asleep, of 20: neither has room beside the other's rest, and each is answered by a start."""
    stack = make_stack([Model(name, asleep=4, sim=("--weights", "17GiB")) for name in ("alpha", "beta")], gpu=20)
    for _ in range(2):
        for name, other in (("alpha", "beta"), ("beta", "alpha")):
            answered(stack, name)
            assert tiers(stack)[other] == "stopped"
    told = greenthread(stack, "explain", "alpha").stdout
    assert "what engines keep there while they sleep is needed" in told, told
