//! A gate with a virtual clock, a control that says what a test wants, and the data that gates share.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use greenthread_filter::{
    answers::REASON_HEADER,
    config::Config,
    gate::{Effect, Gate, Verdict},
    hold::RequestId,
    shared::Surroundings,
    time::Millis,
};
use greenthread_proto::gate::{
    Admit, BarrierAck, ControlMessage, Delta, Epoch, GateMessage, Heartbeat, Hello, Hold,
    OnLeaseEnd, Refuse, RefuseReason, Report, Row, RowFigures, Snapshot, Times, control_message,
    gate_message, row,
};

/// Lease, heartbeat and flow of all tests.
pub(crate) const TIMES: Times = Times {
    lease_ms: 5_000,
    heartbeat_ms: 1_000,
    max_flow_ms: 60_000,
};
/// The monotonic clock does not begin at zero.
const BEGINNING: u64 = 7_000_000;

/// Data that the gates of one process share.
pub(crate) type SharedData = Rc<RefCell<BTreeMap<String, Vec<u8>>>>;

/// Headers of one request, and the shared data.
pub(crate) struct Around {
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) shared: SharedData,
}

impl Surroundings for Around {
    fn header(&self, name: &str) -> Option<Vec<u8>> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.clone())
    }

    fn shared(&self, key: &str) -> Option<Vec<u8>> {
        self.shared.borrow().get(key).cloned()
    }
}

/// What happened to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Pass,
    /// Path and cluster.
    Forwarded(String, String),
    Held,
    /// Status and reason, or the body of a document.
    Answered(u32, String),
}

/// A request that was forwarded to the cluster of all tests.
pub(crate) fn forwarded(path: &str) -> Seen {
    Seen::Forwarded(path.to_owned(), "gt-1".to_owned())
}

/// A refusal.
pub(crate) fn answered(status: u32, reason: &str) -> Seen {
    Seen::Answered(status, reason.to_owned())
}

pub(crate) struct World {
    pub(crate) gate: Gate,
    pub(crate) now: u64,
    /// The wall clock is this far from the monotonic one.
    pub(crate) wall_offset: u64,
    pub(crate) shared: SharedData,
    pub(crate) stream: Option<u64>,
    pub(crate) opened: Vec<u64>,
    pub(crate) sent: Vec<GateMessage>,
    pub(crate) ended: BTreeMap<u32, Seen>,
    pub(crate) warnings: Vec<String>,
    pub(crate) finished: bool,
    pub(crate) done: bool,
    pub(crate) term: u64,
    pub(crate) version: u64,
    counter: u64,
    requests: u32,
}

impl World {
    /// A gate that nobody has told anything.
    pub(crate) fn new() -> Self {
        Self::with(
            r#"{"control": {"cluster": "ctl"}}"#,
            "gate-1",
            Rc::default(),
        )
    }

    pub(crate) fn with(config: &str, id: &str, shared: SharedData) -> Self {
        let config = Config::parse(config.as_bytes()).unwrap();
        let saved = shared.borrow().get("greenthread.table").cloned();
        let gate = Gate::new(config, id.to_owned(), Millis(BEGINNING), saved.as_deref());
        Self {
            gate,
            now: 0,
            wall_offset: 1_700_000_000_000,
            shared,
            stream: None,
            opened: Vec::new(),
            sent: Vec::new(),
            ended: BTreeMap::new(),
            warnings: Vec::new(),
            finished: false,
            done: false,
            term: 1,
            version: 0,
            counter: 0,
            requests: 0,
        }
    }

    /// A gate with these rows and a lease that has just been renewed.
    pub(crate) fn serving(rows: Vec<Row>) -> Self {
        let mut world = Self::new();
        world.tick();
        world.snapshot(rows);
        world.heartbeat();
        world
    }

    pub(crate) fn moment(&self) -> Millis {
        Millis(BEGINNING + self.now)
    }

    pub(crate) fn request(&mut self, method: &str, path: &str) -> (u32, Seen) {
        self.request_with(method, path, &[])
    }

    pub(crate) fn post(&mut self, path: &str) -> (u32, Seen) {
        self.request("POST", path)
    }

