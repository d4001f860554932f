//! Gates: the production gate, its clients, and what an observer knows of it without asking it.

use std::sync::Arc;

use greenthread_core::{event::Event, ids::Epoch};
use greenthread_filter::{
    config::Config,
    gate::{Effect, Gate, Verdict},
    hold::RequestId,
    shared::Surroundings,
    time::Millis,
};
use greenthread_proto::gate::{
    ControlMessage, RefuseReason, Row as GateRow, control_message, gate_message, row,
};

use super::{Action, Down, GATES, Life, Link, Step, Up, World};
use crate::{
    memo::{GateAfter, Known, Memo, key},
    rendering::{Scope, tokens},
    row::{Row, Sabotage},
    shell,
};

/// The id of a request that is only asked about.
const PROBE: RequestId = RequestId(99);

/// Where a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Where {
    Held,
    OnItsWay {
        by: u64,
    },
    Inside,
    /// Answered by the engine; its gate has not seen it.
    Ended,
}

/// A request that is not over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Request {
    pub(crate) gate: usize,
    pub(crate) place: Where,
    /// Its client has left; until then it is gone from everywhere.
    pub(crate) left_by: Option<u64>,
}

/// One gate.
#[derive(Clone, Debug)]
pub(crate) struct GateSide {
    pub(crate) gate: Known<Gate>,
    pub(crate) is: Life,
    /// By rule 2, counted here once more: until then it may admit.
    pub(crate) lease_until: u64,
    /// The open stream has brought its snapshot.
    pub(crate) ready: bool,
    /// Largest epoch that it was told, and whether it admits or drains under it.
    pub(crate) told: (Epoch, Told),
    /// Largest term that it was told.
    pub(crate) term: u64,
}

/// What a gate was told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Told {
    Nothing,
    Admit,
    Drain,
    Other,
}

impl Told {
    fn by(row: &GateRow) -> Self {
        match &row.admission {
            Some(row::Admission::Admit(_)) => Self::Admit,
            Some(row::Admission::Refuse(refuse)) if refuse.reason() == RefuseReason::Draining => {
                Self::Drain
            }
            Some(row::Admission::Hold(_) | row::Admission::Refuse(_)) | None => Self::Other,
        }
    }
}

/// A request for the one model.
struct Post;

impl Surroundings for Post {
    fn header(&self, name: &str) -> Option<Vec<u8>> {
        match name {
            ":method" => Some(b"POST".to_vec()),
            ":path" => Some(b"/m/v1/x".to_vec()),
            _ => None,
        }
    }

    fn shared(&self, _key: &str) -> Option<Vec<u8>> {
        None
    }
}

/// What happens to a gate.
#[derive(Debug)]
enum Happens<'a> {
    Tick,
    Request(RequestId),
    End(RequestId),
    Closed(u64),
    /// A message of the stream with this number.
    Message(u64, &'a Down),
}

/// What a gate wants done.
#[derive(Debug)]
pub(crate) enum GateEffect {
    Send(Arc<Up>),
    Other(Effect),
}

fn scope(index: usize, row: &Row) -> Scope {
    Scope {
        gate: index as u64,
        idles: row.idle.is_some(),
        ..Scope::default()
    }
}

impl Happens<'_> {
    /// Kind and numbers.
    fn numbers(&self) -> [u128; 3] {
        match self {
            Self::Tick => [0, 0, 0],
            Self::Request(id) => [1, id.0.into(), 0],
            Self::End(id) => [2, id.0.into(), 0],
            Self::Closed(stream) => [3, (*stream).into(), 0],
            Self::Message(stream, down) => [4, (*stream).into(), down.id],
        }
    }

    fn to(self, gate: &mut Gate, now: Millis, effects: &mut Vec<Effect>) -> Option<Verdict> {
        match self {
            Self::Tick => gate.on_tick(now, now, &Post, effects),
            Self::Request(id) => return Some(gate.on_request(now, id, true, &Post, effects)),
            Self::End(id) => gate.on_request_end(now, id),
            Self::Closed(stream) => gate.on_stream_closed(now, stream),
            Self::Message(stream, down) => {
                gate.on_message(now, stream, down.message.clone(), effects);
            }
        }
        None
    }
}

