"""The whole path with real vLLMs (CPU, a tiny model): two take turns on one place, and one is attached to by its address.

GREENTHREAD_VLLM_DIR names the folder of tests/vllm/install.sh; without it nothing here runs. An engine takes about a minute to
start, so everything waits for long, and the tests share one product. What was seen is printed (pytest -s).
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import statistics
import subprocess
import threading
import time
import typing

import httpx
import openai
import pytest

from harness import BINARIES, ROOT, Model, Stack, free_ports, send, wait_until

VLLM = os.environ.get("GREENTHREAD_VLLM_DIR", "")
pytestmark = pytest.mark.skipif(not VLLM, reason="GREENTHREAD_VLLM_DIR names no folder with an installed vLLM; `make test-vllm` installs one and sets it")

# Longest wait for anything that includes the start of an engine, in seconds.
START = 600
# Tokens of an answer that is frozen on its way, several seconds long; the model's context has 1024.
LONG = 800
SHORT = 24
# The hold covers a cold start. Room is made soon after it is asked for: a long answer is still far from its end.
SETTINGS = {
    "oracle": "declared", "gpu": 10, "top": "hold: {budget: 10m}", "times": {"lease": "5s", "heartbeat": "1s"},
    "sleep": {"drainTimeout": "300ms"}, "fairness": {"minRuntime": "300ms", "maxWait": "300ms"},
}
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": f"0-{min(os.cpu_count() or 1, 2) - 1}",
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1",
}


def vllm(name: str, extra: str = "") -> Model:
    """A model whose engine control starts, with the command of vLLM's own documentation: what GreenThread needs beside it, it adds itself."""
    command = (f"{VLLM}/venv/bin/vllm", "serve", f"{VLLM}/tiny", "--served-model-name", "{model}", "--port", "{port}", "--host", "127.0.0.1",
               "--dtype", "float32", "--max-model-len", "1024", "--max-num-seqs", "8", "--enforce-eager")
    path = f"{VLLM}/venv/bin:{os.environ['PATH']}"
    return Model(name, awake=8, command=command, env=(*ENVIRONMENT.items(), ("PATH", path)), extra=extra)


