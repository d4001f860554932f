//! Who is expected to be used last goes first, by a forecast that learns from the traffic itself (see [`crate::forecast`]).

use super::{Policy, Resident, Wants};
use crate::ids::Millis;

pub(super) const POLICY: Policy = Policy {
    name: "forecast",
    rule: "next used latest, as forecast, for the time and bytes that it costs",
    price,
    wants: Wants::Cheapest,
};

/// Seconds to sleep and wake × GiB, per second until the next use: what is lost by moving it away now. Among models of one size and
/// speed the one that is used last goes first.
#[allow(
    clippy::cast_precision_loss,
    reason = "bytes and milliseconds stay far below 2^53"
)]
fn price(resident: &Resident, _now: Millis) -> f64 {
    let seconds = (resident.sleep + resident.wake).0.max(1) as f64 / 1_000.0;
    let gib = resident.frees.0 as f64 / (1_u64 << 30) as f64;
    seconds * gib * 1_000.0 / resident.next_use.max(1.0)
}
