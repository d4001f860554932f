//! An independent account of what one control has heard of its gates and its engines, kept from the events that reach it: rules 4 to 9
//! of the protocol, written a second time. What the core says of its gates must be the same, and what puts an engine to sleep must
//! stand here.

use std::collections::{BTreeMap, BTreeSet};

use greenthread_core::{
    effect::Effect,
    event::{EngineState, Event, Figures, Operator},
    ids::{Attempt, Epoch, GateId, Millis, ModelId, StreamId},
    model::{ModelSpec, OnLeaseEnd, Times},
};

use crate::world::World;

/// A first look that nobody answers is waited for so long.
const FIRST_LOOK: u64 = 5_000;
/// Looks that are remembered of each engine.
const LOOKS: usize = 16;

/// What a gate said of one row.
#[derive(Clone, Debug, Default)]
struct Said {
    in_flight: u64,
    held: u64,
    used: Option<Millis>,
    /// Epoch of the newest barrier that it acknowledged, on which stream, and the step in which it said zero under it.
    barrier: Option<(Epoch, StreamId, Option<u64>)>,
}

/// One gate.
#[derive(Clone, Debug)]
struct Heard {
    stream: StreamId,
    sequence: u64,
    at: Millis,
    /// Version of its table, as it last said.
    version: u64,
    /// Silent for lease + margin, since that step.
    fenced: Option<u64>,
    rows: BTreeMap<ModelId, Said>,
}

/// A look at an engine that was asked for.
#[derive(Clone, Copy, Debug)]
struct Look {
    attempt: Attempt,
    step: u64,
    at: Millis,
    /// When it was answered that the engine is awake and counts nothing.
    zero: Option<Millis>,
}

/// The account of one life of control.
#[derive(Clone, Debug, Default)]
pub struct Account {
    step: u64,
    gates: BTreeMap<GateId, Heard>,
    looks: BTreeMap<ModelId, Vec<Look>>,
    /// Engines that have answered this life, or were asked in vain.
    seen: BTreeSet<ModelId>,
    /// Engines that were there when it began.
    first: BTreeSet<ModelId>,
    /// It is told of the fleet.
    pub begins: bool,
    /// What this step's look at an engine showed.
    now_seen: Option<(ModelId, Attempt, EngineState)>,
    /// The message that this step must echo.
    owes: Option<(StreamId, u64)>,
    /// When each model was used last, as anybody ever said.
    uses: BTreeMap<ModelId, Millis>,
    /// Looks in a row that an engine did not answer.
    unanswered: BTreeMap<ModelId, u32>,
    /// Since when the oldest request waits that a gate held when it began a stream, of models for which any is held.
    held: BTreeMap<ModelId, Millis>,
}

impl Account {
    /// An event reaches the core at `now` of its clock.
    pub fn hears(&mut self, now: Millis, times: &Times, event: &Event) {
        self.step += 1;
        (self.now_seen, self.owes) = (None, None);
        self.time_passes(now, times);
        match event {
            Event::Hello {
                gate,
                stream,
                sequence,
                figures,
                ..
            } => self.hello(now, gate, *stream, *sequence, figures),
            Event::Report {
                gate,
                stream,
                sequence,
                table_version,
                figures,
            } if self.believes(now, gate, *stream, *sequence) => {
                self.gates
                    .entry(gate.clone())
                    .and_modify(|gate| gate.version = *table_version);
                self.report(now, gate, *stream, figures);
            }
            Event::Ack {
                gate,
                stream,
                sequence,
                model,
                epoch,
                in_flight,
            } if self.believes(now, gate, *stream, *sequence) => {
                let step = self.step;
                let said = self.said(gate, model);
                said.in_flight = *in_flight;
                // The same barrier acknowledged again is no news.
                let before = said.barrier.filter(|(known, _, _)| known == epoch);
                let since = before.and_then(|(_, _, zero)| zero).unwrap_or(step);
                let zero = (*in_flight == 0).then_some(since);
                said.barrier = Some((*epoch, *stream, zero));
            }
            Event::Bye {
                gate,
                stream,
                sequence,
            } if self.believes(now, gate, *stream, *sequence) => {
                self.gates.remove(gate);
                self.owes = None;
            }
            Event::Observed {
                model,
                attempt,
                observation,
            } => {
                self.now_seen = Some((model.clone(), *attempt, observation.state));
                let looks = self.looks.entry(model.clone()).or_default();
                if let Some(look) = looks.iter_mut().find(|look| look.attempt == *attempt) {
                    self.seen.insert(model.clone());
                    let unanswered = self.unanswered.entry(model.clone()).or_default();
                    *unanswered = if observation.state == EngineState::Unresponsive {
                        *unanswered + 1
                    } else {
                        0
                    };
                    let zero =
                        observation.state == EngineState::Awake && observation.count == Some(0);
                    look.zero = zero.then_some(now);
                }
            }
            Event::Operator {
                model,
                verb: Operator::Wake,
            } => self.uses_at(model, now),
            Event::ModelSet(spec) if self.begins => {
                self.first.insert(spec.id.clone());
            }
            _ => {}
        }
        let mut held = std::mem::take(&mut self.held);
        held.retain(|model, _| self.figures(model).1 > 0);
        self.held = held;
    }

