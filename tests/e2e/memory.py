"""The memory of simulated GPUs and of the host as it is written down: what engines hold, and somebody else who holds some too."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib

from harness import GIB, Stack


def start_of(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat, which tells a process from a later one with its number; None when it is gone."""
    try:
        return int(pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[19])
    except OSError:
        return None


def holdings(stack: Stack) -> list[dict]:
    """What living processes hold."""
    found = []
    for file in (stack.state / "gpu").glob("*.json"):
        try:
            found.append(json.loads(file.read_text()))
        except OSError:
            # Its owner has just ended.
            continue
    return [one for one in found if start_of(one["pid"]) == one["start"]]


def on_gpu(stack: Stack, gpu: int = 0) -> int:
    """Bytes in use on a GPU, whoever uses it."""
    return sum(one["bytes"] for one in holdings(stack) if one["gpu"] == gpu)


def in_ram(stack: Stack) -> int:
    """Bytes of host RAM of all sleeping copies."""
    return sum(one.get("host", 0) for one in holdings(stack))


@contextlib.contextmanager
def stranger(stack: Stack, gib: int, gpu: int = 0):
    """Somebody else holds memory on a simulated GPU: this process."""
    pid = os.getpid()
    file = stack.state / "gpu" / f"stranger-{pid}.json"
    file.write_text(json.dumps({"pid": pid, "start": start_of(pid), "gpu": gpu, "bytes": gib * GIB}))
    try:
        yield
    finally:
        file.unlink()


def gpu_document(stack: Stack, gpu: int = 0) -> dict:
    """What operators are told of a GPU."""
    return stack.client.get(f"{stack.control}/api/v1/gpus").raise_for_status().json()["gpus"][gpu]


def hosts_document(stack: Stack) -> list[dict]:
    """What operators are told of host RAM."""
    return stack.client.get(f"{stack.control}/api/v1/gpus").raise_for_status().json()["hosts"]
