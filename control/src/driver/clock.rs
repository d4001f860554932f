//! The driver's clock. Nobody else reads one for a decision.

use std::time::{Duration, Instant, SystemTime};

use greenthread_core::ids::Millis;

/// The core's clock starts here, so that ages from before the start still are moments (30 days).
pub(super) const START_OF_CLOCK: Millis = Millis(30 * 24 * 3_600 * 1_000);

/// The monotonic clock, in the core's unit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    started: Instant,
    /// The wall clock at the same moment. Only its distance from the monotonic one counts.
    wall: SystemTime,
}

impl Clock {
    /// Starts now.
    pub(super) fn start() -> Self {
        Self {
            started: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// Now, for the core.
    pub(super) fn now(self) -> Millis {
        START_OF_CLOCK
            + Millis(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// A moment of the core as a deadline.
    pub(super) fn instant(self, at: Millis) -> Instant {
        // A moment too far away for an Instant is never reached: a day will do, and is then looked at again.
        let ahead = Duration::from_millis(at.since(START_OF_CLOCK).0);
        self.started
            .checked_add(ahead)
            .unwrap_or_else(|| self.started + Duration::from_secs(86_400))
    }

    /// How far the wall clock has gone ahead of the monotonic one (or, negative, behind it), in milliseconds.
    pub(super) fn apart(self) -> i128 {
        let millis = |length: Duration| i128::try_from(length.as_millis()).unwrap_or(i128::MAX);
        let wall = self
            .wall
            .elapsed()
            .map_or_else(|backwards| -millis(backwards.duration()), millis);
        wall - millis(self.started.elapsed())
    }
}
