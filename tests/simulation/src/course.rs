//! What happened to each model so far, as far as fairness depends on it.

use std::collections::{BTreeMap, BTreeSet};

use greenthread_core::{
    ModelView,
    decision::Choice,
    event::{EngineState, Event, Operator, Outcome},
    ids::{Attempt, Bytes, GpuId, Millis, ModelId},
};

/// First cool-down of a model that could not be woken, and the longest.
const COOL_DOWN: u64 = 10_000;
const COOL_DOWN_MOST: u64 = 300_000;
/// Readings that differ one after the other before nothing begins any more: one more than control needs.
pub(crate) const READINGS: u32 = 4;

/// What happened to one model so far.
#[derive(Clone, Debug, Default)]
pub struct Course {
    pub(crate) phase: &'static str,
    /// When it entered its phase.
    pub(crate) at: Millis,
    /// When it was last looked at.
    followed: Millis,
    /// Since when somebody waits for it in the queue.
    pub(crate) waits: Option<Millis>,
    /// Since when requests are frozen in it.
    pub(crate) frozen: Option<Millis>,
    /// Since when it serves, where control woke it.
    pub(crate) runs_from: Option<Millis>,
    /// A drain of it was taken back.
    pub(crate) spared: bool,
    /// It began to leave then, for whom, and its drain lasts so long.
    pub(crate) leaves: Option<(Millis, ModelId, Millis)>,
    /// How often a drain of it for the same waiter ran out in a row.
    pub(crate) futile: Option<(ModelId, u32)>,
    /// After such a drain it is left alone until then.
    pub(crate) rests: Option<Millis>,
    /// It cools down until then, for the so-manieth time.
    pub(crate) cools: Option<Millis>,
    pub(crate) failures: u32,
    /// It sleeps since another needed its room.
    pub displaced: bool,
    /// Its process is being ended, or nobody knows how its last action ended.
    pub(crate) shaky: bool,
    /// The attempt by which its process is being ended.
    ends: Option<Attempt>,
    /// It has served in this life.
    pub(crate) served: bool,
}

impl Course {
    /// Since when somebody waits for it: in the queue, or frozen in it.
    pub(crate) fn since(&self) -> Option<Millis> {
        self.frozen.into_iter().chain(self.waits).min()
    }
}

/// What is known of fairness in one life of control.
#[derive(Clone, Debug, Default)]
pub struct Fairness {
    pub(crate) courses: BTreeMap<ModelId, Course>,
    /// The latest choice of each that waits, as it was when it was judged.
    pub(crate) judged: BTreeMap<ModelId, Choice>,
    /// Told to wake in this step, with whether it was queued and cooling down.
    pub(crate) woken: Vec<ModelId>,
    /// The model whose wake or start has just ended, and whether well.
    pub(crate) ended: Option<(ModelId, bool)>,
    /// The model whose engine was just found to be lost.
    pub(crate) lost: Option<ModelId>,
    /// Readings in a row on each GPU that ledger and oracle do not agree on; none where an operator accepted anything.
    pub(crate) differing: BTreeMap<GpuId, Option<u32>>,
    /// What was told in this step: a GPU, and what is in use there beside what models took then.
    pub(crate) reading: Option<(GpuId, Bytes)>,
    /// GPUs of which an operator accepts what is in use.
    pub(crate) accepts: BTreeSet<GpuId>,
    /// What counts as somebody else's on each GPU.
    pub(crate) foreign: BTreeMap<GpuId, Bytes>,
    /// Readings in a row by which somebody else gave memory back, and what models took meanwhile.
    pub(crate) given_back: BTreeMap<GpuId, (u32, Bytes)>,
}

impl Fairness {
    /// What happened to a model; nothing yet for one that is new.
    pub(crate) fn course(&mut self, model: &ModelId) -> &mut Course {
        self.courses.entry(model.clone()).or_default()
    }

