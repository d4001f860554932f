//! Behaviours of an engine without requests in flight, or with requests that arrive while it sleeps.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    Behaviour,
    client::{Client, PATIENCE, until},
    table,
};

/// All of them.
pub(crate) const ALL: &[Behaviour] = table![
    what_can_be_asked_at_any_time,
    sleep_and_wake,
    sleep_and_wake_twice,
    unknown_tags_do_nothing_and_say_200,
    a_partial_wake_stays_paused,
    bad_parameters_are_refused,
    parameters_in_a_body_are_ignored,
    sleeping_deeper_does_nothing_but_the_metric_says_so,
    level_zero_pauses_alone,
    resume_asleep_is_dangerous,
    many_transitions_at_once,
    unknown_rpc_fails_and_the_engine_lives,
    wrong_methods_and_paths,
    errors_do_not_count,
    idle_connections_are_closed_without_a_word,
    requests_to_a_sleeping_engine_are_answered_after_the_wake,
    load_counts_every_api_asleep,
    gauges_do_not_see_requests_asleep,
    an_answer_after_a_wake_is_like_a_warm_one,
    clients_that_leave_asleep_are_forgotten,
];

/// The APIs that answer with text, each with a request that takes `tokens` tokens.
pub(crate) fn apis(client: &Client, tokens: u64) -> [(&'static str, Value); 4] {
    let messages = json!([{"role": "user", "content": "hi"}]);
    let model = &client.model;
    let chat = json!({"model": model, "messages": messages, "max_tokens": tokens, "temperature": 0, "ignore_eos": true});
    let responses =
        json!({"model": model, "input": "hi", "max_output_tokens": tokens, "temperature": 0});
    [
        ("/v1/completions", client.completion(tokens)),
        ("/v1/chat/completions", chat.clone()),
        ("/v1/messages", chat),
        ("/v1/responses", responses),
    ]
}

async fn what_can_be_asked_at_any_time(client: Client) -> anyhow::Result<()> {
    for asleep in [false, true] {
        if asleep {
            client.sleep().await?;
        }
        for path in [
            "/health",
            "/ping",
            "/version",
            "/load",
            "/metrics",
            "/v1/models",
        ] {
            let reply = client.get(path).await?;
            ensure!(reply.status == 200, "asleep {asleep}, {path}: {reply:?}");
        }
        let models = client.get("/v1/models").await?.body;
        ensure!(models["data"][0]["id"] == client.model.as_str(), "{models}");
    }
    Ok(())
}

async fn sleep_and_wake(client: Client) -> anyhow::Result<()> {
    ensure!(client.state().await? == (false, false));
    client.sleep().await?;
    ensure!(client.state().await? == (true, true));
    let state = async |name: &str| client.metric("vllm:engine_sleep_state", name).await;
    ensure!((state("awake").await?, state("weights_offloaded").await?) == (0.0, 1.0));
    client.wake().await?;
    ensure!(client.state().await? == (false, false));
    ensure!((state("awake").await?, state("weights_offloaded").await?) == (1.0, 0.0));
    Ok(())
}

async fn sleep_and_wake_twice(client: Client) -> anyhow::Result<()> {
    client.sleep().await?;
    client.sleep().await?;
    ensure!(client.state().await? == (true, true));
    client.wake().await?;
    client.wake().await?;
    ensure!(client.state().await? == (false, false));
    Ok(())
}

async fn unknown_tags_do_nothing_and_say_200(client: Client) -> anyhow::Result<()> {
    client.sleep().await?;
    for tags in [
        "tags=unknown",
        "tags=weights&tags=unknown",
        "tags=scheduling",
    ] {
        let reply = client.call(&format!("/wake_up?{tags}")).await?;
        ensure!(
            reply.status == 200 && reply.body["status"] == "sleeping",
            "{tags}: {reply:?}"
        );
        ensure!(client.state().await? == (true, true), "{tags}");
    }
    // The partial wake with an unknown tag woke nothing: the weights are still to be woken.
    let weights = client.call("/wake_up?tags=weights").await?;
    let rest = client.call("/wake_up?tags=kv_cache").await?;
    ensure!(
        (&weights.body["status"], &rest.body["status"]) == (&json!("sleeping"), &json!("awake")),
        "{weights:?} {rest:?}"
    );
    Ok(())
}

async fn a_partial_wake_stays_paused(client: Client) -> anyhow::Result<()> {
    client.sleep().await?;
    for _repeated in 0..2 {
        let reply = client.call("/wake_up?tags=weights").await?;
        ensure!(
            reply.body == json!({"status": "sleeping", "tags": ["weights"]}),
            "{reply:?}"
        );
        ensure!(client.state().await? == (true, true));
    }
    client.wake().await?;
    ensure!(client.state().await? == (false, false));
    Ok(())
}

async fn bad_parameters_are_refused(client: Client) -> anyhow::Result<()> {
    let paths = [
        "/sleep?level=3",
        "/sleep?level=-1",
        "/sleep?level=deep",
        "/sleep?mode=gently",
        "/pause?mode=gently",
    ];
    for path in paths {
        let reply = client.call(path).await?;
        ensure!(
            reply.status == 400 && reply.body["error"]["code"] == 400,
            "{path}: {reply:?}"
        );
        ensure!(client.state().await? == (false, false), "{path}");
    }
    Ok(())
}

async fn parameters_in_a_body_are_ignored(client: Client) -> anyhow::Result<()> {
    let reply = client
        .post("/sleep?mode=keep", &json!({"level": 2, "mode": "gently"}))
        .await?;
    ensure!(reply.status == 200 && reply.body["level"] == 1, "{reply:?}");
    Ok(())
}

async fn sleeping_deeper_does_nothing_but_the_metric_says_so(client: Client) -> anyhow::Result<()> {
    client.sleep().await?;
    let reply = client.call("/sleep?level=2&mode=keep").await?;
    ensure!(reply.status == 200 && reply.body["level"] == 2, "{reply:?}");
    ensure!(
        client
            .metric("vllm:engine_sleep_state", "discard_all")
            .await?
            == 1.0
    );
    client.wake().await
}

async fn level_zero_pauses_alone(client: Client) -> anyhow::Result<()> {
    let reply = client.call("/sleep?level=0&mode=keep").await?;
    ensure!(reply.status == 200 && reply.body["level"] == 0, "{reply:?}");
    ensure!(client.state().await? == (true, true));
    let reply = client.call("/wake_up?tags=scheduling").await?;
    ensure!(reply.body["status"] == "awake", "{reply:?}");
    ensure!(client.state().await? == (false, false));
    Ok(())
}

async fn resume_asleep_is_dangerous(client: Client) -> anyhow::Result<()> {
    client.sleep().await?;
    client.call("/resume").await?;
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

async fn many_transitions_at_once(client: Client) -> anyhow::Result<()> {
    let paths = ["/sleep?mode=keep", "/wake_up"].iter().cycle().take(10);
    let calls: Vec<_> = paths
        .map(|path| {
            let client = client.clone();
            tokio::spawn(async move { client.call(path).await })
        })
        .collect();
    for call in calls {
        let reply = call.await??;
        ensure!(reply.status == 200, "{reply:?}");
    }
    client.wake().await?;
    ensure!(client.state().await? == (false, false));
    Ok(())
}

async fn unknown_rpc_fails_and_the_engine_lives(client: Client) -> anyhow::Result<()> {
    let reply = client
        .post("/collective_rpc", &json!({"method": "no_such_method"}))
        .await?;
    ensure!(
        reply.status == 500 && reply.body["error"]["code"] == 500,
        "{reply:?}"
    );
    let reset = client.call("/reset_prefix_cache").await?;
    ensure!(reset.body == json!({"success": true}), "{reset:?}");
    let answer = client
        .post("/v1/completions", &client.completion(1))
        .await?;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(())
}

async fn wrong_methods_and_paths(client: Client) -> anyhow::Result<()> {
    for (path, status) in [
        ("/sleep", 405),
        ("/v1/chat/completions", 405),
        ("/no/such/path", 404),
    ] {
        let reply = client.get(path).await?;
        ensure!(
            reply.status == status && reply.body["detail"].is_string(),
            "{path}: {reply:?}"
        );
    }
    Ok(())
}

async fn errors_do_not_count(client: Client) -> anyhow::Result<()> {
    for (path, mut body) in apis(&client, 1) {
        body["model"] = "no/such-model".into();
        let reply = client.post(path, &body).await?;
        ensure!(reply.status == 404, "{path}: {reply:?}");
        let reply = client.post(path, &json!({"model": client.model})).await?;
        ensure!(reply.status == 400, "{path}: {reply:?}");
    }
    client.until_load(0).await
}

async fn idle_connections_are_closed_without_a_word(client: Client) -> anyhow::Result<()> {
    let mut connection = client.connect().await?;
    connection
        .write_all(b"GET /health HTTP/1.1\r\nHost: engine\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        ensure!(
            connection.read_buf(&mut answer).await? > 0,
            "closed before the answer"
        );
    }
    ensure!(
        !String::from_utf8_lossy(&answer)
            .to_lowercase()
            .contains("connection: close")
    );
    let begun = Instant::now();
    let more = timeout(PATIENCE, connection.read_buf(&mut answer)).await??;
    ensure!(more == 0, "something comes after the answer");
    // Envoy keeps idle connections for four seconds because of this.
    ensure!(
        begun.elapsed() > Duration::from_secs(4),
        "closed after {:?}",
        begun.elapsed()
    );
    Ok(())
}

async fn requests_to_a_sleeping_engine_are_answered_after_the_wake(
    client: Client,
) -> anyhow::Result<()> {
    client.sleep().await?;
    // The headers of a stream arrive at once, and then nothing.
    let mut stream = client
        .stream("/v1/completions", &client.streamed(4))
        .await?;
    let whole = client.start("/v1/completions", client.completion(4));
    client.until_load(2).await?;
    stream.until_still().await?;
    ensure!(stream.is_empty() && !whole.is_finished());
    client.wake().await?;
    let finished = stream.finish().await?;
    ensure!(
        finished.tokens == 4 && finished.done && finished.reason == "length",
        "{finished:?}"
    );
    let reply = whole.await??;
    ensure!(
        reply.status == 200 && reply.body["usage"]["completion_tokens"] == 4,
        "{reply:?}"
    );
    client.until_load(0).await
}

async fn load_counts_every_api_asleep(client: Client) -> anyhow::Result<()> {
    client.sleep().await?;
    let mut pending = Vec::new();
    for (path, body) in apis(&client, 2) {
        pending.push((path, client.start(path, body)));
        client
            .until_load(pending.len() as u64)
            .await
            .context(path)?;
    }
    client.wake().await?;
    for (path, reply) in pending {
        let reply = reply.await??;
        ensure!(reply.status == 200, "{path}: {reply:?}");
    }
    client.until_load(0).await
}

async fn gauges_do_not_see_requests_asleep(client: Client) -> anyhow::Result<()> {
    until("the gauges are zero", async || {
        Ok(client.gauges().await? == (0.0, 0.0))
    })
    .await?;
    client.sleep().await?;
    let pending: Vec<_> = (0..3)
        .map(|_nth| client.start("/v1/completions", client.completion(2)))
        .collect();
    client.until_load(3).await?;
    ensure!(client.gauges().await? == (0.0, 0.0), "three requests wait");
    client.wake().await?;
    for reply in pending {
        ensure!(reply.await??.status == 200);
    }
    Ok(())
}

async fn an_answer_after_a_wake_is_like_a_warm_one(client: Client) -> anyhow::Result<()> {
    let body = client.completion(8);
    let warm = client.post("/v1/completions", &body).await?;
    client.sleep().await?;
    let held = client.start("/v1/completions", body);
    client.until_load(1).await?;
    client.wake().await?;
    let held = held.await??;
    ensure!(
        held.body["choices"] == warm.body["choices"] && held.body["usage"] == warm.body["usage"],
        "{held:?}\n{warm:?}"
    );
    Ok(())
}

async fn clients_that_leave_asleep_are_forgotten(client: Client) -> anyhow::Result<()> {
    client.sleep().await?;
    for (path, mut body) in apis(&client, 2) {
        let whole = client.start(path, body.clone());
        client.until_load(1).await?;
        whole.abort();
        client
            .until_load(0)
            .await
            .with_context(|| format!("{path} whole"))?;
        body["stream"] = true.into();
        let stream = client.stream(path, &body).await?;
        client.until_load(1).await?;
        drop(stream);
        client
            .until_load(0)
            .await
            .with_context(|| format!("{path} stream"))?;
    }
    client.wake().await?;
    ensure!(client.load().await? == 0);
    Ok(())
}
