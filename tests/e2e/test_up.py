"""`greenthread up`: how it ends, and what it says when it cannot begin."""

import os
import signal
import socket
import subprocess

import pytest

from harness import BINARIES, Model, Stack, Wave, send, stream_text, wait_until
from traffic import Streams, chat_body


@pytest.fixture
def one(make_stack):
    """A product with one model."""
    return make_stack([Model("alpha")])


def ctrl_c(stack):
    """As a terminal sends it: to every process of the foreground group."""
    os.killpg(stack.process.pid, signal.SIGINT)


def test_the_first_ctrl_c_lets_requests_end(one):
    streams = Streams(one, "alpha", count=3, tokens=300)
    wait_until(lambda: one.status("alpha")["queue"]["inFlight"] == 3, "streams are on their way")
    ctrl_c(one)
    streams.check()
    assert one.process.wait(20) == 0
    wait_until(lambda: not one.processes(), "nothing stays behind")
    assert "Draining" in one.tail() and "nothing is left running" in one.tail()


def test_the_second_ctrl_c_stops_at_once(one):
    stream = Wave(one, 1, "/alpha/v1/chat/completions", chat_body("alpha", stream=True, max_tokens=20_000)).start()
    wait_until(lambda: one.status("alpha")["queue"]["inFlight"] == 1, "a long stream is on its way")
    ctrl_c(one)
    wait_until(lambda: "Draining" in one.tail(), "it drains")
    ctrl_c(one)
    one.process.wait(12)
    assert stream_text(stream.result(10)[0].body)[1] is False, "the stream was cut"
    wait_until(lambda: not one.processes(), "nothing stays behind")


def test_nothing_stays_behind_when_it_is_killed(one):
    assert one.chat("alpha").status_code == 200
    one.process.kill()
    one.process.wait(5)
    wait_until(lambda: not one.processes(), f"nothing stays behind: {one.processes()}", 30)


def test_a_second_start_in_the_same_folder_is_refused_and_the_first_goes_on(one):
    second = Stack(one.folder, [Model("other")])
    second.file = one.folder / "second.yaml"
    second.state = one.state
    second.write()
    refused = up(second.file)
    assert refused.returncode == 1
    assert str(one.state) in refused.stderr and f"pid {one.process.pid}" in refused.stderr
    second.client.close()
    assert one.chat("alpha").status_code == 200


def up(file, **environment):
    return subprocess.run([BINARIES / "greenthread", "up", file], env={**os.environ, **environment}, capture_output=True, text=True, timeout=30, cwd=file.parent)


def check_refused(stack, ended, *words):
    assert ended.returncode == 1, ended
    for word in words:
        assert word in ended.stderr, ended.stderr
    assert "panicked" not in ended.stderr
    wait_until(lambda: not stack.processes(), "nothing was started, or it has ended")


@pytest.mark.parametrize("which, field", [("port", "gateway.address"), ("admin_port", "gateway.admin"), ("grpc_port", "control.grpc"), ("http_port", "control.http")])
def test_a_port_in_use_is_named_with_its_field(make_stack, which, field):
    stack = make_stack([Model("alpha")], start=False)
    stack.write()
    with socket.create_server(("127.0.0.1", getattr(stack, which))):
        check_refused(stack, up(stack.file), str(getattr(stack, which)), field)


def test_a_missing_envoy_is_named(make_stack):
    stack = make_stack([Model("alpha")], start=False)
    stack.write()
    check_refused(stack, up(stack.file, ENVOY="/nowhere/envoy"), "/nowhere/envoy")
    check_refused(stack, up(stack.file, ENVOY="", PATH=str(stack.folder)), "PATH", "ENVOY")


def test_a_missing_module_is_named(make_stack):
    stack = make_stack([Model("alpha")], start=False)
    stack.write()
    check_refused(stack, up(stack.file, GREENTHREAD_MODULE="/nowhere/filter.wasm"), "/nowhere/filter.wasm", "make filter")


def test_mistakes_in_the_file_are_all_told_with_line_and_field(make_stack):
    stack = make_stack([Model("alpha"), Model("beta", awake=90)], start=False)
    stack.write()
    text = stack.file.read_text().replace("idleTimeout", "idelTimeout")
    stack.file.write_text(text)
    lines = text.splitlines()
    wrong = next(number for number, line in enumerate(lines, 1) if "idelTimeout" in line)
    large = next(number for number, line in enumerate(lines, 1) if "90GiB" in line)
    check_refused(stack, up(stack.file), f"{stack.file}:{wrong}", "idelTimeout", f"{stack.file}:{large}", "awake")


def test_a_file_that_is_not_there(make_stack):
    stack = make_stack([Model("alpha")], start=False)
    check_refused(stack, up(stack.folder / "nothing.yaml"), "nothing.yaml")


def test_control_and_envoy_are_started_again(one):
    """Requests that come meanwhile are held or tried again by their client; nothing is lost."""
    control, envoy = one.control_pid(), one.envoy_pid()
    send(control, signal.SIGKILL)
    wait_until(lambda: one.control_pid() not in (None, control), "control runs again")
    send(envoy, signal.SIGKILL)
    one.drop_connections()
    wait_until(lambda: one.envoy_pid() not in (None, envoy), "Envoy runs again")
    one.wait_gateway(60)
    assert one.chat("alpha").status_code == 200
    assert "was started again" in one.tail(100)
