//! What must hold after every step: S1 to S7 of the design, and the rules of the protocol as far as they can be seen from outside.

use std::collections::{BTreeMap, BTreeSet};

use greenthread_core::{
    GpuView, ModelView,
    effect::{Admission, Effect, PublishedRow},
    event::{ActionError, EngineState, Event, Outcome},
    ids::{Attempt, Epoch, GpuId, ModelId, StreamId},
    model::{OnDrainTimeout, SleepMode},
    phase::Tier,
};

use crate::{
    agenda::Order,
    engine::{Engine, Process},
    request::Stage,
    world::World,
};

/// So often an engine is looked at in vain before it is ended.
const PATIENT_LOOKS: u32 = 15;

/// Epochs that were used.
#[derive(Clone, Debug, Default)]
pub struct Epochs {
    newest: BTreeMap<ModelId, (usize, Epoch, u8)>,
    used: BTreeSet<Epoch>,
}

impl World {
    /// Rule 3: within a step, no row change stands behind a heartbeat.
    pub(crate) fn check_order(&mut self, life: usize, effects: &[Effect]) {
        if self.controls[life].deposed {
            self.check_deposed(effects);
        } else {
            self.check_raise(life, effects);
            self.check_echoes(life, effects);
        }
        let heartbeat =
            (effects.iter()).position(|effect| matches!(effect, Effect::Heartbeat { .. }));
        let publish = (effects.iter()).rposition(|effect| matches!(effect, Effect::Publish(_)));
        let overtaken = matches!((heartbeat, publish), (Some(first), Some(last)) if first < last);
        self.check(!overtaken, |_| {
            "rule 3: a heartbeat overtakes a row change".to_owned()
        });
        self.check_barriers(effects);
    }

    /// No barrier rises and falls again in one step: it would refuse requests for nothing.
    fn check_barriers(&mut self, effects: &[Effect]) {
        let mut risen: BTreeSet<&ModelId> = BTreeSet::new();
        let rows = effects.iter().filter_map(|effect| match effect {
            Effect::Publish(row) => Some(row),
            _ => None,
        });
        let in_vain = rows.filter(|row| match row.admission {
            Admission::Admit => risen.remove(&row.model),
            Admission::Hold { .. } | Admission::Refuse { .. } => {
                if row.barriered {
                    risen.insert(&row.model);
                }
                false
            }
        });
        let in_vain = in_vain.map(|row| row.model.0.clone()).next();
        self.check(in_vain.is_none(), |_| {
            format!("the barrier of {in_vain:?} rises and falls in one step")
        });
    }

    /// Rules 2 and 5: what is echoed on a stream only grows, and is not what an older stream said.
    pub(crate) fn check_echo(&mut self, life: usize, id: StreamId, echoed: u64) {
        let Some((stream, _)) = self.controls[life].streams.get(&id) else {
            return;
        };
        let known = &mut self.streams[*stream];
        let before = std::mem::replace(&mut known.echoed, echoed);
        self.check(echoed >= before, |_| {
            format!("rule 5: {echoed} is echoed after {before}")
        });
    }

    /// Rule 13: epochs only grow, none is used twice, and every change of admission has a new one.
    pub(crate) fn check_row(&mut self, life: usize, row: &PublishedRow) {
        self.check_opened(life);
        let kind = match row.admission {
            Admission::Admit => 0,
            Admission::Hold { .. } => 1,
            Admission::Refuse { reason, .. } => 2 + reason as u8,
        };
        let term = self.controls[life].term;
        self.check(row.epoch.term == term, |_| {
            format!("rule 13: an epoch of term {}, not {term}", row.epoch.term)
        });
        let fresh = self.epochs.used.insert(row.epoch);
        let now = (life, row.epoch, kind);
        let before = self.epochs.newest.insert(row.model.clone(), now);
        match before.filter(|(of, _, _)| *of == life) {
            Some((_, epoch, _)) if row.epoch < epoch => {
                self.violated(format!("rule 13: the epoch of {:?} shrinks", row.model));
            }
            Some((_, epoch, before)) if row.epoch == epoch => {
                self.check(before == kind, |_| {
                    "rule 13: an admission changes without a new epoch".to_owned()
                });
            }
            Some(_) | None => self.check(fresh, |_| "rule 13: an epoch is used twice".to_owned()),
        }
        if row.admission == Admission::Admit
            && let Some(engine) = self.rows.get(&row.model).copied()
        {
            self.engines[engine].told_to_sleep = false;
        }
    }

