//! Who goes, who comes, and in which order: the rules of fairness, judged from what control shows and from what happened to each model.

use std::collections::{BTreeMap, BTreeSet};

use greenthread_core::{
    ModelView,
    decision::{Choice, Taken, Trigger, Verdict},
    effect::{Admission, RefuseReason},
    ids::{Bytes, GpuId, Millis, ModelId},
    model::ModelSpec,
    phase::Tier,
};

use crate::{
    course::{Course, READINGS},
    world::World,
};

/// What is inside a sleeping engine is known so much later at most.
const SEEN_WITHIN: Millis = Millis(3_000);
/// Who can sleep nowhere is left alone for so long.
const NOWHERE_FOR: Millis = Millis(10_000);

impl World {
    /// The rules of fairness, after a step.
    pub(crate) fn check_fairness(&mut self, life: usize, views: &[ModelView]) {
        let now = self.controls[life].local(self.now);
        let before = self.controls[life].fair.courses.clone();
        for view in views {
            self.controls[life].fair.follow(now, view);
        }
        for model in std::mem::take(&mut self.controls[life].fair.woken) {
            if let Some(course) = before.get(&model) {
                self.check_turn(life, &model, course, &before, views);
            }
        }
        for view in views {
            self.check_gave_up(life, view, views);
        }
        self.check_waits(life, &before, views);
        for view in views.iter().filter(|view| view.phase == "Draining") {
            let begins = before.get(&view.id).is_some_and(|course| {
                course.phase == "Serving" || course.phase == "Draining" && course.at != view.since
            });
            let last = self.controls[life].core.explain(&view.id, 1).pop();
            let fresh = last.filter(|choice| begins && choice.at == now);
            if let Some(choice) = fresh {
                self.check_goes(life, view, &choice, &before);
                self.check_moment(life, &choice, views);
                self.check_idle_from(life, &choice);
            }
        }
    }

    /// Who waits longest comes first on each GPU; who failed cools down; who is out of service stays so.
    fn check_turn(
        &mut self,
        life: usize,
        model: &ModelId,
        course: &Course,
        before: &BTreeMap<ModelId, Course>,
        views: &[ModelView],
    ) {
        let control = &self.controls[life];
        let now = control.local(self.now);
        self.check(course.cools.is_none_or(|until| now >= until), |_| {
            format!("{} is woken while it cools down", model.0)
        });
        if course.phase != "Queued" {
            return;
        }
        let view = views.iter().find(|view| view.id == *model);
        let out = view.is_some_and(|view| view.disabled);
        self.check(!out || course.frozen.is_some(), |_| {
            format!("{} is woken while it is out of service", model.0)
        });
        let control = &self.controls[life];
        let gpus = |id: &ModelId| control.core.spec(id).map(|spec| spec.gpus.clone());
        let own = gpus(model).unwrap_or_default();
        let key = |id: &ModelId, course: &Course, before: Option<Millis>| {
            let most = control.core.spec(id).map(|spec| spec.max_freeze);
            let urgent = course
                .frozen
                .zip(most)
                .is_some_and(|(since, most)| now.since(since) >= most);
            (!urgent, course.since().into_iter().chain(before).min())
        };
        // Who waited before this life goes by that, where it has not served since.
        let waited = |id: &ModelId| control.account.held_since(id);
        let mine = key(model, course, waited(model));
        let stopped = control.core.gpus();
        let earlier = views.iter().find(|view| {
            let Some(known) = before.get(&view.id).filter(|known| known.phase == "Queued") else {
                return false;
            };
            let there = gpus(&view.id).unwrap_or_default();
            let stuck = matches!(
                view.admission,
                Admission::Refuse {
                    reason: RefuseReason::TooLong,
                    ..
                }
            );
            let held = there
                .iter()
                .any(|gpu| stopped.get(gpu.0).is_some_and(|gpu| gpu.stopped.is_some()));
            let nobody = view.held == 0 && view.frozen == 0;
            let shares = there.iter().any(|gpu| own.contains(gpu));
            let before = waited(&view.id).filter(|_| !known.served);
            let (urgent, since) = key(&view.id, known, before);
            // What is frozen may be known a look later.
            let slack = if known.frozen.is_some() || course.frozen.is_some() {
                SEEN_WITHIN
            } else {
                Millis(0)
            };
            let first = (urgent, since.map(|at| at + slack)) < mine
                && known.frozen.is_none_or(|at| now.since(at) >= SEEN_WITHIN);
            view.id != *model
                && view.phase == "Queued"
                && shares
                && first
                && !(stuck || held || nobody || known.shaky)
        });
        let earlier = earlier.map(|view| view.id.0.clone());
        self.check(earlier.is_none(), |_| {
            format!(
                "fairness: {} is woken before {earlier:?}, which waits longer",
                model.0
            )
        });
    }

