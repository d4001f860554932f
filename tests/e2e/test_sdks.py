"""The SDKs that users have, unmodified, with the base URLs of the API page, against models that sleep."""

import anthropic
import openai
import pytest

from harness import wait_until
from traffic import Streams

CHAT = [{"role": "user", "content": "What is GreenThread?"}]


@pytest.fixture
def client(stack):
    stack.sleep_now("alpha")
    with openai.OpenAI(base_url=f"{stack.gateway}/alpha/v1", api_key="not-needed") as client:
        yield client


@pytest.fixture
def claude(stack):
    stack.sleep_now("beta")
    with anthropic.Anthropic(base_url=f"{stack.gateway}/beta/v1", api_key="not-needed") as client:
        yield client


def test_openai_chat(client):
    answer = client.chat.completions.create(model="org/alpha", messages=CHAT, max_tokens=12)
    assert len(answer.choices[0].message.content.split()) == 12
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 12)


def test_openai_stream(client):
    stream = client.chat.completions.create(model="org/alpha", messages=CHAT, max_tokens=12, stream=True)
    cold = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    warm = client.chat.completions.create(model="org/alpha", messages=CHAT, max_tokens=12).choices[0].message.content
    assert cold == warm


def test_openai_completions(client):
    answer = client.completions.create(model="org/alpha", prompt="The capital of France is", max_tokens=6)
    assert len(answer.choices[0].text.split()) == 6


def test_openai_embeddings(client):
    answer = client.embeddings.create(model="org/alpha", input=["one", "two"])
    assert len(answer.data) == 2 and answer.data[0].embedding


def test_openai_responses(client):
    answer = client.responses.create(model="org/alpha", input="hello", max_output_tokens=5)
    assert len(answer.output_text.split()) == 5


def test_openai_models_does_not_wake(stack, client):
    wakes = stack.sim("alpha")["wakes"]
    assert [model.id for model in client.models.list()] == ["org/alpha"]
    assert (stack.status("alpha")["state"], stack.sim("alpha")["wakes"]) == ("sleeping", wakes)


def test_anthropic_messages(claude):
    message = claude.messages.create(model="org/beta", max_tokens=12, messages=CHAT)
    assert len(message.content[0].text.split()) == 12
    assert message.usage.output_tokens == 12


def test_anthropic_stream(claude):
    with claude.messages.stream(model="org/beta", max_tokens=12, messages=CHAT) as stream:
        cold = "".join(stream.text_stream)
    assert cold == claude.messages.create(model="org/beta", max_tokens=12, messages=CHAT).content[0].text


def test_anthropic_count_tokens(claude):
    assert claude.messages.count_tokens(model="org/beta", messages=CHAT).input_tokens > 0


def draining(stack, name):
    """Puts a busy model under its barrier."""
    stack.wake_now(name)
    streams = Streams(stack, name, count=1, tokens=150)
    wait_until(lambda: stack.status(name)["queue"]["inFlight"] == 1, "the stream is on its way")
    stack.operator(name, "sleep").raise_for_status()
    wait_until(lambda: stack.status(name)["queue"]["barriered"], "the barrier is up")
    return streams


def test_openai_retries_over_a_barrier(stack, client):
    streams = draining(stack, "alpha")
    assert client.chat.completions.create(model="org/alpha", messages=CHAT, max_tokens=3).choices[0].message.content
    streams.check()


def test_anthropic_retries_over_a_barrier(stack, claude):
    streams = draining(stack, "beta")
    assert claude.messages.create(model="org/beta", max_tokens=3, messages=CHAT).content[0].text
    streams.check()


def test_refusals_are_the_errors_of_the_sdks(stack, client, claude):
    for name in ("alpha", "beta"):
        stack.operator(name, "disable").raise_for_status()
    try:
        wait_until(lambda: stack.client.get(f"{stack.gateway}/beta/health").status_code == 503, "out of service")
        with pytest.raises(openai.InternalServerError) as refused:
            client.with_options(max_retries=0).chat.completions.create(model="org/alpha", messages=CHAT)
        assert (refused.value.status_code, refused.value.code) == (503, "disabled")
        with pytest.raises(anthropic.APIStatusError) as refused:
            claude.with_options(max_retries=0).messages.create(model="org/beta", max_tokens=3, messages=CHAT)
        assert (refused.value.status_code, refused.value.body["error"]["type"]) == (503, "overloaded_error")
        with pytest.raises(openai.PermissionDeniedError):
            client.post("/../sleep", cast_to=object)
    finally:
        for name in ("alpha", "beta"):
            stack.operator(name, "enable").raise_for_status()