impl GateSide {
    pub(super) fn new(index: usize, row: &Row) -> Self {
        let config = br#"{"control": {"cluster": "c"}, "rewrite": "route"}"#;
        // The configuration is the one above.
        let config = Config::parse(config).unwrap_or_else(|error| panic!("{error}"));
        let gate = Gate::new(
            config,
            shell::gate_id(index).0,
            Millis(crate::BEGINNING),
            None,
        );
        Self {
            gate: Known::new(gate, scope(index, row)),
            is: Life::Running,
            lease_until: 0,
            ready: false,
            told: (Epoch::default(), Told::Nothing),
            term: 0,
        }
    }

    /// Whether a request that arrived now would be forwarded.
    pub(crate) fn would_forward(&self, now: u64, memo: &Memo) -> bool {
        memo.forwards
            .get(key(&[self.gate.id, now.into()], &()), || {
                let mut gate = Gate::clone(&self.gate.value);
                let verdict = gate.on_request(Millis(now), PROBE, true, &Post, &mut Vec::new());
                matches!(verdict, Verdict::Forward(_))
            })
    }

    /// Whether it wants a tick at once.
    fn hurries(&self, now: u64) -> bool {
        self.gate.value.next_tick(Millis(now)).0 <= now + 2
    }
}

impl World {
    pub(super) fn gate_actions(&self, actions: &mut Vec<Action>) {
        for (index, gate) in (0_u8..).zip(&self.gates) {
            if gate.is == Life::Running {
                if gate.hurries(self.now) {
                    actions.push(Action::GateTick(index));
                }
                if self.left.requests > 0 && self.requests.iter().any(Option::is_none) {
                    actions.push(Action::Arrive(index));
                }
            }
        }
    }

    pub(super) fn request_actions(&self, actions: &mut Vec<Action>) {
        for (slot, request) in (0_u8..).zip(&self.requests) {
            let Some(request) = request else { continue };
            let runs = self.gates[request.gate].is == Life::Running;
            let stays = request.left_by.is_none();
            match request.place {
                Where::OnItsWay { .. } => actions.push(Action::Reach(slot)),
                Where::Inside if stays && !self.engine.asleep => actions.push(Action::Finish(slot)),
                Where::Ended if runs => actions.push(Action::Tell(slot)),
                Where::Inside | Where::Ended | Where::Held => {}
            }
            if stays && runs && self.left.leaves > 0 && request.place != Where::Ended {
                actions.push(Action::Leave(slot));
            }
            if !stays {
                actions.push(Action::Vanish(slot));
            }
        }
    }

    /// Lets a gate do something, and does what it wants.
    fn gate_does(
        &mut self,
        index: usize,
        what: Happens<'_>,
        step: &mut Step<'_>,
    ) -> Option<Verdict> {
        let (row, now) = (step.row, self.now);
        let before = &self.gates[index].gate;
        let [kind, first, second] = what.numbers();
        let numbers = [before.id, index as u128, now.into(), kind, first, second];
        let after = step.memo.gates.get(key(&numbers, &()), || {
            let (mut gate, mut effects) = (Gate::clone(&before.value), Vec::new());
            let verdict = what.to(&mut gate, Millis(now), &mut effects);
            let rendered = |effect| {
                if let Effect::Send(message) = effect {
                    GateEffect::Send(Arc::new(Up {
                        tokens: tokens(&format!("{message:?}"), scope(index, row)),
                        message,
                        sent_at: now,
                    }))
                } else {
                    GateEffect::Other(effect)
                }
            };
            Arc::new(GateAfter {
                gate: Known::new(gate, scope(index, row)),
                effects: effects.into_iter().map(rendered).collect(),
                verdict,
            })
        });
        self.gates[index].gate = after.gate.clone();
        for effect in &after.effects {
            match effect {
                GateEffect::Send(up) => self.gate_says(index, up, step),
                GateEffect::Other(effect) => self.gate_effect(index, effect, step),
            }
        }
        after.verdict.clone()
    }