def say(text: str) -> None:
    print(f"\n    seen: {text}", flush=True)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two models with 8 GiB each on one declared GPU of 10 GiB. `beta` keeps the place for long enough to be looked at."""
    models = [vllm("alpha"), vllm("beta", "  fairness: {minRuntime: 3s}")]
    stack = Stack(tmp_path_factory.mktemp("vllm"), models, **SETTINGS)
    began = time.monotonic()
    try:
        stack.start(wait=False).wait_ready(START)
        say(f"both booted after {time.monotonic() - began:.0f} s")
        yield stack
        say(f"estimates: {WAITS.words()}")
    finally:
        stack.stop()


def client(stack: Stack, name: str, **settings) -> openai.OpenAI:
    """The SDK as anyone would make it, with more patience for a busy machine."""
    return openai.OpenAI(base_url=f"{stack.gateway}/{name}/v1", api_key="not-needed", timeout=START, **settings)


def question(name: str, tokens: int) -> dict:
    """Exactly `tokens` tokens, the same ones each time."""
    messages = [{"role": "user", "content": "hello"}]
    return {"model": f"org/{name}", "messages": messages, "max_tokens": tokens, "temperature": 0, "extra_body": {"ignore_eos": True, "return_token_ids": True}}


def check_chat(answer, tokens: int) -> list[int]:
    """A complete answer; returns its tokens."""
    (choice,) = answer.choices
    assert (choice.finish_reason, answer.usage.completion_tokens, len(choice.token_ids)) == ("length", tokens, tokens)
    return choice.token_ids


@dataclasses.dataclass
class Stream:
    """A stream, read chunk by chunk on one connection, and when each came. `look` is called at the first chunk and after the last."""

    tokens: list[int] = dataclasses.field(default_factory=list)
    times: list[float] = dataclasses.field(default_factory=list)
    finish: str = ""
    usage: int = 0
    error: Exception | None = None
    look: typing.Callable[[], typing.Any] = lambda: None
    seen: list = dataclasses.field(default_factory=list)

    def read(self, sdk: openai.OpenAI, name: str, tokens: int) -> "Stream":
        """To its end; what went wrong is kept."""
        try:
            for chunk in sdk.chat.completions.create(**question(name, tokens), stream=True, stream_options={"include_usage": True}):
                if not self.seen:
                    self.seen.append(self.look())
                self.take(chunk)
            self.seen.append(self.look())
        except (openai.OpenAIError, httpx.HTTPError) as error:
            self.error = error
        return self

    def take(self, chunk) -> None:
        if chunk.usage:
            self.usage = chunk.usage.completion_tokens
        for choice in chunk.choices:
            self.finish = choice.finish_reason or self.finish
            self.tokens += getattr(choice, "token_ids", None) or []  # the first chunk has none
            self.times.append(time.monotonic())

    def check(self, tokens: int) -> list[int]:
        assert self.error is None, self.error
        assert (self.finish, self.usage, len(self.tokens)) == ("length", tokens, tokens)
        return self.tokens

    def longest_silence(self) -> float:
        return max(after - before for before, after in zip(self.times, self.times[1:]))


class Background(threading.Thread):
    """Something that a client does meanwhile; `result` waits for what it returned."""

    def __init__(self, work):
        super().__init__(daemon=True)
        self.work, self.value, self.error = work, None, None
        self.start()

    def run(self) -> None:
        try:
            self.value = self.work()
        except Exception as error:
            self.error = error

    def result(self):
        self.join(START)
        assert not self.is_alive(), "no answer"
        if self.error:
            raise self.error
        return self.value


def engine(stack: Stack, name: str, path: str) -> dict:
    """What the engine itself says, asked beside the gateway."""
    return stack.client.get(f"http://127.0.0.1:{stack.model(name).port}{path}").raise_for_status().json()


def is_asleep(stack: Stack, name: str) -> bool:
    return engine(stack, name, "/is_sleeping")["is_sleeping"]


def generated(stack: Stack, name: str) -> int:
    """Tokens that the engine has generated in its life. Its client may be behind."""
    text = stack.client.get(f"http://127.0.0.1:{stack.model(name).port}/metrics").raise_for_status().text
    return sum(int(float(line.split()[-1])) for line in text.splitlines() if line.startswith("vllm:generation_tokens_total{"))


def decisions(stack: Stack, name: str) -> list[str]:
    return [entry["sentence"] for entry in stack.figures(name)["decisions"]]


class Waits:
    """What each wait was estimated to be when it began, and what it was, as control scores them itself; in milliseconds."""

    def __init__(self):
        self.pairs: list[tuple[int, int]] = []

    @contextlib.contextmanager
    def noted(self, stack: Stack):
        """Notes the wait in which a model is woken meanwhile, if it is exactly one, and by the same control."""
        before = self.score(stack)
        yield
        after = self.score(stack)
        if after["scored"] == before["scored"] + 1:
            self.pairs.append((after["estimatedMs"] - before["estimatedMs"], after["waitedMs"] - before["waitedMs"]))

    def score(self, stack: Stack) -> dict:
        return stack.client.get(f"{stack.control}/api/v1/status").raise_for_status().json()["tally"]["estimates"]

    def words(self) -> str:
        ratios = sorted(waited / max(told, 1) for told, waited in self.pairs)
        if not ratios:
            return "no wait was scored"
        off = sorted((abs(waited - told) for told, waited in self.pairs))
        kept = sum(waited <= told for told, waited in self.pairs)
        return (f"{len(ratios)} waits, waited / told: median {statistics.median(ratios):.2f}, worst {ratios[-1]:.2f}, least {ratios[0]:.2f}; {kept} kept; "
                f"off by {statistics.median(off):.0f} ms in the median, {off[-1]} ms at worst; told and waited in ms: {self.pairs}")


WAITS = Waits()


def ask(stack: Stack, name: str, tokens: int = SHORT) -> tuple[list[int], float]:
    """One chat by the SDK: its tokens, and how long it took."""
    began = time.monotonic()
    with WAITS.noted(stack), client(stack, name) as sdk:
        answer = sdk.chat.completions.create(**question(name, tokens))
    return check_chat(answer, tokens), time.monotonic() - began


def test_both_boot_are_measured_and_sleep(pair):
    """Each was started, put to sleep and woken once for its figures; nobody wants them, so both sleep."""
    for name in ("alpha", "beta"):
        pair.wait_state(name, "sleeping", START)
        assert is_asleep(pair, name)
        sentences = decisions(pair, name)
        assert any("measured: 8.0 GiB awake, 1.0 GiB asleep (as declared)" in sentence for sentence in sentences), sentences
        say(f"{name}: {'; '.join(sentences)}")
    footprints = json.loads((pair.state / "footprints.json").read_text())
    assert len(footprints) == 2
    say(f"footprints: {footprints}")


def test_two_models_take_turns_under_the_sdk(pair):
    """Chat and stream, turn by turn: every answer is complete and the same one as before, whoever slept meanwhile."""
    told: dict[str, list[int]] = {}
    for turn in range(3):
        for name, other in (("alpha", "beta"), ("beta", "alpha")):
            tokens, took = ask(pair, name)
            with client(pair, name) as sdk:
                stream = Stream().read(sdk, name, SHORT).check(SHORT)
            assert tokens == stream == told.setdefault(name, tokens)
            assert (pair.status(name)["state"], pair.status(other)["state"]) == ("serving", "sleeping")
            assert (is_asleep(pair, name), is_asleep(pair, other)) == (False, True)
            say(f"turn {turn + 1}: {name} answered after {took:.2f} s, {SHORT} tokens included")
    assert told["alpha"] == told["beta"], "the same weights and the same question"
    for name in ("alpha", "beta"):
        say(f"{name}: {'; '.join(decisions(pair, name)[-4:])}")


def test_a_long_stream_is_frozen_for_another_model_and_finishes_later(pair):
    """A stream and a plain answer of one model are under way when another model is wanted: they are frozen, the other is served, they go on."""
    told, _ = ask(pair, "alpha", LONG)
    stream, before = Stream(), generated(pair, "alpha")
    wanted = Stream(look=lambda: (is_asleep(pair, "alpha"), engine(pair, "alpha", "/load")["server_load"], generated(pair, "alpha") - before))
    with client(pair, "alpha", max_retries=0) as first, client(pair, "alpha", max_retries=0) as second, client(pair, "beta", max_retries=0) as other:
        reading = Background(lambda: stream.read(first, "alpha", LONG))
        answering = Background(lambda: second.chat.completions.create(**question("alpha", LONG)))
        wait_until(lambda: len(stream.tokens) > 20 and pair.status("alpha")["queue"]["inFlight"] == 2, "both are on their way", 120)
        began = time.monotonic()
        wanted.read(other, "beta", SHORT).check(SHORT)
        took = time.monotonic() - began
        reading.result()
        check_chat(answering.result(), LONG)
    assert len(stream.check(LONG)) == LONG and stream.tokens[:20] == told[:20]
    frozen_at = wanted.seen[0][2]
    assert 20 < frozen_at < 2 * LONG
    assert wanted.seen == [(True, 2, frozen_at)] * 2, "it slept with both inside and computed nothing while the other model had the place"
    sentences = decisions(pair, "alpha")
    assert any("2 requests frozen" in sentence for sentence in sentences), sentences
    wait_until(lambda: pair.figures("alpha")["frozen"] == 0, "nothing is frozen any more", 60)
    same = sum(a == b for a, b in zip(stream.tokens, told))
    say(f"two answers of {LONG} tokens frozen after {frozen_at} of {2 * LONG}; the stream was silent for {stream.longest_silence():.1f} s and finished with {len(stream.tokens)} tokens ({same} as undisturbed)")
    say(f"the other model's stream was complete {took:.1f} s after it was asked for")
    say("; ".join(sentences[-6:]))


def test_a_sleeping_model_is_looked_at_and_sleeps_on(pair):
    ask(pair, "beta")
    pair.wait_state("alpha", "sleeping", 60)
    wakes = pair.figures("alpha")["transitions"]["wakes"]
    with client(pair, "alpha") as sdk:
        (card,) = sdk.models.list()
    assert (card.id, card.max_model_len) == ("org/alpha", 1024)
    shown = subprocess.run([BINARIES / "greenthread", "status", "--control", pair.control], capture_output=True, text=True, timeout=30, check=True).stdout
    assert [line.split()[:2] for line in shown.splitlines()[1:3]] == [["alpha", "sleeping"], ["beta", "serving"]], shown
    say(f"greenthread status\n{shown}")
    assert "9.0 GiB of 10.0 GiB reserved, as declared" in shown, "nobody measured it, and it says so"
    assert pair.status("alpha")["state"] == "sleeping" and is_asleep(pair, "alpha")
    assert pair.figures("alpha")["transitions"]["wakes"] == wakes


def test_a_killed_control_adopts_both_and_nothing_is_lost(pair):
    """One sleeps, the other is in the middle of a stream."""
    ask(pair, "beta")
    pair.wait_state("alpha", "sleeping", 60)
    engines = {name: pair.engine_pid(name) for name in ("alpha", "beta")}
    control, stream = pair.control_pid(), Stream()
    with client(pair, "beta", max_retries=0) as sdk:
        reading = Background(lambda: stream.read(sdk, "beta", LONG))
        wait_until(lambda: len(stream.tokens) > 5, "the stream is on its way", 60)
        send(control, signal.SIGKILL)
        began = time.monotonic()
        wait_until(lambda: pair.control_pid() not in (None, control), "control runs again", 60)
        pair.wait_gateway(120)
        say(f"the gates have a table of the new control after {time.monotonic() - began:.1f} s")
        reading.result()
    stream.check(LONG)
    assert engines == {name: pair.engine_pid(name) for name in ("alpha", "beta")}
    assert pair.status("alpha")["state"] == "sleeping"
    for name in ("beta", "alpha"):
        _, took = ask(pair, name)
        say(f"{name} answered after {took:.2f} s")


def worker_pids(stack: Stack, name: str) -> list[int]:
    """The engine's processes behind its HTTP server."""
    group = stack.engine_pid(name)
    return [pid for pid, command in stack.processes() if "VLLM::" in command and os.getpgid(pid) == group]