    /// Keeps the books about actions, from the events that end them.
    pub(crate) fn before_step(&mut self, life: usize, event: &Event) {
        match event {
            Event::Started {
                model,
                attempt,
                outcome,
            }
            | Event::Woke {
                model,
                attempt,
                outcome,
            } => {
                self.told_of_action(life, model, *attempt, outcome);
                self.action_ended(life, model, *attempt, true);
                self.remember(life, event);
            }
            Event::Slept {
                model,
                attempt,
                outcome,
            } => {
                let definite = match outcome {
                    Outcome::Done { .. } => true,
                    Outcome::Failed(ActionError { engine, .. }) => match engine {
                        EngineState::Awake | EngineState::Gone | EngineState::Broken => true,
                        EngineState::Asleep | EngineState::Unresponsive => false,
                    },
                    Outcome::Unknown { .. } => false,
                };
                self.told_of_action(life, model, *attempt, outcome);
                self.action_ended(life, model, *attempt, definite);
                self.remember(life, event);
            }
            Event::EngineGone { model, .. } => {
                // What kept too much was to sleep once more, and does not any more.
                if let Some(engine) = self.rows.get(model) {
                    self.controls[life].knows.slept.remove(engine);
                }
                // Told late, it ends nothing of what the engine does now; and a start tells by itself how it ended.
                let control = &self.controls[life];
                let starts = |engine: &usize| {
                    let order = control.under_way.get(engine).map(|(order, _)| *order);
                    order == Some(Order::Start)
                };
                let gone = |engine: &&usize| self.engines[**engine].process == Process::Gone;
                let engine = self.rows.get(model).filter(gone).copied();
                let engine = engine.filter(|engine| !starts(engine));
                let control = &mut self.controls[life];
                let cut = engine.and_then(|row| Some((row, control.under_way.remove(&row)?)));
                control.knows.cut_short.extend(cut);
            }
            Event::ModelSet(spec) => {
                // What was measured so far is said with it, and control believes that.
                if let Some(row) = self.rows.get(&spec.id) {
                    self.controls[life].knows.stayed_before.remove(row);
                }
                let name = self
                    .rows
                    .get(&spec.id)
                    .map(|row| self.engines[*row].name.clone());
                for row in 0..self.engines.len() {
                    if Some(&self.engines[row].name) == name.as_ref() {
                        self.render_again(life, row);
                    }
                }
            }
            Event::GpuRead { gpu, used } => self.note_reading(life, *gpu, *used),
            // From now on less may be there than is needed.
            Event::GpuAccepted(gpu) => {
                self.controls[life].roomy.remove(gpu);
            }
            Event::Observed {
                model,
                attempt,
                observation,
            } => {
                self.told_of_look(life, model, *attempt, observation);
                let seen = observation.state == EngineState::Asleep;
                let engine = self.rows.get(model).copied();
                self.controls[life].seen_asleep = engine.filter(|_| seen);
                self.remember(life, event);
            }
            Event::Tick
            | Event::Hello { .. }
            | Event::Report { .. }
            | Event::Ack { .. }
            | Event::Bye { .. }
            | Event::StreamClosed { .. }
            | Event::ModelRemoved(_)
            | Event::Operator { .. }
            | Event::Deposed
            | Event::TermRaised(_) => {}
        }
    }

    fn remember(&mut self, life: usize, event: &Event) {
        let told = &mut self.controls[life].told;
        if told.len() == 24 {
            told.remove(0);
        }
        told.push(event.clone());
    }

