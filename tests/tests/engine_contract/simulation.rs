//! What only engine-sim has: faults, counts, simulated memory, answers that are the same byte for byte.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    behaviours::apis,
    client::{Client, PATIENCE, until},
    sim::Sim,
};

pub(crate) async fn fault(client: &Client, change: Value) -> anyhow::Result<()> {
    let reply = client.post("/sim/faults", &change).await?;
    ensure!(reply.status == 200, "{reply:?}");
    Ok(())
}

async fn stat(client: &Client, name: &str) -> anyhow::Result<u64> {
    client.get("/sim/stats").await?.body[name]
        .as_u64()
        .with_context(|| name.to_owned())
}

#[tokio::test]
async fn the_same_request_is_answered_by_the_same_bytes() -> anyhow::Result<()> {
    let sim = Sim::start(&[]).await?;
    let client = &sim.client;
    for stream in [false, true] {
        for (path, mut body) in apis(client, 5) {
            body["stream"] = stream.into();
            let warm = client.text(path, &body).await?;
            client.sleep().await?;
            let (late, woken) = tokio::join!(client.text(path, &body), async {
                client.until_load(1).await?;
                client.wake().await
            });
            woken?;
            ensure!(late? == warm, "{path}, stream {stream}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn counts() -> anyhow::Result<()> {
    let sim = Sim::start(&[]).await?;
    let client = &sim.client;
    client.sleep().await?;
    let pending: Vec<_> = (0..3)
        .map(|_nth| client.start("/v1/completions", client.completion(2)))
        .collect();
    client.until_load(3).await?;
    client.wake().await?;
    for reply in pending {
        reply.await??;
    }
    client
        .post("/v1/completions", &client.completion(2))
        .await?;
    let expected = [
        ("sleeps", 1),
        ("wakes", 1),
        ("requests", 4),
        ("requests_asleep", 3),
        ("max_concurrent", 3),
        ("tokens", 8),
    ];
    for (name, count) in expected.into_iter().chain([
        ("completed", 4),
        ("tokens_asleep", 0),
        ("aborted", 0),
        ("disconnected", 0),
    ]) {
        ensure!(
            stat(client, name).await? == count,
            "{name}: {}",
            client.get("/sim/stats").await?.body
        );
    }
    client.sleep().await?;
    client.call("/resume").await?;
    client
        .post("/v1/completions", &client.completion(2))
        .await?;
    ensure!(stat(client, "tokens_asleep").await? == 2);
    client.delete("/sim/stats").await?;
    ensure!(stat(client, "requests").await? == 0);
    Ok(())
}

#[tokio::test]
async fn lies() -> anyhow::Result<()> {
    let sim = Sim::start(&[]).await?;
    let client = &sim.client;
    fault(client, json!({"lie_asleep": true})).await?;
    client.sleep().await?;
    ensure!(client.state().await? == (true, true));
    let answer = client
        .post("/v1/completions", &client.completion(2))
        .await?;
    ensure!(answer.status == 200, "says asleep and runs on");
    client.wake().await?;
    ensure!(client.state().await? == (false, false));
    client.delete("/sim/faults").await?;
    client.sleep().await?;
    fault(client, json!({"lie_awake": true})).await?;
    client.wake().await?;
    ensure!(
        client.state().await? == (true, true),
        "says awake and sleeps on"
    );
    client.delete("/sim/faults").await?;
    client.wake().await?;
    ensure!(client.state().await? == (false, false));
    Ok(())
}

#[tokio::test]
async fn failures_and_hangs_end_when_the_fault_does() -> anyhow::Result<()> {
    let sim = Sim::start(&[]).await?;
    let client = &sim.client;
    fault(client, json!({"sleep_500": true, "wake_500": true})).await?;
    ensure!(client.call("/sleep?mode=keep").await?.status == 500);
    ensure!(client.call("/wake_up").await?.status == 500);
    client.delete("/sim/faults").await?;
    ensure!(client.state().await? == (false, false), "nothing changed");
    for (field, path) in [
        ("hang_sleep", "/sleep?mode=keep"),
        ("hang_wake", "/wake_up"),
        ("silent", "/ping"),
    ] {
        fault(client, json!({ field: true })).await?;
        let hanging = client.start(path, json!({}));
        let looks = async || timeout(Duration::from_millis(300), client.get("/is_sleeping")).await;
        until("nothing is answered", async || Ok(looks().await.is_err())).await?;
        ensure!(!hanging.is_finished(), "{field}");
        client.delete("/sim/faults").await?;
        let reply = hanging.await??;
        ensure!(
            reply.status == 200 || field == "silent",
            "{field}: {reply:?}"
        );
    }
    fault(client, json!({"refuse": true})).await?;
    ensure!(client.get("/health").await?.status == 500);
    ensure!(
        client
            .post("/sim/faults", &json!({"no_such_fault": 1}))
            .await?
            .status
            == 400
    );
    Ok(())
}

#[tokio::test]
async fn crashes() -> anyhow::Result<()> {
    let mut sim = Sim::start(&[]).await?;
    // The answer to the call that crashes it never comes.
    let _ = fault(&sim.client, json!({"crash": true})).await;
    ensure!(!timeout(PATIENCE, sim.process.wait()).await??.success());
    let mut sim = Sim::start(&[]).await?;
    fault(&sim.client, json!({"crash_on_wake": true})).await?;
    sim.client.sleep().await?;
    ensure!(sim.client.call("/wake_up").await.is_err());
    ensure!(!timeout(PATIENCE, sim.process.wait()).await??.success());
    Ok(())
}

#[tokio::test]
async fn without_the_switches_there_is_no_sleep_and_no_load() -> anyhow::Result<()> {
    let mut command = Sim::command(&[]);
    command.env_remove("VLLM_SERVER_DEV_MODE");
    let sim = Sim::spawn(command).await?;
    ensure!(sim.client.call("/sleep").await?.status == 404);
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_engine-sim"));
    command
        .args(["--port", "0", "--model", "tiny", "--cold-start", "0s"])
        .env("VLLM_SERVER_DEV_MODE", "1");
    command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true);
    let blind = Sim::spawn(command).await?;
    blind.client.sleep().await?;
    let waiting = blind
        .client
        .start("/v1/completions", blind.client.completion(1));
    until("it arrived", async || {
        Ok(stat(&blind.client, "requests_asleep").await? == 1)
    })
    .await?;
    ensure!(blind.client.load().await? == 0, "load is not tracked");
    blind.client.wake().await?;
    ensure!(waiting.await??.status == 200);
    let mut unknown = Sim::command(&["--no-such-flag"]);
    ensure!(
        !timeout(PATIENCE, unknown.status()).await??.success(),
        "an unknown flag is an error"
    );
    Ok(())
}

#[tokio::test]
async fn after_level_two_answers_are_garbage_until_the_weights_are_loaded() -> anyhow::Result<()> {
    let sim = Sim::start(&[]).await?;
    let client = &sim.client;
    let body = client.completion(8);
    let warm = client.post("/v1/completions", &body).await?.body["choices"].clone();
    client.call("/sleep?level=2&mode=keep").await?;
    client.wake().await?;
    let garbage = client.post("/v1/completions", &body).await?;
    ensure!(garbage.status == 200 && garbage.body["choices"] != warm);
    let reload = json!({"method": "reload_weights"});
    fault(client, json!({"reload_500": true})).await?;
    ensure!(client.post("/collective_rpc", &reload).await?.status == 500);
    client.delete("/sim/faults").await?;
    client.post("/collective_rpc", &reload).await?;
    ensure!(client.post("/v1/completions", &body).await?.body["choices"] == warm);
    client.call("/sleep?level=2&mode=keep").await?;
    let early = client.post("/collective_rpc", &reload).await?;
    ensure!(
        early.status == 500,
        "weights are loaded into memory that is away"
    );
    Ok(())
}
