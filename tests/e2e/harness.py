"""Starts the whole product for a test: `greenthread up` with a real Envoy, engine-sims, free ports and short times.

`Stack` owns one running product in a folder of its own and ends it without leaving anything behind. `Wave` sends many
requests at once over raw sockets, cheaply enough for thousands.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import time
import typing

import httpx

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARIES = pathlib.Path(os.environ.get("GREENTHREAD_BINARIES", ROOT / "target" / "debug"))
GIB = 1 << 30


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses now, all different; below those that the kernel gives to clients, so that no connection takes one later."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


def wait_until(condition: typing.Callable[[], typing.Any], what: str | typing.Callable[[], str], timeout: float = 30.0, every: float = 0.05):
    """Waits for a condition, never for a duration. Returns its value; fails with `what` (asked for then) and its last value."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            told = what() if callable(what) else what
            raise AssertionError(f"not within {timeout:.0f} s: {told} (last: {value!r})")
        time.sleep(every)


@dataclasses.dataclass
class Model:
    """One model of a test's fleet; its engine is an engine-sim that control starts, unless `command` or `url` names another."""

    name: str
    served: str = ""
    prefixes: tuple[str, ...] = ()
    awake: int = 17
    asleep: int = 1
    port: int = 0
    gpu: int = 0
    sim: tuple[str, ...] = ()  # options and their values, in turn; they replace the ones below
    extra: str = ""
    url: str = ""
    command: tuple[str, ...] = ()  # placeholders as in a fleet file
    env: tuple[tuple[str, str], ...] = ()

    @property
    def prefix(self) -> str:
        """Where clients find it."""
        return self.prefixes[0] if self.prefixes else self.name

    def yaml(self) -> str:
        served = self.served or f"org/{self.name}"
        lines = [f"- name: {self.name}", f"  model: {served}", f"  memory: {{awake: {self.awake}GiB, asleep: {self.asleep}GiB}}"]
        if self.gpu:
            lines.append(f"  gpus: [{self.gpu}]")
        if self.prefixes:
            lines.append(f"  prefixes: [{', '.join(self.prefixes)}]")
        if self.url:
            lines.append(f"  engine: {{type: vllm, url: '{self.url}'}}")
        elif self.command:
            engine = {"type": "vllm", "port": self.port, "command": list(self.command), "env": dict(self.env)}
            lines.append(f"  engine: {json.dumps(engine)}")
        else:
            options = {"--port": '"{port}"', "--model": f'"{served}"', "--weights": f"{self.awake - self.asleep}GiB", "--residual": f"{self.asleep}GiB"}
            options |= {"--gpu-dir": '"{state}/gpu"', "--gpu": '"{gpu}"', "--gpu-memory": '"{gpu-memory}"', "--cold-start": "300ms"}
            options |= {"--sleep-time": "50ms", "--wake-time": "200ms", "--token-time": "5ms", **dict(zip(self.sim[::2], self.sim[1::2]))}
            command = ["engine-sim", *(part for option in options.items() for part in option)]
            lines.append(f"  engine: {{type: vllm, port: {self.port}, command: [{', '.join(command)}]}}")
        return "\n".join(lines) + ("\n" + self.extra if self.extra else "")


# Short, but within rule 1 of the protocol: margin covers the forward bound.
TIMES = {"lease": "2s", "margin": "2200ms", "heartbeat": "500ms"}
SLEEP = {"idleTimeout": "never", "drainTimeout": "2s"}
FAIRNESS = {"minRuntime": "300ms", "maxWait": "300ms"}