def test_an_engine_that_dies_is_started_for_the_next_request(pair):
    """Its scheduler is killed, as the kernel would for want of memory: the server goes with it, the request is held for the start."""
    ask(pair, "beta")
    engine_pid = pair.engine_pid("beta")
    core = next(pid for pid, command in pair.processes() if "EngineCore" in command and os.getpgid(pid) == engine_pid)
    send(core, signal.SIGKILL)
    wait_until(lambda: pair.engine_pid("beta") != engine_pid, "its server has ended", 60)
    _, took = ask(pair, "beta")
    assert pair.engine_pid("beta") not in (None, engine_pid)
    say(f"beta's scheduler was killed; the next request was answered after {took:.0f} s: {'; '.join(decisions(pair, 'beta')[-4:])}")


def test_an_engine_that_dies_with_control_leaves_nothing_behind(pair):
    """Nobody saw it die, and its workers hide their environment: they are found and ended all the same, and the next request is served."""
    ask(pair, "alpha")
    control, server, workers = pair.control_pid(), pair.engine_pid("alpha"), worker_pids(pair, "alpha")
    assert workers
    # Frozen first, so that nobody reacts to the other's end.
    for pid in (control, *workers):
        send(pid, signal.SIGSTOP)
    for pid in (control, server):
        send(pid, signal.SIGKILL)
    wait_until(lambda: pair.control_pid() not in (None, control), "control runs again", 60)
    wait_until(lambda: not [pid for pid in workers if pathlib.Path(f"/proc/{pid}/exe").exists()], "its workers have ended", 60)
    pair.wait_gateway(120)
    _, took = ask(pair, "alpha")
    say(f"alpha's server and control were killed together; the next request was answered after {took:.0f} s")


