//! Gates: the production gate with a clock of its own, its Envoy around it, and its shadow, by which everything it does is judged.

mod ends;

use std::{collections::BTreeSet, rc::Rc};

use greenthread_filter::{
    answers::REASON_HEADER,
    config::Config,
    gate::{CLUSTER_HEADER, Effect, Forward, Gate, Verdict},
    hold::RequestId,
    shared::{Surroundings, TABLE_KEY},
    time::Millis,
};
use greenthread_proto::gate::GateMessage;

use crate::{
    agenda::Item,
    holds::Told,
    reference::Reference,
    request::{Outcome, Request, Stage},
    stream::Arrival,
    wire,
    world::{Shared, World},
};

/// Gates' monotonic clocks do not begin at zero.
const BEGINNING: u64 = 7_000_000;
/// Between the wall clock and the gates' monotonic clocks.
const WALL: u64 = 1_700_000_000_000;
const MILLION: u64 = 1_000_000;
/// Most requests that may go on or be answered in one callback.
const BATCH: usize = 32;

/// One gate.
#[derive(Debug)]
pub struct GateNode {
    /// Its id.
    pub id: String,
    /// Its Envoy.
    pub gateway: usize,
    /// The production gate.
    pub gate: Gate,
    /// Its thread runs, or will run on.
    pub alive: bool,
    /// A newer configuration takes the new requests.
    pub replaced: bool,
    /// It does nothing before.
    pub frozen_until: u64,
    /// Its clock's speed, in parts of a million.
    speed: u64,
    tick_at: u64,
    /// When control last read something of it.
    pub heard_at: u64,
    /// Its open stream.
    pub stream: Option<usize>,
    /// What it may do.
    pub reference: Reference,
    /// Requests that are held or in flight here.
    pub requests: BTreeSet<u32>,
    /// What it has told of them.
    pub told: Told,
    /// Its wall clock was set, by so many ms.
    pub wall: u64,
}

impl GateNode {
    /// Its clock.
    pub fn local(&self, now: u64) -> u64 {
        BEGINNING + now * self.speed / MILLION
    }

    /// Whether it has no lease: what its rows say of waits may be old.
    pub(crate) fn is_stale(&self, now: u64) -> bool {
        let lease = self.reference.lease_until();
        lease.is_none_or(|until| self.local(now) >= until)
    }

    /// When its clock shows that.
    pub fn real(&self, local: u64) -> u64 {
        (local.saturating_sub(BEGINNING) * MILLION).div_ceil(self.speed)
    }
}

/// Headers of one request, and the shared data.
struct Around {
    headers: Vec<(&'static str, String)>,
    shared: Shared,
}

impl Surroundings for Around {
    fn header(&self, name: &str) -> Option<Vec<u8>> {
        let value = self.headers.iter().find(|(known, _)| *known == name);
        value.map(|(_, value)| value.clone().into_bytes())
    }

    fn shared(&self, key: &str) -> Option<Vec<u8>> {
        self.shared.borrow().get(key).cloned()
    }
}

impl World {
    /// Envoy starts, with nothing shared yet.
    pub(crate) fn start_gateway(&mut self, gateway: usize) {
        self.gateways[gateway].alive = true;
        self.gateways[gateway].shared = Shared::default();
        for _ in 0..self.plan.gateways[gateway] {
            self.new_gate(gateway);
        }
    }

    /// A root context begins.
    pub(crate) fn new_gate(&mut self, gateway: usize) {
        let at = self.gates.len();
        let id = format!("g{at}");
        let json = format!(
            r#"{{"control": {{"cluster": "c"}}, "gateway": "e{gateway}", "hold": {{"limit": 1000}}}}"#
        );
        let config = Config::parse(json.as_bytes()).expect("a configuration");
        let error = self.plan.clock_error / 2;
        let speed = MILLION - error + self.random.pick(&[0, error, 2 * error]);
        let shared = Rc::clone(&self.gateways[gateway].shared);
        let saved = shared.borrow().get(TABLE_KEY).cloned();
        let local = BEGINNING + self.now * speed / MILLION;
        let gate = Gate::new(config, id.clone(), Millis(local), saved.as_deref());
        self.gates.push(GateNode {
            id,
            gateway,
            gate,
            alive: true,
            replaced: false,
            frozen_until: 0,
            speed,
            tick_at: self.now + 5,
            heard_at: 0,
            stream: None,
            reference: Reference::start(saved.as_deref()),
            requests: BTreeSet::new(),
            told: Told::at(self.now),
            wall: WALL,
        });
        self.agenda.push(
            self.now + 5,
            Item::GateTick {
                gate: at,
                at: self.now + 5,
            },
        );
    }

