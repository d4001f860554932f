//! What a model's absence is expected to cost: the time to move it away and back, times how often it is asked for, times the bytes
//! that have to move. A cheap pair of small models goes before one large model that everybody wants.

use super::{Policy, Resident, Wants};
use crate::ids::Millis;

pub(super) const POLICY: Policy = Policy {
    name: "cost",
    rule: "least expected cost: seconds to sleep and wake x expected requests per second x GiB",
    price,
    wants: Wants::Cheapest,
};

/// Seconds × requests per second × GiB.
#[allow(
    clippy::cast_precision_loss,
    reason = "bytes and milliseconds stay far below 2^53"
)]
fn price(resident: &Resident, now: Millis) -> f64 {
    let seconds = (resident.sleep + resident.wake).0 as f64 / 1_000.0;
    let gib = resident.frees.0 as f64 / (1_u64 << 30) as f64;
    seconds * resident.demand.rate(now) * gib
}
