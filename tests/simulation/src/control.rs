//! Control: the production core in a shell that does what `control/src/driver.rs` does, with a life, a lease of leadership, and mail.

use std::collections::{BTreeMap, BTreeSet};

use greenthread_core::{
    Core,
    effect::{Effect, PublishedRow},
    event::Event,
    ids::{Attempt, GateId, GpuId, Millis, ModelId, StreamId},
    model::FleetSpec,
};
use greenthread_proto::gate;

use crate::{
    agenda::{Item, Order},
    course::Fairness,
    driver::Driver,
    heard::Account,
    plan::{CAPACITY, TOLERANCE},
    says::Told,
    sizes::{AllMeasured, Knows},
    stream::Arrival,
    wire,
    world::World,
};

/// Core clocks start here, so that ages from before the start still are moments.
const START: u64 = 30 * 24 * 3_600 * 1_000;
pub(crate) const MILLION: u64 = 1_000_000;

/// What survives a life of control.
#[derive(Clone, Debug, Default)]
pub struct Persisted {
    /// Largest term that was taken.
    pub term: u64,
    /// Largest term that was taken before they jumped: an old copy of the state directory goes on behind it.
    pub before_jump: Option<u64>,
    /// Largest term that was ever taken. What raises an old copy goes beyond it: a term that is used twice, after the state was lost,
    /// breaks rule 12 and is nobody's to survive.
    pub largest: u64,
    /// Models of which a whole cycle was measured.
    pub conditioned: BTreeSet<ModelId>,
    /// What was measured of each row.
    pub measured: AllMeasured,
}

/// Who leads, as the API server knows it.
#[derive(Clone, Debug, Default)]
pub struct Leadership {
    /// Life that holds the lease, if any.
    pub holder: Option<usize>,
    /// End of its lease.
    pub until: u64,
    /// The API server answers nobody before.
    pub away_until: u64,
}

/// One life of control.
#[derive(Debug)]
pub struct Control {
    /// The decisions.
    pub core: Core,
    /// Its process runs.
    pub alive: bool,
    /// It has been told that it leads no more, or found out.
    pub deposed: bool,
    /// It reads nothing before.
    pub frozen_until: u64,
    /// When it began.
    pub started: u64,
    /// Its clock's speed, in parts of a million.
    pub(crate) speed: u64,
    /// Its term.
    pub term: u64,
    pub(crate) raising: bool,
    /// When the last renewal that succeeded was sent.
    pub(crate) renewed: u64,
    tick_at: u64,
    next_stream: u64,
    /// Open streams, with the table version that their gate will have.
    pub streams: BTreeMap<StreamId, (usize, u64)>,
    /// Rows as they were last published.
    pub published: BTreeMap<ModelId, PublishedRow>,
    pending: Vec<gate::Row>,
    /// Drivers of engines, by row.
    pub drivers: BTreeMap<usize, Driver>,
    /// Actions that were sent and have no definite outcome, by row.
    pub under_way: BTreeMap<usize, (Order, Attempt)>,
    /// Phase of each row after the last step, and since when.
    pub phases: BTreeMap<usize, (&'static str, Millis)>,
    /// How long each running drain may last, as it was when it began, by row.
    pub drains: BTreeMap<usize, (Millis, u64)>,
    /// GPUs on which this step began to wake something.
    pub begun: Vec<GpuId>,
    /// An engine that was just seen asleep.
    pub seen_asleep: Option<usize>,
    /// GPUs on which everybody had room to go to sleep after the last step.
    pub roomy: BTreeSet<GpuId>,
    /// Engines that were told in this step to sleep into host RAM.
    pub filled: Vec<usize>,
    /// Rows that sleep by an order that failed: nobody has said yet where their weights are.
    pub doubtful: BTreeSet<usize>,
    /// The look at each row that was asked for last.
    pub looks: BTreeMap<usize, Attempt>,
    /// What it was told of what its engines take.
    pub knows: Knows,
    /// Outcomes that were delivered, for telling them again.
    pub told: Vec<Event>,
    /// What it has heard.
    pub account: Account,
    /// What happened to its models.
    pub fair: Fairness,
    /// What it has said to gates.
    pub says: Told,
    /// The row of an action that has just begun.
    pub begins: Option<usize>,
}

impl Control {
    /// Its clock.
    pub fn local(&self, now: u64) -> Millis {
        Millis(START + (now - self.started) * self.speed / MILLION)
    }

    /// For how long it has run, by its clock.
    pub fn age(&self, now: u64) -> u64 {
        self.local(now).0 - START
    }

