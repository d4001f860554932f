//! What can be asked without the engine's core, asleep or not: health, load, metrics, models; and the simulation's own endpoints.

use std::{fmt::Write, sync::Arc};

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Map, Value, json};

use super::seen;
use crate::{
    engine::{Engine, crash},
    faults::{Faults, Stats},
};

/// What `/version` says.
const VERSION: &str = "0.32.0";
/// When models were made, in Unix seconds: always the same, so that answers can be compared byte by byte.
const CREATED_S: u64 = 1_700_000_000;

/// vLLM's endpoints.
pub(crate) fn routes() -> Router<Arc<Engine>> {
    Router::new()
        .route("/health", get(async || StatusCode::OK))
        .route(
            "/ping",
            get(async || StatusCode::OK).post(async || StatusCode::OK),
        )
        .route("/version", get(async || Json(json!({"version": VERSION}))))
        .route("/load", get(load))
        .route("/metrics", get(metrics))
        .route("/v1/models", get(models))
}

/// `/sim/…`: reached in spite of every fault.
pub(crate) fn sim_routes() -> Router<Arc<Engine>> {
    Router::new()
        .route(
            "/sim/faults",
            get(faults).post(change_faults).delete(clear_faults),
        )
        .route("/sim/stats", get(stats).delete(clear_stats))
        .route("/sim/requests", get(seen::list))
}

async fn load(State(engine): State<Arc<Engine>>) -> Json<Value> {
    Json(json!({"server_load": engine.load()}))
}

async fn models(State(engine): State<Arc<Engine>>) -> Json<Value> {
    let args = engine.args();
    let permission = json!({
        "id": "modelperm-0000000000000000", "object": "model_permission", "created": CREATED_S, "allow_create_engine": false,
        "allow_sampling": true, "allow_logprobs": true, "allow_search_indices": false, "allow_view": true, "allow_fine_tuning": false,
        "organization": "*", "group": null, "is_blocking": false,
    });
    let model = json!({
        "id": args.model, "object": "model", "created": CREATED_S, "owned_by": "vllm", "root": args.model, "parent": null,
        "max_model_len": args.max_model_len, "permission": [permission],
    });
    Json(json!({"object": "list", "data": [model]}))
}

async fn metrics(State(engine): State<Arc<Engine>>) -> Response {
    let state = engine.state();
    let labels = format!("engine=\"0\",model_name=\"{}\"", engine.args().model);
    let shown = |level: Option<u8>| if state.level_shown == level { 1.0 } else { 0.0 };
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, samples: &[(String, f64)]| {
        // Writing into a string cannot fail.
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n");
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{{{labels}}} {value:.1}");
        }
    };
    gauge(
        "vllm:num_requests_running",
        "Number of requests in model execution batches.",
        &[(labels.clone(), state.gauge_running as f64)],
    );
    gauge(
        "vllm:num_requests_waiting",
        "Number of requests waiting to be processed.",
        &[(labels.clone(), state.gauge_queued as f64)],
    );
    let state_of = |name: &str, level| (format!("{labels},sleep_state=\"{name}\""), shown(level));
    let states = [
        state_of("awake", None),
        state_of("weights_offloaded", Some(1)),
        state_of("discard_all", Some(2)),
    ];
    gauge("vllm:engine_sleep_state", "Engine sleep state.", &states);
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        text,
    )
        .into_response()
}

async fn faults(State(engine): State<Arc<Engine>>) -> Json<Faults> {
    Json(engine.faults())
}

async fn change_faults(State(engine): State<Arc<Engine>>, body: Bytes) -> Response {
    let changed = serde_json::from_slice::<Map<String, Value>>(&body)
        .and_then(|change| engine.faults().changed(change));
    match changed {
        Ok(faults) if faults.crash => crash(),
        Ok(faults) => {
            engine.set_faults(faults.clone());
            Json(faults).into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}

async fn clear_faults(State(engine): State<Arc<Engine>>) -> Json<Faults> {
    engine.set_faults(Faults::default());
    Json(Faults::default())
}

async fn stats(State(engine): State<Arc<Engine>>) -> Json<Stats> {
    Json(engine.stats().clone())
}

async fn clear_stats(State(engine): State<Arc<Engine>>) -> Json<Stats> {
    Json(std::mem::take(&mut *engine.stats()))
}
