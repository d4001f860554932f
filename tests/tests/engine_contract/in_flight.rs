//! What happens to requests in flight when the engine goes to sleep: truncated, waited for, or frozen.

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::{
    Behaviour,
    behaviours::apis,
    client::{Client, LONG, Stream, until},
    table,
};

/// All of them.
pub(crate) const ALL: &[Behaviour] = table![
    abort_truncates_a_stream_with_200,
    abort_is_the_default,
    abort_truncates_whole_answers_and_not_every_api_says_so,
    abort_ends_queued_requests_too,
    keep_freezes_and_goes_on_with_every_token,
    keep_freezes_whole_answers,
    gauges_of_a_frozen_engine_stand_still,
    clients_that_leave_frozen_are_forgotten,
    wait_lets_requests_finish_and_queues_new_ones,
    a_wake_that_overtakes_a_wait_is_dangerous,
    pause_and_resume,
];

/// A long stream that has begun.
async fn long_stream(client: &Client) -> anyhow::Result<Stream> {
    let mut stream = client
        .stream("/v1/completions", &client.streamed(LONG))
        .await?;
    stream.read_events(3).await?;
    Ok(stream)
}

async fn abort_truncates_a_stream_with_200(client: Client) -> anyhow::Result<()> {
    let stream = long_stream(&client).await?;
    client.call("/sleep?level=1&mode=abort").await?;
    let finished = stream.finish().await?;
    ensure!(finished.reason == "abort" && finished.done, "{finished:?}");
    ensure!(
        (1..LONG).contains(&finished.tokens),
        "{} tokens",
        finished.tokens
    );
    Ok(())
}

async fn abort_is_the_default(client: Client) -> anyhow::Result<()> {
    let stream = long_stream(&client).await?;
    client.call("/sleep").await?;
    let finished = stream.finish().await?;
    ensure!(finished.reason == "abort", "{finished:?}");
    Ok(())
}

async fn abort_truncates_whole_answers_and_not_every_api_says_so(
    client: Client,
) -> anyhow::Result<()> {
    let pending = apis(&client, LONG).map(|(path, body)| (path, client.start(path, body)));
    client.until_load(4).await?;
    until("one runs", async || Ok(client.gauges().await?.0 >= 1.0)).await?;
    client.call("/sleep?level=1&mode=abort").await?;
    for (path, reply) in pending {
        let reply = reply.await??;
        ensure!(reply.status == 200, "{path}: {reply:?}");
        let body = &reply.body;
        // The Anthropic API has no word for it and leaves it out; the last one calls a truncated answer complete.
        let (found, expected) = match path {
            "/v1/messages" => (&body["stop_reason"], Value::Null),
            "/v1/responses" => (&body["status"], json!("completed")),
            _openai => (&body["choices"][0]["finish_reason"], json!("abort")),
        };
        ensure!(*found == expected, "{path}: {found}");
    }
    Ok(())
}

async fn abort_ends_queued_requests_too(client: Client) -> anyhow::Result<()> {
    client.sleep().await?;
    let queued = client.start("/v1/completions", client.completion(4));
    client.until_load(1).await?;
    // `/load` counts a request a moment before the scheduler knows it, and an abort ends what the scheduler knows.
    until("it ends", async || {
        client.call("/sleep?level=1&mode=abort").await?;
        Ok(queued.is_finished())
    })
    .await?;
    let reply = queued.await??;
    let expected = (json!("abort"), json!(0));
    let found = (
        reply.body["choices"][0]["finish_reason"].clone(),
        reply.body["usage"]["completion_tokens"].clone(),
    );
    ensure!(found == expected, "{reply:?}");
    Ok(())
}

async fn keep_freezes_and_goes_on_with_every_token(client: Client) -> anyhow::Result<()> {
    let undisturbed = client
        .stream("/v1/completions", &client.streamed(LONG))
        .await?
        .finish()
        .await?;
    let mut stream = long_stream(&client).await?;
    client.sleep().await?;
    stream.until_still().await?;
    ensure!(client.load().await? == 1);
    client.wake().await?;
    let finished = stream.finish().await?;
    ensure!(
        finished.tokens == LONG && finished.reason == "length" && finished.done,
        "{finished:?}"
    );
    ensure!(
        finished.text == undisturbed.text,
        "another text than undisturbed"
    );
    client.until_load(0).await
}

