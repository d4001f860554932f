//! One action, carried out.

use greenthread_core::event::Operator;

use super::{Action, Life, Step, Where, World};
use crate::TICK;

impl World {
    pub(super) fn act(&mut self, action: Action, step: &mut Step<'_>) {
        let index = |number: u8| usize::from(number);
        match action {
            Action::Tick => self.tick(step),
            Action::GateTick(gate) => self.gate_tick(index(gate), step),
            Action::Up(link) => self.control_hears(index(link), step),
            Action::Attach(link, control) => self.attach(index(link), index(control), step),
            Action::Down(link) => self.gate_reads(index(link), step),
            Action::GateLoses(link) => self.gate_loses(index(link), step),
            Action::ControlLoses(link) => self.control_loses(index(link), step),
            Action::Break(link) => {
                self.left.breaks -= 1;
                self.links[index(link)].broken = true;
            }
            Action::Arrive(gate) => self.arrive(index(gate), step),
            Action::Reach(slot) => self.reach(index(slot), step),
            Action::Finish(slot) => self.finish(index(slot), step),
            Action::Tell(slot) => {
                self.ended(index(slot), step);
                self.requests[index(slot)] = None;
            }
            Action::Leave(slot) => self.leave(index(slot), step),
            Action::Vanish(slot) => self.requests[index(slot)] = None,
            Action::Execute(call) => self.execute(index(call), step),
            Action::Answer(call) => self.answer(index(call), step),
            Action::LoseCall(call) => self.lose_call(index(call), step),
            Action::DropCall(call) => drop(self.calls.remove(index(call))),
            Action::WishSleep => {
                self.left.sleeps -= 1;
                self.wish(Operator::Sleep, step);
            }
            Action::WishWake => {
                self.left.wakes -= 1;
                self.wish(Operator::Wake, step);
            }
            Action::CrashGate(gate) => self.crash_gate(index(gate), step),
            Action::FreezeGate(gate) => {
                self.left.gate_freezes -= 1;
                self.gates[index(gate)].is = Life::Frozen;
            }
            Action::ThawGate(gate) => self.gates[index(gate)].is = Life::Running,
            Action::CrashControl(control) => {
                self.left.control_crashes -= 1;
                self.end_control(index(control));
            }
            Action::FreezeControl(control) => self.freeze_control(index(control)),
            Action::ThawControl(control) => self.thaw_control(index(control), step),
            Action::Depose(control) => {
                self.left.depositions -= 1;
                self.controls[index(control)].leads_until = self.last_renewal();
            }
            Action::Succeed => self.succeed(step),
            Action::Jump(control) => {
                self.left.jumps -= 1;
                self.take_term(index(control), 0, step);
            }
            Action::TakeTerm(control) => self.takes_met_term(index(control), step),
        }
        self.tidy_links();
    }

    /// The clock moves on by one tick, and whoever runs is given its turn. Queues that wait are paid for.
    fn tick(&mut self, step: &mut Step<'_>) {
        let delays = u8::try_from(self.delays()).unwrap_or(u8::MAX);
        self.left.delays = self.left.delays.saturating_sub(delays);
        self.now += TICK.0;
        for index in 0..self.controls.len() {
            if self.controls[index].is == Life::Running {
                self.control_ticks(index, step);
            }
        }
        for index in 0..self.gates.len() {
            if self.gates[index].is == Life::Running {
                self.gate_tick(index, step);
            }
        }
    }

    fn reach(&mut self, slot: usize, step: &mut Step<'_>) {
        step.note(|| format!("request {} reaches the engine", slot + 1));
        let asleep = self.engine.asleep;
        if let Some(request) = &mut self.requests[slot] {
            request.place = Where::Inside;
            let left = request.left_by.is_some();
            let freezes = step.row.drain.is_some();
            let kept = step.row.lossless && (step.row.flows() || freezes || left);
            if asleep && !kept {
                step.breaks(|| "a request reaches an engine that sleeps".to_owned());
            }
        }
    }

    /// The engine answers; a gate that runs sees it at once.
    fn finish(&mut self, slot: usize, step: &mut Step<'_>) {
        step.note(|| format!("request {} is answered", slot + 1));
        let Some(request) = self.requests[slot] else {
            return;
        };
        if self.gates[request.gate].is == Life::Running {
            self.ended(slot, step);
            self.requests[slot] = None;
        } else if let Some(request) = &mut self.requests[slot] {
            request.place = Where::Ended;
        }
    }

    fn leave(&mut self, slot: usize, step: &mut Step<'_>) {
        step.note(|| format!("the client of request {} leaves", slot + 1));
        self.left.leaves -= 1;
        self.ended(slot, step);
        let by = self.now + step.row.times.forward_bound.0;
        match &mut self.requests[slot] {
            Some(request) if request.place != Where::Held => request.left_by = Some(by),
            request => *request = None,
        }
    }
}
