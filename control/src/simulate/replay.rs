//! Replays a trace through the production core, in virtual time: one gate, virtual engines, discrete events, no clock.
//!
//! Everything but engines is instant: reports, acknowledgements, looks. What happens at the same moment happens in this order: what was
//! under way ends, requests arrive, the core's own deadlines. Leases and heartbeats are stretched, so that a quiet month costs nothing.

mod effects;

use std::collections::{BTreeMap, VecDeque};

use greenthread_core::{
    Core,
    decision::Tally,
    effect::Effect,
    event::{Event, Memory, Outcome},
    ids::{Attempt, Bytes, GateId, Millis, ModelId, StreamId},
    model::{FleetSpec, Times},
    phase::Tier,
    policy::Policy,
};

use super::{
    dice::Dice,
    engine::{Engine, Foreseen},
    gate::{Gate, Refusal, Verdict},
    meter::Meter,
    progress::Progress,
    promises::Told,
    setting::Setting,
    trace::Trace,
};

/// Half of the silence after which the core would fence the gate.
const HEARTBEAT: Millis = Millis::seconds(300);
/// When the first request arrives: engines were looked at by then, and sleeps are allowed.
const START: Millis = Millis::seconds(610);
/// The protocol's times, stretched.
const TIMES: Times = Times {
    lease: HEARTBEAT,
    margin: HEARTBEAT,
    heartbeat: HEARTBEAT,
    command: Millis::seconds(2),
    max_flow: Millis::seconds(600),
    forward_bound: Millis(1),
    observe: Millis::seconds(30 * 24 * 3_600),
};
/// The only stream.
const STREAM: StreamId = StreamId(1);

/// How a trace is replayed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Habits {
    /// How victims are chosen.
    pub(super) policy: &'static Policy,
    /// Requests that an engine works on at a time.
    pub(super) concurrency: usize,
    /// How often a client asks again after a refusal.
    pub(super) retries: u8,
    /// Largest deviation of a duration, as a share of it.
    pub(super) vary: f64,
    /// For those deviations.
    pub(super) seed: u64,
}

/// What came of a replay.
#[derive(Debug)]
pub(super) struct Replayed {
    /// Everything that was counted.
    pub(super) meter: Meter,
    /// What the core counted itself.
    pub(super) tally: Tally,
    /// When the first request arrived, on the clock of the spans.
    pub(super) from: Millis,
    /// When everything had ended.
    pub(super) to: Millis,
}

/// What will happen.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Happening {
    /// An engine has done what it was told.
    Done {
        model: usize,
        attempt: Attempt,
        action: Action,
        took: u64,
    },
    /// An engine ends its work on a request.
    Ends {
        model: usize,
        request: usize,
        freezes: u64,
    },
    /// A client that was refused comes back.
    Again { request: usize },
    /// A hold has lasted as long as it may.
    Expires { request: usize, tries: u8 },
}

/// What an engine was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Start,
    Wake(Tier),
    Sleep,
}

/// How far a request is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progressed {
    /// Refusals so far.
    tries: u8,
    /// It could not go on at once.
    missed: bool,
    /// It is held: since when, and what it was told to expect.
    held: Option<(Millis, Millis)>,
    over: bool,
}

/// One replay under way.
struct Replay<'a> {
    trace: &'a Trace,
    setting: &'a Setting,
    habits: Habits,
    core: Core,
    gate: Gate,
    gate_id: GateId,
    sequence: u64,
    last_said: Millis,
    engines: Vec<Engine>,
    numbers: BTreeMap<ModelId, usize>,
    requests: Vec<Progressed>,
    open: usize,
    /// By time, then in the order in which they were foreseen.
    happenings: BTreeMap<(Millis, u64), Happening>,
    tickets: u64,
    /// What the core is to be told at this moment.
    said: VecDeque<Event>,
    effects: Vec<Effect>,
    meter: Meter,
    dice: Dice,
}

/// Replays a trace from its first request until everything has ended.
pub(super) fn replay(
    trace: &Trace,
    setting: &Setting,
    habits: Habits,
    progress: &mut Progress,
    title: &str,
) -> Replayed {
    let mut replay = Replay::new(trace, setting, habits);
    replay.begin();
    let to = replay.run(progress, title);
    replay.meter.finish(to);
    Replayed {
        tally: replay.core.tally(),
        meter: replay.meter,
        from: START,
        to,
    }
}

