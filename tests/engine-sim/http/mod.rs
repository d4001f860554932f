//! The HTTP server: vLLM's routes and the simulation's own.

mod answer;
mod connections;
mod dev;
mod error;
mod messages;
mod observe;
mod openai;
mod pooling;
mod request;
mod responses;
pub(crate) mod seen;

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context;
use axum::{
    Json, Router,
    body::{Body, HttpBody},
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::post,
};
use futures_util::StreamExt;
use serde_json::json;
use tokio::{net::TcpSocket, sync::oneshot};

use crate::engine::Engine;

/// Connections that wait to be accepted; enough for thousands of requests that are released at once.
const BACKLOG: u32 = 4096;

/// Starts as slowly as was asked, then serves until told to stop. The port is taken at once, but connections are refused until the
/// start is over, as with vLLM.
pub(crate) async fn serve(
    engine: Arc<Engine>,
    stopped: oneshot::Receiver<()>,
) -> anyhow::Result<()> {
    let address = SocketAddr::new(engine.args().host, engine.args().port);
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }
    .context("socket")?;
    socket.set_reuseaddr(true).context("SO_REUSEADDR")?;
    socket
        .bind(address)
        .with_context(|| format!("{address} cannot be used"))?;
    tokio::time::sleep(engine.args().cold_start).await;
    let listener = socket
        .listen(BACKLOG)
        .with_context(|| format!("{address} cannot be listened on"))?;
    println!(
        "engine-sim: {} on http://{}",
        engine.args().model,
        listener.local_addr()?
    );
    connections::accept(listener, router(engine), stopped).await;
    Ok(())
}

fn router(engine: Arc<Engine>) -> Router {
    let development = std::env::var("VLLM_SERVER_DEV_MODE").is_ok_and(|value| value == "1");
    let dev = if development {
        dev::routes()
    } else {
        Router::new()
    };
    Router::new()
        .merge(inference().route_layer(from_fn_with_state(engine.clone(), count)))
        .route("/tokenize", post(pooling::tokenize))
        .route("/detokenize", post(pooling::detokenize))
        .route("/v1/messages/count_tokens", post(messages::count_tokens))
        .merge(observe::routes())
        .merge(dev)
        .layer(from_fn_with_state(engine.clone(), misbehave))
        .merge(observe::sim_routes())
        .fallback(async || (StatusCode::NOT_FOUND, Json(json!({"detail": "Not Found"}))))
        .method_not_allowed_fallback(async || {
            (
                StatusCode::METHOD_NOT_ALLOWED,
                Json(json!({"detail": "Method Not Allowed"})),
            )
        })
        .layer(from_fn_with_state(engine.clone(), seen::note))
        .layer(DefaultBodyLimit::disable())
        .with_state(engine)
}

fn inference() -> Router<Arc<Engine>> {
    Router::new()
        .route("/v1/chat/completions", post(openai::chat))
        .route("/v1/completions", post(openai::completions))
        .route("/invocations", post(openai::invocations))
        .route("/v1/messages", post(messages::messages))
        .route("/v1/responses", post(responses::responses))
        .route("/v1/embeddings", post(pooling::embeddings))
        .route("/pooling", post(pooling::pooling))
        .route("/classify", post(pooling::classify))
        .route("/score", post(pooling::score))
        .route("/v1/score", post(pooling::score))
        .route("/rerank", post(pooling::rerank))
        .route("/v1/rerank", post(pooling::rerank))
        .route("/v2/rerank", post(pooling::rerank))
        .route("/v1/audio/transcriptions", post(pooling::audio))
        .route("/v1/audio/translations", post(pooling::audio))
}

/// Counts a request from its arrival to the end of its answer, or until its client is gone.
async fn count(State(engine): State<Arc<Engine>>, request: Request, next: Next) -> Response {
    let loaded = engine.arrived();
    let counter = engine.clone();
    let request = request.map(|body| {
        Body::from_stream(body.into_data_stream().inspect(move |chunk| {
            counter.stats().body_bytes += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        }))
    });
    let (mut head, body) = next.run(request).await.into_parts();
    if let Some(length) = body.size_hint().exact() {
        head.headers
            .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    let body = body.into_data_stream().inspect(move |_chunk| {
        // Lives as long as the stream does.
        let _ = &loaded;
    });
    Response::from_parts(head, Body::from_stream(body))
}

/// The faults that concern every request.
async fn misbehave(State(engine): State<Arc<Engine>>, request: Request, next: Next) -> Response {
    engine.until_off(|faults| faults.silent).await;
    if engine.faults().refuse {
        return error::ApiError::Engine {
            message: "fault switched on: refuse".to_owned(),
        }
        .into_response();
    }
    next.run(request).await
}