    /// What an event means for it.
    pub fn hears(&mut self, event: &Event) {
        (self.ended, self.lost) = (None, None);
        match event {
            Event::Woke { model, outcome, .. } | Event::Started { model, outcome, .. } => {
                let well = matches!(outcome, Outcome::Done { .. });
                self.ended = Some((model.clone(), well));
                self.course(model).shaky = !well;
            }
            Event::Slept { model, outcome, .. } => {
                self.course(model).shaky = !matches!(outcome, Outcome::Done { .. });
            }
            Event::EngineGone { model, attempt, .. } => {
                let course = self.course(model);
                course.shaky = true;
                course.ends = course
                    .ends
                    .filter(|_| attempt.is_some() && course.ends != *attempt);
                self.lost = Some(model.clone());
            }
            Event::Observed {
                model, observation, ..
            } => {
                let lost = matches!(observation.state, EngineState::Broken | EngineState::Gone);
                self.course(model).shaky |= lost;
                self.lost = lost.then(|| model.clone());
            }
            Event::ModelSet(spec) => {
                let course = self.course(&spec.id);
                if course.phase == "Removed" {
                    *course = Course::default();
                }
                course.cools = None;
            }
            Event::Operator {
                model,
                verb: Operator::Wake,
            } => self.course(model).cools = None,
            Event::GpuAccepted(gpu) => {
                self.differing.insert(*gpu, None);
                self.accepts.insert(*gpu);
            }
            _ => {}
        }
    }

    /// Its process is being ended. Returns whether it was already.
    pub fn killed(&mut self, model: &ModelId, attempt: Attempt) -> bool {
        let course = self.course(model);
        course.shaky = true;
        course.ends.replace(attempt).is_some()
    }

    /// Whether nothing is counted for an action of which nobody knows how it ended.
    pub fn is_settled(&self) -> bool {
        !self.courses.values().any(|course| course.shaky)
    }

    /// Whether an operator has to look before anything begins on a GPU.
    pub(crate) fn differs(&self, gpu: GpuId) -> bool {
        let known = self.differing.get(&gpu);
        known.is_some_and(|readings| readings.is_some_and(|number| number >= READINGS))
    }

    /// A step is over: what each model does now.
    pub(crate) fn follow(&mut self, now: Millis, view: &ModelView) {
        let ended = self.ended.clone().filter(|(model, _)| *model == view.id);
        let lost = self.lost.as_ref() == Some(&view.id);
        let course = self.course(&view.id);
        course.served |= matches!(view.phase, "Serving" | "Draining" | "Sleeping");
        let before = std::mem::replace(&mut course.phase, view.phase);
        course.at = view.since;
        course.frozen = (view.frozen > 0).then(|| course.frozen.unwrap_or(now));
        // Nobody is followed before all engines were looked at.
        let since = if view.since > course.followed {
            view.since
        } else {
            now
        };
        course.followed = now;
        course.waits = (view.phase == "Queued").then(|| course.waits.unwrap_or(since));
        if view.phase == before {
            return;
        }
        if !matches!(view.phase, "Serving" | "Draining") {
            (course.leaves, course.rests) = (None, None);
        }
        // Out of service by the time it came: it served, and left in the same step.
        let came = before == "Waking" && ended.as_ref().is_some_and(|(_, well)| *well);
        match view.phase {
            "Draining" if came => {
                (course.spared, course.displaced) = (false, false);
                course.runs_from = Some(view.since);
                (course.failures, course.cools) = (0, None);
            }
            // Ready, wanted, and told to sleep in one step: it served in between, unless it is removed.
            "Draining" if before == "Booting" => (course.failures, course.cools) = (0, None),
            "Serving" => {
                let back = matches!(before, "Draining" | "Sleeping");
                course.spared = back;
                course.displaced = false;
                if !back {
                    course.runs_from = ended.map(|_| view.since);
                }
                (course.failures, course.cools) = (0, None);
            }
            "Failed" if ended.is_some_and(|(_, well)| !well) || lost && before == "Waking" => {
                let length = (COOL_DOWN << course.failures.min(5)).min(COOL_DOWN_MOST);
                course.failures += 1;
                course.cools = Some(now + Millis(length));
            }
            "Asleep" | "Queued" if matches!(before, "Draining" | "Sleeping") => {
                course.futile = None
            }
            // It leaves; what is found in it then is owed an answer.
            "Draining" if before == "Failed" => (course.failures, course.cools) = (0, None),
            _ => {}
        }
    }
}