    fn real(&self, at: Millis) -> u64 {
        self.started + (at.0.saturating_sub(START) * MILLION).div_ceil(self.speed)
    }
}

impl World {
    /// A control begins to lead: it has the lock, or the lease, and its term is persisted.
    pub(crate) fn begin_life(&mut self) {
        let life = self.controls.len();
        self.totals.lives += 1;
        self.persisted.term = self.persisted.term.saturating_add(1);
        let term = self.persisted.term;
        if self
            .persisted
            .before_jump
            .is_some_and(|before| before + 1 == term)
        {
            self.persisted.before_jump = Some(term);
        }
        self.persisted.largest = self.persisted.largest.max(term);
        let error = self.plan.clock_error / 2;
        let speed = MILLION - error + self.random.pick(&[0, error, 2 * error]);
        let fleet = FleetSpec {
            gpus: vec![CAPACITY; self.plan.gpus],
            hosts: self.plan.hosts.clone(),
            host_of: self.plan.host_of.clone(),
            tolerance: TOLERANCE,
            policy: self.plan.policy,
            shadow: self.plan.shadow,
            times: self.plan.times,
            term,
        };
        self.note(|_| format!("control {life} begins, term {term}"));
        self.controls.push(Control {
            core: Core::new(fleet, Millis(START)),
            alive: true,
            deposed: false,
            frozen_until: 0,
            started: self.now,
            speed,
            term,
            raising: false,
            renewed: self.now,
            tick_at: u64::MAX,
            next_stream: 0,
            streams: BTreeMap::new(),
            published: BTreeMap::new(),
            pending: Vec::new(),
            drivers: BTreeMap::new(),
            under_way: BTreeMap::new(),
            phases: BTreeMap::new(),
            drains: BTreeMap::new(),
            begun: Vec::new(),
            filled: Vec::new(),
            roomy: BTreeSet::new(),
            seen_asleep: None,
            doubtful: BTreeSet::new(),
            looks: BTreeMap::new(),
            knows: Knows::since(&self.persisted.measured),
            told: Vec::new(),
            account: Account::default(),
            fair: Fairness::default(),
            says: Told::default(),
            begins: None,
        });
        for engine in &mut self.engines {
            (engine.surprise, engine.host_surprise) = (true, true);
        }
        if self.plan.measured {
            self.agenda.push(self.now + 500, Item::ReadGpus { life });
        }
        if self.plan.leader_lease > 0 {
            self.leadership.holder = Some(life);
            self.leadership.until = self.now + self.plan.leader_lease;
            let every = self.plan.leader_lease / 4;
            self.agenda.push(self.now + every, Item::Renew { life });
            self.agenda.push(self.leadership.until, Item::Elect);
        }
        self.controls[life].account.begins = true;
        for row in 0..self.engines.len() {
            if self.engines[row].present {
                let spec = self.engines[row].spec.clone();
                self.step(life, Event::ModelSet(Box::new(spec)));
            } else if self.engines[row].spec.caps.restartable {
                // What the fleet does not name any more is ended.
                self.end_process(row, None);
            }
        }
        self.controls[life].account.begins = false;
    }

    /// A process manager starts control again, where nobody elects a leader.
    pub(crate) fn control_starts(&mut self) {
        let lives = self.controls.iter().any(|control| control.alive);
        if !lives && self.plan.leader_lease == 0 {
            self.begin_life();
        }
    }

    /// What is due at a control that stands still waits; what is due at one that is gone is lost.
    pub(crate) fn waits_for_control(&mut self, life: usize, item: Item) -> bool {
        let Some(control) = self.controls.get(life).filter(|control| control.alive) else {
            return true;
        };
        let until = control.frozen_until;
        if until > self.now {
            // Streams are read by readers of their own, in any order.
            let jitter = match &item {
                Item::ToControl { .. } => self.random.below(3),
                _ => 0,
            };
            self.agenda.push(until + jitter, item);
        }
        until > self.now
    }

    /// The deadline comes that the core asked for; an earlier one that it no longer wants does nothing.
    pub(crate) fn control_timer(&mut self, life: usize, at: u64) {
        if self.waits_for_control(life, Item::ControlTick { life, at })
            || self.controls[life].tick_at != at
        {
            return;
        }
        self.controls[life].tick_at = u64::MAX;
        self.step(life, Event::Tick);
    }

    /// An event reaches the core, once its control goes on.
    pub(crate) fn deliver_to_core(&mut self, life: usize, event: Box<Event>) {
        let waits = Item::ToCore {
            life,
            event: event.clone(),
        };
        if !self.waits_for_control(life, waits) {
            self.step(life, *event);
        }
    }

