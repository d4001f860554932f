//! The APIs that compute no text: embeddings, scores, classes, transcripts, tokens. Each computes one token's worth, so that it
//! waits while the engine sleeps.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::State,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{
    error::ApiError,
    request::{Fields, content, conversation, texts},
};
use crate::{
    engine::{Engine, Step},
    text,
};

/// Length of an embedding.
const DIMENSIONS: u64 = 8;

/// `/v1/embeddings`.
pub(crate) async fn embeddings(
    State(engine): State<Arc<Engine>>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let fields = Fields::parse(&body)?;
    let inputs = texts(fields.required("input")?);
    let vector = |input: &str| {
        (0..DIMENSIONS)
            .map(|at| figure(&[input, &at.to_string()]))
            .collect::<Vec<f64>>()
    };
    let item = |(index, input): (usize, &String)| json!({"index": index, "object": "embedding", "embedding": vector(input)});
    let data: Vec<Value> = inputs.iter().enumerate().map(item).collect();
    reply(
        &engine,
        &fields,
        "embd",
        "list",
        &inputs,
        json!({"data": data}),
    )
    .await
}

/// `/pooling`.
pub(crate) async fn pooling(
    State(engine): State<Arc<Engine>>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let fields = Fields::parse(&body)?;
    let inputs = texts(fields.required("input")?);
    let item = |(index, input): (usize, &String)| json!({"index": index, "object": "pooling", "data": [[figure(&[input])]]});
    let data: Vec<Value> = inputs.iter().enumerate().map(item).collect();
    reply(
        &engine,
        &fields,
        "pool",
        "list",
        &inputs,
        json!({"data": data}),
    )
    .await
}

/// `/classify`.
pub(crate) async fn classify(
    State(engine): State<Arc<Engine>>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let fields = Fields::parse(&body)?;
    let inputs = texts(fields.required("input")?);
    let item = |(index, input): (usize, &String)| {
        let first = figure(&[input]);
        let label = if first < 0.5 { "LABEL_1" } else { "LABEL_0" };
        json!({"index": index, "label": label, "probs": [first, 1.0 - first], "num_classes": 2})
    };
    let data: Vec<Value> = inputs.iter().enumerate().map(item).collect();
    reply(
        &engine,
        &fields,
        "classify",
        "list",
        &inputs,
        json!({"data": data}),
    )
    .await
}

/// `/v1/score`.
pub(crate) async fn score(
    State(engine): State<Arc<Engine>>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let fields = Fields::parse(&body)?;
    let either = |new: &str, old: &str| fields.get(new).or_else(|| fields.get(old)).map(texts);
    let missing = |place: &str| ApiError::Invalid {
        place: format!("body.{place}"),
        problem: "Field required",
    };
    let left = either("queries", "text_1").ok_or_else(|| missing("queries"))?;
    let right = either("documents", "text_2").ok_or_else(|| missing("documents"))?;
    let query = left.first().cloned().unwrap_or_default();
    let item = |(index, document): (usize, &String)| json!({"index": index, "object": "score", "score": figure(&[&query, document])});
    let data: Vec<Value> = right.iter().enumerate().map(item).collect();
    let inputs: Vec<String> = left.into_iter().chain(right).collect();
    reply(
        &engine,
        &fields,
        "score",
        "list",
        &inputs,
        json!({"data": data}),
    )
    .await
}

/// `/v1/rerank`.
pub(crate) async fn rerank(
    State(engine): State<Arc<Engine>>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let fields = Fields::parse(&body)?;
    let query = content(fields.required("query")?);
    let documents = texts(fields.required("documents")?);
    let mut ranked: Vec<(usize, f64)> = documents
        .iter()
        .enumerate()
        .map(|(at, document)| (at, figure(&[&query, document])))
        .collect();
    ranked.sort_by(|left, right| right.1.total_cmp(&left.1).then(left.0.cmp(&right.0)));
    let item = |(index, score): (usize, f64)| json!({"index": index, "document": {"text": documents[index]}, "relevance_score": score});
    let results: Vec<Value> = ranked.into_iter().map(item).collect();
    reply(
        &engine,
        &fields,
        "rerank",
        "rerank",
        &documents,
        json!({"results": results}),
    )
    .await
}

/// `/v1/audio/transcriptions` and `/v1/audio/translations`: a text that follows from the bytes of the upload.
pub(crate) async fn audio(
    State(engine): State<Arc<Engine>>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let digest = format!("{:016x}", text::hash(&[&body]));
    let word = compute(&engine, &digest).await?;
    let seconds = body.len().div_ceil(32_000);
    Ok(Json(json!({"text": format!("{word} ({} bytes)", body.len()), "usage": {"type": "duration", "seconds": seconds}})).into_response())
}

/// `/tokenize`. Needs no engine, in vLLM neither.
pub(crate) async fn tokenize(
    State(engine): State<Arc<Engine>>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let fields = Fields::parse(&body)?;
    let prompt = match fields.get("messages") {
        Some(messages) => conversation(messages),
        None => content(fields.required("prompt")?),
    };
    fields.model(engine.args())?;
    let tokens = text::tokens(&prompt);
    let count = tokens.len();
    Ok(Json(json!({"count": count, "max_model_len": engine.args().max_model_len, "tokens": tokens, "token_strs": null})).into_response())
}

/// `/detokenize`.
pub(crate) async fn detokenize(
    State(engine): State<Arc<Engine>>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let fields = Fields::parse(&body)?;
    let tokens = texts(fields.required("tokens")?).concat();
    fields.model(engine.args())?;
    Ok(Json(json!({"prompt": tokens})).into_response())
}

async fn reply(
    engine: &Arc<Engine>,
    fields: &Fields,
    prefix: &str,
    object: &str,
    inputs: &[String],
    content: Value,
) -> Result<Response, ApiError> {
    let model = fields.model(engine.args())?;
    compute(engine, &inputs.concat()).await?;
    let tokens: u64 = inputs.iter().map(|input| text::token_count(input)).sum();
    let mut body = json!({
        "id": format!("{prefix}-{}", fields.id()), "object": object, "created": fields.created(), "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0, "prompt_tokens_details": null},
    });
    if let (Some(body), Value::Object(content)) = (body.as_object_mut(), content) {
        body.extend(content);
    }
    Ok(Json(body).into_response())
}

async fn compute(engine: &Arc<Engine>, prompt: &str) -> Result<String, ApiError> {
    let mut generation = engine.submit(prompt);
    match generation.step().await {
        Step::Token(token) => {
            generation.complete();
            Ok(token)
        }
        Step::Aborted => Err(ApiError::Engine {
            message: "Request was aborted".to_owned(),
        }),
    }
}

/// A number between 0 and 1 that follows from the texts.
fn figure(of: &[&str]) -> f64 {
    let parts: Vec<&[u8]> = of.iter().map(|part| part.as_bytes()).collect();
    (text::hash(&parts) % 1_000_000) as f64 / 1_000_000.0
}
