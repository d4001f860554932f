//! Least recently used: the product's default. Few evictions, and nothing to learn.

use super::{Policy, Resident, Wants};
use crate::ids::Millis;

pub(super) const POLICY: Policy = Policy {
    name: "lru",
    rule: "least recently used",
    price,
    wants: Wants::Fewest,
};

/// A moment is as good as an age, and does not change while nobody asks.
#[allow(
    clippy::cast_precision_loss,
    reason = "milliseconds stay exact in a float for 285,000 years"
)]
fn price(resident: &Resident, _now: Millis) -> f64 {
    resident.last_used.0 as f64
}
