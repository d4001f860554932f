"""Why: explanations of what was chosen, why a model is not awake, what waits were spent on, and GPUs that hold more than is known."""

import json
import re

import pytest

from harness import GIB, Model, Stack, Wave, statuses, wait_until
from memory import gpu_document, stranger
from operators import explain, greenthread, samples, why_not
from traffic import chats


def evict(stack: Stack, victim: str, other: str, waiter: str) -> dict:
    """Two awake, both idle, the victim for longer; then a request for a third. Returns the choice that made room for it."""
    # All begin asleep: one that was awake before would have had its minRuntime, and would go though it was used later.
    for name in (waiter, victim, other):
        stack.sleep_now(name)
    for name in (victim, other):
        stack.wake_now(name)
    for name in (victim, other):
        assert stack.chat(name).status_code == 200
    stack.wait_idle()
    assert stack.chat(waiter).status_code == 200

    def finished():
        """What followed is told when it has happened."""
        made_room = [choice for choice in explain(stack, waiter) if choice["target"] == waiter and choice["taken"]["action"] == "evict"]
        return made_room and {victim, waiter} <= {step["model"] for step in made_room[-1]["followed"]} and made_room[-1]
    return wait_until(finished, lambda: f"the choice for {waiter} and what followed: {explain(stack, waiter)}")


def test_an_eviction_names_who_went_who_stayed_and_what_followed(stack):
    choice = evict(stack, "alpha", "beta", "gamma")
    assert choice["taken"]["victims"] == ["alpha"]
    assert choice["policy"] == "lru"
    assert choice["trigger"] == {"cause": "demand", "held": 1, "inside": 0, "refused": False}
    (need,) = choice["need"]
    assert need["gpu"] == 0
    assert need["needsBytes"] - need["freeBytes"] - need["comingBytes"] == need["missingBytes"] > 0
    weighed = {one["model"]: one for one in choice["weighed"]}
    assert weighed["alpha"]["verdict"] == "chosen"
    assert weighed["beta"]["verdict"] in ("kept", "min_runtime")
    assert "gamma" not in weighed, "who waits is not weighed"
    assert weighed["alpha"]["idleMs"] >= weighed["beta"]["idleMs"]
    sizes = stack.figures("alpha")["sizes"]
    assert weighed["alpha"]["freesBytes"] == sizes["awake"]["bytes"] - sizes["asleep"]["bytes"]
    steps = [(step["model"], step["what"]) for step in choice["followed"]]
    assert [model for model, _ in steps][:1] == ["alpha"] and any("asleep" in what for model, what in steps if model == "alpha"), steps
    assert any("awake" in what for model, what in steps if model == "gamma"), steps
    times = [choice["atUnixMs"], *(step["atUnixMs"] for step in choice["followed"])]
    assert times == sorted(times) and times[-1] - times[0] < 60_000
    # The victim's explanation is the same choice, and its journal names the number.
    assert choice["number"] in [one["number"] for one in explain(stack, "alpha")]
    assert choice["number"] in [entry.get("choice") for entry in stack.figures("alpha")["decisions"]]


def test_the_text_says_the_same_to_people(stack):
    choice = evict(stack, "alpha", "beta", "gamma")
    shown = greenthread(stack, "explain", "gamma")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert re.search(r"^\d\d:\d\d:\d\d  room for gamma: 1 request held", shown.stdout, re.M), shown.stdout
    assert re.search(r"^  GPU 0 +needs [\d.]+ GiB, [\d.]+ GiB free, .*[\d.]+ GiB missing$", shown.stdout, re.M), shown.stdout
    assert re.search(r"^  alpha +went: unused for .*frees 15.0 GiB", shown.stdout, re.M), shown.stdout
    assert re.search(r"^  beta +stayed", shown.stdout, re.M), shown.stdout
    assert re.search(r"^  then +\d\d:\d\d:\d\d alpha asleep", shown.stdout, re.M), shown.stdout
    one = greenthread(stack, "explain", "--choice", str(choice["number"]))
    headline = f"  room for gamma: 1 request held  (choice {choice['number']}, policy lru, "
    assert one.returncode == 0 and one.stdout.splitlines()[0][8:].startswith(headline), one.stdout
    assert headline in shown.stdout
    assert f"(choice {choice['number']})" in greenthread(stack, "status", "alpha").stdout
    last = json.loads(greenthread(stack, "explain", "gamma", "--last", "1", "--output", "json").stdout)
    assert [one["number"] for one in last] == [explain(stack, "gamma", 1)[0]["number"]]


