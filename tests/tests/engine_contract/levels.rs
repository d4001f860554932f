//! Sleep level 2: the weights are dropped, and three calls bring the engine back.

use anyhow::ensure;
use serde_json::{Value, json};

use crate::{
    Behaviour,
    client::{Client, LONG},
    table,
};

/// All of them.
pub(crate) const ALL: &[Behaviour] = table![
    calls_can_be_asked_for_without_making_one,
    level_two_and_the_three_steps_back,
    weights_can_be_dropped_again_after_half_a_wake,
    requests_wait_for_the_third_step,
    keep_freezes_at_level_two_as_well,
    weights_can_be_loaded_while_awake,
];

async fn sleep(client: &Client) -> anyhow::Result<()> {
    let slept = client.call("/sleep?level=2&mode=keep").await?;
    ensure!(
        slept.status == 200 && slept.body == json!({"status": "sleeping", "level": 2}),
        "{slept:?}"
    );
    Ok(())
}

async fn reload(client: &Client) -> anyhow::Result<()> {
    let reply = client
        .post("/collective_rpc", &json!({"method": "reload_weights"}))
        .await?;
    ensure!(
        reply.status == 200 && reply.body == json!({"results": [null]}),
        "{reply:?}"
    );
    Ok(())
}

/// The first two steps: the engine stands still after each.
async fn half_way(client: &Client) -> anyhow::Result<()> {
    let weights = client.call("/wake_up?tags=weights").await?;
    ensure!(
        weights.body == json!({"status": "sleeping", "tags": ["weights"]}),
        "{weights:?}"
    );
    ensure!(client.state().await? == (true, true));
    reload(client).await?;
    ensure!(client.state().await? == (true, true));
    Ok(())
}

async fn the_rest(client: &Client) -> anyhow::Result<()> {
    let rest = client.call("/wake_up?tags=kv_cache").await?;
    ensure!(
        rest.body == json!({"status": "awake", "tags": ["kv_cache"]}),
        "{rest:?}"
    );
    ensure!(client.state().await? == (false, false));
    Ok(())
}

async fn choices(client: &Client) -> anyhow::Result<Value> {
    let answer = client
        .post("/v1/completions", &client.completion(8))
        .await?;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(answer.body["choices"].clone())
}

async fn calls_can_be_asked_for_without_making_one(client: Client) -> anyhow::Result<()> {
    ensure!(client.get("/collective_rpc").await?.status == 405);
    Ok(())
}

async fn level_two_and_the_three_steps_back(client: Client) -> anyhow::Result<()> {
    let warm = choices(&client).await?;
    sleep(&client).await?;
    let shown = async |name: &str| client.metric("vllm:engine_sleep_state", name).await;
    ensure!((shown("awake").await?, shown("discard_all").await?) == (0.0, 1.0));
    half_way(&client).await?;
    ensure!(shown("discard_all").await? == 1.0, "half awake");
    the_rest(&client).await?;
    ensure!((shown("awake").await?, shown("discard_all").await?) == (1.0, 0.0));
    ensure!(choices(&client).await? == warm);
    Ok(())
}

async fn weights_can_be_dropped_again_after_half_a_wake(client: Client) -> anyhow::Result<()> {
    sleep(&client).await?;
    half_way(&client).await?;
    sleep(&client).await?;
    let cache = client.call("/wake_up?tags=kv_cache").await?;
    ensure!(
        cache.body["status"] == "sleeping",
        "the weights are still there: {cache:?}"
    );
    let weights = client.call("/wake_up?tags=weights").await?;
    // Nothing is missing any more: loading them comes too late for requests, but there are none.
    ensure!(weights.body["status"] == "awake", "{weights:?}");
    reload(&client).await
}

async fn requests_wait_for_the_third_step(client: Client) -> anyhow::Result<()> {
    let warm = choices(&client).await?;
    sleep(&client).await?;
    let held = client.start("/v1/completions", client.completion(8));
    client.until_load(1).await?;
    half_way(&client).await?;
    ensure!(!held.is_finished() && client.load().await? == 1);
    the_rest(&client).await?;
    ensure!(held.await??.body["choices"] == warm);
    client.until_load(0).await
}

async fn keep_freezes_at_level_two_as_well(client: Client) -> anyhow::Result<()> {
    let body = client.streamed(LONG);
    let undisturbed = client.stream("/v1/completions", &body).await?;
    let undisturbed = undisturbed.finish().await?;
    let mut stream = client.stream("/v1/completions", &body).await?;
    stream.read_events(3).await?;
    sleep(&client).await?;
    stream.until_still().await?;
    ensure!(client.load().await? == 1);
    half_way(&client).await?;
    the_rest(&client).await?;
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

async fn weights_can_be_loaded_while_awake(client: Client) -> anyhow::Result<()> {
    let warm = choices(&client).await?;
    reload(&client).await?;
    ensure!(choices(&client).await? == warm);
    Ok(())
}
