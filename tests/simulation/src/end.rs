//! The end of a run: faults stop, what is open ends, then traffic without faults. Nobody waits for ever.

use greenthread_core::{
    effect::{Admission, RefuseReason},
    event::Operator,
    ids::Bytes,
};

use crate::{
    agenda::Item,
    engine::Process,
    plan::CAPACITY,
    request::{Outcome, Stage},
    world::World,
};

/// Longest cool-down, longest look at engines that do not answer, and what else has a fixed length in the core.
const FIXED: u64 = 480_000;

impl World {
    /// Faults stop; everybody is served in the end.
    pub(crate) fn end(&mut self) {
        self.note(|_| "faults stop".to_owned());
        (self.faults, self.load) = (false, false);
        self.foreign.fill(Bytes(0));
        self.agenda.push(self.now, Item::ControlStarts);
        // What waits for a control that stands still may come in any order: nobody is disabled after this.
        self.run_until(self.healed_at() + 1);
        for engine in 0..self.engines.len() {
            let known = &mut self.engines[engine];
            (known.lie, known.slower) = (None, 0);
            self.operate(engine, Operator::Enable);
        }
        let healed = self.healed_at();
        self.run_until(healed + 1_000);
        // Whoever ran out of restarts is woken by hand.
        for engine in 0..self.engines.len() {
            if self.engines[engine].present {
                self.operate(engine, Operator::Wake);
            }
        }
        let patience = FIXED + self.longest_wait() * 4;
        if !self.until_nothing_is_open(patience) {
            return self.complain_of_waiting(patience);
        }
        self.calm();
    }

    /// When everything that stands still or is stuck goes on.
    fn healed_at(&self) -> u64 {
        let gates = self.gates.iter().map(|gate| gate.frozen_until);
        let gateways = self.gateways.iter().map(|gateway| gateway.stalled_until);
        let controls = self.controls.iter().map(|control| control.frozen_until);
        let engines = self.engines.iter().map(|engine| engine.hangs_until);
        let latest = gates.chain(gateways).chain(controls).chain(engines).max();
        let leads_at = self.leadership.away_until + self.plan.leader_lease;
        latest.unwrap_or(0).max(leads_at).max(self.now)
    }

    fn until_nothing_is_open(&mut self, patience: u64) -> bool {
        let end = self.now + patience;
        while self.hopeful() > 0 && self.now < end && self.violation.is_none() {
            self.run_until(self.now + 500);
        }
        self.hopeful() == 0 || self.violation.is_some()
    }

    /// Whether nobody will ever wake an engine: its operator declared more than there is, or took it out of the fleet while control was
    /// away.
    fn is_hopeless(&self, engine: usize) -> bool {
        let known = &self.engines[engine];
        known.asleep
            && (!known.present || self.never_fits(engine) || !self.really_fits(engine, Bytes(0)))
    }

    /// Whether there is room for a model beside those that are pinned, and those that nobody will wake and nobody may end, since requests
    /// are frozen in them (S2: never truncated).
    fn fits_beside_the_hopeless(&self, engine: usize) -> bool {
        let own = &self.engines[engine];
        let kept = |at: usize| {
            let other = &self.engines[at];
            if other.spec.pinned {
                other.real.most()
            } else if self.is_hopeless(at) && !other.inside.is_empty() {
                other.holds
            } else {
                Bytes(0)
            }
        };
        own.spec.gpus.iter().all(|gpu| {
            let others = (0..self.engines.len())
                .filter(|at| *at != engine && self.engines[*at].spec.gpus.contains(gpu));
            others.map(kept).sum::<Bytes>() + own.real.most() <= CAPACITY
        })
    }

    /// Open requests, without those that are frozen where nobody will wake them.
    fn hopeful(&self) -> u64 {
        let frozen = |at: &usize| self.is_hopeless(*at);
        let hopeless: usize = (0..self.engines.len())
            .filter(frozen)
            .map(|at| self.engines[at].inside.len())
            .sum();
        self.open.saturating_sub(hopeless as u64)
    }

    /// Whether control says that this row needs more memory than there ever is.
    fn never_fits(&self, engine: usize) -> bool {
        let id = &self.engines[engine].spec.id;
        let leader = self
            .controls
            .iter()
            .rfind(|control| control.alive && !control.deposed);
        let views = leader
            .map(|control| control.core.view())
            .unwrap_or_default();
        views.iter().any(|view| {
            let refuses = matches!(
                view.admission,
                Admission::Refuse {
                    reason: RefuseReason::NeverFits,
                    ..
                }
            );
            view.id == *id && refuses
        })
    }

    /// What control says of its models, for people.
    fn views(&self) -> Vec<String> {
        let leaders = self
            .controls
            .iter()
            .filter(|control| control.alive && !control.deposed);
        let views = leaders.flat_map(|control| {
            control.core.view().into_iter().map(|view| {
                format!(
                    "{} {} since {} of {}, holds {}, in flight {}, frozen {}, {:?}",
                    view.id.0,
                    view.phase,
                    view.since.0,
                    control.local(self.now).0,
                    view.reserved,
                    view.in_flight,
                    view.frozen,
                    view.last_error
                )
            })
        });
        views.collect()
    }

    fn complain_of_waiting(&mut self, patience: u64) {
        let open = |request: &&crate::request::Request| !matches!(request.stage, Stage::Over(_));
        let first = self.requests.iter().find(open).cloned();
        let views = self.views();
        self.violated(format!(
            "liveness: {} requests are open {patience} ms after the last fault, the first {first:?}; {views:?}",
            self.open
        ));
    }

