//! Why a model is not awake now, in words for the operator who is looked at for an answer.

use crate::{
    Core,
    decision::{Choice, Taken, Verdict, WhyNot},
    effect::Admission,
    ids::{Bytes, Millis, ModelId},
    looks::UNANSWERED_LOOKS,
    phase::{Boot, Cause, Failure, Phase},
    state::ModelState,
    wishes::requests,
};

impl Core {
    /// Why a model is not awake at `now`; `None` for a model that is not known.
    pub fn why_not(&self, now: Millis, id: &ModelId) -> Option<WhyNot> {
        let state = self.models.get(id)?;
        let serving = matches!(state.phase, Phase::Serving);
        let mut reasons = Vec::new();
        if serving {
            reasons.extend(unanswered(state));
        } else {
            self.reasons(now, state, &mut reasons);
        }
        let refused = match state.row().admission {
            Admission::Refuse {
                reason,
                retry_after,
            } => Some((reason, retry_after)),
            Admission::Admit | Admission::Hold { .. } => None,
        };
        // What the rows of this control say reaches nobody before it is open: gates go by those of the control before it.
        let refused = refused.filter(|_| self.open);
        let known = self.open && !serving && !self.gpus_are_stopped(id);
        let latest = self.choices.latest(id);
        let weighed = |number: &u64| {
            let choice = self.choices.get(*number);
            choice.is_some_and(|choice| !choice.is_first_start())
        };
        Some(WhyNot {
            model: id.clone(),
            serving,
            refused,
            reasons,
            ahead: self.ahead_of(now, state),
            estimated_wait: if known {
                self.estimate(now, id)
            } else {
                Millis(0)
            },
            choice: latest.filter(weighed),
        })
    }

    /// Models that wait on the same GPUs and are served first, first first.
    fn ahead_of(&self, now: Millis, state: &ModelState) -> Vec<ModelId> {
        if !matches!(state.phase, Phase::Queued) {
            return Vec::new();
        }
        let gpus = state.spec.gpus.iter().copied().collect();
        let queue = self.queue(now, &gpus);
        let before = queue
            .into_iter()
            .take_while(|other| *other != state.spec.id);
        before.collect()
    }

    fn reasons(&self, now: Millis, state: &ModelState, reasons: &mut Vec<String>) {
        if state.operator.removing {
            reasons.push("it was removed from the fleet file; put it back to serve it".into());
        }
        if state.operator.disabled {
            reasons
                .push("an operator took it out of service; `greenthread enable` ends that".into());
        }
        if !self.open {
            reasons.push("control has only just started and looks at every engine first; gateways go by what the control before it told them".into());
        }
        for gpu in &state.spec.gpus {
            if let Some(why) = self.why_stopped(*gpu) {
                reasons.push(format!("nothing moves on GPU {}: {why}", gpu.0));
            }
        }
        if state.engine.ending.is_some() {
            reasons.push("its engine's process is being ended; that comes first".into());
        }
        reasons.push(self.reason_of_phase(now, state));
        reasons.extend(unanswered(state));
        if matches!(state.phase, Phase::Queued | Phase::Booting(Boot::Waiting)) {
            self.reasons_of_queue(now, state, reasons);
        }
        if let Some(error) = &state.engine.last_error {
            reasons.push(format!("the last error was: {error}"));
        }
    }

    fn reason_of_phase(&self, now: Millis, state: &ModelState) -> String {
        let for_ = now.since(state.since);
        let waits_for = now.since(state.waits_since(now));
        match &state.phase {
            Phase::Booting(Boot::Observing { .. } | Boot::Unanswered) => {
                "its engine has not answered a first look yet".into()
            }
            Phase::Booting(_) => "its first start and measurement are not over".into(),
            Phase::Asleep if state.operator.disabled => "it sleeps, and no request wakes it".into(),
            Phase::Asleep => {
                "nobody asks for it; a request (or `greenthread wake`) wakes it".into()
            }
            Phase::Queued => format!(
                "it is wanted ({}) and has waited for room for {waits_for}",
                self.wish(state)
            ),
            Phase::Waking { .. } => format!(
                "it is on its way: waking for {for_}, which takes about {}",
                state.wake_takes()
            ),
            Phase::Serving => "it serves".into(),
            Phase::Draining {
                cause, deadline, ..
            } => format!(
                "it is going to sleep ({}): {}",
                words(cause),
                self.drains(now, state, *deadline)
            ),
            Phase::Sleeping { cause, .. } => {
                format!(
                    "it is just going to sleep ({}); that must end first",
                    words(cause)
                )
            }
            Phase::Failed { failure, retry_at } => {
                let class = match failure {
                    Failure::Wake => "its wake failed",
                    Failure::Start => "its start failed",
                    Failure::Engine => "its engine is out of service",
                    Failure::NeverFits => "it needs more memory than its GPUs can ever give",
                };
                retry_at.map_or_else(
                    || format!("{class}; nothing is tried before something changes"),
                    |at| format!("{class}; it is tried again in {}", at.since(now)),
                )
            }
            Phase::Removed { .. } => "it was removed".into(),
        }
    }

