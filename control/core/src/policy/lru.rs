//! Least recently used: the product's default. Few evictions, and nothing to learn.

use super::{Candidate, Policy, Wants};
use crate::ids::Millis;

pub(super) const POLICY: Policy = Policy {
    name: "lru",
    rule: "least recently used",
    price,
    wants: Wants::Fewest,
};

/// A moment is as good as an age, and does not change while nobody asks.
fn price(candidate: &Candidate, _now: Millis) -> f64 {
    candidate.last_used.0 as f64
}