    fn said(&mut self, gate: &GateId, model: &ModelId) -> &mut Said {
        let rows = &mut self.gates.get_mut(gate).expect("a gate").rows;
        rows.entry(model.clone()).or_default()
    }

    fn time_passes(&mut self, now: Millis, times: &Times) {
        let fence = times.lease + times.margin;
        let forget = fence + times.max_flow + times.margin;
        self.gates.retain(|_, gate| now.since(gate.at) < forget);
        for gate in self.gates.values_mut() {
            if now.since(gate.at) >= fence && gate.fenced.is_none() {
                gate.fenced = Some(self.step);
                gate.rows.values_mut().for_each(|said| said.held = 0);
            }
        }
    }

    fn hello(
        &mut self,
        now: Millis,
        id: &GateId,
        stream: StreamId,
        sequence: u64,
        figures: &[(ModelId, Figures)],
    ) {
        let gate = self.gates.entry(id.clone()).or_insert_with(|| Heard {
            stream,
            sequence: 0,
            at: now,
            version: 0,
            fenced: None,
            rows: BTreeMap::new(),
        });
        if sequence <= gate.sequence {
            return;
        }
        (gate.stream, gate.sequence, gate.at, gate.fenced) = (stream, sequence, now, None);
        for said in gate.rows.values_mut() {
            (said.in_flight, said.held) = (0, 0);
        }
        self.take(now, id, figures);
        for (model, figures) in figures.iter().filter(|(_, figures)| figures.held > 0) {
            let since = now.since(Millis(figures.oldest_age));
            let known = self.held.entry(model.clone()).or_insert(since);
            *known = since.min(*known);
        }
    }

    /// Rule 5: what an older stream says after a new Hello is ignored.
    fn believes(&mut self, now: Millis, id: &GateId, stream: StreamId, sequence: u64) -> bool {
        let Some(gate) = self.gates.get_mut(id) else {
            return false;
        };
        if gate.stream != stream || sequence <= gate.sequence {
            return false;
        }
        (gate.sequence, gate.at, gate.fenced) = (sequence, now, None);
        self.owes = Some((stream, sequence));
        true
    }

    fn take(&mut self, now: Millis, id: &GateId, figures: &[(ModelId, Figures)]) {
        for (model, figures) in figures {
            let said = self.said(id, model);
            (said.in_flight, said.held) = (figures.in_flight, figures.held);
            let used = figures.last_used_age.map(|age| now.since(Millis(age)));
            said.used = said.used.max(used);
            used.into_iter().for_each(|at| self.uses_at(model, at));
        }
    }

    fn uses_at(&mut self, model: &ModelId, at: Millis) {
        let last = self.uses.entry(model.clone()).or_default();
        *last = at.max(*last);
    }

    fn report(
        &mut self,
        now: Millis,
        id: &GateId,
        stream: StreamId,
        figures: &[(ModelId, Figures)],
    ) {
        self.take(now, id, figures);
        let step = self.step;
        for (model, figures) in figures {
            if let Some((_, on, zero)) = &mut self.said(id, model).barrier
                && *on == stream
            {
                *zero = (figures.in_flight == 0).then(|| zero.unwrap_or(step));
            }
        }
    }

    /// Control asks for a look.
    pub fn asks(&mut self, now: Millis, model: &ModelId, attempt: Attempt) {
        let looks = self.looks.entry(model.clone()).or_default();
        if looks.len() == LOOKS {
            looks.remove(0);
        }
        looks.push(Look {
            attempt,
            step: self.step,
            at: now,
            zero: None,
        });
    }

    /// The row is forgotten.
    pub fn drops(&mut self, model: &ModelId) {
        for gate in self.gates.values_mut() {
            gate.rows.remove(model);
        }
    }

    /// In flight and held, over all gates that are not fenced (rule 9).
    pub fn figures(&self, model: &ModelId) -> (u64, u64) {
        let live = self.gates.values().filter(|gate| gate.fenced.is_none());
        let said = live.filter_map(|gate| gate.rows.get(model));
        said.fold((0, 0), |sum, said| {
            (sum.0 + said.in_flight, sum.1 + said.held)
        })
    }

