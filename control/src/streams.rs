//! The outgoing half of every gate's stream: one bounded queue each, in which rows and heartbeats keep their order.
//!
//! Promises (rule 3 of the protocol) that nothing on a stream is dropped or overtaken: a queue that is full closes its stream.

use std::collections::BTreeMap;

use greenthread_core::{
    ids::{GateId, ModelId, StreamId},
    model::Times,
};
use greenthread_proto::gate::{
    ControlMessage, Delta, Heartbeat, InFlightElsewhere, Row, Snapshot, control_message::Body,
};
use prost::Message;
use tokio::sync::{mpsc, watch};
use tonic::Status;

/// Messages that wait for one gate.
pub const QUEUE: usize = 256;
/// Streams at once: gateways × (workers + 1), with room for those that are being replaced.
pub const STREAMS: usize = 8_192;
/// Most bytes of rows in one message.
const CHUNK: usize = 1 << 20;

/// What the driver keeps of a stream; dropping it closes the stream.
#[derive(Debug)]
pub struct Outbound {
    /// Messages, in order.
    pub queue: mpsc::Sender<ControlMessage>,
    /// Why the stream is closed, once it is. Overtakes what waits in the queue.
    pub closing: watch::Sender<Option<Status>>,
}

/// All open streams.
#[derive(Debug)]
pub struct Streams {
    open: BTreeMap<StreamId, Stream>,
    times: Times,
    term: u64,
    /// Streams closed because their gate did not take its messages.
    overflowed: u64,
}

#[derive(Debug)]
struct Stream {
    gate: GateId,
    gateway: String,
    outbound: Outbound,
    /// Version of the table that the gate has when it has read everything; 0 before its snapshot.
    version: u64,
}

impl Streams {
    /// No streams yet.
    pub fn new(times: Times, term: u64) -> Self {
        Self {
            open: BTreeMap::new(),
            times,
            term,
            overflowed: 0,
        }
    }

    /// Takes a new stream, or closes it when there are too many.
    pub fn open(&mut self, id: StreamId, gate: GateId, gateway: String, outbound: Outbound) {
        if self.open.len() >= STREAMS {
            outbound
                .closing
                .send_replace(Some(Status::resource_exhausted(format!(
                    "{STREAMS} gates are attached already"
                ))));
            return;
        }
        self.open.insert(
            id,
            Stream {
                gate,
                gateway,
                outbound,
                version: 0,
            },
        );
    }

    /// The term of every message from here on.
    pub fn set_term(&mut self, term: u64) {
        self.term = term;
    }

    /// The term of this control.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Sends the whole table.
    pub fn snapshot(&mut self, id: StreamId, rows: Vec<Row>) {
        let Some(stream) = self.open.get_mut(&id) else {
            return;
        };
        stream.version += 1;
        let version = stream.version;
        let times = greenthread_proto::gate::Times {
            lease_ms: self.times.lease.0,
            heartbeat_ms: self.times.heartbeat.0,
            max_flow_ms: self.times.max_flow.0,
        };
        let mut chunks = chunks(rows);
        let end = chunks.pop().unwrap_or_default();
        for rows in chunks {
            self.send(
                id,
                Body::Snapshot(Snapshot {
                    version,
                    rows,
                    last: false,
                    times: None,
                }),
            );
        }
        self.send(
            id,
            Body::Snapshot(Snapshot {
                version,
                rows: end,
                last: true,
                times: Some(times),
            }),
        );
    }

    /// Sends rows that changed to every gate that has a snapshot (or will have it before them).
    pub fn delta(&mut self, rows: Vec<Row>) {
        let attached: Vec<StreamId> = self
            .open
            .iter()
            .filter(|(_, stream)| stream.version > 0)
            .map(|(&id, _)| id)
            .collect();
        for rows in chunks(rows) {
            for &id in &attached {
                let Some(stream) = self.open.get_mut(&id) else {
                    continue;
                };
                stream.version += 1;
                let delta = Delta {
                    version: stream.version,
                    rows: rows.clone(),
                };
                self.send(id, Body::Delta(delta));
            }
        }
    }

    /// Sends a heartbeat behind everything that was sent before it.
    pub fn heartbeat(&mut self, id: StreamId, echoed: u64, elsewhere: Option<Vec<(ModelId, u64)>>) {
        let elsewhere_stays = elsewhere.is_none();
        let elsewhere = elsewhere
            .into_iter()
            .flatten()
            .map(|(model, in_flight)| InFlightElsewhere {
                row: model.0,
                in_flight,
            })
            .collect();
        self.send(
            id,
            Body::Heartbeat(Heartbeat {
                echoed_sequence: echoed,
                elsewhere,
                elsewhere_stays,
            }),
        );
    }

    /// Closes a stream; what waits in its queue is not sent any more.
    pub fn close(&mut self, id: StreamId, why: Status) {
        if let Some(stream) = self.open.remove(&id) {
            tracing::debug!(gate = %stream.gate, why = why.message(), "gate stream closed");
            stream.outbound.closing.send_replace(Some(why));
        }
    }

    /// Closes every stream.
    pub fn close_all(&mut self, why: &Status) {
        for id in self.open.keys().copied().collect::<Vec<_>>() {
            self.close(id, why.clone());
        }
    }

    /// Open streams by gate: the gateway's name.
    pub fn gateways(&self) -> BTreeMap<GateId, String> {
        self.open
            .values()
            .map(|stream| (stream.gate.clone(), stream.gateway.clone()))
            .collect()
    }

