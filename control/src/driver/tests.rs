//! What the driver makes of effects: the order on a stream, and terms.

use std::fs;

use greenthread_core::{
    effect::{Admission, PublicState, PublishedRow},
    ids::{Bytes, Epoch, GateId, Millis, StreamId},
    model::Times,
};
use greenthread_proto::gate::{ControlMessage, control_message::Body};
use tokio::sync::watch;

use super::*;
use crate::{
    engine::{Oracle, Settings},
    streams::Outbound,
    testing,
};

/// A driver of one model, a gate's stream, and what the driver's helpers answer.
struct Bench {
    driver: Driver,
    messages: mpsc::Receiver<ControlMessage>,
    answers: mpsc::Receiver<Input>,
    model: ModelId,
}

const STREAM: StreamId = StreamId(7);

impl Bench {
    fn new(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("greenthread-driver-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        let state = StateDir::lock(&folder).unwrap();
        let term = state.next_term(0).unwrap();
        let second = Duration::from_secs(1);
        let settings = Settings {
            state: folder,
            oracle: Oracle::Declared,
            command: second,
            observe: second,
            start: second,
            wake: second,
        };
        let ms = Millis(1_000);
        let times = Times {
            lease: ms,
            margin: ms,
            heartbeat: ms,
            command: ms,
            max_flow: ms,
            forward_bound: ms,
            observe: ms,
        };
        let (inputs, answers) = mpsc::channel(8);
        let mut driver = Driver::new(Parts {
            fleet: FleetSpec {
                gpus: vec![Bytes::gib(40)],
                times,
                term,
                ..FleetSpec::default()
            },
            hold: testing::hold(),
            expected_gates: 1,
            engines: Engines::new(settings, mpsc::channel(8).0),
            state: Arc::new(state),
            inputs,
            gone: mpsc::unbounded_channel().0,
        });
        let model = testing::model("m", "127.0.0.1:1");
        let id = model.spec.id.clone();
        driver.table.set(model, 0);
        let (queue, messages) = mpsc::channel(8);
        driver.streams.open(
            STREAM,
            GateId("g".into()),
            "envoy".into(),
            Outbound {
                queue,
                closing: watch::channel(None).0,
            },
        );
        Self {
            driver,
            messages,
            answers,
            model: id,
        }
    }

    fn row(&self, counter: u64) -> PublishedRow {
        PublishedRow {
            model: self.model.clone(),
            epoch: Epoch { term: 1, counter },
            admission: Admission::Admit,
            state: PublicState::Serving,
            boot_ready: true,
            barriered: false,
            error_class: "",
            removed: false,
        }
    }

    /// The messages so far: kind, rows by the counter of their epoch, or the number echoed.
    fn sent(&mut self) -> Vec<(&'static str, Vec<u64>)> {
        let counters = |rows: Vec<Row>| {
            rows.into_iter()
                .filter_map(|row| Some(row.epoch?.counter))
                .collect()
        };
        let mut sent = Vec::new();
        while let Ok(message) = self.messages.try_recv() {
            sent.push(match message.body.unwrap() {
                Body::Snapshot(snapshot) => ("snapshot", counters(snapshot.rows)),
                Body::Delta(delta) => ("delta", counters(delta.rows)),
                Body::Heartbeat(heartbeat) => ("heartbeat", vec![heartbeat.echoed_sequence]),
            });
        }
        sent
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.driver.state.root());
    }
}

#[test]
fn a_heartbeat_stands_behind_every_row_decided_before_it() {
    let mut bench = Bench::new("order");
    let heartbeat = |echoed| Effect::Heartbeat {
        gate: GateId("g".into()),
        stream: STREAM,
        echoed,
        elsewhere: None,
    };
    let snapshot = Effect::SendSnapshot {
        gate: GateId("g".into()),
        stream: STREAM,
        rows: vec![bench.row(1)],
    };
    let effects = [
        snapshot,
        heartbeat(1),
        Effect::Publish(bench.row(2)),
        Effect::Publish(bench.row(3)),
        heartbeat(2),
        Effect::Publish(bench.row(4)),
    ];
    for effect in effects {
        bench.driver.perform(effect);
    }
    bench.driver.send_rows();
    let expected = [
        ("snapshot", vec![1]),
        ("heartbeat", vec![1]),
        ("delta", vec![2, 3]),
        ("heartbeat", vec![2]),
        ("delta", vec![4]),
    ];
    assert_eq!(bench.sent(), expected);
}

#[tokio::test]
async fn a_larger_term_is_used_only_when_it_is_on_the_disk() {
    let mut bench = Bench::new("term");
    for at_least in [40, 50] {
        bench.driver.perform(Effect::RaiseTerm { at_least });
    }
    assert_eq!(bench.driver.streams.term(), 1);
    let taken = bench.answers.recv().await.unwrap();
    assert!(matches!(taken, Input::TermTaken(Ok(41))), "{taken:?}");
    assert!(bench.driver.take(taken).is_continue());
    assert_eq!(bench.driver.streams.term(), 41);
    bench.driver.perform(Effect::RaiseTerm { at_least: 50 });
    assert!(matches!(
        bench.answers.recv().await,
        Some(Input::TermTaken(Ok(51)))
    ));
}

#[test]
fn who_cannot_take_a_term_ends() {
    let mut bench = Bench::new("exit");
    let failed = StateError::Term {
        path: "term".into(),
        text: "x".into(),
    };
    assert!(bench.driver.take(Input::TermTaken(Err(failed))).is_break());
}
