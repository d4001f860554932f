//! An engine over HTTP that does what it is told to do wrong, and remembers what it was asked.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use futures_util::StreamExt;
use serde_json::{Value, json};

/// How the double behaves. The default is a vLLM that is awake and does everything right.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) version: &'static str,
    pub(super) is_asleep: bool,
    /// What `/is_paused` says while asleep; `false` is the contradiction that only a restart ends.
    pub(super) is_paused_asleep: bool,
    /// Level that it sleeps at, while `is_asleep`.
    pub(super) level: u64,
    /// Level that its metric shows: the one that it was last asked for.
    pub(super) level_shown: u64,
    /// The weights are in memory and mean something.
    pub(super) has_weights: bool,
    /// `/collective_rpc` is there.
    pub(super) takes_calls: bool,
    /// `/sleep` answers 200 and does nothing.
    pub(super) lies: bool,
    /// `/wake_up` answers "sleeping" that many times, and does nothing.
    pub(super) half_wakes: usize,
    /// Path and status of calls that fail.
    pub(super) fails: Option<(&'static str, u16)>,
    /// Path of calls that are never answered.
    pub(super) hangs: Option<&'static str>,
    /// `/load` counts streams that are open.
    pub(super) counts: bool,
    /// Streams that were opened and never end.
    pub(super) streams: u64,
    /// Every POST, with its query.
    pub(super) posts: Vec<String>,
}

/// A running double.
#[derive(Clone, Debug)]
pub(super) struct Double {
    pub(super) address: SocketAddr,
    script: Arc<Mutex<Script>>,
}

impl Double {
    /// Starts a double on a free port.
    pub(super) async fn start() -> Self {
        let script = Script {
            version: "0.32.0",
            is_asleep: false,
            is_paused_asleep: true,
            level: 1,
            level_shown: 0,
            has_weights: true,
            takes_calls: true,
            lies: false,
            half_wakes: 0,
            fails: None,
            hangs: None,
            counts: true,
            streams: 0,
            posts: Vec::new(),
        };
        let script = Arc::new(Mutex::new(script));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a free port");
        let address = listener.local_addr().expect("an address");
        let router = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&script));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, script }
    }

    /// Its behaviour, to look at and to change.
    pub(super) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every POST so far.
    pub(super) fn posts(&self) -> Vec<String> {
        self.script().posts.clone()
    }
}

async fn answer(State(script): State<Arc<Mutex<Script>>>, request: Request) -> Response {
    let target = request.uri().to_string();
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let is_post = request.method() == "POST";
    let body = axum::body::to_bytes(request.into_body(), 1 << 20)
        .await
        .unwrap_or_default();
    let wants_stream =
        serde_json::from_slice::<Value>(&body).is_ok_and(|body| body["stream"] == json!(true));
    let (hangs, fails) = {
        let mut script = script.lock().unwrap_or_else(PoisonError::into_inner);
        if is_post {
            script.posts.push(target);
        }
        (
            script.hangs == Some(path.as_str()),
            script.fails.filter(|(failing, _)| *failing == path),
        )
    };
    if hangs {
        std::future::pending::<()>().await;
    }
    if let Some((_, status)) = fails {
        let body = json!({"error": {"message": "told to fail"}}).to_string();
        return (StatusCode::from_u16(status).expect("a status"), body).into_response();
    }
    let mut script = script.lock().unwrap_or_else(PoisonError::into_inner);
    if path == "/v1/completions" && wants_stream {
        script.streams += 1;
        let first = futures_util::stream::iter([Ok::<_, std::io::Error>("data: {}\n\n")]);
        // Without counts there is nothing to see in a stream that stays open.
        return match script.counts {
            true => Body::from_stream(first.chain(futures_util::stream::pending())).into_response(),
            false => Body::from_stream(first).into_response(),
        };
    }
    if path == "/collective_rpc" && script.takes_calls && !is_post {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    if path == "/metrics" {
        return metrics(&script).into_response();
    }
    match reply(&mut script, &path, &query) {
        Some(body) => body.to_string().into_response(),
        None => (
            StatusCode::NOT_FOUND,
            json!({"detail": "Not Found"}).to_string(),
        )
            .into_response(),
    }
}

fn reply(script: &mut Script, path: &str, query: &str) -> Option<Value> {
    Some(match path {
        "/health" => json!(""),
        "/version" => json!({"version": script.version}),
        "/is_sleeping" => json!({"is_sleeping": script.is_asleep}),
        "/is_paused" => json!({"is_paused": script.is_asleep && script.is_paused_asleep}),
        "/load" => json!({"server_load": if script.counts { script.streams } else { 0 }}),
        "/v1/models" => {
            json!({"data": [{"id": "tiny", "created": 7, "root": "/tiny", "max_model_len": 1024}]})
        }
        "/openapi.json" => json!({"paths": {"/v1/completions": {}}}),
        "/v1/completions" => json!({"choices": [{"text": "a", "finish_reason": "length"}]}),
        "/sleep" => {
            let level = if query.contains("level=2") { 2 } else { 1 };
            script.level_shown = level;
            if !script.is_asleep && !script.lies {
                script.is_asleep = true;
                script.level = level;
                script.has_weights &= level == 1;
            }
            json!({"status": "sleeping", "level": level})
        }
        "/collective_rpc" if script.takes_calls => {
            script.has_weights = true;
            json!({"results": [null]})
        }
        "/wake_up" if script.half_wakes > 0 => {
            script.half_wakes -= 1;
            json!({"status": "sleeping", "tags": null})
        }
        "/wake_up" if query == "tags=weights" && script.is_asleep => {
            json!({"status": "sleeping", "tags": ["weights"]})
        }
        "/wake_up" => {
            script.is_asleep = false;
            script.level_shown = 0;
            json!({"status": "awake", "tags": null})
        }
        _ => return None,
    })
}

fn metrics(script: &Script) -> String {
    let sample = |(level, state): (u64, &str)| {
        let value = if script.level_shown == level {
            "1.0"
        } else {
            "0.0"
        };
        format!("vllm:engine_sleep_state{{engine=\"0\",sleep_state=\"{state}\"}} {value}\n")
    };
    [(0, "awake"), (1, "weights_offloaded"), (2, "discard_all")]
        .map(sample)
        .concat()
}
