//! The ledger: bytes per GPU, what is reserved, what is free, what is missing for a wake, and what can never fit.
//!
//! Reserved means promised before the action begins, transient peaks included (S4). The sums are kept in `places`, host RAM in `tiers`;
//! whether the oracle agrees is for `audit`.

use crate::{
    Core,
    decision::GpuNeed,
    event::{EngineState, Memory, Observation},
    ids::{Bytes, GpuId, Millis, ModelId},
    looks::LONGEST_WAKE,
    model::Source,
    phase::{Boot, Phase},
    policy::Candidate,
    sizes::allowed_after_sleep,
    state::{InDoubt, ModelState, Resident},
};

/// What an engine takes or gives back the oracle shows within this.
pub(crate) const SHOWS_WITHIN: Millis = Millis(2_000);

impl Core {
    /// Bytes reserved on a GPU now.
    pub(crate) fn reserved_on(&self, gpu: GpuId) -> Bytes {
        self.places
            .gpu(gpu)
            .map_or(Bytes(0), |place| place.reserved)
    }

    /// Bytes that models may use on a GPU: what an operator accepted as somebody else's is not theirs.
    pub(crate) fn capacity(&self, gpu: GpuId) -> Bytes {
        let whole = self.fleet.gpus.get(gpu.0).copied().unwrap_or_default();
        whole.less(self.audit(gpu).foreign)
    }

    /// Every model that is placed on a GPU.
    pub(crate) fn models_on(&self, gpu: GpuId) -> impl Iterator<Item = &ModelState> {
        let place = self.places.gpu(gpu).map(|place| &place.models);
        place
            .into_iter()
            .flatten()
            .filter_map(|slot| self.models.at(*slot))
    }

    /// The other models that share a GPU with this one.
    pub(crate) fn neighbours(&self, id: &ModelId) -> impl Iterator<Item = &ModelState> {
        let known = self.models.get(id);
        let gpus = known.map(|state| state.spec.gpus.as_slice());
        let slot = known.map(|state| state.slot);
        let around = self.places.on(gpus.unwrap_or_default()).into_iter();
        let others = around.filter(move |other| Some(*other) != slot);
        others.filter_map(|slot| self.models.at(slot))
    }

    /// What a model needs on each of its GPUs to wake, and what is there.
    pub(crate) fn needs(&self, now: Millis, id: &ModelId) -> Vec<GpuNeed> {
        let Some(state) = self.models.get(id) else {
            return Vec::new();
        };
        let need = |gpu: &GpuId| {
            let (capacity, reserved) = (self.capacity(*gpu), self.reserved_on(*gpu));
            let needs = self.needs_on(state, *gpu, |_| true);
            // Who leaves needs no room to go to sleep any more by then.
            let then = self.needs_on(state, *gpu, |other| !other.leaves_soon(now));
            let free = capacity.less(reserved);
            let leaving = self.models_on(*gpu).filter(|other| other.leaves_soon(now));
            let coming: Bytes = leaving.map(ModelState::will_free).sum();
            GpuNeed {
                gpu: *gpu,
                needs,
                free,
                coming,
                missing: then.less(free + coming),
            }
        };
        state.spec.gpus.iter().map(need).collect()
    }

    /// What a model needs on one of its GPUs to wake beside those who stay.
    pub(crate) fn needs_on(
        &self,
        state: &ModelState,
        gpu: GpuId,
        stays: impl Fn(&ModelState) -> bool,
    ) -> Bytes {
        let (capacity, reserved) = (self.capacity(gpu), self.reserved_on(gpu));
        // Of everything, not only of what it adds: nothing is begun on a GPU that is beyond its capacity already.
        let others = reserved.less(state.reserved());
        (others + self.takes_on(state, gpu, stays)).less(reserved.min(capacity))
    }

    /// The most that a GPU must have for a model while it wakes and after it: its own peak, and room for the largest peak that a sleep
    /// of anybody who is awake then takes, so that going to sleep never needs room that is not there.
    fn takes_on(
        &self,
        state: &ModelState,
        gpu: GpuId,
        stays: impl Fn(&ModelState) -> bool,
    ) -> Bytes {
        let awake = |other: &&ModelState| other.engine.resident == Resident::Awake && stays(other);
        let others = self.models_on(gpu).filter(awake);
        let largest = others.map(|other| other.spec.sizes.sleeping.bytes).max();
        let own = state.spec.sizes.sleeping.bytes;
        let room = sabotage!(
            SleepNeedsRoom,
            Bytes(0),
            largest.unwrap_or_default().max(own)
        );
        // What it was seen to keep, more perhaps than all that was declared, it still has.
        (state.spec.awake + state.waking_peak().max(room)).max(state.kept())
    }