    fn action_ended(&mut self, life: usize, model: &ModelId, attempt: Attempt, definite: bool) {
        let Some(engine) = self.rows.get(model) else {
            return;
        };
        let under_way = &mut self.controls[life].under_way;
        if definite
            && under_way
                .get(engine)
                .is_some_and(|(_, known)| *known == attempt)
        {
            under_way.remove(engine);
        }
    }

    /// What must hold at the moment at which an engine is told something.
    pub(crate) fn check_action(&mut self, life: usize, engine: usize, order: Order) {
        if self.plan.leader_lease > 0 {
            // A call is accepted within `command`, and nobody else leads by then.
            let accepted = self.now + self.plan.times.command.0;
            let leads = self.leadership.holder == Some(life) && accepted <= self.leadership.until;
            self.check(leads, |_| {
                "rule 7: a control that does not lead for long enough commands an engine".to_owned()
            });
        }
        let gpus = self.engines[engine].spec.gpus.clone();
        let others = self.controls[life].under_way.keys().copied();
        let crowded = others
            .filter(|other| *other != engine)
            .any(|other| (self.engines[other].spec.gpus.iter()).any(|gpu| gpus.contains(gpu)));
        self.check(!crowded, |_| "S6: two transitions on one GPU".to_owned());
        let pending = self.controls[life].under_way.get(&engine).copied();
        match order {
            Order::Sleep(mode, tier) => {
                let again = matches!(
                    self.controls[life].phases.get(&engine),
                    Some(("Sleeping", _))
                );
                self.check_stopped(life, engine, again);
                if again {
                    self.controls[life].knows.sleeps_again(engine);
                } else {
                    self.check_agrees(life, engine);
                    self.check_tier(engine, tier);
                }
                self.check_sleep(life, engine, mode, again);
                let roomy = gpus.into_iter();
                let roomy = roomy.filter(|gpu| self.controls[life].roomy.contains(gpu));
                let roomy: Vec<GpuId> = roomy.collect();
                self.controls[life].begun.extend(roomy);
                if tier == Tier::Ram {
                    self.controls[life].filled.push(engine);
                }
            }
            Order::Start | Order::Wake(_) => {
                let own = order != Order::Start || self.engines[engine].spec.caps.restartable;
                self.check(own, |_| {
                    "an engine that is not control's own is started".to_owned()
                });
                self.check(pending.is_none(), |_| {
                    format!("rule 11: {order:?} while {pending:?} is under way")
                });
                self.check_stopped(life, engine, false);
                self.check_agrees(life, engine);
                self.check_wake(life, engine, order);
                self.check_room(life, engine, order, &gpus);
                self.controls[life].begun.extend(gpus);
            }
        }
    }

    /// Nothing begins where ledger and oracle differ, or an action of this very engine is said again.
    fn check_stopped(&mut self, life: usize, engine: usize, again: bool) {
        let gpus = self.controls[life].core.gpus();
        let stopped = (self.engines[engine].spec.gpus.iter())
            .any(|gpu| gpus.get(gpu.0).is_some_and(|view| view.stopped.is_some()));
        self.check(again || !stopped, |_| {
            "an action begins on a GPU where ledger and oracle differ".to_owned()
        });
    }

