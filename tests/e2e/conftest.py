"""One product for most tests (`stack`), a fresh one for tests that break things (`make_stack`)."""

import pytest

from harness import Model, Stack


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """Four models on one simulated GPU on which two fit. Drains last as long as the requests: no test depends on the machine's speed."""
    models = [Model("alpha"), Model("beta"), Model("gamma"), Model("whisper", prefixes=("team-a/whisper",))]
    running = Stack(tmp_path_factory.mktemp("stack"), models, sleep={"drainTimeout": "20s"})
    try:
        yield running.start()
    finally:
        running.stop()


@pytest.fixture
def stack(shared):
    """The shared product, with engines that behave."""
    yield shared
    shared.no_faults()


@pytest.fixture
def make_stack(tmp_path):
    """Builds stacks that end with the test."""
    running = []

    def make(models, start=True, **settings):
        folder = tmp_path / f"stack{len(running)}"
        folder.mkdir()
        made = Stack(folder, models, **settings)
        running.append(made)
        return made.start() if start else made

    yield make
    for made in running:
        made.stop()