def test_what_was_wanted_back_too_soon_is_told(make_stack):
    """A victim whose wake takes long is asked for as soon as it sleeps."""
    stack = make_stack([Model(name, sim=("--wake-time", "2s")) for name in ("alpha", "beta", "gamma")])
    before = samples(stack)
    stack.wake_now("alpha")
    stack.wake_now("beta")
    stack.chat("alpha")
    stack.chat("beta")
    stack.wait_idle()
    gamma = chats(stack, "gamma", 1).start()
    stack.wait_state("alpha", "sleeping")
    alpha = chats(stack, "alpha", 1).start()
    regrets = lambda: [(choice["target"], regret) for choice in explain(stack, "alpha", 20) for regret in choice["regrets"]]
    wait_until(regrets, "a regret")
    (target, regret), = regrets()
    assert (target, regret["victim"]) == ("gamma", "alpha")
    assert regret["afterMs"] <= regret["wakeTakesMs"]
    assert statuses(gamma.result(60)) == statuses(alpha.result(60)) == {200: 1}
    assert samples(stack)["greenthread_regrets_total"] - before["greenthread_regrets_total"] >= 1
    assert re.search(r"^  regretted +alpha was wanted again after", greenthread(stack, "explain", "alpha", "--last", "20").stdout, re.M)


def test_why_not_of_a_model_that_nobody_asks_for_one_that_serves_and_one_that_is_disabled(stack):
    stack.sleep_now("gamma")
    asleep = why_not(stack, "gamma")
    assert not asleep["serving"] and asleep["ahead"] == []
    assert asleep["estimatedWaitMs"] > 0
    assert "request" in asleep["reasons"][-1], asleep
    shown = greenthread(stack, "why-not", "gamma")
    assert shown.returncode == 0 and shown.stdout.startswith("gamma does not serve now:\n  1. ")
    for reason in asleep["reasons"]:
        assert reason in shown.stdout

    stack.wake_now("alpha")
    assert why_not(stack, "alpha")["serving"]
    assert greenthread(stack, "why-not", "alpha").stdout.startswith("alpha is awake and serves")

    assert greenthread(stack, "disable", "gamma").returncode == 0
    try:
        disabled = why_not(stack, "gamma")
        assert any("greenthread enable" in reason for reason in disabled["reasons"]), disabled
        # Nothing is promised that will not be.
        assert not any("wakes it" in reason and "no request" not in reason for reason in disabled["reasons"]), disabled
        assert (disabled["refusedBecause"], disabled["estimatedWaitMs"]) == ("disabled", None)
        assert "would be refused (503 `disabled`)" in greenthread(stack, "why-not", "gamma").stdout
    finally:
        stack.operator("gamma", "enable").raise_for_status()


def test_why_not_of_queued_models_names_who_stays_and_who_is_first(make_stack):
    """Nobody may go for a minute; an operator can."""
    names = ("alpha", "beta", "gamma", "delta")
    stack = make_stack([Model(name) for name in names], fairness={"minRuntime": "60s"})
    stack.wake_now("alpha")
    stack.wake_now("beta")
    gamma = chats(stack, "gamma", 1).start()
    wait_until(lambda: stack.figures("gamma")["held"] == 1, "gamma is waited for")
    delta = chats(stack, "delta", 1).start()
    wait_until(lambda: stack.figures("delta")["held"] == 1, "delta is waited for")
    stack.wait_state("delta", "pending")

    first, second = why_not(stack, "gamma"), why_not(stack, "delta")
    assert (first["ahead"], second["ahead"]) == ([], ["gamma"])
    assert not first["serving"] and not second["serving"]
    for name in ("alpha", "beta"):
        assert any(name in reason for reason in first["reasons"]), first
    assert second["estimatedWaitMs"] >= first["estimatedWaitMs"] > 0
    waits = explain(stack, "gamma")[-1]
    assert waits["number"] == first["choice"]
    assert (waits["target"], waits["taken"]["action"]) == ("gamma", "wait")
    assert waits["taken"]["untilUnixMs"] > waits["atUnixMs"]
    assert {one["model"]: one["verdict"] for one in waits["weighed"]} == {"alpha": "min_runtime", "beta": "min_runtime"}
    assert "before it in the queue: gamma" in greenthread(stack, "why-not", "delta").stdout
    assert re.search(r"gamma waits, nobody may make room before \d\d:\d\d:\d\d: 1 request held", greenthread(stack, "explain", "gamma").stdout)

    for name in ("alpha", "beta"):
        stack.operator(name, "sleep").raise_for_status()
    assert statuses(gamma.result(60)) == statuses(delta.result(60)) == {200: 1}


