//! The gate service: what gates say, checked and translated for the driver. Protobuf types of incoming messages stop here.
//!
//! Promises that the driver hears only gates that know the token and speak our protocol, each message once, in the order in
//! which it was sent, and the end of every stream. Knows nothing of leases, epochs or decisions.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures_util::stream::{self, BoxStream, StreamExt};
use greenthread_core::{
    event::{Event, Figures},
    ids::{Epoch, GateId, ModelId, StreamId},
};
use greenthread_proto::{
    PROTOCOL,
    gate::{
        ControlMessage, GateMessage, Hello, RowFigures,
        gate_control_server::{GateControl, GateControlServer},
        gate_message::Body,
    },
};
use tokio::sync::{mpsc, watch};
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

use crate::{
    auth::same_secret,
    input::{Input, Said},
    streams::{Outbound, QUEUE},
    totals::RowTotals,
};

/// A stream without its Hello is ended after this.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest message of a gate: figures of some ten thousand rows.
const MESSAGE_BYTES: usize = 4 << 20;
/// Longest id of a gate, name of a gateway, or digest.
const NAME_BYTES: usize = 256;
/// Most rows in one message.
const ROWS: usize = 20_000;

/// The service that tonic calls.
#[derive(Debug)]
pub struct Gates {
    token: Option<String>,
    inputs: mpsc::Sender<Input>,
    /// Number of the newest stream.
    streams: AtomicU64,
}

impl Gates {
    /// A service that lets in who knows `token` (everybody without one) and tells `inputs`.
    pub fn service(token: Option<String>, inputs: mpsc::Sender<Input>) -> GateControlServer<Self> {
        GateControlServer::new(Self {
            token,
            inputs,
            streams: AtomicU64::new(0),
        })
        .max_decoding_message_size(MESSAGE_BYTES)
    }

    fn authorise(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let Some(token) = &self.token else {
            return Ok(());
        };
        let given = metadata
            .get("authorization")
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "));
        match given {
            Some(given) if same_secret(given, token) => Ok(()),
            Some(_) => Err(Status::unauthenticated(
                "wrong token: the plugin configuration and control must name the same one",
            )),
            None => Err(Status::unauthenticated(
                "this control wants a token: set it in the plugin configuration",
            )),
        }
    }
}

#[tonic::async_trait]
impl GateControl for Gates {
    type AttachStream = BoxStream<'static, Result<ControlMessage, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<GateMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        self.authorise(request.metadata())?;
        let mut incoming = request.into_inner();
        let first = tokio::time::timeout(HELLO_TIMEOUT, incoming.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no Hello came"))??
            .ok_or_else(|| Status::invalid_argument("the stream ended before its Hello"))?;
        let sequence = first.sequence;
        let (gateway, hello) = hello(
            first,
            StreamId(self.streams.fetch_add(1, Ordering::Relaxed) + 1),
        )?;
        let reader = Reader {
            gate: hello.gate.clone(),
            stream: hello.stream,
            sequence,
        };
        let (queue, messages) = mpsc::channel(QUEUE);
        let (closing, closed) = watch::channel(None);
        let opened = Input::Opened {
            gateway,
            outbound: Outbound { queue, closing },
            hello,
        };
        self.inputs.send(opened).await.map_err(|_| stopping())?;
        tokio::spawn(reader.run(incoming, self.inputs.clone(), closed.clone()));
        Ok(Response::new(outgoing(messages, closed)))
    }
}

fn stopping() -> Status {
    Status::unavailable("control is stopping")
}

/// Resolves with the reason when the driver has closed the stream.
async fn closed(closing: &mut watch::Receiver<Option<Status>>) -> Status {
    match closing.wait_for(Option::is_some).await {
        Ok(status) => status.clone().unwrap_or_else(stopping),
        Err(_) => stopping(),
    }
}

/// The queue as a response. When the driver closes the stream, what waits in the queue is not sent any more.
fn outgoing(
    messages: mpsc::Receiver<ControlMessage>,
    closing: watch::Receiver<Option<Status>>,
) -> BoxStream<'static, Result<ControlMessage, Status>> {
    stream::unfold(Some((messages, closing)), |open| async {
        let (mut messages, mut closing) = open?;
        tokio::select! {
            biased;
            why = closed(&mut closing) => Some((Err(why), None)),
            message = messages.recv() => Some((Ok(message?), Some((messages, closing)))),
        }
    })
    .boxed()
}

/// The incoming half of one stream.
struct Reader {
    gate: GateId,
    stream: StreamId,
    /// Of the newest message.
    sequence: u64,
}

impl Reader {
    /// Tells the driver everything that comes, and in the end that nothing comes any more.
    async fn run(
        mut self,
        mut incoming: Streaming<GateMessage>,
        inputs: mpsc::Sender<Input>,
        mut closing: watch::Receiver<Option<Status>>,
    ) {
        loop {
            let message = tokio::select! {
                message = incoming.message() => message,
                _ = closed(&mut closing) => break,
            };
            let Ok(Some(message)) = message else { break };
            let input = match self.said(message) {
                Ok(said) => Input::Said(said),
                Err(why) => Input::Violated {
                    stream: self.stream,
                    why,
                },
            };
            let over = matches!(input, Input::Violated { .. });
            if inputs.send(input).await.is_err() || over {
                break;
            }
        }
        let event = Event::StreamClosed {
            gate: self.gate.clone(),
            stream: self.stream,
        };
        let ended = Said {
            gate: self.gate,
            stream: self.stream,
            event,
            totals: Vec::new(),
        };
        // A driver that is gone needs no word of it.
        let _ = inputs.send(Input::Said(ended)).await;
    }