    /// A drain is given up for lack of time when it has lasted as long as it may: twice as long as the last for the same waiter.
    fn check_gave_up(&mut self, life: usize, view: &ModelView, views: &[ModelView]) {
        let control = &mut self.controls[life];
        let now = control.local(self.now);
        let course = control.fair.course(&view.id);
        let Some((since, waiter, length)) = course.leaves.clone() else {
            return;
        };
        if view.phase == "Draining" && view.since == since {
            return;
        }
        course.leaves = None;
        let waits = |other: &ModelView| other.id == waiter && other.phase == "Queued";
        let known = course.futile.take();
        // Who lost its engine begins to wait anew. Where host RAM is short a drain may end for lack of a place.
        let anew = control.fair.lost.as_ref() == Some(&waiter);
        if anew || !views.iter().any(waits) || !self.plan.hosts.is_empty() {
            return;
        }
        let lasted = now.since(since);
        let course = control.fair.course(&view.id);
        let times = known.filter(|(last, _)| *last == waiter);
        course.futile = Some((waiter.clone(), times.map_or(1, |(_, times)| times + 1)));
        course.rests = Some(now + lasted);
        self.check(lasted >= length, |_| {
            format!(
                "{} drains for {} for {lasted} and goes on, though it may drain for {length}",
                view.id.0, waiter.0
            )
        });
    }

    /// Nobody makes room before a predecessor's leases have ended, nor for one that only comes back; and who gets room is not told that
    /// there is none.
    fn check_moment(&mut self, life: usize, choice: &Choice, views: &[ModelView]) {
        let makes_room = matches!(choice.taken, Taken::Evict(_));
        let age = self.controls[life].age(self.now);
        let times = &self.plan.times;
        let early = age < times.lease.0 + times.margin.0;
        let target = views.iter().find(|view| view.id == choice.target);
        let stuck = |view: &ModelView| {
            let reason = RefuseReason::TooLong;
            matches!(view.admission, Admission::Refuse { reason: told, .. } if told == reason)
        };
        let told = target.is_some_and(stuck);
        self.check(!makes_room || choice.trigger != Trigger::Popular, |_| {
            format!(
                "room is made for {}, which only comes back",
                choice.target.0
            )
        });
        self.check(!makes_room || !told, |_| {
            format!(
                "room is made for {}, which is told that there is none",
                choice.target.0
            )
        });
        let begins = makes_room || choice.trigger == Trigger::Overcommit;
        self.check(!begins || !early, |_| {
            "somebody makes room before a predecessor's leases have ended".to_owned()
        });
    }

    /// Why a model goes: for another, which has to be worth it; or since nobody asked for it.
    fn check_goes(
        &mut self,
        life: usize,
        view: &ModelView,
        choice: &Choice,
        before: &BTreeMap<ModelId, Course>,
    ) {
        let control = &mut self.controls[life];
        let now = control.local(self.now);
        let victims = match &choice.taken {
            Taken::Evict(victims) if victims.contains(&view.id) => victims.clone(),
            _ => Vec::new(),
        };
        control.fair.course(&view.id).displaced = !victims.is_empty();
        let (Some(course), Some(spec)) = (before.get(&view.id), control.core.spec(&view.id)) else {
            return;
        };
        let (runs_from, pinned) = (course.runs_from, spec.pinned && !view.disabled);
        let figures = control.account.figures(&view.id);
        if choice.trigger == Trigger::Idle && victims.is_empty() {
            let timeout = spec.idle_timeout.unwrap_or_default();
            let used = control.account.used(&view.id).max(runs_from);
            let quiet = figures == (0, 0) && control.account.any_alive();
            let long = used.is_none_or(|at| now.since(at) >= timeout);
            return self.check(quiet && long, |_| {
                format!(
                    "{} goes as idle, with {figures:?}, used at {used:?} of {now:?}",
                    view.id.0
                )
            });
        }
        if victims.is_empty() {
            return;
        }
        let lasts = spec.min_runtime;
        let timeout = spec.drain_timeout;
        let target = control.core.spec(&choice.target);
        let waiter = before
            .get(&choice.target)
            .filter(|waiter| waiter.phase != "Booting");
        let (Some(target), Some(waiter)) = (target, waiter) else {
            // How long it may drain for the next one is not known then.
            self.controls[life].fair.course(&view.id).futile = None;
            return;
        };
        let urgent = (waiter.frozen).is_some_and(|at| now.since(at) >= target.max_freeze);
        let held = control.account.held_since(&choice.target);
        // It may wait since a step after which nobody was followed, as not all engines had been looked at.
        let course = control.fair.courses.get(&choice.target);
        let known = waiter
            .since()
            .into_iter()
            .chain(course.and_then(Course::since));
        let waits = known.chain(held).min().unwrap_or(now);
        let patient = now.since(waits) >= target.max_wait;
        self.check(!pinned, |_| {
            format!("{} is pinned and makes room", view.id.0)
        });
        let course = self.controls[life].fair.course(&view.id);
        let times = (course.futile.as_ref()).filter(|(last, _)| *last == choice.target);
        let doubled = times.map_or(1, |(_, times)| 1 << (*times).min(6));
        let length = Millis(timeout.0 * doubled);
        course.leaves = Some((view.since, choice.target.clone(), length));
        let rests = course.rests.is_some_and(|until| now < until);
        self.check(urgent || !rests, |_| {
            format!(
                "{} makes room again, just after a drain of it ran out",
                view.id.0
            )
        });
        self.check(
            urgent || runs_from.is_none_or(|at| now.since(at) >= lasts),
            |_| format!("{} makes room before its min_runtime is over", view.id.0),
        );
        self.check(urgent || figures == (0, 0) || patient, |_| {
            format!(
                "{} makes room while it is busy, before the waiter's max_wait",
                view.id.0
            )
        });
        self.check_set(life, choice, &victims, figures != (0, 0));
    }