    fn reasons_of_queue(&self, now: Millis, state: &ModelState, reasons: &mut Vec<String>) {
        let id = &state.spec.id;
        for other in self
            .neighbours(id)
            .filter(|other| other.phase.in_transition())
        {
            let moves = match other.phase {
                Phase::Waking { .. } => "waking",
                Phase::Sleeping { .. } => "going to sleep",
                Phase::Booting(_)
                | Phase::Asleep
                | Phase::Queued
                | Phase::Serving
                | Phase::Draining { .. }
                | Phase::Failed { .. }
                | Phase::Removed { .. } => "starting, or being measured,",
            };
            let id = &other.spec.id;
            reasons.push(format!("{id} is {moves} on the same GPU; one at a time"));
        }
        if now < self.sleeps_from() {
            reasons.push(format!(
                "nobody may be put to sleep for another {}: gates of the control before this one may still admit",
                self.sleeps_from().since(now)
            ));
        }
        let latest = self.choices.latest(id).and_then(|n| self.choices.get(n));
        if let Some(choice) = latest.filter(|choice| choice.target == *id) {
            reasons.extend(self.stays(now, choice));
        }
    }

    /// Who keeps memory on a model's GPUs though it neither serves nor can leave, and what an operator can do about each.
    pub(crate) fn in_the_way(&self, state: &ModelState) -> Vec<String> {
        let others = self.neighbours(&state.spec.id);
        others.filter_map(ModelState::keeps_its_room).collect()
    }

    /// What a drain waits for, and until when at most.
    fn drains(&self, now: Millis, state: &ModelState, deadline: Millis) -> String {
        let running = match self.gates.in_flight(state.slot) {
            0 => {
                "gateways have no request in flight, and its engine has to say the same".to_owned()
            }
            running => format!("{} still in flight", requests(running)),
        };
        if now < deadline {
            format!("{running}, for another {} at most", deadline.since(now))
        } else {
            format!("{running}; its drain is over")
        }
    }

    /// Why each that could make room has not gone.
    fn stays(&self, now: Millis, choice: &Choice) -> Vec<String> {
        let mut sentences: Vec<String> = choice
            .weighed
            .iter()
            .filter_map(|weighed| {
                let why = match self
                    .models
                    .get(&weighed.model)
                    .map(|state| (state, &state.phase))
                {
                    Some((state, Phase::Draining { deadline, .. })) => Some(format!(
                        "is making room: {}",
                        self.drains(now, state, *deadline)
                    )),
                    _ => stay(now, weighed.verdict),
                };
                why.map(|why| format!("{} {why}", weighed.model))
            })
            .collect();
        if choice.taken == Taken::GiveUp {
            let target = self.models.get(&choice.target);
            sentences.extend(target.into_iter().flat_map(|state| self.in_the_way(state)));
            sentences.push(
                "nothing that holds its GPU can be put to sleep; an operator has to unpin or stop something"
                    .into(),
            );
        }
        sentences
    }
}

impl ModelState {
    fn keeps_its_room(&self) -> Option<String> {
        let Phase::Failed { failure, .. } = &self.phase else {
            return None;
        };
        let (id, holds) = (&self.spec.id, self.reserved());
        let stays = self.engine.ending.is_none() && holds > Bytes(0);
        match (failure, self.engine.inside) {
            (Failure::NeverFits, inside @ 1..) if stays => Some(format!(
                "{id} keeps {holds} there: it never fits itself, and {} frozen in its engine cannot end; let it fit (less `memory`, other GPUs, fewer pinned models), or end its engine's process, which loses them",
                requests(inside)
            )),
            (Failure::Engine, _) if stays => Some(format!(
                "{id} may hold {holds} there: its engine is out of service; restart it, or end its process"
            )),
            (Failure::NeverFits | Failure::Engine | Failure::Wake | Failure::Start, _) => None,
        }
    }
}

/// What is known of an engine that does not answer; one look may be lost in between.
pub(crate) fn unanswered(state: &ModelState) -> Option<String> {
    let looks = state.engine.unanswered;
    let end = if state.spec.caps.restartable {
        format!("after {UNANSWERED_LOOKS} it is ended, and started again for whoever asks")
    } else {
        "nobody but its operator can restart it".to_owned()
    };
    (looks > 1).then(|| {
        format!("its engine has not answered the last {looks} looks: it hangs, or has too much to do, and so do requests in it; {end}")
    })
}

/// Why one that could make room has not gone.
fn stay(now: Millis, verdict: Verdict) -> Option<String> {
    match verdict {
        Verdict::Chosen => Some("is making room".to_owned()),
        Verdict::Leaving => Some("is on its way out".to_owned()),
        Verdict::Pinned => Some("stays: it is pinned".to_owned()),
        Verdict::MinRuntime(at) => Some(format!(
            "stays for another {}: it was woken only just before",
            at.since(now)
        )),
        Verdict::Spared(at) => Some(format!(
            "stays for another {}: its requests would not end before",
            at.since(now)
        )),
        Verdict::Expected(at) => Some(format!(
            "stays for another {}: clients were told to come back to it",
            at.since(now)
        )),
        Verdict::Busy(at) => Some(format!("is busy; it can go in {}", at.since(now))),
        Verdict::Moving => Some("is moving itself".to_owned()),
        Verdict::Kept | Verdict::NoHelp => None,
    }
}

fn words(cause: &Cause) -> String {
    match cause {
        Cause::Idle => "nobody asked for it".into(),
        Cause::Preempt(waiter) => format!("for {waiter}"),
        Cause::Overcommit => "its GPU holds more than it should".into(),
        Cause::Operator => "an operator's wish".into(),
        Cause::Disable => "taken out of service".into(),
        Cause::Remove => "removed".into(),
    }
}
