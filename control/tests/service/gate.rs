//! A gate as the filter plays it, by hand: every message is said and taken one by one.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use greenthread_proto::gate::{
    BarrierAck, ControlMessage, GateMessage, Hello, RefuseReason, Report, Row, RowFigures,
    Snapshot, control_message::Body, gate_control_client::GateControlClient, gate_message,
    row::Admission,
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming, transport::Endpoint};

use crate::{
    place::{PATIENCE, Place},
    rows,
};

/// Bytes that control can send to a gate that does not read.
const WINDOW: u32 = 65_535;

/// Numbers grow over all streams of a gate: each stream here begins far above the one before it.
static STREAMS: AtomicU64 = AtomicU64::new(0);
const BETWEEN_STREAMS: u64 = 1_000_000;

/// How often a gate reports.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// One stream of one gate.
pub(crate) struct Gate {
    outgoing: mpsc::Sender<GateMessage>,
    incoming: Streaming<ControlMessage>,
    sequence: u64,
    /// The newest number that a heartbeat echoed.
    echoed: u64,
}

fn is_draining(row: &Row) -> bool {
    matches!(&row.admission, Some(Admission::Refuse(refuse)) if refuse.reason() == RefuseReason::Draining)
}

/// An ordinary first message.
pub(crate) fn hello(gate: &str) -> gate_message::Body {
    gate_message::Body::Hello(Hello {
        gate: gate.into(),
        gateway: "test".into(),
        protocol_min: 1,
        protocol_max: 1,
        ..Hello::default()
    })
}

impl Gate {
    /// Opens a stream with `first` as its first message; an error is control's refusal.
    pub(crate) async fn attach(
        place: &Place,
        token: Option<&str>,
        first: gate_message::Body,
    ) -> Result<Self, Status> {
        // A small window: who does not read is noticed after a few thousand messages.
        let endpoint = Endpoint::from_shared(format!("http://{}", place.grpc)).expect("an address");
        let endpoint = endpoint
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW);
        let mut client = GateControlClient::new(endpoint.connect().await.expect("control listens"));
        let (outgoing, messages) = mpsc::channel(64);
        let sequence = STREAMS.fetch_add(1, Ordering::Relaxed) * BETWEEN_STREAMS + 1;
        outgoing
            .send(GateMessage {
                sequence,
                body: Some(first),
            })
            .await
            .expect("an open channel");
        let mut request = Request::new(ReceiverStream::new(messages));
        if let Some(token) = token {
            request.metadata_mut().insert(
                "authorization",
                format!("Bearer {token}").parse().expect("ASCII"),
            );
        }
        let incoming = timeout(PATIENCE, client.attach(request))
            .await
            .expect("an answer in time")?
            .into_inner();
        Ok(Self {
            outgoing,
            incoming,
            sequence,
            echoed: 0,
        })
    }

    /// The next message, or the status that ended the stream. Meanwhile the gate does what every gate does: it reports every second and
    /// acknowledges barriers.
    pub(crate) async fn next(&mut self) -> Result<ControlMessage, Status> {
        let end = Instant::now() + PATIENCE;
        let message = loop {
            match timeout(HEARTBEAT, self.incoming.message()).await {
                Ok(message) => break message?.ok_or_else(|| Status::ok("the stream ended"))?,
                Err(_) => assert!(Instant::now() < end, "no message within {PATIENCE:?}"),
            }
            self.try_report().await;
        };
        match message.body.clone().expect("a body") {
            Body::Heartbeat(heartbeat) => self.echoed = heartbeat.echoed_sequence,
            body @ (Body::Snapshot(_) | Body::Delta(_)) => {
                for row in rows(body).into_iter().filter(is_draining) {
                    let ack = BarrierAck {
                        row: row.id,
                        epoch: row.epoch,
                        in_flight: 0,
                    };
                    self.say(gate_message::Body::BarrierAck(ack)).await;
                }
            }
        }
        Ok(message)
    }

    /// The term and the whole table, from its chunks.
    pub(crate) async fn snapshot(&mut self) -> (u64, Snapshot) {
        let mut all = Vec::new();
        loop {
            let message = self.next().await.expect("a snapshot");
            let Some(Body::Snapshot(mut chunk)) = message.body else {
                panic!("{message:?} before the snapshot")
            };
            all.append(&mut chunk.rows);
            if chunk.last {
                return (message.term, Snapshot { rows: all, ..chunk });
            }
        }
    }

    /// The first row that comes and is as wanted.
    pub(crate) async fn row_that(&mut self, wanted: impl Fn(&Row) -> bool) -> Row {
        loop {
            let body = self.next().await.expect("a row").body.expect("a body");
            if let Some(row) = rows(body).into_iter().find(|row| wanted(row)) {
                return row;
            }
        }
    }

    /// Reads until a heartbeat has echoed `sequence`.
    pub(crate) async fn heartbeat_of(&mut self, sequence: u64) {
        while self.echoed < sequence {
            self.next().await.expect("a heartbeat");
        }
    }

    /// Reports one row; returns the message's number.
    pub(crate) async fn report(&mut self, row: RowFigures) -> u64 {
        self.say(gate_message::Body::Report(Report {
            rows: vec![row],
            table_version: 1,
        }))
        .await
    }

    /// Reports which table is in force.
    pub(crate) async fn applied(&mut self, version: u64) {
        self.say(gate_message::Body::Report(Report {
            rows: Vec::new(),
            table_version: version,
        }))
        .await;
    }

    /// Reports nothing; false when the stream takes no more.
    pub(crate) async fn try_report(&mut self) -> bool {
        self.sequence += 1;
        let message = GateMessage {
            sequence: self.sequence,
            body: Some(gate_message::Body::Report(Report::default())),
        };
        self.outgoing
            .send_timeout(message, Duration::from_secs(1))
            .await
            .is_ok()
    }

    async fn say(&mut self, body: gate_message::Body) -> u64 {
        self.sequence += 1;
        self.say_as(self.sequence, body).await;
        self.sequence
    }

    /// Says something under any number.
    pub(crate) async fn say_as(&mut self, sequence: u64, body: gate_message::Body) {
        self.outgoing
            .send(GateMessage {
                sequence,
                body: Some(body),
            })
            .await
            .expect("an open stream");
    }

    /// Reads to the end of the stream; its status.
    pub(crate) async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }
}