    /// No more go than have to, idle ones before busy ones; and what is told of it is true.
    fn check_set(&mut self, life: usize, choice: &Choice, victims: &[ModelId], busy: bool) {
        let control = &self.controls[life];
        let now = control.local(self.now);
        let missing: Vec<(GpuId, Bytes)> = (choice.need.iter())
            .filter(|need| need.missing > Bytes(0))
            .map(|need| (need.gpu, need.missing))
            .collect();
        let frees = |id: &ModelId, gpu: GpuId| {
            let spec = control
                .core
                .spec(id)
                .filter(|spec| spec.gpus.contains(&gpu));
            spec.map_or(Bytes(0), |spec| spec.awake.less(spec.asleep))
        };
        let enough = |set: &[&ModelId]| {
            missing
                .iter()
                .all(|(gpu, bytes)| set.iter().map(|id| frees(id, *gpu)).sum::<Bytes>() >= *bytes)
        };
        let needless = victims.iter().find(|victim| {
            let others: Vec<&ModelId> = victims.iter().filter(|other| other != victim).collect();
            !others.is_empty() && enough(&others)
        });
        // Who found no room where there should have been some wants all of it.
        let failed =
            (control.fair.courses.get(&choice.target)).is_some_and(|course| course.failures > 0);
        let needless = needless.filter(|_| !failed).cloned();
        // Where nothing is missing all that hold anything there go.
        let there = control.core.spec(&choice.target);
        let there = there.map_or(Vec::new(), |spec| spec.gpus.clone());
        let helps = |id: &ModelId| match missing.is_empty() {
            true => there.iter().any(|gpu| frees(id, *gpu) > Bytes(0)),
            false => enough(&[id]),
        };
        let idle = control.fair.courses.iter().find(|(id, course)| {
            let spec = control.core.spec(id);
            let rests = |at: Millis| spec.is_some_and(|spec| now.since(at) < spec.min_runtime);
            course.phase == "Serving"
                && !course.spared
                && spec.is_some_and(|spec| !spec.pinned)
                && !course.runs_from.is_some_and(rests)
                && control.account.figures(id) == (0, 0)
                && helps(id)
        });
        let idle = idle.map(|(id, _)| id.clone()).filter(|_| busy);
        let lies = choice.weighed.iter().find(|weighed| {
            let pinned = control
                .core
                .spec(&weighed.model)
                .is_some_and(|spec| spec.pinned);
            let out =
                (control.core.view().iter()).any(|view| view.id == weighed.model && view.disabled);
            pinned && !out && matches!(weighed.verdict, Verdict::Kept | Verdict::Chosen)
        });
        let lies = lies.map(|weighed| weighed.model.clone());
        let short = self.falls_short(life, choice, victims, &missing);
        self.check(short.is_none(), |_| {
            format!("{victims:?} do not make enough room: {short:?} of {missing:?} are missing")
        });
        self.check(needless.is_none(), |_| {
            format!("{needless:?} makes room that nobody needs")
        });
        self.check(idle.is_none(), |_| {
            format!("{idle:?} is idle, and a busy one makes room")
        });
        self.check(lies.is_none(), |_| {
            format!("{lies:?} is pinned, and it is told otherwise")
        });
    }

