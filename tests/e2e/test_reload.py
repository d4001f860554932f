"""The fleet file while the product runs: models come, change and go, and a broken file changes nothing."""

import os
import signal

import pytest

from harness import Model, Wave, wait_until
from traffic import Traffic, chat_body, check_all_served


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """A product of its own, whose fleet changes from test to test."""
    from harness import Stack
    stack = Stack(tmp_path_factory.mktemp("fleet"), [Model("stays"), Model("goes"), Model("changes")])
    try:
        yield stack.start()
    finally:
        stack.stop()


def names(stack):
    return {model["name"] for model in stack.fleet() if model["current"]}


def told(stack, words):
    wait_until(lambda: words in stack.tail(200), f"{words!r} is told:\n{stack.tail()}")


def test_a_model_is_added_and_serves(fleet):
    fleet.models.append(added := Model("added", prefixes=("team-b/added", "other")))
    added.port = unused_port()
    with Traffic(fleet, "stays") as traffic:
        fleet.write()
        wait_until(lambda: "added" in names(fleet), "it is known")
        wait_until(lambda: fleet.client.get(f"{fleet.gateway}/other/status").status_code == 200, "its path is known")
        wait_until(lambda: fleet.status("added")["bootReady"], "it has booted")
        assert fleet.chat("added").status_code == 200
    check_all_served(traffic.requests, but=("draining",))
    assert "org/added" in fleet.client.get(f"{fleet.gateway}/v1/models").text


def test_settings_of_a_model_change_without_touching_its_engine(fleet):
    fleet.wake_now("changes")
    engine = fleet.engine_pid("changes")
    fleet.model("changes").prefixes = ("changed",)
    fleet.write()
    wait_until(lambda: fleet.client.get(f"{fleet.gateway}/changed/status").status_code == 200, "the new path is known")
    wait_until(lambda: fleet.client.get(f"{fleet.gateway}/changes/status").status_code == 404, "the old path is not")
    assert fleet.chat("changes").status_code == 200
    assert fleet.engine_pid("changes") == engine


def test_a_model_gets_another_engine(fleet):
    old = fleet.engine_pid("changes")
    fleet.model("changes").sim = ("--max-model-len", "4096")
    fleet.write()
    wait_until(lambda: fleet.engine_pid("changes") not in (None, old), "the new engine runs", 60)
    wait_until(lambda: fleet.status("changes")["bootReady"], "it has booted", 60)
    assert fleet.chat("changes").status_code == 200
    assert fleet.client.get(f"{fleet.gateway}/changed/v1/models").json()["data"][0]["max_model_len"] == 4096


def test_a_model_is_removed_and_those_who_wait_for_others_are_not_disturbed(fleet):
    fleet.wake_now("goes")
    fleet.sleep_now("stays")
    fleet.faults("stays", slow_wake_ms=2000)
    running = Wave(fleet, 2, "/goes/v1/chat/completions", chat_body("goes", max_tokens=200)).start()
    wait_until(lambda: fleet.status("goes")["queue"]["inFlight"] == 2, "requests are on their way")
    held = Wave(fleet, 20, "/stays/v1/chat/completions", chat_body("stays")).start()
    fleet.wait_state("stays", "waking")
    (gone,) = [model for model in fleet.models if model.name == "goes"]
    fleet.models.remove(gone)
    fleet.write()
    wait_until(lambda: fleet.client.get(f"{fleet.gateway}/goes/status").status_code == 404, "its path is gone", 60)
    assert {(reply.status, reply.error) for reply in running.result(60)} == {(200, "")}, "what was in flight has ended"
    assert {(reply.status, reply.error) for reply in held.result(60)} == {(200, "")}
    fleet.no_faults()
    refused = fleet.client.post(f"{fleet.gateway}/goes/v1/chat/completions", json={})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "removed")
    wait_until(lambda: fleet.pid_of(rf"engine-sim .*--port {gone.port}\b") is None, "its engine has ended")
    assert "org/goes" not in fleet.client.get(f"{fleet.gateway}/v1/models").text


@pytest.mark.parametrize("broken, line, field", [
    (lambda text: text.replace("idleTimeout", "idelTimeout"), "7", "defaults.sleep.idelTimeout"),
    (lambda text: text + "- name: stays\n  model: x\n  memory: {awake: 1GiB}\n  engine: {url: 'http://127.0.0.1:1'}\n", None, "name"),
    (lambda text: text.replace("awake: 17GiB", "awake: 17000GiB", 1), None, "memory.awake"),
    (lambda text: text + "  - [", None, ""),
])
def test_a_broken_file_changes_nothing_and_says_where(fleet, broken, line, field):
    fleet.write()
    good = fleet.file.read_text()
    known = names(fleet)
    size = fleet.output.stat().st_size
    fleet.file.write_text(broken(good))
    said = lambda: fleet.output.read_text()[size:]
    wait_until(lambda: "greenthread.yaml" in said() and field in said(), f"file and field are told:\n{said()}")
    assert f"{fleet.file}:{line or ''}" in said()
    assert names(fleet) == known
    assert fleet.chat("stays").status_code == 200
    fleet.file.write_text(good)


def test_sections_that_need_a_restart_say_so(fleet):
    good = fleet.file.read_text()
    size = fleet.output.stat().st_size
    fleet.file.write_text(good.replace("memory: 40GiB", "memory: 41GiB"))
    wait_until(lambda: "can change only at a start" in fleet.output.read_text()[size:], "it is told")
    fleet.file.write_text(good)
    assert fleet.chat("stays").status_code == 200


def test_sighup_reads_the_file_again(fleet):
    """Where nothing changed, that is said, and requests go on."""
    unchanged = lambda: fleet.output.read_text().count("what is in force already")
    fleet.models.append(Model("late", port=unused_port(), sim=("--cold-start", "100ms")))
    with Traffic(fleet, "stays") as traffic:
        fleet.write()
        os.kill(fleet.process.pid, signal.SIGHUP)
        wait_until(lambda: "late" in names(fleet), "it is known")
        wait_until(lambda: fleet.client.get(f"{fleet.gateway}/late/status").status_code == 200, "its path is known")
        wait_until(lambda: fleet.status("late")["bootReady"], "it has booted", 60)
        before = unchanged()
        os.kill(fleet.process.pid, signal.SIGHUP)
        wait_until(lambda: unchanged() > before, f"it is read again:\n{fleet.tail()}")
        assert fleet.chat("late").status_code == 200
    check_all_served(traffic.requests, but=("draining",))
    assert fleet.process.poll() is None


def unused_port():
    from harness import free_ports
    return free_ports(1)[0]