async fn keep_freezes_whole_answers(client: Client) -> anyhow::Result<()> {
    let pending = apis(&client, LONG).map(|(path, body)| (path, client.start(path, body)));
    client.until_load(4).await?;
    until("one runs", async || Ok(client.gauges().await?.0 >= 1.0)).await?;
    client.sleep().await?;
    ensure!(client.load().await? == 4 && pending.iter().all(|(_path, reply)| !reply.is_finished()));
    client.wake().await?;
    for (path, reply) in pending {
        let usage = reply.await??.body["usage"].clone();
        let tokens = usage
            .get("completion_tokens")
            .or_else(|| usage.get("output_tokens"))
            .context("no usage")?;
        ensure!(*tokens == LONG, "{path}: {tokens} tokens");
    }
    Ok(())
}

async fn gauges_of_a_frozen_engine_stand_still(client: Client) -> anyhow::Result<()> {
    let stream = long_stream(&client).await?;
    until("the gauge says 1", async || {
        Ok(client.gauges().await? == (1.0, 0.0))
    })
    .await?;
    client.sleep().await?;
    ensure!(client.gauges().await? == (1.0, 0.0), "frozen");
    // Another one arrives: the load changes, the gauges do not.
    let queued = client.start("/v1/completions", client.completion(2));
    client.until_load(2).await?;
    ensure!(
        client.gauges().await? == (1.0, 0.0),
        "one frozen, one queued"
    );
    // A client that leaves makes the scheduler look once, and frozen ones count as waiting by then.
    drop(stream);
    client.until_load(1).await?;
    until("one is seen waiting", async || {
        Ok(client.gauges().await? == (0.0, 1.0))
    })
    .await?;
    let unseen = client.start("/v1/completions", client.completion(2));
    client.until_load(2).await?;
    ensure!(
        client.gauges().await? == (0.0, 1.0),
        "two queued, one of them seen"
    );
    client.wake().await?;
    ensure!(queued.await??.status == 200 && unseen.await??.status == 200);
    until("the gauges are zero", async || {
        Ok(client.gauges().await? == (0.0, 0.0))
    })
    .await
}

async fn clients_that_leave_frozen_are_forgotten(client: Client) -> anyhow::Result<()> {
    for (path, mut body) in apis(&client, LONG) {
        body["stream"] = true.into();
        let mut stream = client.stream(path, &body).await?;
        stream.read_events(3).await?;
        client.sleep().await?;
        ensure!(client.load().await? == 1, "{path} frozen");
        drop(stream);
        client.until_load(0).await.context(path)?;
        client.wake().await?;
    }
    Ok(())
}

async fn wait_lets_requests_finish_and_queues_new_ones(client: Client) -> anyhow::Result<()> {
    let stream = long_stream(&client).await?;
    let sleeping = client.start("/sleep?level=1&mode=wait", json!({}));
    until("paused", async || Ok(client.state().await? == (true, true))).await?;
    let queued = client.start("/v1/completions", client.completion(2));
    let finished = stream.finish().await?;
    ensure!(
        finished.tokens == LONG && finished.reason == "length",
        "{finished:?}"
    );
    let reply = sleeping.await??;
    ensure!(
        reply.body == json!({"status": "sleeping", "level": 1}),
        "{reply:?}"
    );
    ensure!(
        !queued.is_finished() && client.load().await? == 1,
        "the new one waits"
    );
    client.wake().await?;
    ensure!(queued.await??.status == 200);
    Ok(())
}

async fn a_wake_that_overtakes_a_wait_is_dangerous(client: Client) -> anyhow::Result<()> {
    let stream = long_stream(&client).await?;
    let sleeping = client.start("/sleep?level=1&mode=wait", json!({}));
    until("paused", async || Ok(client.state().await? == (true, true))).await?;
    client.wake().await?;
    let finished = stream.finish().await?;
    ensure!(finished.tokens == LONG, "{finished:?}");
    ensure!(
        sleeping.await??.status == 200,
        "the sleep comes true after the wake"
    );
    ensure!(
        client.state().await? == (true, false),
        "sleeping and not paused"
    );
    let answer = client
        .post("/v1/completions", &client.completion(1))
        .await?;
    ensure!(
        answer.status == 200,
        "a request is computed without memory: {answer:?}"
    );
    Ok(())
}

async fn pause_and_resume(client: Client) -> anyhow::Result<()> {
    let mut stream = long_stream(&client).await?;
    let paused = client.call("/pause?mode=keep").await?;
    ensure!(paused.body == json!({"status": "paused"}), "{paused:?}");
    ensure!(
        client.state().await? == (true, true),
        "a paused engine says that it sleeps"
    );
    stream.until_still().await?;
    let resumed = client.call("/resume").await?;
    ensure!(resumed.body == json!({"status": "resumed"}), "{resumed:?}");
    let finished = stream.finish().await?;
    ensure!(finished.tokens == LONG, "{finished:?}");
    Ok(())
}
