"""README's tour, run as it is written: every `$ command` gives the lines that stand below it."""

import os
import pathlib
import re
import subprocess

from harness import BINARIES, ROOT, Stack, free_ports, wait_until

FLEET = ROOT / "envoy" / "standalone" / "greenthread.yaml"


def tour() -> list[tuple[str, list[str]]]:
    """Commands of the README's console blocks with the output that it shows for each."""
    steps: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                steps.append((line[2:], []))
            else:
                steps[-1][1].append(line)
    assert len(steps) >= 6, "the tour is gone"
    return steps


def plain(text: str) -> str:
    """Without what differs from run to run: numbers, whether they are milliseconds or seconds, and the width of columns."""
    return re.sub(r"\s+", " ", re.sub(r"\d+(\.\d+)?( m?s\b)?", "#", text)).strip()


class Example(Stack):
    """The example as it is shipped, on other ports."""

    def __init__(self, folder: pathlib.Path):
        super().__init__(folder, [])
        text = FLEET.read_text()
        for port, free in zip(re.findall(r"port: (900\d)", text), free_ports(4)):
            text = text.replace(f"port: {port}", f"port: {free}")
        self.example = text

    def write(self) -> None:
        self.file.write_text(self.example)

    def environment(self) -> dict[str, str]:
        addresses = {"GATEWAY_ADDRESS": self.port, "GATEWAY_ADMIN": self.admin_port, "CONTROL_GRPC": self.grpc_port, "CONTROL_HTTP": self.http_port}
        return {**os.environ, **{f"GREENTHREAD_{name}": f"127.0.0.1:{port}" for name, port in addresses.items()}, "GREENTHREAD_STATE": str(self.state)}


def test_the_tour_shows_what_happens(tmp_path, monkeypatch):
    example = Example(tmp_path)
    for name, value in example.environment().items():
        monkeypatch.setenv(name, value)
    try:
        example.start()
        wait_until(lambda: all(model["state"] == "sleeping" for model in example.fleet()), "every model sleeps", 60)
        environment = {**os.environ, "PATH": f"{BINARIES}:{os.environ['PATH']}", "GREENTHREAD_CONTROL": example.control}
        for command, expected in tour():
            run = command.replace("127.0.0.1:8080", f"127.0.0.1:{example.port}")
            result = subprocess.run(["bash", "-c", run], capture_output=True, text=True, timeout=60, env=environment, check=False)
            assert result.returncode == 0, f"$ {command}\n{result.stderr}"
            actual = [plain(line) for line in result.stdout.splitlines()]
            for line in expected:
                assert line == "…" or plain(line) in actual, f"$ {command}\nexpected: {line}\n{result.stdout}"
    finally:
        example.stop()