    /// A gate that had requests of a model in flight when it was last heard, be it silent since then.
    pub fn had_some(&self, model: &ModelId) -> Option<&GateId> {
        let has = |gate: &Heard| gate.rows.get(model).is_some_and(|said| said.in_flight > 0);
        let mut gates = self.gates.iter();
        gates.find(|(_, gate)| has(gate)).map(|(id, _)| id)
    }

    /// Since when a request waits that a gate held when it began a stream.
    pub fn held_since(&self, model: &ModelId) -> Option<Millis> {
        self.held.get(model).copied()
    }

    /// When any gate last saw a use of a model.
    pub fn used(&self, model: &ModelId) -> Option<Millis> {
        let said = (self.gates.values()).filter_map(|gate| gate.rows.get(model));
        said.filter_map(|said| said.used).max()
    }

    /// When a model was used last, as anybody ever said.
    pub fn used_at_most(&self, model: &ModelId) -> Option<Millis> {
        self.uses.get(model).copied()
    }

    /// Looks in a row that an engine did not answer, the one of this step included; none where this step's look saw something else.
    pub fn unanswered_looks(&self, model: &ModelId) -> u32 {
        self.unanswered.get(model).copied().unwrap_or(0)
    }

    /// Whether a look at an engine was asked for by this attempt.
    pub fn asked(&self, model: &ModelId, attempt: Attempt) -> bool {
        let looks = self.looks.get(model);
        looks.is_some_and(|looks| looks.iter().any(|look| look.attempt == attempt))
    }

    /// The newest message of a gate that was believed, and its stream.
    pub fn newest(&self, gate: &GateId) -> Option<(StreamId, u64)> {
        let heard = self.gates.get(gate)?;
        Some((heard.stream, heard.sequence))
    }

    /// What the other gates have in flight, where that is something.
    pub fn elsewhere(&self, gate: &GateId) -> BTreeMap<ModelId, u64> {
        let others =
            (self.gates.iter()).filter(|(id, heard)| *id != gate && heard.fenced.is_none());
        let mut sums = BTreeMap::new();
        for (model, said) in others.flat_map(|(_, heard)| &heard.rows) {
            *sums.entry(model.clone()).or_default() += said.in_flight;
        }
        sums.retain(|_, sum| *sum > 0);
        sums
    }

    /// Whether any gate is alive.
    pub fn any_alive(&self) -> bool {
        self.gates.values().any(|gate| gate.fenced.is_none())
    }

    fn live(&self) -> BTreeSet<(GateId, u64)> {
        let live = (self.gates.iter()).filter(|(_, gate)| gate.fenced.is_none());
        live.map(|(id, gate)| (id.clone(), gate.version)).collect()
    }

    /// Why an engine must not be put to sleep as empty (or, with `frozen`, with what is in it) under this barrier, if so.
    fn forbids(
        &self,
        now: Millis,
        spec: &ModelSpec,
        barrier: Epoch,
        times: &Times,
        frozen: bool,
        ran_out: bool,
    ) -> Option<String> {
        let caps = spec.caps;
        let flows_away = spec.on_lease_end == OnLeaseEnd::Flow && !caps.lossless;
        let fence = times.lease + times.margin;
        let silence = if flows_away {
            fence + times.max_flow
        } else {
            fence
        };
        let mut clear = 0;
        for (id, gate) in &self.gates {
            let said = gate.rows.get(&spec.id);
            let barrier =
                (said.and_then(|said| said.barrier)).filter(|(epoch, _, _)| *epoch == barrier);
            let blocks = now.since(gate.at) < silence;
            match (barrier, gate.fenced) {
                (None, _) if blocks => {
                    return Some(format!("rule 5: {id:?} has not acknowledged"));
                }
                (Some((_, _, None)), _) if blocks && !frozen => {
                    return Some(format!("rule 5: {id:?} has not said zero"));
                }
                (Some((_, _, Some(step))), _) => clear = clear.max(step),
                (_, Some(step)) => {
                    clear = clear.max(step);
                    let busy = said.is_some_and(|said| said.in_flight > 0);
                    if busy && !frozen && !ran_out && !caps.counts && !caps.lossless {
                        return Some(format!("S2: {id:?} fell silent with requests in flight"));
                    }
                }
                (_, None) => {}
            }
        }
        if frozen || !caps.counts {
            return None;
        }
        self.counts_nothing(spec, clear, times)
    }

