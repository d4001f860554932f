//! Between the core and the gates: effects as messages, messages as events. What `control/src/rows.rs`, `control/src/streams.rs` and
//! `control/src/gates.rs` do in production, without documents, sockets and tokens.

use greenthread_core::{
    effect::{Admission, PublishedRow, RefuseReason},
    event::{Event, Figures},
    ids::{Epoch, GateId, ModelId, StreamId},
    model::{OnLeaseEnd, Times},
};
use greenthread_proto::gate::{
    self, ControlMessage, Delta, GateMessage, Heartbeat, InFlightElsewhere, RowFigures, Snapshot,
    control_message::Body, gate_message, row,
};

/// What a row says beside what the core published.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the model.
    pub name: String,
    /// It still owns its prefix: no other engine has taken it over.
    pub has_prefix: bool,
    /// What gates do without a lease.
    pub on_lease_end: OnLeaseEnd,
    /// Longest hold in ms.
    pub hold_budget: u64,
    /// Most held requests per gateway.
    pub hold_limit: u64,
}

/// The Envoy cluster of a row.
pub fn cluster(model: &ModelId) -> String {
    format!("gt-{}", model.0)
}

/// A row as gates get it.
pub fn row(published: &PublishedRow, settings: &Settings) -> gate::Row {
    let prefixes = if settings.has_prefix {
        vec![settings.name.clone()]
    } else {
        Vec::new()
    };
    gate::Row {
        id: published.model.0.clone(),
        model: settings.name.clone(),
        prefixes,
        cluster: cluster(&published.model),
        epoch: Some(gate::Epoch {
            term: published.epoch.term,
            counter: published.epoch.counter,
        }),
        admission: Some(admission(published.admission)),
        on_lease_end: match settings.on_lease_end {
            OnLeaseEnd::Hold => gate::OnLeaseEnd::Hold,
            OnLeaseEnd::Flow => gate::OnLeaseEnd::Flow,
        }
        .into(),
        hold_budget_ms: settings.hold_budget,
        hold_limit: settings.hold_limit,
        health_status: 200,
        removed: published.removed,
        ..gate::Row::default()
    }
}

fn admission(admission: Admission) -> row::Admission {
    match admission {
        Admission::Admit => row::Admission::Admit(gate::Admit {}),
        Admission::Hold { estimated_wait } => row::Admission::Hold(gate::Hold {
            estimated_wait_ms: estimated_wait,
        }),
        Admission::Refuse {
            reason,
            retry_after,
        } => row::Admission::Refuse(gate::Refuse {
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
            retry_after_s: retry_after,
        }),
    }
}

/// The whole table as messages of so many rows each.
pub fn snapshot(
    term: u64,
    version: u64,
    rows: Vec<gate::Row>,
    times: &Times,
    rows_each: usize,
) -> Vec<ControlMessage> {
    let mut chunks: Vec<Vec<gate::Row>> = rows
        .chunks(rows_each.max(1))
        .map(<[gate::Row]>::to_vec)
        .collect();
    if chunks.is_empty() {
        chunks.push(Vec::new());
    }
    let last = chunks.len() - 1;
    let times = gate::Times {
        lease_ms: times.lease.0,
        heartbeat_ms: times.heartbeat.0,
        max_flow_ms: times.max_flow.0,
    };
    let message = |(at, rows)| {
        let snapshot = Snapshot {
            version,
            rows,
            last: at == last,
            times: (at == last).then_some(times),
        };
        said(term, Body::Snapshot(snapshot))
    };
    chunks.into_iter().enumerate().map(message).collect()
}

/// Rows that changed.
pub fn delta(term: u64, version: u64, rows: Vec<gate::Row>) -> ControlMessage {
    said(term, Body::Delta(Delta { version, rows }))
}

/// A heartbeat.
pub fn heartbeat(term: u64, echoed: u64, elsewhere: Option<Vec<(ModelId, u64)>>) -> ControlMessage {
    let elsewhere_stays = elsewhere.is_none();
    let elsewhere = elsewhere
        .into_iter()
        .flatten()
        .map(|(model, in_flight)| InFlightElsewhere {
            row: model.0,
            in_flight,
        })
        .collect();
    said(
        term,
        Body::Heartbeat(Heartbeat {
            echoed_sequence: echoed,
            elsewhere,
            elsewhere_stays,
        }),
    )
}

fn said(term: u64, body: Body) -> ControlMessage {
    ControlMessage {
        term,
        body: Some(body),
    }
}

/// What a gate said, for the core. `gate`: who opened the stream.
pub fn event(gate: &GateId, stream: StreamId, message: GateMessage) -> Option<Event> {
    let GateMessage { sequence, body } = message;
    let gate = gate.clone();
    Some(match body? {
        gate_message::Body::Hello(hello) => Event::Hello {
            gate: GateId(hello.gate),
            stream,
            largest_term: hello.largest_term,
            sequence,
            figures: hello.rows.into_iter().map(figures).collect(),
        },
        gate_message::Body::Report(report) => Event::Report {
            gate,
            stream,
            sequence,
            table_version: report.table_version,
            figures: report.rows.into_iter().map(figures).collect(),
        },
        gate_message::Body::BarrierAck(ack) => {
            let epoch = ack.epoch?;
            Event::Ack {
                gate,
                stream,
                sequence,
                model: ModelId(ack.row),
                epoch: Epoch {
                    term: epoch.term,
                    counter: epoch.counter,
                },
                in_flight: ack.in_flight,
            }
        }
        gate_message::Body::Bye(_) => Event::Bye {
            gate,
            stream,
            sequence,
        },
    })
}

/// Outcomes of requests that wanted the model.
const WANTED: [&str; 4] = ["forwarded", "draining", "too_long", "hold_full"];

fn figures(row: RowFigures) -> (ModelId, Figures) {
    let wanted = (row.outcomes.iter()).filter(|counted| WANTED.contains(&counted.outcome.as_str()));
    let figures = Figures {
        in_flight: row.in_flight,
        held: row.held,
        oldest_age: row.oldest_age_ms,
        last_used_age: row.last_used_age_ms,
        last_refused_age: row.last_refused_age_ms,
        asked: row.held + wanted.map(|counted| counted.count).sum::<u64>(),
    };
    (ModelId(row.row), figures)
}