    /// The longest that a request may be held once everything works: as many cycles as there are models (see Liveness in the design).
    pub(crate) fn longest_wait(&self) -> u64 {
        let most =
            |of: fn(&crate::engine::Engine) -> u64| self.engines.iter().map(of).max().unwrap_or(0);
        let cycle = most(|engine| engine.spec.max_wait.0)
            + most(|engine| engine.spec.min_runtime.0)
            + most(|engine| engine.spec.drain_timeout.0)
            + most(|engine| engine.takes().1.max(engine.takes().3) + engine.takes().2)
            + if self.plan.hosts.is_empty() {
                0
            } else {
                12_000
            }
            + most(|engine| engine.takes().0)
            + 3_000;
        cycle * (self.engines.len() as u64 + 1)
    }

    /// Models that must be served when asked for: in the fleet, and possible on it.
    fn servable(&self, name: usize) -> bool {
        let name = &self.plan.models[name].name;
        let owns = |at: &usize| {
            let engine = &self.engines[*at];
            engine.name == *name
                && engine.present
                && engine.has_prefix
                && engine.process != Process::Starting
        };
        let Some(engine) = (0..self.engines.len()).find(owns) else {
            return false;
        };
        if !self.really_fits(engine, Bytes(0)) || !self.fits_beside_the_hopeless(engine) {
            return false;
        }
        let id = &self.engines[engine].spec.id;
        let leader = self
            .controls
            .iter()
            .rfind(|control| control.alive && !control.deposed);
        let views = leader
            .map(|control| control.core.view())
            .unwrap_or_default();
        let fits = |admission| {
            !matches!(
                admission,
                Admission::Refuse {
                    reason: RefuseReason::NeverFits,
                    ..
                }
            )
        };
        views
            .iter()
            .any(|view| view.id == *id && fits(view.admission))
    }

    /// Traffic without faults: short requests for every model, then one of each that is asked for until it is answered.
    fn calm(&mut self) {
        self.note(|_| "calm".to_owned());
        self.plan.service = self.plan.service.min(300);
        self.calm_since = Some(self.now + 5_000);
        // Long enough to see somebody starve, where that does not take too long.
        let length = if self.random.chance(1, 3) && self.longest_wait() < 60_000 {
            self.longest_wait() * 3
        } else {
            self.plan.calm
        };
        let end = self.now + length;
        (self.load, self.plan.request_every) = (true, self.plan.request_every.max(100));
        self.agenda.push(self.now, Item::NextRequest);
        self.run_until(end);
        self.load = false;
        let patience = FIXED + self.longest_wait() * 2;
        if !self.until_nothing_is_open(patience) {
            return self.complain_of_waiting(patience);
        }
        for model in 0..self.plan.models.len() {
            self.probe(model, patience);
        }
        self.nothing_is_left();
        if self.violation.is_none() && self.plan.seed.is_multiple_of(4) {
            self.quiet();
        }
    }

    /// A client that asks again until it is answered.
    fn probe(&mut self, model: usize, patience: u64) {
        let end = self.now + patience;
        let gates = |world: &Self| {
            let takes = |gate: &usize| world.gates[*gate].alive && !world.gates[*gate].replaced;
            (0..world.gates.len()).find(takes)
        };
        while self.violation.is_none() && self.servable(model) {
            let Some(request) = gates(self).and_then(|gate| self.arrive(gate, model, false)) else {
                return self.violated("no gate is left");
            };
            while self.violation.is_none()
                && !matches!(self.requests[request as usize].stage, Stage::Over(_))
                && self.now < end
            {
                self.run_until(self.now + 200);
            }
            let stage = self.requests[request as usize].stage;
            if stage == Stage::Over(Outcome::Answered) {
                return;
            }
            if self.now >= end {
                let name = self.plan.models[model].name.clone();
                let views = self.views();
                self.violated(format!(
                    "liveness: nobody answers for {name}: {stage:?}; {views:#?}"
                ));
            }
            // A client that follows Retry-After, not a clockwork.
            let pause = self.random.within(300, 3_000);
            self.run_until(self.now + pause);
        }
    }

    /// What control believes of requests is zero again.
    fn nothing_is_left(&mut self) {
        // What was hopeless until a moment ago may just be on its way.
        let end = self.now + self.longest_wait();
        let mut left = Vec::new();
        while self.violation.is_none() {
            self.run_until(self.now + 2_000);
            left = self.left();
            if left.is_empty() || self.now >= end {
                break;
            }
        }
        self.check(left.is_empty(), |_| {
            format!("in flight and held, and nobody asks: {left:?}")
        });
    }

    /// Rows of which control believes that requests are in flight or held, without those that nobody will wake.
    fn left(&self) -> Vec<String> {
        let leader = self
            .controls
            .iter()
            .rfind(|control| control.alive && !control.deposed);
        let views = leader
            .map(|control| control.core.view())
            .unwrap_or_default();
        let is_left = |view: &greenthread_core::ModelView| {
            let engine = self.rows.get(&view.id).copied();
            let hopeless = engine.is_some_and(|at| self.is_hopeless(at));
            (view.in_flight, view.held) != (0, 0) && !hopeless
        };
        let left = views.into_iter().filter(is_left);
        left.map(|view| format!("{} {} and {}", view.id.0, view.in_flight, view.held))
            .collect()
    }
}