    /// What victims have to free. Where all of them together would free too little, the peaks of their own sleeps are in the way, which
    /// go with them, or what they keep while they sleep, until their engines end: then one after the other goes, until it fits.
    pub(crate) fn attainable(
        &self,
        now: Millis,
        id: &ModelId,
        missing: Vec<(GpuId, Bytes)>,
        candidates: &[Candidate],
    ) -> Vec<(GpuId, Bytes)> {
        let Some(state) = self.models.get(id) else {
            return missing;
        };
        let attainable = |(gpu, bytes): (GpuId, Bytes)| {
            let there = candidates
                .iter()
                .filter(|candidate| !candidate.pinned && candidate.gpus.contains(&gpu));
            let most: Bytes = there.clone().map(|candidate| candidate.frees).sum();
            let states = there.filter_map(|candidate| self.models.get(&candidate.model));
            let kept = states.filter(|state| state.may_be_stopped());
            let kept: Bytes = kept.map(|state| state.spec.asleep).sum();
            // Who is on its way out needs no room for that any more by then, and who cannot go still does.
            let stays = |other: &ModelState| !other.leaves_soon(now);
            let cannot_go = |other: &ModelState| stays(other) && !other.could_go(now);
            let peaks = self
                .takes_on(state, gpu, stays)
                .less(self.takes_on(state, gpu, cannot_go));
            let least = bytes.less(peaks + kept).max(Bytes(1));
            (gpu, if bytes <= most { bytes } else { least })
        };
        missing.into_iter().map(attainable).collect()
    }

    /// Why a model can never be woken with this fleet, if so.
    pub(crate) fn never_fits(&self, id: &ModelId) -> Option<String> {
        let state = self.models.get(id)?;
        state.spec.gpus.iter().find_map(|gpu| {
            let others = self.models_on(*gpu).filter(|other| other.slot != state.slot);
            let kept: Bytes = others.map(ModelState::keeps_for_ever).sum();
            let most = self.capacity(*gpu).less(kept);
            // Room for the sleep of a pinned neighbour, should an operator ask for it, is never given away.
            let pinned = self.models_on(*gpu).filter(|other| other.spec.pinned && !other.operator.disabled);
            let sleeping = pinned.map(|other| other.spec.sizes.sleeping.bytes).max();
            let sizes = &state.spec.sizes;
            let peak = state.waking_peak().max(sizes.sleeping.bytes).max(sleeping.unwrap_or_default());
            let takes = state.spec.awake + peak;
            (takes > most).then(|| {
                let source = match state.spec.sizes.awake {
                    Source::Measured => "measured",
                    Source::Declared | Source::Default => "as declared",
                };
                format!(
                    "it needs {takes} ({source}) on GPU {}, and at most {most} can ever be free there ({} less {kept} that pinned models keep, and sleeping ones that cannot be stopped)",
                    gpu.0,
                    self.capacity(*gpu)
                )
            })
        })
    }
}

impl ModelState {
    /// It takes room on its GPUs that it could give up.
    pub(crate) fn holds_room(&self) -> bool {
        self.engine.resident == Resident::Awake || self.phase.in_transition()
    }

    /// Bytes per GPU above `awake` at the worst moment of its next wake, which is a start where it has no process.
    fn waking_peak(&self) -> Bytes {
        let (wake, start) = (self.spec.sizes.waking.bytes, self.spec.sizes.starting.bytes);
        match self.engine.resident {
            Resident::Stopped => wake.max(start),
            Resident::Asleep(_) | Resident::Awake => wake,
        }
    }

