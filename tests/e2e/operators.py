"""What operators hold in their hands: the command line as people type it, explanations, and the page of metrics, every line understood."""

from __future__ import annotations

import os
import re
import subprocess

from harness import BINARIES, Stack


def greenthread(stack: Stack, *arguments: str, token: str | None = None) -> subprocess.CompletedProcess:
    """The client verbs as people type them."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GREENTHREAD_")}
    environment |= {"GREENTHREAD_CONTROL": stack.control} | ({"GREENTHREAD_TOKEN": token} if token else {})
    return subprocess.run([BINARIES / "greenthread", *arguments], env=environment, capture_output=True, text=True, timeout=60)


def samples(stack: Stack) -> dict[str, float]:
    """The page of metrics, every line of it understood."""
    page = stack.client.get(f"{stack.control}/metrics").raise_for_status()
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    found, types = {}, {}
    for line in page.text.splitlines():
        if kind := re.fullmatch(r"# TYPE (\w+) (counter|gauge|histogram)", line):
            assert kind[1] not in types, "one TYPE per family"
            types[kind[1]] = kind[2]
        elif not re.fullmatch(r"# HELP \w+ \S.*", line):
            name, labels, value = re.fullmatch(r'(\w+)(\{(?:\w+="(?:[^"\\\n]|\\.)*",?)*\})? (\S+)', line).groups()
            assert re.sub(r"_(bucket|count|sum)$", "", name) in types or name in types, line
            assert name + (labels or "") not in found, "no sample twice"
            found[name + (labels or "")] = float(value)
    assert found
    return found


def explain(stack: Stack, name: str, last: int = 5) -> list[dict]:
    """The latest choices about a model, oldest first."""
    return stack.client.get(f"{stack.control}/api/v1/models/{name}/explain", params={"last": last}).raise_for_status().json()


def why_not(stack: Stack, name: str) -> dict:
    """Why a model is not awake now."""
    return stack.client.get(f"{stack.control}/api/v1/models/{name}/why-not").raise_for_status().json()
