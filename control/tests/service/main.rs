//! The control service as a whole, from outside: a gate's stream, the HTTP API and an engine's HTTP server, all real; only the gate
//! and the engine are played by the test.

mod command;
mod engine;
mod explain;
mod gate;
mod place;
mod simulate;

use greenthread_proto::gate::{
    Bye, Hello, Report, RowFigures, Snapshot, control_message::Body, gate_message, row::Admission,
};
use tonic::Code;

use crate::{
    gate::{Gate, hello},
    place::Place,
};

#[tokio::test]
async fn a_held_request_wakes_its_model_and_the_row_admits_under_a_larger_epoch() {
    let place = Place::new("wakes", "").await;
    let mut gate = Gate::attach(&place, None, hello("gate-1")).await.unwrap();

    let (
        term,
        Snapshot {
            rows,
            version,
            times,
            ..
        },
    ) = gate.snapshot().await;
    assert_eq!((term, version, rows.len()), (1, 1, 1));
    assert_eq!(times.expect("times").lease_ms, 5_000);
    let row = &rows[0];
    assert_eq!(
        (row.model.as_str(), row.prefixes.as_slice()),
        ("tiny", &["tiny".to_owned()][..])
    );
    assert!(matches!(row.admission, Some(Admission::Hold(_))), "{row:?}");
    assert!(row.control_paths.iter().any(|path| path == "/sleep"));
    gate.heartbeat_of(1).await;

    let sequence = gate
        .report(RowFigures {
            row: row.id.clone(),
            held: 1,
            ..RowFigures::default()
        })
        .await;
    let admitted = gate
        .row_that(|row| matches!(row.admission, Some(Admission::Admit(_))))
        .await;
    let (before, after) = (
        row.epoch.expect("an epoch"),
        admitted.epoch.expect("an epoch"),
    );
    assert!(
        (after.term, after.counter) > (before.term, before.counter),
        "{before:?} {after:?}"
    );
    assert_eq!(place.engine.wakes(), 1);

    gate.heartbeat_of(sequence).await;
    let status: serde_json::Value = place.get("/api/v1/models/tiny").await.json().await.unwrap();
    assert_eq!(
        (&status["state"], &status["held"]),
        (&"serving".into(), &1.into())
    );
    assert!(
        status["decisions"]
            .as_array()
            .is_some_and(|decisions| !decisions.is_empty())
    );
    place.end().await;
}

#[tokio::test]
async fn what_is_no_gate_is_refused_with_the_reason() {
    let place = Place::new("refuses", "token: s3cret-token").await;
    let refused = async |token, first| {
        Gate::attach(&place, token, first)
            .await
            .map(|_| ())
            .unwrap_err()
    };

    assert_eq!(
        refused(None, hello("g")).await.code(),
        Code::Unauthenticated
    );
    assert_eq!(
        refused(Some("guessed"), hello("g")).await.code(),
        Code::Unauthenticated
    );
    let token = Some("s3cret-token");
    assert_eq!(
        refused(token, gate_message::Body::Bye(Bye {})).await.code(),
        Code::InvalidArgument
    );
    let stranger = Hello {
        gate: "g".into(),
        protocol_min: 8,
        protocol_max: 9,
        ..Hello::default()
    };
    let status = refused(token, gate_message::Body::Hello(stranger)).await;
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("8 to 9"), "{}", status.message());
    Gate::attach(&place, token, hello("g"))
        .await
        .unwrap()
        .snapshot()
        .await;

    assert_eq!(place.get_as(None, "/api/v1/status").await.status(), 401);
    assert_eq!(place.get_as(None, "/healthz").await.status(), 200);
    assert_eq!(
        place
            .get_as(Some("s3cret-token"), "/api/v1/status")
            .await
            .status(),
        200
    );
    place.end().await;
}

#[tokio::test]
async fn a_sequence_that_does_not_grow_closes_the_stream() {
    let place = Place::new("sequence", "").await;
    let mut gate = Gate::attach(&place, None, hello("gate-1")).await.unwrap();
    gate.snapshot().await;
    gate.say_as(1, gate_message::Body::Report(Report::default()))
        .await;
    assert_eq!(gate.end().await.code(), Code::InvalidArgument);
    place.end().await;
}

#[tokio::test]
async fn a_gate_that_does_not_read_loses_its_stream_and_no_other_does() {
    let place = Place::new("overflow", "").await;
    let mut reading = Gate::attach(&place, None, hello("reading")).await.unwrap();
    reading.snapshot().await;
    let mut deaf = Gate::attach(&place, None, hello("deaf")).await.unwrap();
    deaf.snapshot().await;
    // Every report is answered by a heartbeat that nobody takes.
    place
        .until("the deaf gate's stream was closed", async || {
            for _ in 0..200 {
                if !deaf.try_report().await {
                    break;
                }
            }
            let status: serde_json::Value = place.get("/api/v1/status").await.json().await.unwrap();
            status["overflowedStreams"] == 1
        })
        .await;
    assert_eq!(deaf.end().await.code(), Code::ResourceExhausted);
    let sequence = reading.report(RowFigures::default()).await;
    reading.heartbeat_of(sequence).await;
    place.end().await;
}