    /// Streams that were closed since the start because their queue was full.
    pub fn overflowed(&self) -> u64 {
        self.overflowed
    }

    fn send(&mut self, id: StreamId, body: Body) {
        let Some(stream) = self.open.get(&id) else {
            return;
        };
        match stream.outbound.queue.try_send(ControlMessage {
            term: self.term,
            body: Some(body),
        }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                tracing::warn!(gate = %stream.gate, gateway = stream.gateway, "gate does not read: its stream is closed");
                self.overflowed += 1;
                self.close(
                    id,
                    Status::resource_exhausted("the gate does not read its messages"),
                );
            }
            // The gate left; its reader tells the driver in a moment.
            Err(mpsc::error::TrySendError::Closed(_)) => {}
        }
    }
}

/// Groups rows so that no message is larger than [`CHUNK`] (unless a single row is). No rows: no chunk.
fn chunks(rows: Vec<Row>) -> Vec<Vec<Row>> {
    let mut chunks: Vec<Vec<Row>> = Vec::new();
    let mut bytes = CHUNK;
    for row in rows {
        // Tag and length stand before each row.
        let size = row.encoded_len() + 8;
        match chunks.last_mut() {
            Some(chunk) if bytes + size <= CHUNK => {
                chunk.push(row);
                bytes += size;
            }
            Some(_) | None => {
                chunks.push(vec![row]);
                bytes = size;
            }
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    use greenthread_core::ids::Millis;

    use super::*;

    fn times() -> Times {
        let ms = Millis(1_000);
        Times {
            lease: ms,
            margin: ms,
            heartbeat: ms,
            command: ms,
            max_flow: ms,
            forward_bound: ms,
            observe: ms,
        }
    }

    struct Gate {
        queue: mpsc::Receiver<ControlMessage>,
        closing: watch::Receiver<Option<Status>>,
    }

    impl Gate {
        fn attach(streams: &mut Streams, id: u64, depth: usize) -> Self {
            let (sender, queue) = mpsc::channel(depth);
            let (close, closing) = watch::channel(None);
            streams.open(
                StreamId(id),
                GateId(format!("gate-{id}")),
                "envoy".into(),
                Outbound {
                    queue: sender,
                    closing: close,
                },
            );
            Self { queue, closing }
        }

        fn next(&mut self) -> Body {
            let message = self.queue.try_recv().expect("a message");
            assert_eq!(message.term, 4);
            message.body.expect("a body")
        }
    }

    fn row(id: &str, bytes: usize) -> Row {
        Row {
            id: id.into(),
            models_document: vec![b'x'; bytes],
            ..Row::default()
        }
    }

    #[test]
    fn versions_follow_each_other_on_each_stream() {
        let mut streams = Streams::new(times(), 4);
        let (mut a, mut b) = (
            Gate::attach(&mut streams, 1, 8),
            Gate::attach(&mut streams, 2, 8),
        );
        streams.snapshot(StreamId(1), vec![row("x", 1)]);
        streams.delta(vec![row("x", 2)]);
        streams.heartbeat(StreamId(1), 9, None);
        assert!(matches!(
            a.next(),
            Body::Snapshot(Snapshot {
                version: 1,
                last: true,
                times: Some(_),
                ..
            })
        ));
        assert!(matches!(a.next(), Body::Delta(Delta { version: 2, .. })));
        assert!(matches!(
            a.next(),
            Body::Heartbeat(Heartbeat {
                echoed_sequence: 9,
                ..
            })
        ));
        assert!(
            b.queue.try_recv().is_err(),
            "a gate without a snapshot gets no delta"
        );
        streams.snapshot(StreamId(2), Vec::new());
        assert!(matches!(
            b.next(),
            Body::Snapshot(Snapshot {
                version: 1,
                last: true,
                ..
            })
        ));
    }

    #[test]
    fn large_tables_go_in_chunks_of_which_one_is_the_last() {
        let mut streams = Streams::new(times(), 4);
        let mut gate = Gate::attach(&mut streams, 1, 8);
        streams.snapshot(
            StreamId(1),
            (0..5).map(|n| row(&n.to_string(), 400_000)).collect(),
        );
        let mut seen = Vec::new();
        while let Ok(ControlMessage {
            body: Some(Body::Snapshot(snapshot)),
            ..
        }) = gate.queue.try_recv()
        {
            assert!(snapshot.encoded_len() <= CHUNK);
            seen.push((
                snapshot.version,
                snapshot.rows.len(),
                snapshot.last,
                snapshot.times.is_some(),
            ));
        }
        assert_eq!(
            seen,
            [
                (1, 2, false, false),
                (1, 2, false, false),
                (1, 1, true, true)
            ]
        );
    }

    #[test]
    fn a_full_queue_closes_its_stream_and_no_other() {
        let mut streams = Streams::new(times(), 4);
        let (full, mut other) = (
            Gate::attach(&mut streams, 1, 2),
            Gate::attach(&mut streams, 2, 8),
        );
        for id in [1, 2] {
            streams.snapshot(StreamId(id), Vec::new());
        }
        for n in 0..3 {
            streams.delta(vec![row("x", n)]);
        }
        assert_eq!(
            full.closing.borrow().as_ref().map(Status::code),
            Some(tonic::Code::ResourceExhausted)
        );
        assert!(other.closing.borrow().is_none());
        assert_eq!(
            std::iter::from_fn(|| other.queue.try_recv().ok()).count(),
            4
        );
        assert_eq!((streams.gateways().len(), streams.overflowed()), (1, 1));
    }
}