    /// An engine that is ended instead of put to sleep takes nothing with it: nobody admits, nothing is inside or on its way.
    pub(crate) fn check_kill(&mut self, life: usize, engine: usize) {
        let known = &self.engines[engine];
        let phase = self.controls[life].phases.get(&engine);
        let drains = matches!(phase, Some(("Draining", _)));
        let serves = matches!(phase, Some(("Serving", _)));
        let (own, hangs) = (known.spec.caps.restartable, known.hangs_until > self.now);
        let asked = self.controls[life].account.unanswered_looks(&known.spec.id);
        self.check(own, |_| {
            "an engine that is not control's own is ended".to_owned()
        });
        self.check(
            !(serves && hangs && (1..PATIENT_LOOKS).contains(&asked)),
            |_| format!("an engine that does not answer is ended after {asked} looks"),
        );
        let known = &self.engines[engine];
        let stopped = drains && self.stops_instead(life, engine);
        if !stopped || !known.runs() || known.spec.on_drain_timeout == OnDrainTimeout::Abort {
            return;
        }
        let id = known.spec.id.0.clone();
        self.check_unasked(life, engine);
        for gate in 0..self.gates.len() {
            let node = &self.gates[gate];
            let local = node.local(self.now);
            let admits = node.alive && node.reference.admits(local, &id);
            self.check(!admits, |world| {
                format!("S2: {id} is stopped while {} admits", world.gates[gate].id)
            });
        }
        let inside = (0..self.requests.len()).rev().take(5_000).find(|request| {
            let known = &self.requests[*request];
            let there = matches!(known.stage, Stage::OnItsWay | Stage::Inside);
            let unseen = !self.engines[engine].spec.caps.counts && self.is_silent(known.gate);
            known.row == Some(engine) && there && !known.abandoned && !unseen
        });
        self.check(inside.is_none(), |_| {
            format!("S3: {id} is stopped with request {inside:?}")
        });
    }

    /// Whether control has just decided that a model sleeps without a process.
    fn stops_instead(&self, life: usize, engine: usize) -> bool {
        let id = &self.engines[engine].spec.id;
        let views = self.controls[life].core.view();
        views
            .iter()
            .any(|view| view.id == *id && matches!(view.phase, "Asleep" | "Queued"))
            && self.engines[engine].hangs_until <= self.now
    }

    /// S2 and S3: nobody admits any more, and nothing is inside; or what is inside is frozen, or the operator chose to cut it.
    fn check_sleep(&mut self, life: usize, engine: usize, mode: SleepMode, again: bool) {
        let spec = self.engines[engine].spec.clone();
        for gate in 0..self.gates.len() {
            let node = &self.gates[gate];
            let local = node.local(self.now);
            let leased = node.alive && node.reference.leased(local, &spec.id.0);
            let flows = node.alive && node.reference.flows(local, &spec.id.0);
            self.check(!leased, |world| {
                format!(
                    "S2: {} sleeps while {} admits",
                    spec.id.0, world.gates[gate].id
                )
            });
            self.check(!flows || spec.caps.lossless, |world| {
                format!(
                    "rule 14: {} sleeps while {} flows",
                    spec.id.0, world.gates[gate].id
                )
            });
        }
        let control = &self.controls[life];
        let drains = control
            .phases
            .get(&engine)
            .is_some_and(|(phase, _)| *phase == "Draining");
        let ran_out = control.drains.get(&engine).is_some_and(|(since, length)| {
            drains && control.local(self.now).since(*since).0 >= *length
        });
        let freezes =
            ran_out && spec.caps.lossless && spec.on_drain_timeout == OnDrainTimeout::Freeze;
        let cuts = ran_out && spec.on_drain_timeout == OnDrainTimeout::Abort;
        self.check(mode == SleepMode::Keep || cuts || again, |_| {
            "S3: requests are cut off, and nobody chose so".to_owned()
        });
        let booting =
            (self.controls[life].phases.get(&engine)).is_some_and(|(phase, _)| *phase == "Booting");
        if !again && !booting {
            self.check_evidence(life, &spec, freezes || cuts, ran_out);
        }
        let known = &self.engines[engine];
        let awake = known.process == Process::Up && !known.asleep;
        if awake && !again && !freezes && mode == SleepMode::Keep {
            let inside = self.weighing(engine, booting);
            self.excuse_unseen(engine);
            self.check(inside.is_none(), |_| {
                format!("S2: {} sleeps with request {inside:?}", spec.id.0)
            });
        }
        self.engines[engine].told_to_sleep = true;
    }

