//! When nobody asks any more: what is idle sleeps, nothing holds more than there is, and operators are obeyed.

use greenthread_core::{ModelView, event::Operator, ids::Bytes};

use crate::world::World;

/// Longest Retry-After: so long whoever was refused counts as waiting.
const COMES_BACK: u64 = 62_000;

impl World {
    /// What control shows, by the leader's word.
    fn models_shown(&self) -> Vec<ModelView> {
        let leads = |control: &&crate::control::Control| control.alive && !control.deposed;
        let leader = self.controls.iter().rfind(leads);
        leader
            .map(|control| control.core.view())
            .unwrap_or_default()
    }

    /// Models that nothing but a decision keeps where they are: an engine for which host RAM has no room goes on serving, and nothing
    /// moves where ledger and oracle differ.
    fn is_free(&self, view: &ModelView) -> bool {
        let Some(life) = self
            .controls
            .iter()
            .rposition(|control| control.alive && !control.deposed)
        else {
            return false;
        };
        let gpus = self.controls[life].core.gpus();
        let engine = self.rows.get(&view.id).map(|row| &self.engines[*row]);
        engine.is_some_and(|engine| {
            let stopped = |gpu: &greenthread_core::ids::GpuId| {
                gpus.get(gpu.0).is_some_and(|gpu| gpu.stopped.is_some())
            };
            engine.present && !engine.spec.gpus.iter().any(stopped)
        })
    }

    /// Whether a model comes back by itself where others have gone.
    fn returns(&self, view: &ModelView) -> bool {
        self.engines[self.rows[&view.id]].spec.popular
    }

    /// Nobody asks for a long time.
    pub(crate) fn quiet(&mut self) {
        let patience = COMES_BACK + 20_000 + self.longest_wait();
        self.run_until(self.now + patience);
        self.check_quiet();
        if self.plan.hosts.is_empty() {
            self.check_operators();
        }
    }

    fn check_quiet(&mut self) {
        let free = |view: &ModelView| self.is_free(view);
        let views = self.models_shown();
        let spec = |view: &ModelView| &self.engines[self.rows[&view.id]].spec;
        let roomy = self.plan.hosts.is_empty();
        let idle = views.iter().find(|view| {
            let timeout = spec(view).idle_timeout;
            roomy
                && free(view)
                && view.phase == "Serving"
                && timeout.is_some()
                && !spec(view).pinned
        });
        let idle = idle.map(|view| view.id.0.clone());
        let pinned = views.iter().find(|view| {
            free(view) && view.phase == "Asleep" && spec(view).pinned && !view.disabled
        });
        let pinned = pinned.map(|view| view.id.0.clone());
        let popular = self.displaced(&views);
        let beyond = self.beyond(&views);
        self.check(idle.is_none(), |_| {
            format!("liveness: {idle:?} is idle and never sleeps")
        });
        self.check(pinned.is_none(), |_| {
            format!("liveness: {pinned:?} is pinned and sleeps")
        });
        self.check(popular.is_none(), |_| {
            format!("liveness: {popular:?} is popular, made room, and does not come back into room that nobody wants")
        });
        self.check(beyond.is_none(), |_| {
            format!("S4: GPU {beyond:?} stays beyond its capacity, and somebody there could sleep")
        });
    }

    /// A popular model that made room, where there is room and nobody waits.
    fn displaced(&self, views: &[ModelView]) -> Option<String> {
        let control = self
            .controls
            .iter()
            .rfind(|control| control.alive && !control.deposed)?;
        let gpus = control.core.gpus();
        let fits = |view: &&ModelView| {
            let Some(spec) = control.core.spec(&view.id) else {
                return false;
            };
            let displaced = control
                .fair
                .courses
                .get(&view.id)
                .is_some_and(|course| course.displaced);
            let room = spec.gpus.iter().all(|gpu| {
                let on_gpu =
                    |other: &&ModelView| self.engines[self.rows[&other.id]].spec.gpus.contains(gpu);
                let there: Vec<&ModelView> = views.iter().filter(on_gpu).collect();
                let peak = there
                    .iter()
                    .filter_map(|other| control.core.spec(&other.id))
                    .map(|spec| spec.sizes.sleeping.bytes);
                let peak = peak.max().unwrap_or_default().max(spec.sizes.waking.bytes);
                let still = there
                    .iter()
                    .all(|other| matches!(other.phase, "Asleep" | "Serving"));
                let needs = spec.awake + peak;
                still
                    && gpus
                        .get(gpu.0)
                        .is_some_and(|gpu| gpu.reserved.less(view.reserved) + needs <= gpu.capacity)
            });
            spec.popular
                && displaced
                && view.phase == "Asleep"
                && !view.disabled
                && room
                && self.is_free(view)
        };
        views.iter().find(fits).map(|view| view.id.0.clone())
    }

    /// A GPU with more reserved on it than it has, though a model there could sleep.
    fn beyond(&self, views: &[ModelView]) -> Option<usize> {
        let control = self
            .controls
            .iter()
            .rfind(|control| control.alive && !control.deposed)?;
        let gpus = control.core.gpus();
        let over = |gpu: &usize| {
            let (reserved, capacity) = (gpus[*gpu].reserved, gpus[*gpu].capacity);
            let could = views.iter().any(|view| {
                let spec = &self.engines[self.rows[&view.id]].spec;
                let there = spec.gpus.iter().any(|on| on.0 == *gpu);
                let frees = spec.awake.less(spec.asleep) > Bytes(0);
                there && frees && view.phase == "Serving" && !spec.pinned && self.is_free(view)
            });
            reserved > capacity && could && self.plan.hosts.is_empty()
        };
        (0..gpus.len()).find(over)
    }

    /// What operators ask for happens.
    fn check_operators(&mut self) {
        let patience = self.longest_wait() + COMES_BACK;
        for verb in [Operator::Sleep, Operator::Wake, Operator::Disable] {
            for engine in 0..self.engines.len() {
                if self.engines[engine].present {
                    self.operate(engine, verb);
                }
            }
            self.run_until(self.now + patience);
            if verb == Operator::Wake {
                continue;
            }
            let awake = self
                .models_shown()
                .into_iter()
                .find(|view| view.phase == "Serving" && self.is_free(view) && !self.returns(view));
            let awake = awake.map(|view| view.id.0);
            self.check(awake.is_none(), |_| {
                format!("liveness: {awake:?} is told {verb:?} and serves on")
            });
        }
        let present: Vec<usize> = (0..self.engines.len())
            .filter(|engine| self.engines[*engine].present)
            .collect();
        for engine in &present {
            self.operate(*engine, Operator::Enable);
        }
        let Some(engine) = present.into_iter().next() else {
            return;
        };
        let id = self.engines[engine].spec.id.clone();
        let before = self.totals.wakes;
        self.operate(engine, Operator::Wake);
        self.run_until(self.now + patience);
        let woken = self.totals.wakes > before;
        let asleep = self
            .models_shown()
            .into_iter()
            .any(|view| view.id == id && view.phase == "Asleep" && self.is_free(&view));
        self.check(woken || !asleep, |_| {
            format!("liveness: {} is told to wake and sleeps on", id.0)
        });
    }
}
