//! What an operator wants, and what goes wrong on its own: who crashes, who stops and goes on, who loses leadership.

use greenthread_core::event::{Event, Operator};

use super::{Action, Life, Step, Where, World};
use crate::{row::Row, shell};

impl World {
    pub(super) fn fault_actions(&self, row: &Row, actions: &mut Vec<Action>) {
        for (index, gate) in (0_u8..).zip(&self.gates) {
            let may_fail = row.may_fail(usize::from(index));
            match gate.is {
                Life::Running => {
                    if self.left.gate_crashes > 0 && may_fail {
                        actions.push(Action::CrashGate(index));
                    }
                    if self.left.gate_freezes > 0 && may_fail {
                        actions.push(Action::FreezeGate(index));
                    }
                }
                Life::Frozen => actions.push(Action::ThawGate(index)),
                Life::Gone => {}
            }
        }
        for (index, control) in (0_u8..).zip(&self.controls) {
            match control.is {
                Life::Running => self.control_faults(index, actions),
                Life::Frozen => actions.push(Action::ThawControl(index)),
                Life::Gone => {}
            }
        }
        if self.leader().is_some() {
            let wishes = [
                (self.left.sleeps, Action::WishSleep),
                (self.left.wakes, Action::WishWake),
            ];
            actions.extend(
                wishes
                    .into_iter()
                    .filter(|(left, _)| *left > 0)
                    .map(|(_, wish)| wish),
            );
        }
        if self.may_succeed() {
            actions.push(Action::Succeed);
        }
    }

    /// What can happen to a control that runs. A successor stays: its own failure would be the same story again.
    fn control_faults(&self, index: u8, actions: &mut Vec<Action>) {
        let control = &self.controls[usize::from(index)];
        let first = index == 0;
        if first && self.left.control_crashes > 0 {
            actions.push(Action::CrashControl(index));
        }
        if first && self.left.control_freezes > 0 && control.leads_until.is_none() {
            actions.push(Action::FreezeControl(index));
        }
        if first && self.left.depositions > 0 && control.leads_until.is_none() {
            actions.push(Action::Depose(index));
        }
        if self.left.jumps > 0 && control.leads_until.is_none() {
            actions.push(Action::Jump(index));
        }
        if control.met.is_some() {
            actions.push(Action::TakeTerm(index));
        }
    }

    /// The newest control that runs.
    fn leader(&self) -> Option<usize> {
        self.controls
            .iter()
            .rposition(|control| control.is == Life::Running)
    }

    pub(super) fn wish(&mut self, verb: Operator, step: &mut Step<'_>) {
        let Some(index) = self.leader() else { return };
        let model = shell::model();
        self.control_step(index, Event::Operator { model, verb }, step);
    }

    pub(super) fn crash_gate(&mut self, index: usize, step: &mut Step<'_>) {
        self.left.gate_crashes -= 1;
        self.gates[index].is = Life::Gone;
        let by = self.now + step.row.times.forward_bound.0;
        for slot in &mut self.requests {
            let Some(request) = slot.as_mut().filter(|request| request.gate == index) else {
                continue;
            };
            match request.place {
                Where::OnItsWay { .. } | Where::Inside => {
                    request.left_by = Some(request.left_by.map_or(by, |before| before.min(by)));
                }
                Where::Held | Where::Ended => *slot = None,
            }
        }
        for link in self.links.iter_mut().filter(|link| link.gate == index) {
            link.gate_open = false;
        }
    }

    pub(super) fn freeze_control(&mut self, index: usize) {
        self.left.control_freezes -= 1;
        self.controls[index].leads_until = self.last_renewal();
        self.controls[index].is = Life::Frozen;
    }

    /// It goes on where it stood, but not before it has looked whether it leads still.
    pub(super) fn thaw_control(&mut self, index: usize, step: &mut Step<'_>) {
        self.controls[index].is = Life::Running;
        self.control_ticks(index, step);
        let in_time = self.controls[index]
            .leads_until
            .is_some_and(|end| self.now < end);
        if in_time {
            self.controls[index].leads_until = None;
        }
    }

    /// Rule 12: by a write that succeeds because it still leads; otherwise it exits.
    pub(super) fn takes_met_term(&mut self, index: usize, step: &mut Step<'_>) {
        let control = &self.controls[index];
        match (control.met, control.leads_until) {
            (Some(met), None) => self.take_term(index, met, step),
            (Some(_), Some(_)) => {
                step.note(|| format!("control {index} cannot take a term and exits"));
                self.end_control(index);
            }
            (None, _) => {}
        }
    }
}
