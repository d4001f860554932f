//! The lease: how long a gate may admit requests by the table it has (rules 2, 14 and 17 of the protocol).

use crate::time::Millis;

/// Wall and monotonic clock may move apart by this much between two ticks; more means that the machine stood still.
const CLOCK_DRIFT: Millis = Millis(1_000);

/// When this gate may admit. Counts from the *sending* of the message that a heartbeat echoed.
#[derive(Clone, Debug, Default)]
pub struct Lease {
    until: Option<Millis>,
    /// Messages sent before this moment renew nothing: the clocks moved apart since.
    void_before: Millis,
    clocks: Option<(Millis, Millis)>,
}

impl Lease {
    /// A heartbeat echoed what was sent at `sent`; returns whether that made the lease longer. Never makes it shorter.
    pub fn renew(&mut self, sent: Millis, length: Millis) -> bool {
        let until = sent.plus(length);
        if sent < self.void_before || self.until.is_some_and(|old| until <= old) {
            return false;
        }
        self.until = Some(until);
        true
    }

    /// Whether a row that says `Admit` may be admitted now. `flow` rows go on for `max_flow` after the lease; a gate that
    /// never had a lease does not flow.
    pub fn allows(&self, now: Millis, flow: Option<Millis>) -> bool {
        self.until.is_some_and(|until| {
            let flows = |max_flow| sabotage!(FlowsForEver, true, now < until.plus(max_flow));
            now < until || flow.is_some_and(flows)
        })
    }

    /// Compares both clocks with those of the last call; the lease is lost when they moved apart. Returns whether it was.
    pub fn observe_clocks(&mut self, now: Millis, wall: Millis) -> bool {
        let drifted = self.clocks.is_some_and(|(last_now, last_wall)| {
            let passed = now.since(last_now).0;
            let passed_on_the_wall = i128::from(wall.0).saturating_sub(i128::from(last_wall.0));
            passed_on_the_wall
                .saturating_sub(i128::from(passed))
                .unsigned_abs()
                > u128::from(CLOCK_DRIFT.0)
        });
        self.clocks = Some((now, wall));
        if sabotage!(ClocksIgnored, false, drifted) {
            self.until = self.until.map(|until| until.min(now));
            self.void_before = now;
        }
        drifted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_from_sending_and_never_shrinks() {
        let mut lease = Lease::default();
        assert!(
            !lease.allows(Millis(0), Some(Millis(600_000))),
            "a gate that never had a lease does not flow"
        );
        assert!(lease.renew(Millis(100), Millis(5_000)));
        assert!(lease.allows(Millis(5_099), None));
        assert!(!lease.allows(Millis(5_100), None));
        assert!(!lease.renew(Millis(50), Millis(5_000)));
        assert!(lease.allows(Millis(5_099), None));
    }

    #[test]
    fn flow_goes_on_for_a_while() {
        let mut lease = Lease::default();
        lease.renew(Millis(0), Millis(5_000));
        assert!(lease.allows(Millis(14_999), Some(Millis(10_000))));
        assert!(!lease.allows(Millis(15_000), Some(Millis(10_000))));
    }

    #[test]
    fn clocks_that_move_apart_end_it() {
        for (wall, lost) in [
            (11_000, false),
            (12_001, true),
            (9_999, true),
            (12_000, false),
            (10_000, false),
        ] {
            let mut lease = Lease::default();
            lease.renew(Millis(1_000), Millis(5_000));
            assert!(!lease.observe_clocks(Millis(1_000), Millis(10_000)));
            assert_eq!(
                lease.observe_clocks(Millis(2_000), Millis(wall)),
                lost,
                "{wall}"
            );
            assert_eq!(lease.allows(Millis(2_000), None), !lost, "{wall}");
            assert!(
                lease.allows(Millis(2_000), Some(Millis(1_000))),
                "flow goes on"
            );
            assert_eq!(
                lease.renew(Millis(1_500), Millis(5_000)),
                !lost,
                "what was sent before renews nothing"
            );
            assert!(lease.renew(Millis(2_000), Millis(5_000)));
        }
    }
}
