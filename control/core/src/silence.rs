//! How long what is not heard of may still act: gates that are silent, gates of a predecessor, and calls of one (rules 4, 7 and 14 of the
//! protocol). Everything that is waited out before an engine may sleep follows from these few times.

use crate::{Core, effect::Effect, ids::Millis};

impl Core {
    /// Fences gates that were silent for too long, and forgets those of which nothing is known any more.
    pub(crate) fn expire_gates(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let expired = self.gates.expire(now, self.fence(), self.forget());
        if expired.any {
            expired
                .models
                .iter()
                .for_each(|slot| self.models.touch(*slot));
            self.touch_draining();
        }
        let close = |(gate, stream)| Effect::CloseStream { gate, stream };
        effects.extend(expired.to_close.into_iter().map(close));
    }

    /// Silence after which a gate does not block a drain.
    pub(crate) fn fence(&self) -> Millis {
        let fence =
            self.fleet.times.lease + sabotage!(FenceAtTheLease, Millis(0), self.fleet.times.margin);
        sabotage!(MarginShort, fence.since(Millis(1)), fence)
    }

    /// Silence after which nothing is known of a gate any more.
    pub(crate) fn forget(&self) -> Millis {
        self.flow_silence() + self.fleet.times.margin
    }

    /// Silence after which a gate forwards nothing, `flow` rows included (rule 14).
    pub(crate) fn flow_silence(&self) -> Millis {
        self.fence() + self.fleet.times.max_flow
    }

    /// No engine is put to sleep before: a predecessor's gates may still hold its leases.
    pub(crate) fn sleeps_from(&self) -> Millis {
        sabotage!(
            SuccessorWaitsNothing,
            Millis(0),
            self.term_since
                + sabotage!(SuccessorWaitsOneLease, self.fleet.times.lease, self.fence())
        )
    }

    /// Snapshots are not sent before: what was seen within `command` of getting the lock may still be changed by a predecessor's call.
    pub(crate) fn opens_from(&self) -> Millis {
        let wait = self.fleet.times.command + Millis(1);
        self.leader_since + sabotage!(LooksAtOnce, Millis(0), wait)
    }
}
