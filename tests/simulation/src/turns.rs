//! What control says of room that comes, and when it begins at all: choices that make nobody go, and steps in which nothing may be done.

use std::collections::BTreeMap;

use greenthread_core::{
    ModelView,
    decision::{Choice, Taken, Trigger},
    effect::Effect,
    ids::{Bytes, GpuId, Millis, ModelId},
    phase::Tier,
};

use crate::{course::Course, world::World};

impl World {
    /// Rule 10: a leader that is none any more closes its streams, and says and does nothing else.
    pub(crate) fn check_deposed(&mut self, effects: &[Effect]) {
        let mut others =
            (effects.iter()).filter(|effect| !matches!(effect, Effect::CloseStream { .. }));
        let other = others.next();
        self.check(other.is_none(), |_| {
            format!("rule 10: a deposed leader goes on: {other:?}")
        });
    }

    /// Rule 12: a term is raised for a larger one, and for nothing else.
    pub(crate) fn check_raise(&mut self, life: usize, effects: &[Effect]) {
        let term = self.controls[life].term;
        let vain =
            |effect: &Effect| matches!(effect, Effect::RaiseTerm { at_least } if *at_least <= term);
        self.check(!effects.iter().any(vain), |_| {
            format!("rule 12: term {term} is raised for one that is not larger")
        });
    }

    /// Rule 7: nobody is told of a row before every engine was looked at.
    pub(crate) fn check_opened(&mut self, life: usize) {
        let open = self.controls[life].core.is_open();
        self.check(open, |_| {
            "rule 7: a row before every engine was looked at".to_owned()
        });
    }

    /// What was chosen in this step for those who go on waiting.
    pub(crate) fn check_waits(
        &mut self,
        life: usize,
        before: &BTreeMap<ModelId, Course>,
        views: &[ModelView],
    ) {
        let now = self.controls[life].local(self.now);
        for view in views.iter().filter(|view| view.phase == "Queued") {
            let last = self.controls[life].core.explain(&view.id, 1).pop();
            // Two steps may have the same time; what was chosen in the first was judged then.
            let judged = &mut self.controls[life].fair.judged;
            let fresh = last.filter(|choice| {
                // What follows an eviction is added to it, and changes nothing of what was decided.
                let decided =
                    |choice: &Choice| (choice.number, choice.need.clone(), choice.taken.clone());
                let new = judged.get(&view.id).map(decided) != Some(decided(choice));
                new && choice.at == now && choice.target == view.id
            });
            let Some(choice) = fresh else { continue };
            judged.insert(view.id.clone(), choice.clone());
            match choice.taken {
                Taken::GiveUp => self.check_hopeless(life, view, before, views),
                Taken::WaitForRoom | Taken::Wait(_) => {
                    self.check_coming(life, &choice, before, views);
                    self.check_missing(life, &choice, view, before, views);
                }
                Taken::Evict(_) => self.check_missing(life, &choice, view, before, views),
                Taken::Wake(_) | Taken::Sleep(_) | Taken::Demote(_) => {}
            }
        }
    }

    /// Nobody is told that no room can be made while some is on its way.
    fn check_hopeless(
        &mut self,
        life: usize,
        view: &ModelView,
        before: &BTreeMap<ModelId, Course>,
        views: &[ModelView],
    ) {
        let now = self.controls[life].local(self.now);
        let leaves = self.neighbours(life, &view.id, views).find(|other| {
            let stays = before
                .get(&other.id)
                .is_some_and(|known| known.phase == other.phase && known.at == other.since);
            let stays = stays && other.since < now;
            let row = self.rows.get(&other.id).copied();
            let removed = row.is_none_or(|row| !self.engines[row].present);
            // Nobody counts on one that goes for good after its drain, and it may come back before this is heard.
            let lasts = self.controls[life].core.spec(&other.id);
            let lasts = lasts.map_or(Millis(0), |spec| spec.drain_timeout);
            let drains = other.phase == "Draining" && !removed && now < other.since + lasts;
            stays && (drains || other.phase == "Sleeping")
        });
        let leaves = leaves.map(|other| other.id.clone());
        self.check(leaves.is_none(), |_| {
            format!(
                "{} is told that there is no room, and {leaves:?} leaves",
                view.id.0
            )
        });
    }