    /// Bytes per GPU that are reserved for it now, transients included.
    pub(crate) fn reserved(&self) -> Bytes {
        let sizes = &self.spec.sizes;
        match &self.phase {
            Phase::Booting(Boot::Starting(_) | Boot::Waking(_)) | Phase::Waking { .. } => {
                let peak = sabotage!(PeakForgotten, Bytes(0), self.waking_peak());
                // What it was seen to keep, more perhaps than all that was declared, it still has.
                (self.spec.awake + peak).max(self.kept())
            }
            Phase::Booting(Boot::Sleeping(_)) | Phase::Sleeping { .. } => {
                let peak = sabotage!(PeakForgotten, Bytes(0), sizes.sleeping.bytes);
                (self.spec.awake + peak).max(self.engine.found_awake)
            }
            Phase::Booting(Boot::Started) | Phase::Serving => {
                self.spec.awake.max(self.engine.found_awake)
            }
            Phase::Booting(
                Boot::Observing { .. } | Boot::Unanswered | Boot::Waiting | Boot::Slept,
            )
            | Phase::Asleep
            | Phase::Queued
            | Phase::Draining { .. }
            | Phase::Failed { .. }
            | Phase::Removed { .. } => match self.engine.resident {
                Resident::Awake => {
                    let above = self.engine.in_doubt.map(|doubt| doubt.above);
                    (self.spec.awake + above.unwrap_or_default()).max(self.engine.found_awake)
                }
                Resident::Asleep(left) => sabotage!(ResidualForgotten, Bytes(0), left),
                Resident::Stopped => Bytes(0),
            },
        }
    }

    /// Bytes per GPU that it was last known to hold while it sleeps.
    fn kept(&self) -> Bytes {
        match self.engine.resident {
            Resident::Asleep(left) => left,
            Resident::Awake | Resident::Stopped => Bytes(0),
        }
    }

    /// Nobody knows how what it was told ended: what was reserved for that stays so until it is seen how.
    pub(crate) fn leave_in_doubt(&mut self, now: Millis) {
        self.engine.in_doubt = Some(InDoubt {
            above: self.reserved().less(self.spec.awake),
            host: self.host_reserved(),
            since: now,
        });
    }

    /// Whether a look tells how what it was told ended. One that looks asleep may have accepted a wake, or may still accept one until
    /// `command` has passed: its memory is free when the oracle shows it after that, and without an oracle when no wake takes longer.
    pub(crate) fn is_resolved_by(&self, now: Millis, seen: &Observation, command: Millis) -> bool {
        let Some(InDoubt { since, .. }) = self.engine.in_doubt else {
            return true;
        };
        match seen.state {
            EngineState::Unresponsive | EngineState::Broken => false,
            EngineState::Awake | EngineState::Gone => true,
            EngineState::Asleep => {
                let residual = allowed_after_sleep(self.spec.awake, self.spec.asleep);
                let shown = seen.memory.gpu.is_some_and(|bytes| bytes <= residual);
                let from = since + command;
                let waited = now >= from + if shown { SHOWS_WITHIN } else { LONGEST_WAKE };
                sabotage!(LostWakeForgotten, true, waited)
            }
        }
    }

    /// It was seen asleep. Until it is seen how its last action ended it counts as awake, or as holding no less than before.
    pub(crate) fn seen_asleep(&mut self, memory: Memory) {
        let (left, in_doubt) = match self.engine.resident {
            Resident::Asleep(left) => (left, self.engine.in_doubt.is_some()),
            Resident::Awake | Resident::Stopped if self.engine.in_doubt.is_some() => return,
            Resident::Awake | Resident::Stopped => (self.spec.asleep, false),
        };
        let seen = memory.gpu.unwrap_or(left);
        self.engine.resident = Resident::Asleep(if in_doubt { left.max(seen) } else { seen });
    }

    /// It was seen, or is gone.
    pub(crate) fn resolve(&mut self) {
        self.engine.in_doubt = None;
    }

    /// Bytes per GPU that become free when what is under way has ended.
    pub(crate) fn will_free(&self) -> Bytes {
        let stays = if self.engine.ending.is_some() {
            Bytes(0)
        } else {
            self.spec.asleep
        };
        self.reserved().less(stays)
    }

    /// Bytes per GPU that nobody else can ever have.
    fn keeps_for_ever(&self) -> Bytes {
        match (
            self.spec.pinned && !self.operator.disabled,
            self.engine.resident,
        ) {
            (true, _) => self.spec.awake,
            (false, _) if self.may_be_stopped() => Bytes(0),
            (false, Resident::Stopped) => Bytes(0),
            (false, Resident::Asleep(left)) => left.min(self.spec.awake),
            (false, Resident::Awake) => self.spec.asleep,
        }
    }
}