    /// Control reads what has arrived.
    pub(crate) fn read_by_control(&mut self, stream: usize) {
        let life = self.streams[stream].life;
        if self.waits_for_control(life, Item::ToControl { stream }) {
            return;
        }
        while self.violation.is_none()
            && let Some(arrival) = self.streams[stream].up.take(self.now)
        {
            let up = &mut self.streams[stream].up;
            if !up.open && up.read_ahead == 0 {
                continue;
            }
            up.read_ahead = up.read_ahead.saturating_sub(1);
            let gate = GateId(self.gates[self.streams[stream].gate].id.clone());
            let known = self.streams[stream].id;
            let event = match (arrival, known) {
                (Arrival::Message(message), known) => {
                    let from = self.streams[stream].gate;
                    self.gates[from].heard_at = self.now;
                    let id = known.unwrap_or_else(|| self.accept(life, stream));
                    wire::event(&gate, id, message)
                }
                (Arrival::Ended, Some(id)) => {
                    self.forget_stream(life, stream);
                    Some(Event::StreamClosed { gate, stream: id })
                }
                (Arrival::Ended, None) => {
                    self.forget_stream(life, stream);
                    None
                }
            };
            if let Some(event) = event {
                self.step(life, event);
            }
        }
    }

    fn accept(&mut self, life: usize, stream: usize) -> StreamId {
        let control = &mut self.controls[life];
        control.next_stream += 1;
        let id = StreamId(control.next_stream);
        control.streams.insert(id, (stream, 0));
        self.streams[stream].id = Some(id);
        id
    }

    /// The gate has ended its half: control ends its own.
    fn forget_stream(&mut self, life: usize, stream: usize) {
        if let Some(id) = self.streams[stream].id {
            self.controls[life].streams.remove(&id);
        }
        let after = self.short_way();
        self.control_closes(stream, Some(after));
    }

    /// One step of the core, and its effects in their order.
    pub(crate) fn step(&mut self, life: usize, event: Event) {
        if !self.controls[life].deposed && !self.may_lead(life) {
            self.depose(life);
        }
        let event = self.with_measured(life, event);
        self.note(|_| format!("control {life} < {event:?}"));
        self.before_step(life, &event);
        let control = &mut self.controls[life];
        let mut effects = Vec::new();
        let now = control.local(self.now);
        control.account.hears(now, &self.plan.times, &event);
        control.fair.hears(&event);
        if let Event::StreamClosed { stream, .. } = &event {
            control.says.closes(*stream);
        }
        control.core.step(now, event, &mut effects);
        self.totals.core_steps += 1;
        if self.controls[life].core.is_open() && !self.controls[life].deposed {
            self.led_again();
        }
        let changed = !effects.is_empty();
        self.check_order(life, &effects);
        for effect in effects {
            self.perform(life, effect);
        }
        self.send_rows(life);
        // What was seen asleep is known from here on, though nothing had to be done.
        if changed || self.controls[life].seen_asleep.is_some() {
            self.check_core(life);
        }
        if let Some(row) = self.controls[life].begins.take() {
            self.others_end(life, row);
        }
        let control = &mut self.controls[life];
        let Some(deadline) = control.core.next_deadline() else {
            return;
        };
        let at = control.real(deadline).max(self.now + 1);
        if at < control.tick_at {
            control.tick_at = at;
            self.agenda.push(at, Item::ControlTick { life, at });
        }
    }

    fn perform(&mut self, life: usize, effect: Effect) {
        if !matches!(effect, Effect::Observe { .. }) {
            self.note(|_| format!("control {life} > {effect:?}"));
        }
        let commands = matches!(
            effect,
            Effect::Start { .. } | Effect::Wake { .. } | Effect::Sleep { .. } | Effect::Kill { .. }
        );
        self.check(!commands || !self.controls[life].deposed, |_| {
            "rule 7: a deposed leader commands an engine".to_owned()
        });
        match effect {
            Effect::Publish(row) => {
                self.check_row(life, &row);
                let rendered = self.render(&row);
                self.controls[life].published.insert(row.model.clone(), row);
                self.controls[life].pending.push(rendered);
            }
            Effect::SendSnapshot { stream, rows, .. } => self.send_snapshot(life, stream, rows),
            Effect::Heartbeat {
                gate,
                stream,
                echoed,
                elsewhere,
            } => {
                self.send_rows(life);
                self.check_heartbeat(life, &gate, stream, echoed, elsewhere.as_deref());
                self.check_echo(life, stream, echoed);
                let message = wire::heartbeat(self.controls[life].term, echoed, elsewhere);
                self.send(life, stream, vec![message]);
            }
            Effect::CloseStream { stream, .. } => {
                self.send_rows(life);
                self.controls[life].says.closes(stream);
                if let Some((stream, _)) = self.controls[life].streams.get(&stream) {
                    let stream = *stream;
                    self.close_by_control(life, stream);
                }
            }
            Effect::Observe { model, attempt } => self.observe(life, &model, attempt),
            Effect::Start { model, attempt } => self.action(life, &model, Order::Start, attempt),
            Effect::Wake {
                model,
                attempt,
                tier,
            } => self.action(life, &model, Order::Wake(tier), attempt),
            Effect::Sleep {
                model,
                attempt,
                mode,
                tier,
            } => self.action(life, &model, Order::Sleep(mode, tier), attempt),
            Effect::Kill { model, attempt, .. } => self.kill(life, &model, attempt),
            Effect::Removed { model, attempt } => self.remove_engine(life, &model, attempt),
            Effect::Dropped(model) => {
                self.controls[life].published.remove(&model);
                self.controls[life].account.drops(&model);
            }
            Effect::Record(_) => {}
            Effect::RaiseTerm { at_least } => self.raise_term(life, at_least),
            Effect::Footprint { model } => {
                self.keep_footprint(life, model);
            }
        }
    }

