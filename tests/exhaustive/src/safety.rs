//! What must hold in every state, told without asking the core or the gates what they think of it.
//!
//! An observer counts leases, rows and silence once more, by the rules of the protocol; gates are asked one thing only: would you forward
//! a request now?

use greenthread_core::{
    effect::{Admission, PublishedRow},
    ids::Epoch,
};

use crate::{
    row::Sabotage,
    world::{CallKind, GateSide, Life, Stage, Step, Told, Where, World},
};

impl World {
    /// S1: in the step in which a gate forwards, its row admits and its lease runs.
    pub(crate) fn check_forward(&self, index: usize, step: &mut Step<'_>) {
        let gate = &self.gates[index];
        let lease = gate.lease_until + flow(step);
        if gate.told.1 != Told::Admit {
            step.breaks(|| format!("g{index} forwards though it was told {:?}", gate.told.1));
        }
        if gate.lease_until == 0 || self.now >= lease {
            step.breaks(|| format!("g{index} forwards without a lease"));
        }
    }

    /// S2: an engine that sleeps, or is told to, is one to which no gate forwards. Requests that it keeps are no loss where its rows flow.
    pub(crate) fn check_engine(&self, step: &mut Step<'_>) {
        if step.row.flows() && step.row.lossless {
            return;
        }
        let told = |stage: &Stage| matches!(stage, Stage::Travelling { .. });
        let sleeps = self.engine.asleep
            || self
                .calls
                .iter()
                .any(|call| call.kind == CallKind::Sleep && told(&call.stage));
        if !sleeps {
            return;
        }
        for (index, gate) in self.present_gates() {
            if gate.would_forward(self.now, step.memo) {
                let what = if self.engine.asleep {
                    "sleeps"
                } else {
                    "is told to sleep"
                };
                step.breaks(|| format!("g{index} would forward to an engine that {what}"));
            }
        }
    }

    /// Rules 4 to 6: whoever could admit has applied this barrier or was silent for long enough, and nothing is on its way or inside.
    pub(crate) fn check_sleep(&self, control: usize, step: &mut Step<'_>) {
        let row = step.row;
        let side = &self.controls[control];
        let barrier = side.barrier;
        let mut fence = row.fence().0;
        if row.flows() && !row.lossless {
            fence += row.times.max_flow.0;
        }
        if self.now < side.since + row.fence().0 {
            step.breaks(|| {
                format!("control {control} tells an engine to sleep before its wait is over")
            });
        }
        let silent = |index: usize| {
            let heard = side.heard[index].map_or(side.since, |heard| heard.at);
            self.now >= heard + fence
        };
        for (index, gate) in self.present_gates() {
            // A call that is repeated waits for nobody again: who came since was told to hold.
            if !side.slept && !applied(gate, barrier) && !silent(index) {
                step.breaks(|| {
                    format!(
                        "control {control} tells an engine to sleep and did not wait for g{index}"
                    )
                });
            }
        }
        let freezes = row.lossless && row.drain.is_some();
        let flows = row.lossless && row.flows();
        for (slot, request) in self.requests.iter().enumerate() {
            let Some(request) = request.filter(|request| request.left_by.is_none()) else {
                continue;
            };
            let counted = matches!(request.place, Where::OnItsWay { .. } | Where::Inside);
            let excused = freezes || flows && silent(request.gate);
            if counted && !excused {
                step.breaks(|| format!("control {control} tells an engine to sleep while request {} is on its way or inside", slot + 1));
            }
        }
    }

    /// The engine falls asleep: nothing is lost by it.
    pub(crate) fn check_asleep(&self, step: &mut Step<'_>) {
        let row = step.row;
        let frozen = row.lossless && (row.drain.is_some() || row.flows());
        for (slot, request) in self.requests.iter().enumerate() {
            let inside = request.filter(|request| request.place == Where::Inside);
            if let Some(request) = inside
                && !frozen
                && !(row.lossless && request.left_by.is_some())
            {
                step.breaks(|| format!("the engine falls asleep with request {} inside", slot + 1));
            }
        }
    }

    /// Rule 13: an epoch means one thing, and larger ones are newer, for everybody who has seen any.
    pub(crate) fn check_published(
        &mut self,
        control: usize,
        row: &PublishedRow,
        step: &mut Step<'_>,
    ) {
        let kind = match row.admission {
            Admission::Admit => "admit".to_owned(),
            Admission::Hold { .. } => "hold".to_owned(),
            Admission::Refuse { reason, .. } => format!("{reason:?}"),
        };
        let term = self.controls[control].term;
        let before = self.controls[control].published.take();
        let repeated = before
            .as_ref()
            .is_some_and(|(epoch, before)| *epoch == row.epoch && *before == kind);
        if row.epoch.term != term {
            step.breaks(|| {
                format!(
                    "control {control} of term {term} publishes under {:?}",
                    row.epoch
                )
            });
        }
        let seen = |gate: &GateSide| gate.told.0 >= row.epoch && gate.told.0.term == term;
        let used =
            before.is_some_and(|(epoch, _)| epoch >= row.epoch) || self.gates.iter().any(seen);
        if used && !repeated {
            step.breaks(|| format!("control {control} uses {:?} twice", row.epoch));
        }
        if !repeated {
            step.note(|| {
                format!(
                    "control {control} publishes {kind} {}.{}",
                    row.epoch.term, row.epoch.counter
                )
            });
        }
        if kind == "Draining" {
            self.controls[control].barrier = row.epoch;
        }
        self.controls[control].slept &= kind != "admit" && kind != "Draining";
        self.controls[control].published = Some((row.epoch, kind));
    }

    /// Rules 7 and 10: who does not lead says nothing and commands nothing.
    pub(crate) fn check_leads(&self, control: usize, step: &mut Step<'_>) {
        let side = &self.controls[control];
        let leads = side.is == Life::Running && side.leads_until.is_none_or(|end| self.now < end);
        if !leads && !step.row.is_sabotaged(Sabotage::DeposedGoesOn) {
            step.breaks(|| format!("control {control} sends though it leads no longer"));
        }
    }
}

fn flow(step: &Step<'_>) -> u64 {
    if step.row.flows() {
        step.row.times.max_flow.0
    } else {
        0
    }
}

/// Whether a gate has applied this barrier, and nothing that opened it again.
fn applied(gate: &GateSide, barrier: Epoch) -> bool {
    gate.told.0 >= barrier && gate.told.1 != Told::Admit
}