impl<'a> Replay<'a> {
    fn new(trace: &'a Trace, setting: &'a Setting, habits: Habits) -> Self {
        let fleet = FleetSpec {
            gpus: setting.gpus.clone(),
            hosts: setting.hosts.clone(),
            host_of: setting.host_of.clone(),
            times: TIMES,
            term: 1,
            policy: habits.policy,
            ..FleetSpec::default()
        };
        let models = setting.models.len();
        let id = |(number, actor): (usize, &super::setting::Actor)| (actor.spec.id.clone(), number);
        Self {
            trace,
            setting,
            habits,
            core: Core::new(fleet, Millis(0)),
            gate: Gate::new(models, setting.hold),
            gate_id: GateId("replay".to_owned()),
            sequence: 0,
            last_said: Millis(0),
            engines: vec![Engine::asleep(habits.concurrency); models],
            numbers: setting.models.iter().enumerate().map(id).collect(),
            requests: vec![Progressed::default(); trace.requests.len()],
            open: trace.requests.len(),
            happenings: BTreeMap::new(),
            tickets: 0,
            said: VecDeque::new(),
            effects: Vec::new(),
            meter: Meter::new(models, START),
            dice: Dice::new(habits.seed),
        }
    }

    /// The gate attaches and the models are made known; all engines are looked at.
    fn begin(&mut self) {
        let hello = Event::Hello {
            gate: self.gate_id.clone(),
            stream: STREAM,
            largest_term: 0,
            sequence: self.next_sequence(),
            figures: Vec::new(),
        };
        self.said.push_back(hello);
        let specs = self.setting.models.iter().map(|actor| actor.spec.clone());
        self.said
            .extend(specs.map(|spec| Event::ModelSet(Box::new(spec))));
        self.settle(Millis(0));
    }

    /// Until no request is open. Returns when that was.
    fn run(&mut self, progress: &mut Progress, title: &str) -> Millis {
        let first = self
            .trace
            .requests
            .first()
            .map_or(Millis(0), |request| request.at);
        let mut arrivals = self
            .trace
            .requests
            .iter()
            .map(|request| START + request.at.since(first))
            .enumerate()
            .peekable();
        let mut now = Millis(0);
        while self.open > 0 {
            let arrives = arrivals.peek().map(|(_, at)| *at);
            let happens = self.happenings.first_key_value().map(|((at, _), _)| *at);
            let due = self
                .core
                .next_deadline()
                .map_or(self.last_said + HEARTBEAT, |due| {
                    due.min(self.last_said + HEARTBEAT)
                });
            let next = [arrives, happens]
                .into_iter()
                .flatten()
                .fold(due, Millis::min);
            now = now.max(next);
            if happens.is_some_and(|at| at <= now) {
                if let Some((_, happening)) = self.happenings.pop_first() {
                    self.happened(now, happening);
                }
            } else if arrives.is_some_and(|at| at <= now) {
                if let Some((request, _)) = arrivals.next() {
                    self.arrives(now, request);
                    let all = self.requests.len();
                    progress
                        .tick(|| format!("{title}: {} % of {all} requests", request * 100 / all));
                }
            } else if now >= self.last_said + HEARTBEAT {
                self.report(now, None);
            } else {
                self.said.push_back(Event::Tick);
            }
            self.settle(now);
        }
        now
    }

    /// A request arrives, for the first time or again.
    fn arrives(&mut self, now: Millis, request: usize) {
        let model = self.trace.requests[request].model;
        if self.requests[request].tries == 0 {
            self.meter.arrived(model);
        }
        self.look_at_sleeper(now, model);
        let verdict = self.gate.arrive(now, model, request);
        match verdict {
            Verdict::Forward => self.forward(now, request),
            Verdict::Hold(estimated_wait) => {
                self.miss(request);
                self.requests[request].held = Some((now, Millis(estimated_wait)));
                let tries = self.requests[request].tries;
                self.later(
                    now + self.setting.hold.budget,
                    Happening::Expires { request, tries },
                );
            }
            Verdict::Refuse(refusal, seconds) => self.refuse(now, request, refusal, seconds),
        }
        self.report(now, Some(model));
    }

    /// In production who sleeps is looked at every second, and its wait estimated again. Here nobody looks until somebody asks.
    fn look_at_sleeper(&mut self, now: Millis, model: usize) {
        let id = &self.setting.models[model].spec.id;
        if self.meter.is_asleep(model)
            && let Some(why) = self.core.why_not(now, id)
        {
            self.gate.expect(model, why.estimated_wait);
        }
    }

    fn happened(&mut self, now: Millis, happening: Happening) {
        match happening {
            Happening::Ends {
                model,
                request,
                freezes,
            } => self.ends(
                now,
                model,
                Foreseen {
                    request,
                    at: now,
                    freezes,
                },
            ),
            Happening::Again { request } => self.arrives(now, request),
            Happening::Expires { request, tries } => {
                let model = self.trace.requests[request].model;
                if self.requests[request].tries == tries
                    && let Some(seconds) = self.gate.expire(now, model, request)
                {
                    self.refuse(now, request, Refusal::HoldExpired, seconds);
                    self.report(now, Some(model));
                }
            }
            Happening::Done {
                model,
                attempt,
                action,
                took,
            } => self.done(now, model, attempt, action, took),
        }
    }