    fn render(&self, row: &PublishedRow) -> gate::Row {
        let engine = &self.engines[self.rows[&row.model]];
        let settings = wire::Settings {
            name: engine.name.clone(),
            has_prefix: engine.has_prefix,
            on_lease_end: engine.spec.on_lease_end,
            hold_budget: self.plan.hold_budget,
            hold_limit: self.plan.hold_limit,
        };
        wire::row(row, &settings)
    }

    fn send_snapshot(&mut self, life: usize, stream: StreamId, rows: Vec<PublishedRow>) {
        self.send_rows(life);
        let open = self.controls[life].core.is_open();
        self.check(open, |_| {
            "rule 7: a snapshot before every engine was looked at".to_owned()
        });
        self.check_first_look(life, true);
        self.check_table(life, stream);
        let rows: Vec<gate::Row> = rows
            .into_iter()
            .map(|row| {
                self.check_row(life, &row);
                let rendered = self.render(&row);
                self.controls[life].published.insert(row.model.clone(), row);
                rendered
            })
            .collect();
        let term = self.controls[life].term;
        let Some((_, version)) = self.controls[life].streams.get_mut(&stream) else {
            return;
        };
        *version += 1;
        let version = *version;
        let messages = wire::snapshot(term, version, rows, &self.plan.times, self.plan.rows_each);
        self.send(life, stream, messages);
    }

    /// Rows that were published one after the other go out as one delta, before anything else is sent.
    pub(crate) fn send_rows(&mut self, life: usize) {
        let rows = std::mem::take(&mut self.controls[life].pending);
        self.send_delta(life, &rows);
    }

    fn send_delta(&mut self, life: usize, rows: &[gate::Row]) {
        if rows.is_empty() {
            return;
        }
        let term = self.controls[life].term;
        let mut attached = Vec::new();
        for (id, (_, version)) in &mut self.controls[life].streams {
            if *version > 0 {
                *version += 1;
                attached.push((*id, *version));
            }
        }
        for (id, version) in attached {
            self.send(life, id, vec![wire::delta(term, version, rows.to_vec())]);
        }
    }

    /// Rows whose prefixes changed, as they were last published.
    pub(crate) fn render_again(&mut self, life: usize, row: usize) {
        let id = self.engines[row].spec.id.clone();
        if let Some(published) = self.controls[life].published.get(&id).cloned() {
            let rendered = self.render(&published);
            self.send_delta(life, &[rendered]);
        }
    }

    /// Rule 3: nothing on a stream is dropped or overtaken; a full queue closes it.
    fn send(&mut self, life: usize, id: StreamId, messages: Vec<gate::ControlMessage>) {
        for message in messages {
            let Some((stream, _)) = self.controls[life].streams.get(&id) else {
                return;
            };
            let stream = *stream;
            if self.streams[stream].down.wire.len() >= self.plan.queue {
                self.note(|_| format!("control {life}: the queue of stream {} is full", id.0));
                return self.close_by_control(life, stream);
            }
            let at = self.now + self.way(self.streams[stream].gate);
            self.send_down(stream, at, Arrival::Message(message));
        }
    }

    /// Control closes a stream; its reader tells the core that it has ended.
    pub(crate) fn close_by_control(&mut self, life: usize, stream: usize) {
        let id = self.streams[stream].id;
        let gate = GateId(self.gates[self.streams[stream].gate].id.clone());
        if let Some(id) = id {
            self.controls[life].streams.remove(&id);
            let event = Box::new(Event::StreamClosed { gate, stream: id });
            self.agenda.push(self.now + 1, Item::ToCore { life, event });
        }
        let after = self.short_way();
        self.control_closes(stream, Some(after));
    }
}
