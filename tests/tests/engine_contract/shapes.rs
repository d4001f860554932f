//! The shapes of answers: which keys, of which types, in which events. What a real vLLM answered is kept in
//! `vllm-0.32-shapes.txt` next to this file; engine-sim must answer alike, and so must a real engine when there is one.
//! `UPDATE_SHAPES=1` writes the file anew from a real engine.

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::client::Client;

/// Compares with what the file says.
pub(crate) async fn check(client: &Client) -> anyhow::Result<()> {
    let found = all(client).await?;
    let expected = std::fs::read_to_string(file()).with_context(|| file().display().to_string())?;
    let missing: Vec<&str> = expected
        .lines()
        .filter(|line| !found.lines().any(|other| other == *line))
        .collect();
    let added: Vec<&str> = found
        .lines()
        .filter(|line| !expected.lines().any(|other| other == *line))
        .collect();
    ensure!(
        found == expected,
        "missing:\n{}\nadded:\n{}",
        missing.join("\n"),
        added.join("\n")
    );
    Ok(())
}

/// Writes the file anew, if that is asked for.
pub(crate) async fn update(client: &Client) -> anyhow::Result<()> {
    if std::env::var_os("UPDATE_SHAPES").is_some() {
        std::fs::write(file(), all(client).await?)?;
    }
    Ok(())
}

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/engine_contract/vllm-0.32-shapes.txt")
}

async fn all(client: &Client) -> anyhow::Result<String> {
    let mut found = String::new();
    for (name, path, body) in requests(client) {
        let (status, text) = match body {
            Some(body) => client.text(path, &body).await?,
            None => {
                let reply = client.get(path).await?;
                (reply.status, reply.body.to_string())
            }
        };
        found.push_str(&format!("{name}: {status}\n{}\n", describe(&text)));
    }
    Ok(found)
}

fn requests(client: &Client) -> Vec<(&'static str, &'static str, Option<Value>)> {
    let model = client.model.as_str();
    let turns = json!([{"role": "user", "content": "hi"}]);
    let chat = json!({"model": model, "messages": turns, "max_tokens": 4, "temperature": 0});
    let completion = json!({"model": model, "prompt": "hi", "max_tokens": 4, "temperature": 0});
    let responses =
        json!({"model": model, "input": "hi", "max_output_tokens": 4, "temperature": 0});
    let with = |base: &Value, more: Value| {
        let mut body = base.clone();
        if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
            body.extend(more);
        }
        Some(body)
    };
    let usage = json!({"stream": true, "stream_options": {"include_usage": true}});
    let stream = json!({"stream": true});
    let other = json!({"model": "no/such-model"});
    let incomplete = Some(json!({"model": model}));
    vec![
        ("models", "/v1/models", None),
        ("version", "/version", None),
        ("load", "/load", None),
        ("is sleeping", "/is_sleeping", None),
        ("not found", "/no/such/path", None),
        ("chat", "/v1/chat/completions", Some(chat.clone())),
        (
            "chat stream",
            "/v1/chat/completions",
            with(&chat, stream.clone()),
        ),
        (
            "chat stream with usage",
            "/v1/chat/completions",
            with(&chat, usage.clone()),
        ),
        (
            "chat of another model",
            "/v1/chat/completions",
            with(&chat, other.clone()),
        ),
        (
            "chat without messages",
            "/v1/chat/completions",
            incomplete.clone(),
        ),
        (
            "chat too long",
            "/v1/chat/completions",
            with(&chat, json!({"max_tokens": 5000})),
        ),
        (
            "chat with no object",
            "/v1/chat/completions",
            Some(json!("text")),
        ),
        ("completion", "/v1/completions", Some(completion.clone())),
        (
            "completion of two",
            "/v1/completions",
            with(&completion, json!({"prompt": ["a", "b"]})),
        ),
        (
            "completion stream",
            "/v1/completions",
            with(&completion, stream.clone()),
        ),
        (
            "completion stream with usage",
            "/v1/completions",
            with(&completion, usage),
        ),
        (
            "completion of another model",
            "/v1/completions",
            with(&completion, other.clone()),
        ),
        (
            "completion without prompt",
            "/v1/completions",
            incomplete.clone(),
        ),
        ("invocation", "/invocations", Some(completion)),
        ("messages", "/v1/messages", Some(chat.clone())),
        (
            "messages stream",
            "/v1/messages",
            with(&chat, stream.clone()),
        ),
        (
            "messages of another model",
            "/v1/messages",
            with(&chat, other),
        ),
        (
            "messages without messages",
            "/v1/messages",
            incomplete.clone(),
        ),
        (
            "count tokens",
            "/v1/messages/count_tokens",
            Some(json!({"model": model, "messages": turns})),
        ),
        ("responses", "/v1/responses", Some(responses.clone())),
        (
            "responses stream",
            "/v1/responses",
            with(&responses, stream),
        ),
        ("responses without input", "/v1/responses", incomplete),
        (
            "tokenize",
            "/tokenize",
            Some(json!({"model": model, "prompt": "hi"})),
        ),
        (
            "detokenize",
            "/detokenize",
            Some(json!({"model": model, "tokens": [72, 73]})),
        ),
    ]
}

/// The shape of a body: of its JSON, or of its events, equal ones in a row once.
fn describe(text: &str) -> String {
    if let Ok(value) = serde_json::from_str::<Value>(text) {
        return format!("  {}", shape(&value));
    }
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        let line = match line.strip_prefix("data: ") {
            Some(data) => match serde_json::from_str::<Value>(data) {
                Ok(value) => format!("  data: {}", shape(&value)),
                Err(_no_json) => format!("  data: {data}"),
            },
            None => format!("  {line}"),
        };
        lines.push(line.trim_end().to_owned());
    }
    collapse(&mut lines);
    lines.join("\n")
}

/// How many tokens there are is not a matter of shape: an event that repeats (with its name and the empty line) is kept once.
fn collapse(lines: &mut Vec<String>) {
    let mut kept: Vec<String> = Vec::new();
    let text = lines.join("\n");
    for event in text.split("\n\n") {
        if kept.last().is_none_or(|last| last != event) {
            kept.push(event.to_owned());
        }
    }
    *lines = kept.join("\n\n").lines().map(str::to_owned).collect();
}

fn shape(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(_) => "number".to_owned(),
        Value::String(_) => "string".to_owned(),
        Value::Array(items) => {
            let shapes: BTreeSet<String> = items.iter().map(shape).collect();
            format!("[{}]", shapes.into_iter().collect::<Vec<_>>().join("|"))
        }
        Value::Object(fields) => {
            // Key order is no part of the shape.
            let fields: BTreeSet<String> = fields
                .iter()
                .map(|(key, value)| format!("{key}:{}", shape(value)))
                .collect();
            format!("{{{}}}", fields.into_iter().collect::<Vec<_>>().join(","))
        }
    }
}