#[tokio::test]
async fn a_larger_term_is_taken_over_and_kept() {
    let place = Place::new("term", "").await;
    let gate_message::Body::Hello(greeting) = hello("gate-1") else {
        unreachable!("hello() is a Hello")
    };
    let from_the_future = Hello {
        largest_term: 1_000,
        ..greeting
    };
    let mut gate = Gate::attach(
        &place,
        None,
        gate_message::Body::Hello(from_the_future.clone()),
    )
    .await
    .unwrap();
    assert_eq!(gate.end().await.code(), Code::Aborted);

    let term = place
        .until("a term above the gate's is in use", async || {
            let mut gate = Gate::attach(
                &place,
                None,
                gate_message::Body::Hello(from_the_future.clone()),
            )
            .await
            .ok()?;
            match gate.next().await {
                Ok(message) => Some(message.term),
                Err(_) => None,
            }
        })
        .await;
    assert_eq!(term, 1_001);
    let restarted = place.restart().await;
    let mut gate = Gate::attach(&restarted, None, hello("gate-1"))
        .await
        .unwrap();
    assert_eq!(gate.snapshot().await.0, 1_002);
    restarted.end().await;
}

#[tokio::test]
async fn stopping_closes_streams_and_leaves_engines_as_they_are() {
    let place = Place::new("stops", "").await;
    let mut gate = Gate::attach(&place, None, hello("gate-1")).await.unwrap();
    let (_, snapshot) = gate.snapshot().await;
    gate.report(RowFigures {
        row: snapshot.rows[0].id.clone(),
        held: 1,
        ..RowFigures::default()
    })
    .await;
    gate.row_that(|row| matches!(row.admission, Some(Admission::Admit(_))))
        .await;
    let engine = place.engine.clone();
    place.end().await;
    assert!(matches!(
        gate.end().await.code(),
        Code::Unavailable | Code::Aborted
    ));
    assert!(engine.is_awake());
}

#[tokio::test]
async fn operators_wake_and_are_told_what_is_wrong() {
    let place = Place::new("operators", "").await;
    assert_eq!(place.get("/readyz").await.status(), 503);
    let unknown = place.post("/api/v1/models/nobody/wake").await;
    assert_eq!(unknown.status(), 404);
    assert!(unknown.text().await.unwrap().contains("known models: tiny"));
    assert_eq!(
        place.post("/api/v1/models/tiny/explode").await.status(),
        404
    );
    assert_eq!(place.get("/filter/00.wasm").await.status(), 404);

    assert_eq!(place.post("/api/v1/models/tiny/wake").await.status(), 202);
    place
        .until("the model serves", async || {
            let model: serde_json::Value =
                place.get("/api/v1/models/tiny").await.json().await.unwrap();
            model["state"] == "serving"
        })
        .await;
    let metrics = place.get("/metrics").await.text().await.unwrap();
    assert!(
        metrics.contains("greenthread_model_state{model=\"tiny\",state=\"serving\"} 1"),
        "{metrics}"
    );
    assert!(
        metrics.contains("greenthread_wakes_total{model=\"tiny\"} 1"),
        "{metrics}"
    );

    // Three gates are expected: two workers and the main thread.
    let mut gates = Vec::new();
    for name in ["g1", "g2", "g3"] {
        let mut gate = Gate::attach(&place, None, hello(name)).await.unwrap();
        let (_, snapshot) = gate.snapshot().await;
        gate.applied(snapshot.version).await;
        gates.push(gate);
    }
    place
        .until("ready", async || place.get("/readyz").await.status() == 200)
        .await;
    place.end().await;
}

#[tokio::test]
async fn a_changed_fleet_file_is_taken_over_in_the_safe_order() {
    let place = Place::new("reload", "").await;
    let mut gate = Gate::attach(&place, None, hello("gate-1")).await.unwrap();
    gate.snapshot().await;
    let other = engine::Engine::start().await;

    place.write(&place.with_model("other", other.address));
    let added = gate.row_that(|row| row.model == "other").await;
    assert_eq!(added.prefixes, ["other"]);
    place
        .until("the clusters are Envoy's", async || {
            place.clusters().contains(&added.cluster)
        })
        .await;

    place.write(&place.with_model("third", other.address));
    gate.row_that(|row| row.model == "other" && row.removed)
        .await;
    gate.row_that(|row| row.model == "third" && !row.removed)
        .await;
    place
        .until("the old cluster went", async || {
            !place.clusters().contains(&added.cluster)
        })
        .await;
    assert_eq!(place.get("/api/v1/models/other").await.status(), 404);
    place.end().await;
}

#[tokio::test]
async fn web_pages_are_kept_out_of_loopback() {
    let place = Place::new("pages", "").await;
    let request = place
        .request("/api/v1/status")
        .header("origin", "http://evil.example");
    assert_eq!(request.send().await.unwrap().status(), 403);
    let request = place
        .request("/api/v1/status")
        .header("host", "evil.example");
    assert_eq!(request.send().await.unwrap().status(), 403);
    place.end().await;
}

/// A message is a row change or a snapshot when it carries rows.
fn rows(body: Body) -> Vec<greenthread_proto::gate::Row> {
    match body {
        Body::Snapshot(snapshot) => snapshot.rows,
        Body::Delta(delta) => delta.rows,
        Body::Heartbeat(_) => Vec::new(),
    }
}
