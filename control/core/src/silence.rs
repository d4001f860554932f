//! How long what is not heard of may still act: gates that are silent, gates of a predecessor, and calls of one (rules 4, 7 and 14 of the
//! protocol). Everything that is waited out before an engine may sleep follows from these few times.

use crate::{
    Core,
    effect::Effect,
    gates::Waiting,
    ids::{Epoch, GateId, Millis, ModelId},
    model::OnLeaseEnd,
    phase::{Cause, Count, Phase},
    state::{ModelState, Resident},
};

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

    /// A fenced gate speaks again and is waited for again: an engine that was asked for its count while nobody waited for that gate is
    /// asked anew (rule 6).
    pub(crate) fn waits_again_for(&mut self, gate: &GateId) {
        for slot in self.places.draining().clone() {
            if let Some(state) = self.models.at_mut(slot)
                && let Phase::Draining { epoch, count, .. } = &mut state.phase
                && !self.gates.has_cleared(gate, slot, *epoch)
            {
                *count = Count::NotYet;
                self.models.touch(slot);
            }
        }
    }

    /// What a drain under `epoch` waits for; see [`Gates::waiting`].
    pub(crate) fn waiting(
        &self,
        now: Millis,
        id: &ModelId,
        epoch: Epoch,
        silence: Millis,
    ) -> Waiting {
        let slot = self.models.slot(id);
        slot.map_or(Waiting::EVERYBODY, |slot| {
            self.gates.waiting(now, slot, epoch, silence)
        })
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

    /// How long a silent gate may go on sending requests for a row: by its lease, or because it flows (rules 4 and 14).
    pub(crate) fn sends_for(&self, state: &ModelState) -> Millis {
        match state.spec.on_lease_end {
            OnLeaseEnd::Flow => self.flow_silence(),
            OnLeaseEnd::Hold => self.fence(),
        }
    }

    /// Until when gates of which this control never heard may send requests to a model's engine, by a predecessor's table. The beginning
    /// of time for a model that was never ready before.
    pub(crate) fn strangers_until(&self, state: &ModelState) -> Millis {
        if state.engine.ready_earlier {
            self.term_since + self.sends_for(state)
        } else {
            Millis(0)
        }
    }

    /// From when on nothing reaches an engine any more, so that its process may end (rule 14). One that was gone when this life began has
    /// refused whatever strangers sent; were it waited for them again, every restart of a node would keep GPUs occupied for `maxFlow`.
    pub(crate) fn nothing_follows_from(&self, state: &ModelState) -> Millis {
        let strangers = self.strangers_until(state);
        let adopted = state.engine.adopted.then_some(strangers);
        state.engine.follows_until.max(adopted.unwrap_or_default())
    }

    /// How long a silent gate blocks (rule 14): a `flow` row is forwarded without a lease, which only an engine that keeps what it
    /// receives while asleep can take; one whose server goes away, or that loses requests, waits until flowing has ended.
    pub(crate) fn blocks_for(&self, state: &ModelState, cause: &Cause) -> Millis {
        if takes_what_follows(state, cause) {
            self.fence()
        } else {
            self.sends_for(state)
        }
    }

    /// No drain ends before: gates of which this control never heard may send requests by leases of a predecessor, and after those where
    /// they flow (rule 14). What is sent to a process that is not there is lost already.
    pub(crate) fn drains_from(&self, state: &ModelState, cause: &Cause) -> Millis {
        let runs = state.engine.resident != Resident::Stopped;
        let strangers =
            (runs && !takes_what_follows(state, cause)).then(|| self.strangers_until(state));
        let flows = sabotage!(
            SuccessorWaitsNothing,
            None,
            sabotage!(SuccessorWaitsOneLease, None, strangers)
        );
        self.sleeps_from().max(flows.unwrap_or_default())
    }

    /// From when on an engine that was only started to be ready may sleep: where it loses what reaches it then, when no stranger sends
    /// anything any more.
    pub(crate) fn first_sleep_from(&self, state: &ModelState) -> Millis {
        let loses = !state.spec.caps.lossless;
        let strangers = loses.then(|| self.strangers_until(state));
        self.sleeps_from().max(strangers.unwrap_or_default())
    }

    /// Snapshots are not sent before: what was seen within `command` of getting the lock may still be changed by a predecessor's call.
    pub(crate) fn opens_from(&self) -> Millis {
        let wait = self.fleet.times.command + Millis(1);
        self.leader_since + sabotage!(LooksAtOnce, Millis(0), wait)
    }
}

/// Whether requests that reach an engine after it was drained are answered all the same: it keeps them, and stays.
pub(crate) fn takes_what_follows(state: &ModelState, cause: &Cause) -> bool {
    *cause != Cause::Remove && state.spec.caps.lossless
}