    /// Rule 6: zero, asked for after the last gate was clear; of an engine that would lose what it has, twice.
    fn counts_nothing(&self, spec: &ModelSpec, clear: u64, times: &Times) -> Option<String> {
        let Some((model, attempt, state)) = &self.now_seen else {
            return Some("rule 6: nobody has counted".to_owned());
        };
        if *model == spec.id && *state == EngineState::Asleep {
            return None;
        }
        let looks = self.looks.get(&spec.id).map(Vec::as_slice);
        let after = looks.unwrap_or_default().iter();
        let zeros = after.filter(|look| look.step >= clear && look.zero.is_some());
        let zeros: Vec<&Look> = zeros.collect();
        let Some(last) = zeros.iter().find(|look| look.attempt == *attempt) else {
            return Some(
                "rule 6: the count was not asked for after the gates were clear".to_owned(),
            );
        };
        let earlier = |look: &&&Look| {
            let from = look.zero.map(|at| at + times.forward_bound + Millis(1));
            from.is_some_and(|from| from <= last.at)
        };
        let twice = spec.caps.lossless || zeros.iter().any(|look| earlier(&look));
        (!twice).then(|| "rule 6: it was counted only once".to_owned())
    }
}

impl World {
    /// Rule 2: what a gate says on its newest stream is echoed at once. Rule 4: the stream of a gate that is fenced is closed.
    pub(crate) fn check_echoes(&mut self, life: usize, effects: &[Effect]) {
        let control = &self.controls[life];
        let served = |stream: &StreamId| {
            control
                .streams
                .get(stream)
                .is_some_and(|(_, version)| *version > 0)
        };
        let closes = |id: StreamId| {
            effects
                .iter()
                .any(|effect| matches!(effect, Effect::CloseStream { stream, .. } if *stream == id))
        };
        let owes = control.account.owes;
        let owes = owes.filter(|(stream, _)| served(stream) && !closes(*stream));
        if let Some((on, sequence)) = owes {
            let echoes = |effect: &Effect| matches!(effect, Effect::Heartbeat { stream, echoed, .. } if *stream == on && *echoed == sequence);
            self.check(effects.iter().any(echoes), |_| {
                format!("rule 2: {sequence} is not echoed on stream {}", on.0)
            });
        }
        let control = &self.controls[life];
        let fenced = (control.account.gates.values()).filter(|gate| gate.fenced.is_some());
        let open =
            |gate: &&Heard| control.streams.contains_key(&gate.stream) && !closes(gate.stream);
        let kept = fenced.filter(open).map(|gate| gate.stream).next();
        self.check(kept.is_none(), |_| {
            format!("rule 4: the stream of a fenced gate stays open: {kept:?}")
        });
    }

    /// Rules 4 and 9: the core knows of its gates what they said, no more and no less.
    pub(crate) fn check_account(&mut self, life: usize) {
        let control = &self.controls[life];
        let known: BTreeSet<(GateId, u64)> = control.core.gates().into_iter().collect();
        let same = known == control.account.live();
        let view = control.core.view();
        let differs = view.into_iter().find_map(|view| {
            let said = control.account.figures(&view.id);
            let known = (view.in_flight, view.held);
            (known != said).then_some((view.id, known, said))
        });
        self.check(same, |world| {
            format!(
                "rule 4: {:?} are waited for, and these have spoken: {:?}",
                world.controls[life].core.gates(),
                world.controls[life].account.live()
            )
        });
        self.check(differs.is_none(), |_| {
            format!("rule 9: control knows of what its gates did not say: {differs:?}")
        });
    }

    /// Rules 4 to 6: what puts an engine to sleep.
    pub(crate) fn check_evidence(
        &mut self,
        life: usize,
        spec: &ModelSpec,
        frozen: bool,
        ran_out: bool,
    ) {
        let control = &self.controls[life];
        let Some(row) = control.published.get(&spec.id) else {
            return;
        };
        let (now, times) = (control.local(self.now), self.plan.times);
        let forbids = control
            .account
            .forbids(now, spec, row.epoch, &times, frozen, ran_out);
        self.check(forbids.is_none(), |_| {
            format!("{} sleeps: {}", spec.id.0, forbids.unwrap_or_default())
        });
    }

    /// Rule 7: what was seen within `command` of the start is not believed, and nobody gets a table before every engine was seen.
    pub(crate) fn check_first_look(&mut self, life: usize, snapshot: bool) {
        let control = &self.controls[life];
        let (age, command) = (control.age(self.now), self.plan.times.command.0);
        self.check(snapshot || age > command, |_| {
            "rule 7: an engine is looked at too early".to_owned()
        });
        let control = &self.controls[life];
        let late = age > command + FIRST_LOOK;
        let unseen = (control.account.first.iter())
            .find(|model| !control.account.seen.contains(*model))
            .filter(|_| snapshot && !late)
            .cloned();
        self.check(unseen.is_none(), |_| {
            format!("rule 7: a snapshot before {unseen:?} was looked at")
        });
    }
}