def test_why_not_of_a_model_that_pinned_ones_leave_no_room_and_of_one_that_never_fits(make_stack):
    pinned = "  fairness: {pinned: true}"
    stack = make_stack([Model("alpha", extra=pinned), Model("gamma", awake=17), Model("large", awake=39)], start=False).start(wait=False)
    wait_until(stack.is_ready, "gates have a table", 60)
    stack.wait_state("alpha", "serving", 60)
    wait_until(lambda: why_not(stack, "large")["reasons"], "a reason")
    never = wait_until(lambda: [reason for reason in why_not(stack, "large")["reasons"] if "more memory than its GPUs" in reason],
                       lambda: f"it never fits: {why_not(stack, 'large')}", 60)
    assert never
    assert "GiB" in greenthread(stack, "why-not", "large").stdout
    wait_until(lambda: stack.status("gamma")["bootReady"], "the other one is not kept from booting", 60)
    assert stack.chat("gamma").status_code == 200


def test_metrics_follow_choices(stack):
    before = samples(stack)
    evict(stack, "alpha", "beta", "gamma")

    def grown(name):
        return samples(stack)[f"greenthread_{name}"] - before[f"greenthread_{name}"]

    assert grown("choices_total") >= 1
    assert grown("evictions_total") >= 1
    assert grown('wait_seconds_total{cause="wake"}') > 0
    assert grown('wait_seconds_total{cause="sleep"}') > 0
    wait_until(lambda: grown("estimates_scored_total") >= 1, "an estimate was scored")
    assert 0 <= grown("estimates_kept_total") <= grown("estimates_scored_total")
    assert grown("estimates_waited_seconds_total") > 0
    after = samples(stack)
    tiers = {tier: after[f'greenthread_models{{tier="{tier}"}}'] for tier in ("gpu", "ram", "disk", "stopped")}
    assert sum(tiers.values()) == 4 and tiers["gpu"] == 2, tiers
    for cause in ("turn", "drain"):
        assert after[f'greenthread_wait_seconds_total{{cause="{cause}"}}'] >= 0
    for name in ("regrets_total", "thrash_total", "shadow_differs_total", "shadow_saves_total", "estimates_off_seconds_total"):
        assert after[f"greenthread_{name}"] >= 0
    assert after['greenthread_gpu_stopped{gpu="0"}'] == 0
    assert after['greenthread_gpu_foreign_bytes{gpu="0"}'] == 0


def test_status_shows_where_weights_are_and_what_sizes_are_worth(stack):
    stack.wake_now("alpha")
    stack.sleep_now("gamma")
    shown = greenthread(stack, "status").stdout
    assert re.search(r"^alpha +serving +GPU ", shown, re.M), shown
    assert re.search(r"^gamma +sleeping +RAM ", shown, re.M), shown
    sizes = stack.figures("gamma")["sizes"]
    # Declared are 17 GiB; the engine takes 16, and the conditioning cycle has seen that.
    assert sizes["awake"] == {"bytes": 16 * GIB, "source": "measured"}
    assert sizes["asleep"] == {"bytes": GIB, "source": "measured"}
    one = greenthread(stack, "status", "gamma").stdout
    assert "16.0 GiB awake (measured), 1.0 GiB asleep (measured)" in one
    assert "in host RAM" in one


