//! vLLM's development endpoints: sleep, wake, pause, resume. As there, parameters are read from the query only.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{RawQuery, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};

use super::{error::ApiError, request::Fields};
use crate::{
    engine::{Engine, EngineError},
    state::PauseMode,
};

/// The endpoints that exist in development mode only.
pub(crate) fn routes() -> Router<Arc<Engine>> {
    Router::new()
        .route("/sleep", post(sleep))
        .route("/wake_up", post(wake_up))
        .route("/is_sleeping", get(is_sleeping))
        .route("/pause", post(pause))
        .route("/resume", post(resume))
        .route("/is_paused", get(is_paused))
        .route("/collective_rpc", post(collective_rpc))
        .route(
            "/reset_prefix_cache",
            post(async || Json(json!({"success": true}))),
        )
}

async fn sleep(
    State(engine): State<Arc<Engine>>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query = query.unwrap_or_default();
    let level = level(&query)?;
    let mode = mode(&query)?;
    // On its own task: a client that leaves does not stop a sleep.
    run(async move {
        engine
            .sleep(level, mode)
            .await
            .map(|()| json!({"status": "sleeping", "level": level}))
    })
    .await
}

async fn wake_up(
    State(engine): State<Arc<Engine>>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query = query.unwrap_or_default();
    let tags: Vec<String> = values(&query, "tags").map(str::to_owned).collect();
    let tags = (!tags.is_empty()).then_some(tags);
    run(async move {
        let awake = engine.wake(tags.as_deref()).await?;
        Ok(json!({"status": if awake { "awake" } else { "sleeping" }, "tags": tags}))
    })
    .await
}

async fn run(
    operation: impl Future<Output = Result<Value, EngineError>> + Send + 'static,
) -> Result<Response, ApiError> {
    match tokio::spawn(operation).await {
        Ok(Ok(body)) => Ok(Json(body).into_response()),
        Ok(Err(error)) => {
            eprintln!("ERROR: {error}");
            Err(ApiError::Engine {
                message: error.to_string(),
            })
        }
        Err(panicked) => Err(ApiError::Engine {
            message: panicked.to_string(),
        }),
    }
}

async fn is_sleeping(State(engine): State<Arc<Engine>>) -> Json<Value> {
    Json(json!({"is_sleeping": engine.settled_state().await.is_sleeping()}))
}

async fn is_paused(State(engine): State<Arc<Engine>>) -> Json<Value> {
    Json(json!({"is_paused": engine.settled_state().await.is_paused()}))
}

async fn pause(
    State(engine): State<Arc<Engine>>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let mode = mode(&query.unwrap_or_default())?;
    run(async move {
        engine.pause(mode).await;
        Ok(json!({"status": "paused"}))
    })
    .await
}

async fn resume(State(engine): State<Arc<Engine>>) -> Json<Value> {
    engine.resume().await;
    Json(json!({"status": "resumed"}))
}

async fn collective_rpc(
    State(engine): State<Arc<Engine>>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let fields = Fields::parse(&body)?;
    let method = fields.required("method")?.as_str().unwrap_or_default();
    match method {
        "reload_weights" => {
            return run(async move {
                engine.reload_weights().await?;
                Ok(json!({"results": [null]}))
            })
            .await;
        }
        "check_health" => (),
        other => {
            let message = format!(
                "Call to collective_rpc method failed: Worker failed with error ''Worker' object has no attribute '{other}''"
            );
            return Err(ApiError::Engine { message });
        }
    }
    Ok(Json(json!({"results": [null]})).into_response())
}

fn level(query: &str) -> Result<u8, ApiError> {
    let Some(text) = values(query, "level").next() else {
        return Ok(1);
    };
    let invalid = |problem| ApiError::Invalid {
        place: "query.level".to_owned(),
        problem,
    };
    match text.parse::<i64>() {
        Ok(0) => Ok(0),
        Ok(1) => Ok(1),
        Ok(2) => Ok(2),
        Ok(..0) => Err(invalid("Input should be greater than or equal to 0")),
        Ok(3..) => Err(invalid("Input should be less than or equal to 2")),
        Err(_no_number) => Err(invalid(
            "Input should be a valid integer, unable to parse string as an integer",
        )),
    }
}

fn mode(query: &str) -> Result<PauseMode, ApiError> {
    let Some(text) = values(query, "mode").next() else {
        return Ok(PauseMode::Abort);
    };
    let invalid = ApiError::Invalid {
        place: "query.mode".to_owned(),
        problem: "Input should be 'abort', 'wait' or 'keep'",
    };
    PauseMode::parse(text).ok_or(invalid)
}

/// Values of a parameter. No value that these endpoints know needs percent-encoding.
fn values<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .filter(move |(key, _value)| *key == name)
        .map(|(_key, value)| value)
}