    fn around(&self, gate: usize, headers: Vec<(&'static str, String)>) -> Around {
        Around {
            headers,
            shared: Rc::clone(&self.gateways[self.gates[gate].gateway].shared),
        }
    }

    /// What is due at a frozen gate waits, and comes in any order when it runs on.
    pub(crate) fn waits_for(&mut self, gate: usize, item: Item) -> bool {
        let until = self.gates[gate].frozen_until;
        let waits = until > self.now;
        if waits {
            let jitter = self.random.below(3);
            self.agenda.push(until + jitter, item);
        }
        waits
    }

    /// The tick of a gate, by its own clocks.
    pub(crate) fn gate_timer(&mut self, gate: usize, at: u64) {
        let node = &self.gates[gate];
        if !node.alive || node.tick_at != at || self.waits_for(gate, Item::GateTick { gate, at }) {
            return;
        }
        let around = self.around(gate, Vec::new());
        let node = &mut self.gates[gate];
        let now = node.local(self.now);
        let mut effects = Vec::new();
        node.gate.on_tick(
            Millis(now),
            Millis(node.wall + self.now),
            &around,
            &mut effects,
        );
        node.reference.clocks(now, node.wall + self.now);
        node.tick_at = u64::MAX;
        self.totals.gate_steps += 1;
        let ended = self.perform_for_gate(gate, effects);
        // A full batch may have left some that wait for the first table.
        if ended < BATCH {
            self.settle_unrouted(gate);
            self.check_holds(gate);
        }
        self.check_occupancy(gate);
        self.after_gate(gate);
    }

    /// Checks what the gate says of itself, and sets its timer like its host does.
    pub(crate) fn after_gate(&mut self, gate: usize) {
        let node = &mut self.gates[gate];
        if !node.alive {
            return;
        }
        let next = node.gate.next_tick(Millis(node.local(self.now))).0;
        let at = node.real(next).max(self.now + 1);
        if at < node.tick_at {
            node.tick_at = at;
            self.agenda.push(at, Item::GateTick { gate, at });
        }
    }

    /// Carries out a gate's effects. Returns how many held requests they end.
    pub(crate) fn perform_for_gate(&mut self, gate: usize, effects: Vec<Effect>) -> usize {
        let mut ended = 0;
        let mut answered = Vec::new();
        for effect in effects {
            match effect {
                Effect::Open { stream } => {
                    self.note(|world| format!("{} opens stream {stream}", world.gates[gate].id));
                    self.open_stream(gate, stream);
                }
                Effect::Send(message) => self.gate_sends(gate, message),
                Effect::Close => {
                    if let Some(stream) = self.gates[gate].stream {
                        let after = self.random.below(30);
                        self.gate_closes(stream, Some(after));
                    }
                }
                Effect::Finish => {
                    if let Some(stream) = self.gates[gate].stream {
                        self.send_up(stream, Arrival::Ended);
                    }
                }
                Effect::Resume { request, headers } => {
                    ended += 1;
                    if headers.is_empty() {
                        self.over(request.0, Outcome::Passed);
                        self.gates[gate].requests.remove(&request.0);
                    } else {
                        self.forwarded(gate, request.0, &headers);
                    }
                }
                Effect::Reply { request, reply } => {
                    ended += 1;
                    let reason = reason(reply.header(REASON_HEADER));
                    self.check_refused(gate, request.0, reason);
                    self.over(request.0, Outcome::Refused(reason));
                    self.gates[gate].requests.remove(&request.0);
                    answered.push(request);
                }
                Effect::Share { key, value } => {
                    let gateway = self.gates[gate].gateway;
                    self.gateways[gateway]
                        .shared
                        .borrow_mut()
                        .insert(key, value);
                }
                Effect::Warn(text) => {
                    self.note(|world| format!("{} warns: {text}", world.gates[gate].id));
                }
                Effect::Done => {
                    let truth = self.truth(gate, None);
                    self.gates[gate].alive = false;
                    self.check(truth == (0, 0), |_| {
                        format!("rule 15: a gate went with {truth:?} requests")
                    });
                }
            }
        }
        self.check(ended <= BATCH, |_| {
            format!("{ended} requests in one callback would kill the VM")
        });
        // Envoy ends what was answered when the callback returns.
        for request in answered {
            let node = &mut self.gates[gate];
            node.gate
                .on_request_end(Millis(node.local(self.now)), request);
        }
        ended
    }

    fn gate_sends(&mut self, gate: usize, message: GateMessage) {
        self.note(|world| format!("{} > {message:?}", world.gates[gate].id));
        let now = self.gates[gate].local(self.now);
        let listed = match self.gates[gate].reference.sends(now, &message) {
            Ok(rows) => rows.to_vec(),
            Err(what) => return self.violated(what),
        };
        self.check_figures(gate, &message, &listed);
        self.note_told(gate, &message, &listed);
        let Some(stream) = self.gates[gate].stream else {
            return self.violated("a gate sends without a stream");
        };
        self.send_up(stream, Arrival::Message(message));
    }

    /// The gate reads what has arrived.
    pub(crate) fn read_by_gate(&mut self, stream: usize) {
        let gate = self.streams[stream].gate;
        if !self.gates[gate].alive || self.waits_for(gate, Item::ToGate { stream }) {
            return;
        }
        while self.violation.is_none()
            && let Some(arrival) = self.streams[stream].down.take(self.now)
        {
            if !self.streams[stream].down.open {
                continue;
            }
            let number = self.streams[stream].number;
            let local = Millis(self.gates[gate].local(self.now));
            let mut effects = Vec::new();
            self.totals.gate_steps += 1;
            match arrival {
                Arrival::Ended => {
                    self.streams[stream].down.open = false;
                    if self.gates[gate].stream == Some(stream) {
                        self.gates[gate].stream = None;
                    }
                    self.note(|world| format!("{}: stream {number} ended", world.gates[gate].id));
                    self.gates[gate].gate.on_stream_closed(local, number);
                }
                Arrival::Message(message) => {
                    self.note(|world| format!("{} < {message:?}", world.gates[gate].id));
                    let owed = self.gates[gate].reference.reads(&message);
                    self.gates[gate]
                        .gate
                        .on_message(local, number, message, &mut effects);
                    self.check_owed(&owed, &effects);
                }
            }
            self.perform_for_gate(gate, effects);
        }
        self.after_gate(gate);
    }

    /// A request arrives at a gate.
    pub(crate) fn arrive(&mut self, gate: usize, name: usize, slow: bool) -> Option<u32> {
        if !self.gates[gate].alive || self.gates[gate].frozen_until > self.now {
            return None;
        }
        let id = u32::try_from(self.requests.len()).ok()?;
        let service = 1 + self.random.below(self.plan.service);
        let budget = self
            .random
            .chance(1, 10)
            .then(|| self.random.below(20) * 1_000);
        let name = self.plan.models[name].name.clone();
        self.requests.push(Request {
            gate,
            name: name.clone(),
            arrived: self.now,
            service,
            stage: Stage::Held,
            row: None,
            abandoned: false,
            flowed: false,
            unseen: false,
            admitted: 0,
            promised: None,
            stale: self.gates[gate].is_stale(self.now),
            slow,
            budget,
            unrouted: false,
        });
        (self.open, self.totals.requests) = (self.open + 1, self.totals.requests + 1);
        self.note(|world| {
            format!(
                "request {id} for {name} at {}, {service} ms",
                world.gates[gate].id
            )
        });
        let mut headers = vec![
            (":method", "POST".to_owned()),
            (":path", format!("/{name}/v1/chat/completions")),
        ];
        headers.extend(budget.map(|budget| ("prefer", format!("wait={}", budget / 1_000))));
        let around = self.around(gate, headers);
        let mut effects = Vec::new();
        let node = &mut self.gates[gate];
        let local = Millis(node.local(self.now));
        let verdict = node
            .gate
            .on_request(local, RequestId(id), true, &around, &mut effects);
        self.totals.gate_steps += 1;
        match verdict {
            Verdict::Pass => self.over(id, Outcome::Passed),
            Verdict::Answer(reply) => {
                let why = reason(reply.header(REASON_HEADER));
                self.told_to_return(gate, &name, why, reply.header("retry-after"));
                self.over(id, Outcome::Refused(why));
            }
            Verdict::Hold => {
                self.gates[gate].requests.insert(id);
                let reference = &self.gates[gate].reference;
                let row = reference.find(&name);
                // Zero is no promise: nothing is known.
                let promised = row.and_then(|row| reference.holds_for(row));
                let promised = promised.filter(|wait| *wait > 0);
                let row = row.and_then(|row| self.row_named(row));
                let known = &mut self.requests[id as usize];
                (known.row, known.promised, known.unrouted) = (row, promised, row.is_none());
                self.check_held(gate, id);
            }
            Verdict::Forward(headers) => {
                self.gates[gate].requests.insert(id);
                self.forwarded(gate, id, &headers);
            }
        }
        self.perform_for_gate(gate, effects);
        self.after_gate(gate);
        Some(id)
    }

    /// Requests that waited for a table have a row by now, if there is one.
    fn settle_unrouted(&mut self, gate: usize) {
        let requests: Vec<u32> = self.gates[gate].requests.iter().copied().collect();
        for request in requests {
            let known = &self.requests[request as usize];
            if known.row.is_none() {
                let row = self.gates[gate].reference.find(&known.name);
                self.requests[request as usize].row = row.and_then(|row| self.row_named(row));
            }
        }
    }

    /// A request goes on to its engine: the one moment at which S1 must hold.
    fn forwarded(&mut self, gate: usize, request: u32, headers: &Forward) {
        let value = |name: &str| headers.iter().find(|(known, _)| *known == name);
        let cluster = value(CLUSTER_HEADER).map(|(_, value)| value.clone());
        let row = (0..self.engines.len()).find(|at| {
            cluster.as_deref() == Some(wire::cluster(&self.engines[*at].spec.id).as_bytes())
        });
        let path = value(":path").map(|(_, value)| value.as_slice());
        let Some(row) = row.filter(|_| path == Some(b"/v1/chat/completions")) else {
            return self.violated(format!("request {request} went to {headers:?}"));
        };
        let held = &self.requests[request as usize];
        if held.row.is_some_and(|held| held != row) || held.name != self.engines[row].name {
            return self.violated(format!("request {request} went to another model"));
        }
        self.check_forward(gate, request, row);
        self.check_first(gate, request);
        self.score_wait(request, true);
        let longest = self.plan.times.forward_bound.0;
        let is_slow = self.requests[request as usize].slow
            || self.strikes(crate::fault::Fault::SlowForward, 20);
        let takes = if is_slow {
            longest
        } else {
            self.random.below(longest.min(6) + 1)
        };
        let known = &mut self.requests[request as usize];
        (known.stage, known.row, known.admitted) = (Stage::OnItsWay, Some(row), self.now);
        self.note(|world| {
            format!(
                "{}: request {request} goes on to {} in {takes} ms",
                world.gates[gate].id, world.engines[row].spec.id.0
            )
        });
        self.agenda
            .push(self.now + takes, Item::Arrives { request });
    }
}

/// The reason as a name that lives for ever; the set is small.
fn reason(header: Option<&str>) -> &'static str {
    const REASONS: [&str; 15] = [
        "draining",
        "booting",
        "too_long",
        "hold_expired",
        "wake_failed",
        "disabled",
        "never_fits",
        "engine_failed",
        "hold_full",
        "asleep",
        "control_path",
        "not_exposed",
        "method_not_allowed",
        "removed",
        "unknown_model",
    ];
    REASONS
        .into_iter()
        .find(|known| Some(*known) == header)
        .unwrap_or("document")
}
