//! Documents that the gate answers itself, from the bodies that control rendered into the rows.

use serde_json::{Value, json};

use crate::{
    answers::{Answer, Api, Reply},
    classify::LocalDocument,
    row::Row,
    table::Table,
};

/// A document of one model. `in_flight` is the number for `/status`.
pub fn of_model(row: &Row, document: LocalDocument, in_flight: u64) -> Reply {
    let documents = &row.documents;
    match document {
        LocalDocument::Status => {
            let mut body = documents.status_head.clone();
            body.extend_from_slice(in_flight.to_string().as_bytes());
            body.extend_from_slice(&documents.status_tail);
            Reply::document(200, body)
        }
        LocalDocument::Models => Reply::document(200, documents.models.clone()),
        LocalDocument::Health => Reply::document(documents.health_status, documents.health.clone()),
    }
}

/// Local documents have no other methods.
pub fn method_allowed(method: &[u8]) -> bool {
    matches!(method, b"GET" | b"HEAD")
}

/// The refusal of other methods.
pub fn method_refused(row: &Row, normalised: &[u8]) -> Reply {
    Answer::MethodNotAllowed.reply(Api::of(normalised), &row.model)
}

/// Documents at the root of a gateway that belongs to GreenThread alone. `None`: not one of them.
/// `complete` says whether control has sent a table; before that only the gateway itself can be spoken for.
pub fn of_root(path: &[u8], table: &Table, complete: bool) -> Option<Reply> {
    let present = || table.rows().filter(|row| !row.removed);
    match path {
        b"/health" => Some(json_reply(200, &json!({"status": "ok"}))),
        b"/liveness" => Some(json_reply(200, &json!({"status": "alive"}))),
        b"/readiness" if complete => {
            let healthy = present()
                .filter(|row| row.documents.health_status == 200)
                .count();
            let workers = present().count();
            Some(json_reply(
                200,
                &json!({"status": "ready", "healthy_workers": healthy, "total_workers": workers}),
            ))
        }
        b"/readiness" => Some(json_reply(
            503,
            &json!({"status": "not ready", "reason": "no table from control yet"}),
        )),
        b"/v1/models" if complete || present().next().is_some() => {
            let mut data: Vec<Value> = Vec::new();
            for model in present().flat_map(|row| models_in(&row.documents.models)) {
                if !data.iter().any(|known| known.get("id") == model.get("id")) {
                    data.push(model);
                }
            }
            Some(json_reply(200, &json!({"object": "list", "data": data})))
        }
        _ => None,
    }
}

fn models_in(document: &[u8]) -> Vec<Value> {
    let parsed = serde_json::from_slice(document).unwrap_or(Value::Null);
    parsed
        .get("data")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default()
}

fn json_reply(status: u32, body: &Value) -> Reply {
    Reply::document(status, body.to_string().into_bytes())
}
