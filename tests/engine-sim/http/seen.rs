//! What arrived, as it arrived: tests ask which bytes of a path and which headers an engine gets to see.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use serde::Serialize;

use crate::engine::Engine;

/// Most requests that are remembered.
pub(crate) const SEEN_MAX: usize = 256;

/// One request, `/sim/…` excluded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Seen {
    method: String,
    /// With the query, not decoded.
    target: String,
    /// Of equal names the last one.
    headers: BTreeMap<String, String>,
}

/// Remembers a request before anybody decides about it.
pub(super) async fn note(
    State(engine): State<Arc<Engine>>,
    request: Request,
    next: Next,
) -> Response {
    if !request.uri().path().starts_with("/sim/") {
        let headers = request.headers().iter();
        engine.saw(Seen {
            method: request.method().to_string(),
            target: request.uri().to_string(),
            headers: headers
                .map(|(name, value)| {
                    let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                    (name.to_string(), value)
                })
                .collect(),
        });
    }
    next.run(request).await
}

/// The last requests, oldest first.
pub(super) async fn list(State(engine): State<Arc<Engine>>) -> Json<Vec<Seen>> {
    Json(engine.seen())
}