    pub(crate) fn request_with(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> (u32, Seen) {
        let own = [
            (":method", method),
            (":path", path),
            (":authority", "gateway.example:8080"),
        ];
        let headers = own
            .iter()
            .chain(headers)
            .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()));
        self.request_raw(headers.collect(), true)
    }

    pub(crate) fn request_raw(
        &mut self,
        headers: Vec<(String, Vec<u8>)>,
        end_of_stream: bool,
    ) -> (u32, Seen) {
        self.requests += 1;
        let id = self.requests;
        let around = Around {
            headers,
            shared: Rc::clone(&self.shared),
        };
        let mut effects = Vec::new();
        let verdict = self.gate.on_request(
            self.moment(),
            RequestId(id),
            end_of_stream,
            &around,
            &mut effects,
        );
        for effect in &effects {
            assert!(
                matches!(effect, Effect::Share { .. }),
                "from a request only shared data may be written: {effect:?}"
            );
        }
        self.perform(effects);
        let seen = match verdict {
            Verdict::Pass => Seen::Pass,
            Verdict::Hold => Seen::Held,
            Verdict::Forward(headers) => seen_forward(&headers),
            Verdict::Answer(reply) => seen_reply(&reply),
        };
        (id, seen)
    }

    pub(crate) fn end(&mut self, id: u32) {
        self.gate.on_request_end(self.moment(), RequestId(id));
    }

    pub(crate) fn tick(&mut self) {
        let around = Around {
            headers: Vec::new(),
            shared: Rc::clone(&self.shared),
        };
        let mut effects = Vec::new();
        let now = self.moment();
        self.gate
            .on_tick(now, Millis(now.0 + self.wall_offset), &around, &mut effects);
        let ended = effects
            .iter()
            .filter(|effect| matches!(effect, Effect::Resume { .. } | Effect::Reply { .. }))
            .count();
        assert!(
            ended <= 32,
            "{ended} requests in one tick would kill the VM"
        );
        self.perform(effects);
    }

    /// Lets time pass, with every tick that the gate wants.
    pub(crate) fn run(&mut self, milliseconds: u64) {
        let end = self.now + milliseconds;
        while self.now < end {
            let next = self.gate.next_tick(self.moment()).0 - BEGINNING;
            self.now = next.min(end);
            self.tick();
        }
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Open { stream } => {
                    self.stream = Some(stream);
                    self.opened.push(self.now);
                }
                Effect::Send(message) => {
                    assert!(self.stream.is_some(), "sent without a stream: {message:?}");
                    self.sent.push(message);
                }
                Effect::Close => self.stream = None,
                Effect::Finish => self.finished = true,
                Effect::Resume { request, headers } => {
                    let seen = if headers.is_empty() {
                        Seen::Pass
                    } else {
                        seen_forward(&headers)
                    };
                    assert_eq!(self.ended.insert(request.0, seen), None, "ended twice");
                }
                Effect::Reply { request, reply } => {
                    assert_eq!(
                        self.ended.insert(request.0, seen_reply(&reply)),
                        None,
                        "ended twice"
                    );
                }
                Effect::Share { key, value } => {
                    self.shared.borrow_mut().insert(key, value);
                }
                Effect::Warn(text) => self.warnings.push(text),
                Effect::Done => self.done = true,
            }
        }
    }

    pub(crate) fn control(&mut self, body: control_message::Body) {
        let Some(stream) = self.stream else {
            panic!("no stream")
        };
        let mut effects = Vec::new();
        let message = ControlMessage {
            term: self.term,
            body: Some(body),
        };
        self.gate
            .on_message(self.moment(), stream, message, &mut effects);
        for effect in &effects {
            assert!(
                !matches!(effect, Effect::Resume { .. } | Effect::Reply { .. }),
                "only ticks end requests: {effect:?}"
            );
        }
        self.perform(effects);
    }

    pub(crate) fn snapshot(&mut self, rows: Vec<Row>) {
        self.version += 1;
        let snapshot = Snapshot {
            version: self.version,
            rows,
            last: true,
            times: Some(TIMES),
        };
        self.control(control_message::Body::Snapshot(snapshot));
    }

    pub(crate) fn delta(&mut self, rows: Vec<Row>) {
        self.version += 1;
        self.control(control_message::Body::Delta(Delta {
            version: self.version,
            rows,
        }));
    }

    /// Echoes the newest message.
    pub(crate) fn heartbeat(&mut self) {
        let echoed_sequence = self.sent.last().map_or(0, |message| message.sequence);
        self.echo(echoed_sequence);
    }

    pub(crate) fn echo(&mut self, echoed_sequence: u64) {
        self.control(control_message::Body::Heartbeat(Heartbeat {
            echoed_sequence,
            elsewhere: Vec::new(),
            elsewhere_stays: false,
        }));
    }

    /// A new epoch.
    pub(crate) fn epoch(&mut self) -> Epoch {
        self.counter += 1;
        Epoch {
            term: self.term,
            counter: self.counter,
        }
    }

    /// Changes the admission of `llama` under a new epoch.
    pub(crate) fn set(&mut self, admission: row::Admission) {
        let epoch = self.epoch();
        let row = Row {
            epoch: Some(Epoch {
                counter: epoch.counter + 100,
                ..epoch
            }),
            ..llama(admission)
        };
        self.delta(vec![row]);
    }

    pub(crate) fn acks(&self) -> Vec<BarrierAck> {
        self.bodies()
            .filter_map(|body| {
                if let gate_message::Body::BarrierAck(ack) = body {
                    Some(ack.clone())
                } else {
                    None
                }
            })
            .collect()
    }

    pub(crate) fn hellos(&self) -> Vec<Hello> {
        self.bodies()
            .filter_map(|body| {
                if let gate_message::Body::Hello(hello) = body {
                    Some(hello.clone())
                } else {
                    None
                }
            })
            .collect()
    }

    pub(crate) fn reports(&self) -> Vec<Report> {
        self.bodies()
            .filter_map(|body| {
                if let gate_message::Body::Report(report) = body {
                    Some(report.clone())
                } else {
                    None
                }
            })
            .collect()
    }

    /// The figures of `llama` in the newest report that lists it.
    pub(crate) fn reported(&self) -> Option<RowFigures> {
        let mut reports = self.reports();
        reports.reverse();
        reports
            .iter()
            .find_map(|report| report.rows.iter().find(|row| row.row == "llama.1").cloned())
    }

    pub(crate) fn bodies(&self) -> impl Iterator<Item = &gate_message::Body> {
        self.sent.iter().filter_map(|message| message.body.as_ref())
    }
}

