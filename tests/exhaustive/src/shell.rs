//! What the service's shell does between core and streams: rows and messages are translated, nothing is decided.

use greenthread_core::{
    effect::{Admission, PublishedRow, RefuseReason},
    event::{Event, Figures},
    ids::{Bytes, Epoch, GateId, GpuId, Millis, ModelId, StreamId},
    model::{Caps, Durations, FleetSpec, ModelSpec, OnDrainTimeout, OnLeaseEnd, Sizes},
};
use greenthread_proto::gate::{self, GateMessage, RowFigures, gate_message::Body, row};

use crate::{row::Row, ticks};

/// The id of the one model's row.
const MODEL: &str = "m.0";
/// Longer than any clock here runs.
const NEVER: Millis = ticks(1_000);

/// The one model.
pub(crate) fn model() -> ModelId {
    ModelId(MODEL.to_owned())
}

/// A gate's id; the last character is its index.
pub(crate) fn gate_id(index: usize) -> GateId {
    GateId(format!("g{index}"))
}

/// What a control is created with.
pub(crate) fn fleet(row: &Row, term: u64) -> FleetSpec {
    FleetSpec {
        gpus: vec![Bytes::gib(40)],
        times: row.times,
        term,
        ..FleetSpec::default()
    }
}

/// The model as its operator describes it. Its actions take no time of their own: how long they take is up to the calls.
pub(crate) fn spec(row: &Row) -> ModelSpec {
    ModelSpec {
        id: model(),
        gpus: vec![GpuId(0)],
        awake: Bytes::gib(17),
        asleep: Bytes::gib(1),
        sizes: Sizes::default(),
        conditioned: true,
        pinned: false,
        popular: false,
        tier: None,
        idle_timeout: row.idle,
        drain_timeout: row.drain.unwrap_or(NEVER),
        on_drain_timeout: OnDrainTimeout::Freeze,
        max_freeze: NEVER,
        min_runtime: Millis(0),
        max_wait: NEVER,
        on_lease_end: row.on_lease_end,
        caps: Caps {
            counts: true,
            lossless: row.lossless,
            restartable: false,
            disk: false,
        },
        guess: Durations {
            start: TOOK,
            wake: TOOK,
            reload: TOOK,
            sleep: TOOK,
        },
    }
}

/// What every action is said to have taken, so that nothing is learned from it.
pub(crate) const TOOK: Millis = Millis(100);

/// A row as gates get it.
pub(crate) fn rendered(row: &PublishedRow, lease_end: OnLeaseEnd) -> gate::Row {
    let admission = match row.admission {
        Admission::Admit => row::Admission::Admit(gate::Admit {}),
        Admission::Hold { .. } => row::Admission::Hold(gate::Hold {
            estimated_wait_ms: 0,
        }),
        Admission::Refuse { reason, .. } => row::Admission::Refuse(gate::Refuse {
            reason: match reason {
                RefuseReason::Draining => gate::RefuseReason::Draining,
                RefuseReason::Booting => gate::RefuseReason::Booting,
                RefuseReason::WakeFailed => gate::RefuseReason::WakeFailed,
                RefuseReason::Disabled => gate::RefuseReason::Disabled,
                RefuseReason::NeverFits => gate::RefuseReason::NeverFits,
                RefuseReason::EngineFailed => gate::RefuseReason::EngineFailed,
                RefuseReason::TooLong => gate::RefuseReason::TooLong,
            }
            .into(),
            retry_after_s: 1,
        }),
    };
    gate::Row {
        id: row.model.0.clone(),
        model: "m".to_owned(),
        prefixes: vec!["m".to_owned()],
        cluster: "e".to_owned(),
        epoch: Some(gate::Epoch {
            term: row.epoch.term,
            counter: row.epoch.counter,
        }),
        admission: Some(admission),
        on_lease_end: match lease_end {
            OnLeaseEnd::Hold => gate::OnLeaseEnd::Hold,
            OnLeaseEnd::Flow => gate::OnLeaseEnd::Flow,
        }
        .into(),
        hold_budget_ms: NEVER.0,
        hold_limit: 100,
        removed: row.removed,
        ..gate::Row::default()
    }
}

/// What a gate said, for the core. `None`: a message that the service would refuse.
pub(crate) fn heard(gate: GateId, stream: StreamId, message: &GateMessage) -> Option<Event> {
    let sequence = message.sequence;
    Some(match message.body.as_ref()? {
        Body::Hello(hello) => Event::Hello {
            gate,
            stream,
            largest_term: hello.largest_term,
            sequence,
            figures: figures(&hello.rows),
        },
        Body::Report(report) => Event::Report {
            gate,
            stream,
            sequence,
            table_version: report.table_version,
            figures: figures(&report.rows),
        },
        Body::BarrierAck(ack) => {
            let epoch = ack.epoch?;
            Event::Ack {
                gate,
                stream,
                sequence,
                model: ModelId(ack.row.clone()),
                epoch: Epoch {
                    term: epoch.term,
                    counter: epoch.counter,
                },
                in_flight: ack.in_flight,
            }
        }
        Body::Bye(_) => Event::Bye {
            gate,
            stream,
            sequence,
        },
    })
}

fn figures(rows: &[RowFigures]) -> Vec<(ModelId, Figures)> {
    let figures = |row: &RowFigures| {
        let figures = Figures {
            in_flight: row.in_flight,
            held: row.held,
            oldest_age: row.oldest_age_ms,
            last_used_age: row.last_used_age_ms,
            last_refused_age: row.last_refused_age_ms,
            ..Figures::default()
        };
        (ModelId(row.row.clone()), figures)
    };
    rows.iter().map(figures).collect()
}
