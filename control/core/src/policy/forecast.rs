//! Who is expected to be used last goes first, by a forecast that learns from the traffic itself (see [`crate::forecast`]).

use super::{Candidate, Policy, Wants};
use crate::ids::Millis;

pub(super) const POLICY: Policy = Policy {
    name: "forecast",
    rule: "cheapest to lose (seconds to sleep and wake x GiB, per second until its next use)",
    price,
    wants: Wants::Cheapest,
};

/// Seconds to sleep and wake × GiB, per second until the next use: what is lost by moving it away now. Among models of one size and
/// speed the one that is used last goes first.
fn price(candidate: &Candidate, _now: Millis) -> f64 {
    let seconds = (candidate.sleep + candidate.wake).0.max(1) as f64 / 1_000.0;
    let gib = candidate.frees.0 as f64 / (1_u64 << 30) as f64;
    seconds * gib * 1_000.0 / candidate.next_use.max(1.0)
}