    /// Where victims free less than they have to, and how much that is. All that is missing; but where all who may go would free too
    /// little together, what they keep asleep until their engines end, and room for their own sleeps, comes after them.
    fn falls_short(
        &self,
        life: usize,
        choice: &Choice,
        victims: &[ModelId],
        missing: &[(GpuId, Bytes)],
    ) -> Option<(GpuId, Bytes)> {
        let control = &self.controls[life];
        let views = control.core.view();
        let on = |gpu: GpuId| {
            let known = views
                .iter()
                .filter_map(|view| Some((view, control.core.spec(&view.id)?)));
            known.filter(move |(_, spec)| spec.gpus.contains(&gpu))
        };
        let frees = |spec: &ModelSpec| spec.awake.less(spec.asleep);
        let goes = |view: &ModelView| victims.contains(&view.id);
        // Who served then may leave by now, for a later choice of the same step.
        let served = |view: &ModelView| {
            let mut weighed = choice.weighed.iter();
            let stays = |verdict| !matches!(verdict, Verdict::Leaving | Verdict::Moving);
            let told = weighed.any(|other| other.model == view.id && stays(other.verdict));
            view.phase == "Serving" || told
        };
        // Who found no place in host RAM is not asked again for a while.
        let now = control.local(self.now);
        let homeless = |view: &ModelView| {
            let course = control.fair.courses.get(&view.id);
            let spared = course.is_some_and(|course| course.spared);
            let long = now >= view.since + NOWHERE_FOR;
            !self.plan.hosts.is_empty() && spared && !long
        };
        let least = |(gpu, bytes): &(GpuId, Bytes)| {
            let may_go: Vec<(&ModelView, &ModelSpec)> = on(*gpu)
                .filter(|(view, _)| served(view))
                .filter(|(view, spec)| view.disabled || !spec.pinned)
                .collect();
            let ends = |spec: &ModelSpec| spec.caps.restartable && spec.tier != Some(Tier::Ram);
            let kept = may_go.iter().filter(|(_, spec)| ends(spec));
            let kept: Bytes = kept.map(|(_, spec)| spec.asleep).sum();
            let peaks = may_go.iter().map(|(_, spec)| spec.sizes.sleeping.bytes);
            let later = kept + peaks.max().unwrap_or_default();
            let at_home = may_go.iter().filter(|(view, _)| !homeless(view));
            let most: Bytes = at_home.map(|(_, spec)| frees(spec)).sum();
            let least = if most >= *bytes {
                *bytes
            } else {
                bytes.less(later)
            };
            let freed = on(*gpu).filter(|(view, _)| goes(view));
            let freed: Bytes = freed.map(|(_, spec)| frees(spec)).sum();
            (*gpu, least.less(freed))
        };
        let mut short = missing.iter().map(least);
        short.find(|(_, bytes)| *bytes > Bytes(0))
    }

    /// The oracle tells one control of a GPU: does the ledger know of it, where nothing moves?
    pub(crate) fn note_reading(&mut self, life: usize, gpu: GpuId, used: Bytes) {
        let control = &mut self.controls[life];
        let views = control.core.view();
        let gpus = control.core.gpus();
        let foreign = gpus.get(gpu.0).map_or(Bytes(0), |view| view.foreign);
        let (mut known, mut still) = (foreign, true);
        let moving: BTreeSet<usize> = control.under_way.keys().copied().collect();
        for view in &views {
            let there = control
                .core
                .spec(&view.id)
                .is_some_and(|spec| spec.gpus.contains(&gpu));
            if !there {
                continue;
            }
            known = known + view.reserved;
            let course = control.fair.courses.get(&view.id);
            still &= matches!(view.phase, "Asleep" | "Queued" | "Serving" | "Draining");
            still &= course.is_some_and(|course| !course.shaky);
            still &= self
                .rows
                .get(&view.id)
                .is_none_or(|row| !moving.contains(row));
        }
        let differs = used.less(known).max(known.less(used)) > crate::plan::TOLERANCE;
        let (takes, given_back) = (known.less(foreign), &mut control.fair.given_back);
        control.fair.reading = Some((gpu, used.less(takes)));
        let before = given_back.remove(&gpu).filter(|(_, took)| *took == takes);
        let less = still && differs && used < known && takes.less(used) <= crate::plan::TOLERANCE;
        if less && foreign > Bytes(0) {
            let readings = before.map_or(0, |(number, _)| number) + 1;
            given_back.insert(gpu, (readings, takes));
        }
        let readings = control.fair.differing.entry(gpu).or_insert(Some(0));
        *readings = readings.map(|number| match (still, differs) {
            (true, true) => number + 1,
            // Once that is said, something that moves does not take it back.
            (false, true) if number >= READINGS => number,
            (_, _) => 0,
        });
    }

    /// Nothing begins on a GPU of which the oracle keeps saying something else than the ledger.
    pub(crate) fn check_agrees(&mut self, life: usize, engine: usize) {
        let fair = &self.controls[life].fair;
        let gpus = &self.engines[engine].spec.gpus;
        let differs = gpus.iter().find(|gpu| fair.differs(**gpu)).copied();
        self.check(differs.is_none(), |_| {
            format!("an action begins on {differs:?}, of which the oracle sees something else")
        });
    }
}