@pytest.fixture
def running():
    """The URL of a vLLM that somebody else runs: the one in GREENTHREAD_VLLM_URL, which serves `tiny`, or one that is started here."""
    if url := os.environ.get("GREENTHREAD_VLLM_URL"):
        yield url.rstrip("/")
        return
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(["bash", ROOT / "tests/vllm/serve.sh", VLLM, str(port), "tiny"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_until(lambda: process.poll() is not None or answers(url), "it serves", START)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def test_a_running_vllm_is_attached_to_and_left_running(make_stack, running):
    """Its load tracking is proved, so it may sleep; at the end it still runs."""
    attached = make_stack([Model("mine", served="tiny", awake=8, url=running)], **SETTINGS)
    with client(attached, "mine") as sdk:
        check_chat(sdk.chat.completions.create(**{**question("mine", SHORT), "model": "tiny"}), SHORT)
        attached.sleep_now("mine")
        assert httpx.get(f"{running}/is_sleeping").json()["is_sleeping"]
        began = time.monotonic()
        check_chat(sdk.chat.completions.create(**{**question("mine", SHORT), "model": "tiny"}), SHORT)
    say(f"attached: a request to the sleeping model was answered after {time.monotonic() - began:.2f} s: {'; '.join(decisions(attached, 'mine'))}")
    attached.stop()
    assert answers(running), "control did not start it, so it does not end it"
