//! Held requests, as their clients see them: how long, how many, in which order, and that control hears of them at once.

use std::collections::BTreeMap;

use greenthread_proto::gate::{GateMessage, RowFigures, gate_message};

use crate::{request::Stage, world::World};

/// A first held request, and the end of the last one, are reported within this (rule 9: early, and not with the next heartbeat).
const EARLY: u64 = 60;
/// What one gate holds the other gates of its Envoy know within this.
const SHARED_WITHIN: u64 = 4_000;
/// Reasons for which only new requests are refused: who is held when a barrier rises stays held.
const ONLY_NEW: [&str; 2] = ["draining", "booting"];

/// What a gate has told of the requests that it holds.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Rows of which it said that it holds some.
    holds: BTreeMap<String, bool>,
    /// Rows of which that is not true any more, and since when.
    differs: BTreeMap<String, u64>,
    /// When the gate began.
    began: u64,
}

impl Told {
    /// Of a gate that begins now.
    pub fn at(now: u64) -> Self {
        Self {
            began: now,
            ..Self::default()
        }
    }
}

impl World {
    /// When a held request is answered at the latest, on its gate's clock.
    fn deadline(&self, request: u32) -> u64 {
        let known = &self.requests[request as usize];
        let most = self.plan.hold_budget;
        let budget = known.budget.map_or(most, |budget| budget.min(most));
        self.gates[known.gate].local(known.arrived) + budget
    }

    /// A request is held: not where it is known that it would wait in vain, and no more of them than the limit says.
    pub(crate) fn check_held(&mut self, gate: usize, request: u32) {
        let known = &self.requests[request as usize];
        let (promised, row) = (known.promised, known.row);
        let left = self
            .deadline(request)
            .saturating_sub(self.gates[gate].local(self.now));
        self.check(promised.is_none_or(|wait| wait <= left), |_| {
            format!("request {request} is held for {left} ms, and must wait {promised:?}")
        });
        let Some(row) = row else {
            return;
        };
        let gateway = self.gates[gate].gateway;
        let together =
            |gate: &usize| self.gates[*gate].gateway == gateway && self.gates[*gate].alive;
        let gates: Vec<usize> = (0..self.gates.len()).filter(together).collect();
        let settled = gates.iter().all(|gate| {
            let told = &self.gates[*gate].told;
            told.began.max(self.gates[*gate].frozen_until) + SHARED_WITHIN < self.now
        });
        let counted = if settled { gates } else { vec![gate] };
        let held: u64 = counted
            .iter()
            .map(|gate| self.truth(*gate, Some(row)).1)
            .sum();
        let most = self.plan.hold_limit;
        self.check(held <= most, |_| {
            format!("{held} requests are held, and at most {most} may be")
        });
    }

    /// A held request goes on: the oldest first.
    pub(crate) fn check_first(&mut self, gate: usize, request: u32) {
        let known = &self.requests[request as usize];
        let row = known.row;
        let older = self.gates[gate]
            .requests
            .range(..request)
            .copied()
            .find(|other| {
                let other = &self.requests[*other as usize];
                other.row == row && other.stage == Stage::Held && !other.unrouted
            });
        let counts = row.is_some() && !known.unrouted && known.stage == Stage::Held;
        self.check(!counts || older.is_none(), |_| {
            format!("request {request} goes on before {older:?}, which was held earlier")
        });
    }

    /// A held request is refused: not for a barrier, and not before its time.
    pub(crate) fn check_refused(&mut self, gate: usize, request: u32, reason: &str) {
        // Those who waited for the first table are decided anew.
        let anew = self.requests[request as usize].unrouted;
        self.check(anew || !ONLY_NEW.contains(&reason), |_| {
            format!("request {request} was held, and is refused as {reason}")
        });
        let early = self.gates[gate].local(self.now) < self.deadline(request);
        self.check(reason != "hold_expired" || !early, |_| {
            format!("request {request} is refused before its hold has expired")
        });
    }

    /// After a tick that was not full: nobody is held for longer than it may be, and control knows who holds.
    pub(crate) fn check_holds(&mut self, gate: usize) {
        let node = &self.gates[gate];
        let local = node.local(self.now);
        let stays = |request: &u32| {
            let known = &self.requests[*request as usize];
            let row = known.row.map(|row| &self.engines[row].spec.id.0);
            known.stage == Stage::Held
                && !known.unrouted
                && row.is_some_and(|row| !node.reference.admits(local, row))
                && self.deadline(*request) <= local
        };
        let late = node.requests.iter().copied().find(stays);
        self.check(late.is_none(), |_| {
            format!("request {late:?} is held longer than it may be")
        });
        self.check_told(gate);
    }

    /// Rule 9: a report goes out early when the first request is held, and when none is held any more.
    fn check_told(&mut self, gate: usize) {
        let node = &self.gates[gate];
        if node.stream.is_none()
            || node.reference.has_left()
            || node.frozen_until + EARLY > self.now
        {
            return;
        }
        let now = self.now;
        let mut late = None;
        for row in 0..self.engines.len() {
            let id = self.engines[row].spec.id.0.clone();
            let holds = self.truth(gate, Some(row)).1 > 0;
            let known = self.gates[gate].reference.knows(&id);
            let told = &mut self.gates[gate].told;
            if told.holds.get(&id).copied().unwrap_or(false) == holds || !known {
                told.differs.remove(&id);
                continue;
            }
            let since = *told.differs.entry(id.clone()).or_insert(now);
            if now > since + EARLY {
                late = Some(id);
            }
        }
        self.check(late.is_none(), |world| {
            format!(
                "rule 9: {} does not say whether it holds requests for {late:?}",
                world.gates[gate].id
            )
        });
    }

    /// What a gate tells of the requests that it holds, and of when each model was used last.
    pub(crate) fn note_told(&mut self, gate: usize, message: &GateMessage, listed: &[RowFigures]) {
        let told = &mut self.gates[gate].told;
        if let Some(gate_message::Body::Hello(_)) = &message.body {
            told.holds.clear();
        }
        if let Some(gate_message::Body::Hello(_) | gate_message::Body::Report(_)) = &message.body {
            told.differs.clear();
            for figures in listed {
                told.holds.insert(figures.row.clone(), figures.held > 0);
            }
        }
        let local = self.gates[gate].local(self.now);
        for figures in listed {
            let Some(row) = self.row_named(&figures.row) else {
                continue;
            };
            let there = self.gates[gate]
                .requests
                .iter()
                .filter(|request| self.requests[**request as usize].row == Some(row));
            let last = there
                .map(|request| self.requests[*request as usize].arrived)
                .max();
            let Some(last) = last.map(|at| self.gates[gate].local(at)) else {
                continue;
            };
            let used = figures
                .last_used_age_ms
                .map(|age| local.saturating_sub(age));
            self.check(used.is_some_and(|used| used >= last), |world| {
                format!(
                    "{} says that {} was used at {used:?}, not {last}",
                    world.gates[gate].id, figures.row
                )
            });
        }
    }
}