    fn said(&mut self, message: GateMessage) -> Result<Said, Status> {
        let GateMessage { sequence, body } = message;
        if sequence <= self.sequence {
            return Err(Status::invalid_argument(format!(
                "sequence {sequence} came after {}",
                self.sequence
            )));
        }
        self.sequence = sequence;
        let (gate, stream) = (self.gate.clone(), self.stream);
        let mut totals = Vec::new();
        let event = match body {
            Some(Body::Hello(_)) => {
                return Err(Status::invalid_argument("a second Hello on one stream"));
            }
            Some(Body::Report(report)) => {
                let (figures, counted) = figures(report.rows)?;
                totals = counted;
                Event::Report {
                    gate,
                    stream,
                    sequence,
                    table_version: report.table_version,
                    figures,
                }
            }
            Some(Body::BarrierAck(ack)) => {
                let epoch = ack.epoch.ok_or_else(|| {
                    Status::invalid_argument("an acknowledgement without an epoch")
                })?;
                let epoch = Epoch {
                    term: epoch.term,
                    counter: epoch.counter,
                };
                Event::Ack {
                    gate,
                    stream,
                    sequence,
                    model: ModelId(ack.row),
                    epoch,
                    in_flight: ack.in_flight,
                }
            }
            Some(Body::Bye(_)) => Event::Bye {
                gate,
                stream,
                sequence,
            },
            None => {
                return Err(Status::invalid_argument(
                    "a message without a body that this version knows",
                ));
            }
        };
        Ok(Said {
            gate: self.gate.clone(),
            stream,
            event,
            totals,
        })
    }
}

/// Checks the first message of a stream; returns the gateway's name and what the driver is told.
fn hello(message: GateMessage, stream: StreamId) -> Result<(String, Said), Status> {
    let GateMessage {
        sequence,
        body: Some(Body::Hello(hello)),
    } = message
    else {
        return Err(Status::invalid_argument(
            "the first message of a stream must be Hello",
        ));
    };
    let Hello {
        gate,
        gateway,
        module_sha256,
        protocol_min,
        protocol_max,
        largest_term,
        rows,
    } = hello;
    if gate.is_empty()
        || [&gate, &gateway, &module_sha256]
            .into_iter()
            .any(|name| name.len() > NAME_BYTES)
    {
        return Err(Status::invalid_argument(format!(
            "Hello needs the gate's id, and no name longer than {NAME_BYTES} bytes"
        )));
    }
    let (ours_min, ours_max) = PROTOCOL;
    if protocol_max < ours_min || protocol_min > ours_max {
        return Err(Status::failed_precondition(format!(
            "the gate speaks protocol {protocol_min} to {protocol_max}, this control {ours_min} to {ours_max}: update the older of the two"
        )));
    }
    let (figures, totals) = figures(rows)?;
    tracing::info!(%gate, gateway, module = module_sha256, largest_term, "gate attached");
    let gate = GateId(gate);
    let event = Event::Hello {
        gate: gate.clone(),
        stream,
        largest_term,
        sequence,
        figures,
    };
    Ok((
        gateway,
        Said {
            gate,
            stream,
            event,
            totals,
        },
    ))
}

type Translated = (Vec<(ModelId, Figures)>, Vec<(ModelId, RowTotals)>);

fn figures(rows: Vec<RowFigures>) -> Result<Translated, Status> {
    if rows.len() > ROWS {
        return Err(Status::invalid_argument(format!(
            "more than {ROWS} rows in one message"
        )));
    }
    Ok(rows.into_iter().map(translate).unzip())
}

/// Outcomes of requests that wanted the model to be awake, as gates name them: these count as demand.
const WANTED: [&str; 8] = [
    "forwarded",
    "left",
    "draining",
    "booting",
    "too_long",
    "hold_expired",
    "wake_failed",
    "hold_full",
];

fn translate(row: RowFigures) -> ((ModelId, Figures), (ModelId, RowTotals)) {
    let RowFigures {
        row,
        in_flight,
        held,
        oldest_age_ms,
        last_used_age_ms,
        last_refused_age_ms,
        outcomes,
        wait_buckets,
    } = row;
    let outcomes: BTreeMap<String, u64> = outcomes
        .into_iter()
        .map(|counted| (counted.outcome, counted.count))
        .collect();
    let wanted = outcomes
        .iter()
        .filter(|(outcome, _)| WANTED.contains(&outcome.as_str()));
    let figures = Figures {
        in_flight,
        held,
        oldest_age: oldest_age_ms,
        last_used_age: last_used_age_ms,
        last_refused_age: last_refused_age_ms,
        // A held request has no outcome yet; it counts from its arrival on.
        asked: wanted.fold(held, |sum, (_, count)| sum.saturating_add(*count)),
    };
    (
        (ModelId(row.clone()), figures),
        (
            ModelId(row),
            RowTotals {
                outcomes,
                waits: wait_buckets,
            },
        ),
    )
}