fn seen_forward(headers: &[(&'static str, Vec<u8>)]) -> Seen {
    let value = |name| {
        headers
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    };
    Seen::Forwarded(
        value(":path").unwrap_or_default(),
        value("x-greenthread-cluster").unwrap_or_default(),
    )
}

fn seen_reply(reply: &greenthread_filter::answers::Reply) -> Seen {
    let text = reply.header(REASON_HEADER).map(str::to_owned);
    Seen::Answered(
        reply.status,
        text.unwrap_or_else(|| String::from_utf8_lossy(&reply.body).into_owned()),
    )
}

/// The row of the model `llama` under the prefix of that name.
pub(crate) fn llama(admission: row::Admission) -> Row {
    model("llama", admission)
}

pub(crate) fn model(name: &str, admission: row::Admission) -> Row {
    Row {
        id: format!("{name}.1"),
        model: name.to_owned(),
        prefixes: vec![name.to_owned()],
        cluster: "gt-1".to_owned(),
        epoch: Some(Epoch {
            term: 1,
            counter: 1,
        }),
        admission: Some(admission),
        on_lease_end: OnLeaseEnd::Hold.into(),
        hold_budget_ms: 120_000,
        hold_limit: 5_000,
        control_paths: vec!["/sleep".to_owned(), "/admin/".to_owned()],
        expose: vec!["/metrics".to_owned()],
        status_head: b"{\"inFlight\":".to_vec(),
        status_tail: b"}".to_vec(),
        models_document: format!("{{\"object\":\"list\",\"data\":[{{\"id\":\"{name}\"}}]}}")
            .into_bytes(),
        health_document: b"{}".to_vec(),
        health_status: 200,
        removed: false,
    }
}

pub(crate) fn admit() -> row::Admission {
    row::Admission::Admit(Admit {})
}

pub(crate) fn hold(estimated_wait_ms: u64) -> row::Admission {
    row::Admission::Hold(Hold { estimated_wait_ms })
}

pub(crate) fn refuse(reason: RefuseReason) -> row::Admission {
    row::Admission::Refuse(Refuse {
        reason: reason.into(),
        retry_after_s: 3,
    })
}

pub(crate) fn draining() -> row::Admission {
    refuse(RefuseReason::Draining)
}
