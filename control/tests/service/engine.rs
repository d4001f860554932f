//! The least of a vLLM that control can drive: it sleeps, wakes, counts nothing in flight, and says what it was asked for.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use axum::{
    Json, Router,
    extract::State,
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// One engine that begins asleep.
#[derive(Clone)]
pub(crate) struct Engine {
    pub(crate) address: SocketAddr,
    state: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    awake: AtomicBool,
    wakes: AtomicUsize,
}

impl Engine {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let state = Arc::new(Shared::default());
        let app = Router::new()
            .route("/health", get(async || ""))
            .route("/version", get(async || Json(json!({"version": "0.33.0"}))))
            .route(
                "/openapi.json",
                get(async || Json(json!({"paths": {"/v1/completions": {}}}))),
            )
            .route("/load", get(async || Json(json!({"server_load": 0}))))
            .route(
                "/v1/models",
                get(async || {
                    Json(json!({"data": [{"id": "org/tiny", "created": 5, "max_model_len": 512}]}))
                }),
            )
            .route(
                "/v1/completions",
                post(async || {
                    Json(json!({"choices": [{"text": "b"}], "usage": {"completion_tokens": 1}}))
                }),
            )
            .route(
                "/is_sleeping",
                get(async |shared| asleep(shared, "is_sleeping")),
            )
            .route(
                "/is_paused",
                get(async |shared| asleep(shared, "is_paused")),
            )
            .route("/sleep", post(async |shared| change(shared, false)))
            .route("/wake_up", post(async |shared| change(shared, true)))
            .with_state(state.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { address, state }
    }

    /// How often it was woken.
    pub(crate) fn wakes(&self) -> usize {
        self.state.wakes.load(SeqCst)
    }

    pub(crate) fn is_awake(&self) -> bool {
        self.state.awake.load(SeqCst)
    }
}

fn asleep(State(shared): State<Arc<Shared>>, key: &str) -> Json<Value> {
    Json(json!({key: !shared.awake.load(SeqCst)}))
}

fn change(State(shared): State<Arc<Shared>>, awake: bool) -> Json<Value> {
    shared.awake.store(awake, SeqCst);
    shared.wakes.fetch_add(usize::from(awake), SeqCst);
    Json(json!({"status": if awake { "awake" } else { "sleeping" }}))
}