@pytest.mark.parametrize("path, status, code, words", [
    ("models/nobody/explain", 404, "unknown_model", "known models: alpha, beta, gamma, whisper"),
    ("models/nobody/why-not", 404, "unknown_model", "known models: alpha, beta, gamma, whisper"),
    ("models/alpha/explain?last=abc", 400, "bad_query", "last=abc"),
    ("models/alpha/explain?last=0", 400, "bad_query", "from 1 to 1000"),
    ("models/alpha/explain?lsat=3", 400, "bad_query", "lsat"),
    ("choices/abc", 400, "bad_number", "whole number"),
    ("choices/987654321", 404, "unknown_choice", "not kept"),
])
def test_slips_are_told(stack, path, status, code, words):
    answer = stack.client.get(f"{stack.control}/api/v1/{path}")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert words in error["message"] + error["remedy"], error


def test_gpus_that_are_not_there_are_told(stack):
    for gpu, status, code in (("7", 404, "unknown_gpu"), ("abc", 400, "bad_gpu"), ("-1", 400, "bad_gpu")):
        answer = stack.client.post(f"{stack.control}/api/v1/gpus/{gpu}/accept")
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert stack.client.get(f"{stack.control}/api/v1/gpus/0/accept").status_code == 405
    away = greenthread(stack, "accept-gpu", "7")
    assert away.returncode == 1 and "there is no GPU 7" in away.stderr
    assert greenthread(stack, "accept-gpu", "abc").returncode == 2


def test_a_gpu_that_holds_more_than_is_known_stops_until_an_operator_decides(make_stack):
    stack = make_stack([Model("alpha"), Model("beta")])
    stack.sleep_now("alpha")
    gpu = lambda: gpu_document(stack)
    wait_until(lambda: gpu()["usedBytes"] is not None, "the GPU was read")
    assert gpu()["stopped"] is None
    with stranger(stack, gib=5):
        wait_until(lambda: gpu()["stopped"], lambda: f"the GPU is stopped: {gpu()}")
        assert samples(stack)['greenthread_gpu_stopped{gpu="0"}'] == 1
        assert "STOPPED" in greenthread(stack, "status").stdout
        assert any("GPU 0" in reason for reason in why_not(stack, "alpha")["reasons"])
        before = stack.sim("alpha")["wakes"]
        refused = Wave(stack, 1, "/alpha/v1/chat/completions", b"{}", headers={"prefer": "wait=2"}).run()
        assert statuses(refused) == {503: 1} and stack.sim("alpha")["wakes"] == before, "nothing wakes there"

        accepted = greenthread(stack, "accept-gpu", "0")
        assert accepted.returncode == 0, accepted.stderr
        assert "5.0 GiB somebody else's" in accepted.stdout
        assert (gpu()["foreignBytes"], gpu()["capacityBytes"], gpu()["stopped"]) == (5 * GIB, 35 * GIB, None)
        assert stack.chat("alpha").status_code == 200
        assert samples(stack)['greenthread_gpu_foreign_bytes{gpu="0"}'] == 5 * GIB
    # The stranger went: what is free again is the models' by itself.
    wait_until(lambda: gpu()["foreignBytes"] == 0, lambda: f"nothing is somebody else's any more: {gpu()}")
    assert (gpu()["capacityBytes"], gpu()["stopped"]) == (40 * GIB, None)
    told = [line for line in stack.tail(100).splitlines() if "models may take the rest" in line]
    assert len(told) == 1 and "GPU 0  of the 5.0 GiB that an operator accepted as somebody else's nothing is in use any more" in told[0], told


def test_the_second_policy_says_what_it_would_have_done(make_stack):
    """`cost` keeps the one that everybody wants; `lru` sends it when it happens to have rested longest."""
    names = ("alpha", "beta", "gamma")
    stack = make_stack([Model(name) for name in names], top="policy: lru\nshadow: cost", fairness={"minRuntime": "0s"})
    stack.wake_now("alpha")
    stack.wake_now("beta")
    for _ in range(30):
        assert stack.chat("alpha").status_code == 200
    choice = evict(stack, "alpha", "beta", "gamma")
    assert choice["taken"]["victims"] == ["alpha"]
    assert choice["shadow"] == {"policy": "cost", "victims": ["beta"], "differs": True}
    assert samples(stack)["greenthread_shadow_differs_total"] >= 1
    assert re.search(r"^  shadow +policy cost would have sent beta$", greenthread(stack, "explain", "gamma").stdout, re.M)