class Stack:
    """One running product."""

    def __init__(self, folder: pathlib.Path, models: list[Model], *, gpu: int = 40, gpus: int = 1, oracle: str = "simulated", top: str = "",
                 times: dict | None = None, sleep: dict | None = None, fairness: dict | None = None, concurrency: int = 2, token: str = ""):
        self.folder, self.models, self.gpu, self.gpus, self.oracle, self.top = folder, models, gpu, gpus, oracle, top
        self.times = {**TIMES, **(times or {})}
        self.sleep = {**SLEEP, **(sleep or {})}
        self.fairness = {**FAIRNESS, **(fairness or {})}
        self.concurrency, self.token = concurrency, token
        ports = free_ports(4 + len(models))
        self.port, self.admin_port, self.grpc_port, self.http_port = ports[:4]
        for model, port in zip(models, ports[4:]):
            model.port = model.port or port
        self.gateway = f"http://127.0.0.1:{self.port}"
        self.control = f"http://127.0.0.1:{self.http_port}"
        self.admin = f"http://127.0.0.1:{self.admin_port}"
        self.file = folder / "greenthread.yaml"
        self.state = folder / "state"
        self.output = folder / "up.log"
        self.process: subprocess.Popen | None = None
        self.groups: set[int] = set()
        self.client = self.new_client()

    def new_client(self) -> httpx.Client:
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        return httpx.Client(timeout=60, limits=httpx.Limits(max_connections=1000), headers=headers)

    # -- life

    def write(self) -> None:
        flow = lambda table: "{" + ", ".join(f"{key}: {value}" for key, value in table.items()) + "}"
        self.file.write_text("\n".join([
            f"gateway: {{address: '127.0.0.1:{self.port}', admin: '127.0.0.1:{self.admin_port}', concurrency: {self.concurrency}, root: true}}",
            f"control: {{grpc: '127.0.0.1:{self.grpc_port}', http: '127.0.0.1:{self.http_port}'{f', token: {self.token}' if self.token else ''}}}",
            f"state: {self.state}",
            f"oracle: {self.oracle}",
            f"gpus: [{', '.join([f'{{memory: {self.gpu}GiB}}'] * self.gpus)}]",
            f"times: {flow(self.times)}",
            f"defaults: {{sleep: {flow(self.sleep)}, fairness: {flow(self.fairness)}}}",
            self.top,
            "models:",
            *(model.yaml() for model in self.models),
        ]) + "\n")

    def start(self, wait: bool = True) -> "Stack":
        self.write()
        environment = {"GREENTHREAD_LOG": "info", **os.environ, "PATH": f"{BINARIES}:{os.environ['PATH']}"}
        with self.output.open("ab") as output:
            self.process = subprocess.Popen([BINARIES / "greenthread", "up", self.file], stdout=output, stderr=subprocess.STDOUT,
                                            stdin=subprocess.DEVNULL, cwd=self.folder, env=environment, start_new_session=True)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, timeout: float = 90) -> None:
        """Every gate has a table, every model has booted, and sleeps are allowed again."""
        wait_until(self.is_ready, lambda: f"ready; see {self.output}:\n{self.tail()}", timeout)
        wait_until(lambda: all(model["bootReady"] for model in self.fleet()), "every model booted", timeout)

    def is_ready(self) -> bool:
        assert self.process is None or self.process.poll() is None, f"`greenthread up` ended:\n{self.tail()}"
        try:
            return self.client.get(f"{self.control}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def wait_gateway(self, timeout: float = 30) -> None:
        """Every gate of the running Envoy has a table, whatever became of the gates of an earlier one."""
        def look():
            try:
                gates = self.client.get(f"{self.control}/api/v1/status").raise_for_status().json()["gates"]
                self.client.get(f"{self.admin}/ready").raise_for_status()
            except httpx.HTTPError:
                return False
            return len([gate for gate in gates if gate["attached"] and gate["tableVersion"] > 0]) == self.concurrency + 1
        wait_until(look, lambda: f"the gates have a table\n{self.tail()}", timeout)

    def drop_connections(self) -> None:
        """Forgets connections whose other end was killed."""
        self.client.close()
        self.client = self.new_client()

    def stop(self) -> None:
        """Ends everything; fails when something stayed behind."""
        self.client.close()
        self.groups |= self.engine_groups()
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            for pid in (self.control_pid(), self.envoy_pid()):
                if pid:
                    send(pid, signal.SIGCONT)
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        wait_until(lambda: not self.processes(), f"nothing stays behind: {self.processes()}", 30)

    # -- processes

    def processes(self) -> list[tuple[int, str]]:
        """Every process that has this stack's folder in its command line (control, Envoy, engine-sims, reaper), and every engine's group."""
        self.groups |= self.engine_groups()
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    state, _, group = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:3]
                except OSError:
                    continue
                if (str(self.folder) in command or int(group) in self.groups) and state != "Z":
                    found.append((int(entry.name), command))
        return found

    def engine_groups(self) -> set[int]:
        """Process groups of the engines that control runs now; vLLM's workers hide command line and environment."""
        try:
            return {record["pid"] for record in json.loads((self.state / "engines.json").read_text()).values()}
        except (OSError, ValueError):
            return set()

    def pid_of(self, pattern: str) -> int | None:
        return next((pid for pid, command in self.processes() if re.search(pattern, command)), None)

    def control_pid(self) -> int | None:
        return self.pid_of(r"greenthread serve ")

    def envoy_pid(self) -> int | None:
        return self.pid_of(r"envoy\b.* (-c|--config-path) ")

    def engine_pid(self, name: str) -> int | None:
        return self.pid_of(rf" --port {self.model(name).port}\b")

    # -- what the product says

    def model(self, name: str) -> Model:
        return next(model for model in self.models if model.name == name)

    def fleet(self) -> list[dict]:
        """The models as the operator's API shows them."""
        return self.client.get(f"{self.control}/api/v1/models").raise_for_status().json()["models"]

    def figures(self, name: str) -> dict:
        """One model as the operator's API shows it."""
        return self.client.get(f"{self.control}/api/v1/models/{name}").raise_for_status().json()

    def wait_idle(self, timeout: float = 30) -> None:
        """Nothing is held or in flight: as control sees it, as the gates count it, and as Envoy does."""
        def counts():
            return {model["name"]: (model["held"], model["inFlight"], model["frozen"], self.status_of(model)) for model in self.fleet()}
        wait_until(lambda: all(count == (0, 0, 0, 0) for count in counts().values()), f"idle: {counts()}", timeout)

    def status_of(self, figures: dict) -> int:
        """Requests in flight, as the public document says."""
        path = figures["prefixes"][0]
        return self.client.get(f"{self.gateway}/{path}/status").raise_for_status().json()["queue"]["inFlight"]

    def status(self, name: str) -> dict:
        """The public document of a model, through the gateway."""
        return self.client.get(f"{self.gateway}/{self.model(name).prefix}/status").raise_for_status().json()

    def wait_state(self, name: str, state: str, timeout: float = 30) -> dict:
        def look():
            status = self.status(name)
            return status if status["state"] == state else None
        return wait_until(look, lambda: f"{name} is {state}\n{self.tail()}", timeout)

    def operator(self, name: str, verb: str) -> httpx.Response:
        return self.client.post(f"{self.control}/api/v1/models/{name}/{verb}")

    def sim(self, name: str) -> dict:
        """What the engine itself counted."""
        return self.client.get(f"http://127.0.0.1:{self.model(name).port}/sim/stats").raise_for_status().json()

    def seen(self, name: str, mark: str) -> list[dict]:
        """The requests with the header `x-mark: <mark>` that reached the engine: method, target and headers as they came."""
        requests = self.client.get(f"http://127.0.0.1:{self.model(name).port}/sim/requests").raise_for_status().json()
        return [request for request in requests if request["headers"].get("x-mark") == mark]

    def no_faults(self) -> None:
        """Engines behave again; one that is gone has no faults."""
        for model in self.models:
            try:
                self.client.delete(f"http://127.0.0.1:{model.port}/sim/faults")
            except httpx.TransportError:
                pass

    def faults(self, name: str, **faults) -> None:
        self.client.post(f"http://127.0.0.1:{self.model(name).port}/sim/faults", json=faults).raise_for_status()

    def engine_answers(self, name: str) -> bool:
        try:
            return bool(self.sim(name))
        except httpx.TransportError:
            return False

    def clear_faults(self, name: str) -> None:
        self.client.delete(f"http://127.0.0.1:{self.model(name).port}/sim/faults").raise_for_status()

    def envoy_stats(self, pattern: str) -> dict[str, int]:
        text = self.client.get(f"{self.admin}/stats", params={"filter": pattern}).text
        pairs = (line.rsplit(": ", 1) for line in text.splitlines() if ": " in line)
        return {name: int(value) for name, value in pairs if value.isdigit()}

    def tail(self, lines: int = 40) -> str:
        try:
            return "\n".join(self.output.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    # -- requests

    def chat(self, name: str, text: str = "hello", **fields) -> httpx.Response:
        body = {"model": self.model(name).served or f"org/{name}", "messages": [{"role": "user", "content": text}], "max_tokens": 8, **fields}
        return self.client.post(f"{self.gateway}/{self.model(name).prefix}/v1/chat/completions", json=body)

    def raw(self, method: str, path: str, body: bytes = b"", headers: dict | None = None) -> "Reply":
        """One request, its path and headers sent as they are written here."""
        return Wave(self, 1, path, body, method, headers, timeout=60).run()[0]

    def sleep_now(self, name: str) -> None:
        """Has an operator put the model to sleep, and waits for it."""
        self.operator(name, "sleep").raise_for_status()
        self.wait_state(name, "sleeping")

    def wake_now(self, name: str) -> None:
        self.operator(name, "wake").raise_for_status()
        self.wait_state(name, "serving")


def send(pid: int, number: int) -> None:
    """A signal; a process that is gone is fine."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


@dataclasses.dataclass
class Reply:
    """One answer, or why there is none (status 0)."""

    status: int
    headers: dict[str, str]
    body: bytes
    error: str = ""


class Wave:
    """Many requests at once, each on a connection of its own; started in the background, collected later."""

    def __init__(self, stack: Stack, count: int, path: str, body: bytes = b"{}", method: str = "POST", headers: dict | None = None, timeout: float = 120):
        lines = [f"{method} {path} HTTP/1.1", f"host: 127.0.0.1:{stack.port}", "connection: close", f"content-length: {len(body)}"]
        lines += [f"{key}: {value}" for key, value in {"content-type": "application/json", **(headers or {})}.items()]
        self.request = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
        self.stack, self.count, self.timeout = stack, count, timeout

    def run(self) -> list[Reply]:
        """Sends all, waits for all."""
        return asyncio.run(self._all())

    def start(self):
        """In a thread; `.result()` waits for the replies."""
        import concurrent.futures
        pool = concurrent.futures.ThreadPoolExecutor(1)
        future = pool.submit(self.run)
        pool.shutdown(wait=False)
        return future

    async def _all(self) -> list[Reply]:
        gate = asyncio.Semaphore(400)  # connects at a time, so that the listen queue never overflows
        return await asyncio.gather(*(self._one(gate) for _ in range(self.count)))

    async def _one(self, gate: asyncio.Semaphore) -> Reply:
        try:
            return parse_reply(await asyncio.wait_for(self._exchange(gate), self.timeout))
        except (OSError, asyncio.TimeoutError) as error:
            return Reply(0, {}, b"", repr(error))

    async def _exchange(self, gate: asyncio.Semaphore) -> bytes:
        async with gate:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.stack.port)
        try:
            writer.write(self.request)
            await writer.drain()
            return await read_reply(reader)
        finally:
            # A client that gives up goes away at once.
            writer.close()


async def read_reply(reader: asyncio.StreamReader) -> bytes:
    """One answer up to its end, or as much as came of it. Not until the connection ends: Envoy closes a second later."""
    raw = b""
    try:
        raw = head = await reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        if b"transfer-encoding: chunked" in lines:
            size = -1
            while size:
                line = await reader.readuntil(b"\r\n")
                size, raw = int(line, 16), raw + line
                raw += await reader.readexactly(size + 2)
        elif length := [line for line in lines if line.startswith(b"content-length: ")]:
            raw += await reader.readexactly(int(length[0].split()[1]))
        elif b" 204 " not in lines[0]:
            raw += await reader.read()
    except asyncio.IncompleteReadError as cut:
        raw += cut.partial
    return raw


def parse_reply(raw: bytes) -> Reply:
    """A whole HTTP/1.1 answer as it came over the wire, chunks joined."""
    head, _, rest = raw.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    if not lines[0].startswith("HTTP/"):
        return Reply(0, {}, raw, "no answer")
    headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in lines[1:])}
    if headers.get("transfer-encoding") == "chunked":
        body, complete = b"", False
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            length = int(size, 16) if size else 0
            if length == 0:
                complete = True
                break
            body, rest = body + rest[:length], rest[length + 2:]
        error = "" if complete else "cut off"
    else:
        body = rest
        error = "" if len(body) == int(headers.get("content-length", len(body))) else "cut off"
    return Reply(int(lines[0].split()[1]), headers, body, error)


def statuses(replies: list[Reply]) -> dict[int, int]:
    """How many answers of each status."""
    return dict(collections.Counter(reply.status for reply in replies))


def stream_text(body: bytes) -> tuple[str, bool]:
    """Text of a chat or completion stream, and whether it ended with [DONE]."""
    text, done = "", False
    for line in body.decode().splitlines():
        if line == "data: [DONE]":
            done = True
        elif line.startswith("data: "):
            for choice in json.loads(line[6:]).get("choices", []):
                text += choice.get("delta", {}).get("content") or choice.get("text") or ""
    return text, done