    /// A request that is in the engine, or on its way to it, and that an empty drain had to wait for.
    fn weighing(&self, engine: usize, booting: bool) -> Option<u32> {
        let caps = self.engines[engine].spec.caps;
        let weighs = |request: &u32| {
            let known = &self.requests[*request as usize];
            let there = matches!(known.stage, Stage::OnItsWay | Stage::Inside);
            // Rule 14, and S2 for engines without a count: what a silent gate has in flight goes on after the wake.
            let flowed = known.flowed && caps.lossless;
            let uncounted = caps.lossless && !caps.counts;
            let unseen = !caps.counts && self.is_silent(known.gate);
            // By a predecessor's table: meant for the process before this one, or kept by it until it is woken.
            let before = known.admitted < self.engines[engine].started_at;
            let older = booting && (before || caps.lossless);
            let excused = flowed || uncounted || unseen || older;
            known.row == Some(engine) && there && !known.abandoned && !excused
        };
        let mut requests = self
            .gates
            .iter()
            .flat_map(|gate| gate.requests.iter().copied());
        requests.find(weighs)
    }

    /// Whether control has heard nothing of a gate for so long that it is fenced.
    pub(crate) fn is_silent(&self, gate: usize) -> bool {
        let fence = self.plan.times.lease.0 + self.plan.times.margin.0;
        self.now + 1
            >= self.gates[gate].heard_at + fence - fence * self.plan.clock_error / 1_000_000
    }

    /// What a silent gate admitted after its last report nobody can see in an engine without a count (S2 says so).
    fn excuse_unseen(&mut self, engine: usize) {
        if self.engines[engine].spec.caps.counts {
            return;
        }
        for gate in 0..self.gates.len() {
            if self.is_silent(gate) {
                for request in self.gates[gate].requests.clone() {
                    self.requests[request as usize].unseen |=
                        self.requests[request as usize].row == Some(engine);
                }
            }
        }
    }

    /// S1, and the other half of S2.
    pub(crate) fn check_forward(&mut self, gate: usize, request: u32, row: usize) {
        let id = self.engines[row].spec.id.0.clone();
        let node = &self.gates[gate];
        let local = node.local(self.now);
        let leased = node.reference.leased(local, &id);
        let flows = node.reference.flows(local, &id);
        self.check(leased || flows, |world| {
            format!(
                "S1: {} forwards request {request} for {id}",
                world.gates[gate].id
            )
        });
        self.requests[request as usize].flowed = !leased;
        let known = &self.engines[row];
        let allowed = !known.told_to_sleep || (flows && known.spec.caps.lossless);
        self.check(allowed, |world| {
            format!(
                "S2: {} forwards to {id}, which was told to sleep",
                world.gates[gate].id
            )
        });
        if let Some(since) = self.calm_since {
            let arrived = self.requests[request as usize].arrived;
            let (waited, bound) = (self.now - arrived, self.longest_wait());
            self.check(arrived < since || waited <= bound, |_| {
                format!(
                    "liveness: request {request} for {id} waited {waited} ms, more than {bound}"
                )
            });
        }
    }

    /// A request reaches an engine: if that sleeps, then for a reason, or without harm.
    pub(crate) fn check_arrival(&mut self, engine: usize, request: u32) {
        let known = &self.engines[engine];
        if !known.asleep {
            return;
        }
        self.totals.late += 1;
        let restarted = self.requests[request as usize].admitted < known.started_at;
        let unseen = self.requests[request as usize].unseen;
        let harmless =
            known.spec.caps.lossless || known.stray || known.may_cut || restarted || unseen;
        let weighs = self.weighs(request);
        self.check(harmless || !weighs, |_| {
            format!("S2: request {request} reaches a sleeping engine and is lost")
        });
    }