    fn gate_says(&mut self, index: usize, up: &Arc<Up>, step: &mut Step<'_>) {
        step.note(|| format!("g{index} says {}", said(up.message.body.as_ref())));
        if let Some(link) = self.open_link(index).filter(|link| !link.broken) {
            link.up.push_back(Arc::clone(up));
        }
    }

    fn gate_effect(&mut self, index: usize, effect: &Effect, step: &mut Step<'_>) {
        match effect {
            Effect::Open { stream } => {
                step.note(|| format!("g{index} opens a stream"));
                self.gates[index].ready = false;
                let after = |link: &Link| link.gate <= index;
                let at = self.links.iter().take_while(|link| after(link)).count();
                self.links.insert(at, Link::new(index, *stream));
            }
            Effect::Close | Effect::Finish => {
                step.note(|| format!("g{index} closes its stream"));
                if let Some(link) = self.open_link(index) {
                    link.gate_open = false;
                }
            }
            Effect::Resume { request, .. } => {
                let slot = (request.0 as usize).saturating_sub(1);
                let held = matches!(
                    self.requests.get(slot),
                    Some(Some(Request { gate, place: Where::Held, .. })) if *gate == index
                );
                if !held {
                    step.breaks(|| format!("g{index} lets go a request that it does not hold"));
                }
                self.forwarded(index, slot, step);
            }
            Effect::Reply { request, .. } => {
                step.note(|| format!("g{index} answers the held request {}", request.0));
                let slot = (request.0 as usize).saturating_sub(1);
                match self.requests.get_mut(slot) {
                    Some(request @ Some(_)) => *request = None,
                    Some(None) | None => step.breaks(|| "a request is answered twice".to_owned()),
                }
            }
            Effect::Send(_) | Effect::Share { .. } | Effect::Done => {}
            Effect::Warn(text) => step.note(|| format!("g{index} warns: {text}")),
        }
    }

    /// A gate has just let a request go on: it must have been allowed to (S1).
    fn forwarded(&mut self, index: usize, slot: usize, step: &mut Step<'_>) {
        step.note(|| format!("g{index} forwards request {}", slot + 1));
        self.check_forward(index, step);
        let by = self.now + step.row.times.forward_bound.0;
        if let Some(request) = self.requests.get_mut(slot) {
            *request = Some(Request {
                gate: index,
                place: Where::OnItsWay { by },
                left_by: None,
            });
        }
    }

    pub(super) fn gate_tick(&mut self, index: usize, step: &mut Step<'_>) {
        self.gate_does(index, Happens::Tick, step);
    }

    pub(super) fn arrive(&mut self, index: usize, step: &mut Step<'_>) {
        let Some(slot) = self.requests.iter().position(Option::is_none) else {
            return;
        };
        self.left.requests -= 1;
        let id = RequestId(slot as u32 + 1);
        match self.gate_does(index, Happens::Request(id), step) {
            Some(Verdict::Forward(_)) => self.forwarded(index, slot, step),
            Some(Verdict::Hold) => {
                step.note(|| format!("g{index} holds it as request {}", slot + 1));
                self.requests[slot] = Some(Request {
                    gate: index,
                    place: Where::Held,
                    left_by: None,
                });
            }
            Some(Verdict::Answer(reply)) => {
                step.note(|| format!("g{index} answers {}", reply.status))
            }
            Some(Verdict::Pass) | None => {
                step.breaks(|| format!("g{index} lets a request pass unseen"))
            }
        }
    }

    /// The request is over for its gate.
    pub(super) fn ended(&mut self, slot: usize, step: &mut Step<'_>) {
        let Some(Some(request)) = self.requests.get(slot).copied() else {
            return;
        };
        let id = RequestId(slot as u32 + 1);
        self.gate_does(request.gate, Happens::End(id), step);
    }

    pub(super) fn gate_loses(&mut self, at: usize, step: &mut Step<'_>) {
        let (index, number) = (self.links[at].gate, self.links[at].number);
        step.note(|| format!("g{index} learns that its stream is gone"));
        self.links[at].gate_open = false;
        self.gate_does(index, Happens::Closed(number), step);
    }