    /// What is on its way out is what those who leave give back: no more, and no less than comes from those who have left for a while.
    fn check_coming(
        &mut self,
        life: usize,
        choice: &Choice,
        before: &BTreeMap<ModelId, Course>,
        views: &[ModelView],
    ) {
        let core = &self.controls[life].core;
        let frees = |gpu: GpuId, leaves: &dyn Fn(&ModelView) -> bool| -> Bytes {
            let known = views
                .iter()
                .filter_map(|other| Some((other, core.spec(&other.id)?)));
            let there =
                known.filter(|(other, spec)| other.id != choice.target && spec.gpus.contains(&gpu));
            let leaving = there.filter(|(other, _)| leaves(other));
            let frees = leaving.map(|(other, spec)| other.reserved.less(spec.asleep));
            frees.sum()
        };
        let goes = |phase: &str| matches!(phase, "Draining" | "Sleeping");
        // A drain may have been taken back, or have ended, since the choice of this step.
        let leaves = |other: &ModelView| {
            let known = before.get(&other.id);
            goes(other.phase) || known.is_some_and(|known| goes(known.phase))
        };
        let sleeps = |other: &ModelView| {
            let known = before.get(&other.id);
            let long = known.is_some_and(|known| known.at == other.since && known.at < choice.at);
            long && other.phase == "Sleeping"
        };
        // What a process holds that is being ended, all comes.
        let ending = !self.controls[life].fair.is_settled();
        let wrong = (choice.need.iter())
            .map(|need| {
                let bounds = (frees(need.gpu, &sleeps), frees(need.gpu, &leaves));
                (need.gpu, need.coming, bounds)
            })
            .find(|(_, coming, (least, most))| coming < least || coming > most && !ending);
        self.check(wrong.is_none(), |_| {
            format!(
                "{} counts on room that does not come, or not on what does: {wrong:?}",
                choice.target.0
            )
        });
    }

    /// No more is missing than what the model takes, with room for the sleep of anybody who stays.
    fn check_missing(
        &mut self,
        life: usize,
        choice: &Choice,
        view: &ModelView,
        before: &BTreeMap<ModelId, Course>,
        views: &[ModelView],
    ) {
        let core = &self.controls[life].core;
        let Some(spec) = core.spec(&view.id) else {
            return;
        };
        let most = |gpu: GpuId| {
            let known = views
                .iter()
                .filter_map(|other| Some((other, core.spec(&other.id)?)));
            let stays = known.filter(|(other, spec)| {
                // One that only leaves since this step may have stayed by then, and one that is removed waits for its requests without
                // end.
                let row = self.rows.get(&other.id).copied();
                let removed = row.is_none_or(|row| !self.engines[row].present);
                let goes = |phase: &str| phase == "Sleeping" || phase == "Draining" && !removed;
                // Nor one whose drain was taken back and began anew in this step.
                let went = before.get(&other.id).is_some_and(|known| {
                    goes(known.phase) && (other.phase == "Sleeping" || known.at == other.since)
                });
                spec.gpus.contains(&gpu) && !(went && goes(other.phase))
            });
            let peaks = stays.map(|(_, spec)| spec.sizes.sleeping.bytes).max();
            let sleeping = peaks.unwrap_or_default().max(spec.sizes.sleeping.bytes);
            let sizes = &spec.sizes;
            let starting = match view.tier {
                Tier::Stopped => sizes.starting.bytes,
                Tier::Ram | Tier::Disk => Bytes(0),
            };
            spec.awake + sleeping.max(sizes.waking.bytes).max(starting)
        };
        // What was free then is as it was told; where too much is awake, all of that is missing, too.
        let wrong = (choice.need.iter())
            .filter(|need| need.free > Bytes(0))
            .find(|need| {
                let takes = most(need.gpu).less(view.reserved + need.free + need.coming);
                need.missing > takes
            });
        let wrong = wrong.map(|need| (*need, most(need.gpu)));
        self.check(wrong.is_none(), |_| {
            format!("{} wants more room than it needs: {wrong:?}", view.id.0)
        });
    }

    fn neighbours<'a>(
        &'a self,
        life: usize,
        id: &'a ModelId,
        views: &'a [ModelView],
    ) -> impl Iterator<Item = &'a ModelView> {
        let core = &self.controls[life].core;
        let own = core.spec(id).map(|spec| spec.gpus.as_slice());
        views.iter().filter(move |other| {
            let there = core.spec(&other.id).map(|spec| spec.gpus.as_slice());
            let shares = |gpu: &GpuId| own.is_some_and(|own| own.contains(gpu));
            other.id != *id && there.is_some_and(|there| there.iter().any(shares))
        })
    }

    /// Nobody goes as idle before gates were told anything: a barrier would be the first that they hear.
    pub(crate) fn check_idle_from(&mut self, life: usize, choice: &Choice) {
        let idle = choice.trigger == Trigger::Idle;
        let open = self.controls[life].core.is_open();
        self.check(!idle || open, |_| {
            format!(
                "{} goes as idle before anybody was told of it",
                choice.target.0
            )
        });
    }

    /// Nothing that sleeps well ends for others on a GPU where nothing begins.
    pub(crate) fn check_stands_still(&mut self, life: usize, engine: usize) {
        let gpus = self.controls[life].core.gpus();
        let spec = &self.engines[engine].spec;
        let stopped = (spec.gpus.iter())
            .any(|gpu| gpus.get(gpu.0).is_some_and(|view| view.stopped.is_some()));
        let id = spec.id.0.clone();
        self.check(!stopped, |_| {
            format!("{id} ends on a GPU where ledger and oracle differ")
        });
    }
}
