//! The shapes of answers: which keys, of which types, in which events. What a real vLLM answered is kept in
//! `vllm-0.32-shapes.txt` next to this file; engine-sim must answer alike, and so must a real engine when there is one.
//! `UPDATE_SHAPES=1 make test-vllm` writes the file anew.

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

/// A name, a path, and a body unless it is a GET.
type Request = (&'static str, &'static str, Option<Value>);

fn requests(client: &Client) -> Vec<Request> {
    let model = client.model.as_str();
    [
        questions(),
        chats(model),
        completions(model),
        messages(model),
        responses(model),
        tokens(model),
    ]
    .concat()
}

fn questions() -> Vec<Request> {
    let paths = [
        "/v1/models",
        "/version",
        "/load",
        "/is_sleeping",
        "/no/such/path",
    ];
    paths.map(|path| (path, path, None)).to_vec()
}

fn chats(model: &str) -> Vec<Request> {
    let path = "/v1/chat/completions";
    let chat = chat(model);
    vec![
        ("chat", path, Some(chat.clone())),
        ("chat stream", path, with(&chat, json!({"stream": true}))),
        (
            "chat stream with usage",
            path,
            with(&chat, stream_with_usage()),
        ),
        ("chat of another model", path, with(&chat, another_model())),
        ("chat without messages", path, Some(json!({"model": model}))),
        (
            "chat too long",
            path,
            with(&chat, json!({"max_tokens": 5000})),
        ),
        ("chat with no object", path, Some(json!("text"))),
    ]
}

fn completions(model: &str) -> Vec<Request> {
    let path = "/v1/completions";
    let one = json!({"model": model, "prompt": "hi", "max_tokens": 4, "temperature": 0});
    vec![
        ("completion", path, Some(one.clone())),
        (
            "completion of two",
            path,
            with(&one, json!({"prompt": ["a", "b"]})),
        ),
        (
            "completion stream",
            path,
            with(&one, json!({"stream": true})),
        ),
        (
            "completion stream with usage",
            path,
            with(&one, stream_with_usage()),
        ),
        (
            "completion of another model",
            path,
            with(&one, another_model()),
        ),
        (
            "completion without prompt",
            path,
            Some(json!({"model": model})),
        ),
        ("invocation", "/invocations", Some(one)),
    ]
}

fn messages(model: &str) -> Vec<Request> {
    let path = "/v1/messages";
    let count = "/v1/messages/count_tokens";
    let chat = chat(model);
    vec![
        ("messages", path, Some(chat.clone())),
        (
            "messages stream",
            path,
            with(&chat, json!({"stream": true})),
        ),
        (
            "messages of another model",
            path,
            with(&chat, another_model()),
        ),
        (
            "messages without messages",
            path,
            Some(json!({"model": model})),
        ),
        (
            "count tokens",
            count,
            Some(json!({"model": model, "messages": chat["messages"]})),
        ),
    ]
}

fn responses(model: &str) -> Vec<Request> {
    let path = "/v1/responses";
    let one = json!({"model": model, "input": "hi", "max_output_tokens": 4, "temperature": 0});
    vec![
        ("responses", path, Some(one.clone())),
        (
            "responses stream",
            path,
            with(&one, json!({"stream": true})),
        ),
        (
            "responses of another model",
            path,
            with(&one, another_model()),
        ),
        (
            "responses without input",
            path,
            Some(json!({"model": model})),
        ),
    ]
}

fn tokens(model: &str) -> Vec<Request> {
    vec![
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

fn chat(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "temperature": 0})
}

fn stream_with_usage() -> Value {
    json!({"stream": true, "stream_options": {"include_usage": true}})
}

fn another_model() -> Value {
    json!({"model": "no/such-model"})
}

fn with(base: &Value, more: Value) -> Option<Value> {
    let mut body = base.clone();
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more);
    }
    Some(body)
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
