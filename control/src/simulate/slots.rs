//! Strict caching: N equal places, no durations, every request at once and in order, and a miss must load.
//!
//! The shortest way to compare who leaves: nothing but the choice of the victim makes a difference. Policies are told of every
//! arrival and asked for a victim when a place is needed; time is that of the trace, made to grow by at least a millisecond per request.

mod belady;
mod of_core;

use greenthread_core::ids::Millis;

pub(super) use belady::{Belady, next_uses};
pub(super) use of_core::OfCore;

use super::trace::Trace;

/// One request as a policy hears of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    /// How many came before it.
    pub(super) position: usize,
    /// When; larger than at every arrival before it.
    pub(super) at: Millis,
    /// Who is wanted.
    pub(super) model: usize,
}

/// Who leaves when a place is needed. Models are numbers from zero.
pub(super) trait Eviction {
    /// A request has arrived; told before a victim is asked for.
    fn arrived(&mut self, arrival: Arrival);
    /// The index of the one of `residents` that leaves for `arrival`. There is at least one.
    fn victim(&mut self, arrival: Arrival, residents: &[usize]) -> usize;
}

/// What came of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tally {
    /// Requests.
    pub(super) requests: u64,
    /// Requests whose model had to be loaded.
    pub(super) misses: u64,
    /// Misses per model.
    pub(super) misses_of: Vec<u64>,
    /// Requests per model.
    pub(super) requests_of: Vec<u64>,
    /// Models that had to leave.
    pub(super) evictions: u64,
}

/// Replays a trace on `slots` places (at least one), empty at first.
pub(super) fn replay(trace: &Trace, slots: usize, policy: &mut dyn Eviction) -> Tally {
    let models = trace.models.len();
    let mut tally = Tally {
        requests: 0,
        misses: 0,
        misses_of: vec![0; models],
        requests_of: vec![0; models],
        evictions: 0,
    };
    let mut residents: Vec<usize> = Vec::new();
    let mut is_resident = vec![false; models];
    let mut now = Millis(0);
    for (position, request) in trace.requests.iter().enumerate() {
        now = request.at.max(now + Millis(1));
        let arrival = Arrival {
            position,
            at: now,
            model: request.model,
        };
        policy.arrived(arrival);
        tally.requests += 1;
        tally.requests_of[request.model] += 1;
        if is_resident[request.model] {
            continue;
        }
        tally.misses += 1;
        tally.misses_of[request.model] += 1;
        if residents.len() >= slots.max(1) {
            let victim = policy.victim(arrival, &residents);
            is_resident[residents.swap_remove(victim)] = false;
            tally.evictions += 1;
        }
        residents.push(request.model);
        is_resident[request.model] = true;
    }
    tally
}

#[cfg(test)]
mod tests;