    fn ends(&mut self, now: Millis, model: usize, foreseen: Foreseen) {
        let Some(next) = self.engines[model].end(now, foreseen) else {
            return;
        };
        self.foresee(model, next);
        self.close(foreseen.request);
        self.gate.end(now, model);
        self.meter.busy(now, model, self.engines[model].is_busy());
        self.report(now, Some(model));
    }

    fn done(&mut self, now: Millis, model: usize, attempt: Attempt, action: Action, took: u64) {
        let outcome = Outcome::Done {
            took,
            memory: Memory::default(),
        };
        let actor = &self.setting.models[model];
        let id = actor.spec.id.clone();
        let spread = actor.spec.gpus.len() as u64;
        let moved = Bytes(
            actor
                .spec
                .awake
                .less(actor.spec.asleep)
                .0
                .saturating_mul(spread),
        );
        let event = match action {
            Action::Start | Action::Wake(_) => {
                for foreseen in self.engines[model].woke(now) {
                    self.foresee(model, Some(foreseen));
                }
                self.meter.woke(moved);
                if action != Action::Start {
                    Event::Woke {
                        model: id,
                        attempt,
                        outcome,
                    }
                } else {
                    Event::Started {
                        model: id,
                        attempt,
                        outcome,
                    }
                }
            }
            Action::Sleep => {
                self.engines[model].slept();
                self.meter.slept(moved);
                Event::Slept {
                    model: id,
                    attempt,
                    outcome,
                }
            }
        };
        self.meter.busy(now, model, self.engines[model].is_busy());
        self.said.push_back(event);
    }

    /// Tells the core everything that is to be said, and does what it asks for, until both have nothing more.
    fn settle(&mut self, now: Millis) {
        while let Some(event) = self.said.pop_front() {
            let mut effects = std::mem::take(&mut self.effects);
            self.core.step(now, event, &mut effects);
            for effect in effects.drain(..) {
                self.perform(now, effect);
            }
            self.effects = effects;
        }
    }

    fn forward(&mut self, now: Millis, request: usize) {
        let wanted = self.trace.requests[request];
        let first = self
            .trace
            .requests
            .first()
            .map_or(Millis(0), |request| request.at);
        let arrived = START + wanted.at.since(first);
        self.meter.forwarded(wanted.model, now.since(arrived));
        if let Some((since, told)) = self.requests[request].held.take() {
            let took = now.since(since);
            self.meter.released(Told { told, took });
        }
        let foreseen = self.engines[wanted.model].take(now, request, wanted.service);
        self.foresee(wanted.model, foreseen);
        self.meter
            .busy(now, wanted.model, self.engines[wanted.model].is_busy());
    }

    fn refuse(&mut self, now: Millis, request: usize, refusal: Refusal, seconds: u32) {
        self.miss(request);
        let retry_after = Millis::seconds(seconds.into());
        if refusal.is_worth_another_try() {
            let model = self.trace.requests[request].model;
            self.meter.sent_away(now, model, retry_after);
        }
        let state = &mut self.requests[request];
        state.held = None;
        let gives_up = state.tries >= self.habits.retries || !refusal.is_worth_another_try();
        state.tries = state.tries.saturating_add(1);
        self.meter.refused(refusal, gives_up);
        if gives_up {
            self.close(request);
        } else {
            self.later(now + retry_after, Happening::Again { request });
        }
    }

    fn miss(&mut self, request: usize) {
        if !std::mem::replace(&mut self.requests[request].missed, true) {
            self.meter.missed(self.trace.requests[request].model);
        }
    }

    /// A request has its outcome.
    fn close(&mut self, request: usize) {
        let over = std::mem::replace(&mut self.requests[request].over, true);
        assert!(!over, "a request has one outcome");
        self.open -= 1;
    }

    /// The gate says what has changed of a model, or only that it is there.
    fn report(&mut self, now: Millis, model: Option<usize>) {
        let figures = model.map(|model| {
            let id = self.setting.models[model].spec.id.clone();
            (id, self.gate.figures(now, model))
        });
        let report = Event::Report {
            gate: self.gate_id.clone(),
            stream: STREAM,
            sequence: self.next_sequence(),
            table_version: 1,
            figures: figures.into_iter().collect(),
        };
        self.last_said = now;
        self.said.push_back(report);
    }

    fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    fn foresee(&mut self, model: usize, foreseen: Option<Foreseen>) {
        if let Some(Foreseen {
            request,
            at,
            freezes,
        }) = foreseen
        {
            let ends = Happening::Ends {
                model,
                request,
                freezes,
            };
            self.later(at, ends);
        }
    }

    fn later(&mut self, at: Millis, happening: Happening) {
        self.tickets += 1;
        self.happenings.insert((at, self.tickets), happening);
    }
}

#[cfg(test)]
mod sharing;
#[cfg(test)]
mod tests;