    /// A gate reads the next message of its open stream.
    pub(super) fn gate_reads(&mut self, at: usize, step: &mut Step<'_>) {
        let Some(down) = self.links[at].down.pop_front() else {
            return;
        };
        let (index, number) = (self.links[at].gate, self.links[at].number);
        step.note(|| format!("g{index} reads {}", told(&down.message)));
        let older = down.message.term < self.gates[index].term;
        self.gate_does(index, Happens::Message(number, &down), step);
        if older {
            if self.links.get(at).is_some_and(|link| link.gate_open) {
                step.breaks(|| format!("g{index} goes on listening to an older term"));
            }
            return;
        }
        self.observe(index, &down.message, down.renews, step.row);
    }

    /// What an observer makes of a message that a gate has just read.
    fn observe(&mut self, index: usize, message: &ControlMessage, renews: u64, row: &Row) {
        let side = &mut self.gates[index];
        side.term = message.term;
        let rows = match &message.body {
            Some(control_message::Body::Snapshot(snapshot)) => {
                side.ready |= snapshot.last;
                &snapshot.rows[..]
            }
            Some(control_message::Body::Delta(delta)) => &delta.rows[..],
            Some(control_message::Body::Heartbeat(_)) => {
                if side.ready {
                    side.lease_until = side.lease_until.max(renews + row.times.lease.0);
                }
                &[]
            }
            None => &[],
        };
        for row in rows {
            let epoch = row.epoch.map_or(Epoch::default(), |epoch| Epoch {
                term: epoch.term,
                counter: epoch.counter,
            });
            if epoch >= side.told.0 {
                side.told = (epoch, Told::by(row));
            }
        }
    }

    /// The event of a gate's message, as the shell passes it on.
    pub(super) fn heard_event(
        &self,
        control: usize,
        at: usize,
        up: &Up,
        row: &Row,
    ) -> Option<Event> {
        let link = &self.links[at];
        let (_, stream) = link.control?;
        let mut event = shell::heard(shell::gate_id(link.gate), stream, &up.message)?;
        if row.is_sabotaged(Sabotage::AnyEpochCounts)
            && let Event::Ack { epoch, .. } = &mut event
            && let Some((running, _)) = &self.controls[control].published
        {
            *epoch = *running;
        }
        Some(event)
    }

    /// Both gates, for those who look at each.
    pub(crate) fn present_gates(&self) -> impl Iterator<Item = (usize, &GateSide)> {
        (0..GATES)
            .zip(&self.gates)
            .filter(|(_, gate)| gate.is != Life::Gone)
    }
}

fn said(body: Option<&gate_message::Body>) -> String {
    match body {
        Some(gate_message::Body::Hello(hello)) => format!("Hello (term {})", hello.largest_term),
        Some(gate_message::Body::Report(report)) => match report.rows.first() {
            Some(row) => format!("Report: {} in flight, {} held", row.in_flight, row.held),
            None => "Report".to_owned(),
        },
        Some(gate_message::Body::BarrierAck(ack)) => {
            let epoch = ack.epoch.unwrap_or_default();
            format!(
                "acknowledged {}.{}, {} in flight",
                epoch.term, epoch.counter, ack.in_flight
            )
        }
        Some(gate_message::Body::Bye(_)) => "Bye".to_owned(),
        None => "nothing".to_owned(),
    }
}

fn told(message: &ControlMessage) -> String {
    let rows = |rows: &[GateRow]| {
        let row = |row: &GateRow| {
            let epoch = row.epoch.unwrap_or_default();
            format!("{:?} {}.{}", Told::by(row), epoch.term, epoch.counter)
        };
        rows.iter().map(row).collect::<Vec<_>>().join(", ")
    };
    match &message.body {
        Some(control_message::Body::Snapshot(snapshot)) => {
            format!("the table: {}", rows(&snapshot.rows))
        }
        Some(control_message::Body::Delta(delta)) => format!("a change: {}", rows(&delta.rows)),
        Some(control_message::Body::Heartbeat(heartbeat)) => {
            format!("a heartbeat, echo {}", heartbeat.echoed_sequence)
        }
        None => "nothing".to_owned(),
    }
}