    /// Whether an engine may come to hold more than control knows, without a word to it.
    pub(crate) fn is_excused(&self, life: usize, engine: usize) -> bool {
        let known = &self.engines[engine];
        // It still does what another life told it.
        let foreign = known.is_foreign(life);
        // Somebody starts it by hand.
        let by_hand = known.process == Process::Starting && !known.spec.caps.restartable;
        // It keeps its memory, and nobody measures.
        let keeps = known.asleep
            && !known.is_busy()
            && known.holds > known.real.asleep
            && !self.plan.measured;
        // Control hears of what was before.
        let late = known.found_less_until >= self.now;
        let unseen = late || known.strange || known.unseen && known.holds == known.real.asleep;
        foreign || by_hand || keeps || unseen || self.is_unmeasured(life, engine)
    }

    /// The ledger, against its capacity and against what is really held.
    pub(crate) fn check_core(&mut self, life: usize) {
        if self.controls[life].deposed {
            return;
        }
        let open = self.controls[life].core.is_open();
        let view = self.controls[life].core.view();
        let mut moving: BTreeSet<GpuId> = BTreeSet::new();
        self.controls[life].phases.clear();
        for model in &view {
            let Some(engine) = self.rows.get(&model.id).copied() else {
                continue;
            };
            self.controls[life]
                .phases
                .insert(engine, (model.phase, model.since));
            let known = &self.engines[engine];
            let control = &mut self.controls[life];
            if model.phase == "Draining"
                && control.drains.get(&engine).map(|(since, _)| *since) != Some(model.since)
            {
                let spec = control.core.spec(&model.id);
                let length = spec.map_or(0, |spec| spec.drain_timeout.0);
                control.drains.insert(engine, (model.since, length));
            }
            let fits = known.holds <= model.reserved;
            let seen = model.phase == "Serving";
            self.engines[engine].strange &= !seen;
            let excused = self.is_excused(life, engine);
            self.engines[engine].surprise |= excused;
            let known = &self.engines[engine];
            self.check(fits || known.surprise, |_| {
                format!(
                    "S4: {} holds more than the {} reserved for it ({})",
                    model.id.0, model.reserved, model.phase
                )
            });
            self.engines[engine].surprise &= !(fits && open) || excused;
            if matches!(model.phase, "Waking" | "Sleeping") {
                for gpu in &self.engines[engine].spec.gpus.clone() {
                    let alone = moving.insert(*gpu);
                    self.check(alone, |_| "S6: two models move on one GPU".to_owned());
                }
            }
        }
        // What was found, or is not known, may be more than fits; what is begun may not.
        let gpus = self.controls[life].core.gpus();
        let begun = std::mem::take(&mut self.controls[life].begun);
        let fits = begun.iter().all(|gpu| {
            gpus.get(gpu.0)
                .is_none_or(|gpu| gpu.reserved <= gpu.capacity)
        });
        self.check(fits, |_| {
            format!("S4: the ledger is beyond capacity: {gpus:?}")
        });
        self.check_foreign(life, &gpus);
        self.check_account(life);
        self.check_uses(life);
        self.check_fairness(life, &view);
        self.controls[life].roomy = self.roomy(life, &view, &gpus);
        self.check_hosts(life);
        self.check_sources(life);
    }

    /// GPUs that have room for whoever goes to sleep next: from then on that must stay so.
    fn roomy(&self, life: usize, views: &[ModelView], gpus: &[GpuView]) -> BTreeSet<GpuId> {
        let core = &self.controls[life].core;
        let peak = |gpu: &GpuId| {
            let there = views
                .iter()
                .filter_map(|view| core.spec(&view.id))
                .filter(|spec| spec.gpus.contains(gpu));
            there.map(|spec| spec.sizes.sleeping.bytes).max()
        };
        let is_roomy = |gpu: &GpuId| {
            let surprised = |engine: &Engine| engine.surprise && engine.spec.gpus.contains(gpu);
            let known = gpus.get(gpu.0);
            known.is_some_and(|known| {
                known.reserved + peak(gpu).unwrap_or_default() <= known.capacity
            }) && !self.engines.iter().any(surprised)
        };
        (0..gpus.len()).map(GpuId).filter(is_roomy).collect()
    }
}
