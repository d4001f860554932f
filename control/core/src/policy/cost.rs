//! What a model's absence is expected to cost: the time to move it away and back, times how often it is asked for, times the bytes
//! that have to move. A cheap pair of small models goes before one large model that everybody wants.

use super::{Candidate, Policy, Wants};
use crate::ids::Millis;

pub(super) const POLICY: Policy = Policy {
    name: "cost",
    rule: "cheapest to lose (seconds to sleep and wake x requests per second x GiB)",
    price,
    wants: Wants::Cheapest,
};

/// Seconds × requests per second × GiB.
fn price(candidate: &Candidate, now: Millis) -> f64 {
    let seconds = (candidate.sleep + candidate.wake).0 as f64 / 1_000.0;
    let gib = candidate.frees.0 as f64 / (1_u64 << 30) as f64;
    seconds * candidate.demand.rate(now) * gib
}
