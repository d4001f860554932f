//! Whether the oracle agrees with the ledger, GPU by GPU. The oracle has the last word: where it sees more or less than the ledger can
//! explain, nothing begins there until it is explained or an operator decides.

use crate::{
    Core,
    effect::Effect,
    ids::{Bytes, GpuId, Millis, ModelId},
    models::Slot,
    phase::{Boot, Phase},
    state::{ModelState, Resident},
};

/// Readings in a row that must differ before transitions stop: one may be between two moments of the same action.
const READINGS: u32 = 3;

/// What the oracle says of one GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Audit {
    /// The last reading.
    pub(crate) used: Option<Bytes>,
    /// What an operator accepted as somebody else's.
    pub(crate) foreign: Bytes,
    /// What an operator accepted as missing: models hold less than the ledger says.
    pub(crate) absent: Bytes,
    /// An operator accepted what will be seen there once nothing moves any more.
    pub(crate) accepting: bool,
    /// What the ledger knew of at the last reading; `None`: something moved.
    known: Option<Bytes>,
    /// Readings in a row that differed by more than the tolerance.
    differing: u32,
}

impl Core {
    /// What the oracle says of a GPU.
    pub(crate) fn audit(&self, gpu: GpuId) -> Audit {
        self.audits.get(gpu.0).copied().unwrap_or_default()
    }

    /// The oracle read a GPU.
    pub(crate) fn gpu_read(
        &mut self,
        now: Millis,
        gpu: GpuId,
        used: Bytes,
        effects: &mut Vec<Effect>,
    ) {
        let known = self.known_on(gpu);
        let stopped = self.why_stopped(gpu);
        let tolerance = self.fleet.tolerance;
        let Some(audit) = self.audits.get_mut(gpu.0) else {
            return;
        };
        (audit.used, audit.known) = (Some(used), known);
        // While something moves, or is not known, nobody can say what should be there.
        let Some(known) = known else {
            if audit.differing < READINGS {
                audit.differing = 0;
            }
            return;
        };
        if audit.accepting {
            self.accept(now, gpu, used, known, effects);
            return;
        }
        let expected = (known + audit.foreign).less(audit.absent);
        let off = used.less(expected).max(expected.less(used));
        let differs = sabotage!(OracleIgnored, false, off > tolerance);
        audit.differing = if differs { audit.differing + 1 } else { 0 };
        match (stopped, self.why_stopped(gpu)) {
            (None, Some(why)) => self.announce(now, gpu, &why, effects),
            (Some(_), None) => self.announce(
                now,
                gpu,
                "what is in use is what models should take again: wakes and sleeps go on",
                effects,
            ),
            (None, None) | (Some(_), Some(_)) => {}
        }
    }

    /// An operator takes what the oracle sees for what it is: at once, or, where the last reading does not belong to what models hold
    /// now, at the first that does.
    pub(crate) fn gpu_accepted(&mut self, now: Millis, gpu: GpuId, effects: &mut Vec<Effect>) {
        let known = self.known_on(gpu);
        let Some(audit) = self.audits.get_mut(gpu.0) else {
            return;
        };
        match (audit.used, known) {
            (Some(used), Some(known)) if audit.known == Some(known) => {
                self.accept(now, gpu, used, known, effects);
            }
            (Some(_) | None, _) => {
                audit.accepting = true;
                let sentence =
                    "an operator accepts what will be in use once nothing moves any more";
                self.announce(now, gpu, sentence, effects);
            }
        }
    }

    fn accept(
        &mut self,
        now: Millis,
        gpu: GpuId,
        used: Bytes,
        known: Bytes,
        effects: &mut Vec<Effect>,
    ) {
        let Some(audit) = self.audits.get_mut(gpu.0) else {
            return;
        };
        (audit.foreign, audit.absent) = (used.less(known), known.less(used));
        (audit.differing, audit.accepting) = (0, false);
        let what = match (audit.foreign, audit.absent) {
            (Bytes(0), Bytes(0)) => "nothing but what models take".to_owned(),
            (Bytes(0), absent) => format!("models take {absent} less than was thought"),
            (foreign, _) => format!("{foreign} are somebody else's"),
        };
        let sentence =
            format!("an operator accepted what is in use: {what}; wakes and sleeps go on");
        self.announce(now, gpu, &sentence, effects);
    }

    /// Why nothing begins on a GPU, if so.
    pub(crate) fn why_stopped(&self, gpu: GpuId) -> Option<String> {
        let audit = self.audit(gpu);
        let used = audit.used?;
        (audit.differing >= READINGS).then(|| {
            let known = self.known_on(gpu).unwrap_or_default();
            let others = match audit.foreign {
                Bytes(0) => String::new(),
                foreign => format!(" and others {foreign}"),
            };
            let remedy = if used > known + audit.foreign {
                "End what takes more, or let models do without it"
            } else {
                "Where that is right, say so"
            };
            format!(
                "{used} are in use, models should take {known}{others}: nothing wakes or goes to sleep there until both agree within {}. {remedy} (greenthread accept-gpu {})",
                self.fleet.tolerance, gpu.0
            )
        })
    }

    /// Whether transitions are stopped on any GPU of a model.
    pub(crate) fn gpus_are_stopped(&self, id: &ModelId) -> bool {
        let stopped = |gpu: &GpuId| {
            let stopped = self.audit(*gpu).differing >= READINGS;
            sabotage!(StoppedGpuMoves, false, stopped)
        };
        let state = self.models.get(id);
        state.is_some_and(|state| state.spec.gpus.iter().any(stopped))
    }

    fn announce(&mut self, now: Millis, gpu: GpuId, what: &str, effects: &mut Vec<Effect>) {
        self.places.mark(gpu);
        let there: Vec<(Slot, ModelId)> = self
            .models_on(gpu)
            .map(|state| (state.slot, state.spec.id.clone()))
            .collect();
        for (slot, id) in there {
            // Whoever may sleep again does so now, and not at its next look.
            self.models.touch(slot);
            self.record(now, &id, format!("GPU {}: {what}", gpu.0), effects);
        }
    }

    /// What should be in use on a GPU; `None` while something moves there or is not known.
    fn known_on(&self, gpu: GpuId) -> Option<Bytes> {
        let mut sum = Bytes(0);
        for state in self.models_on(gpu) {
            sum = sum + state.holds_now()?;
        }
        Some(sum)
    }
}

impl ModelState {
    /// Bytes per GPU that it holds when nothing is under way; `None` while something is, or nobody knows.
    fn holds_now(&self) -> Option<Bytes> {
        let unknown = match self.phase {
            Phase::Booting(Boot::Observing { .. } | Boot::Unanswered) => true,
            Phase::Failed { .. } => self.engine.resident == Resident::Awake,
            Phase::Booting(_)
            | Phase::Asleep
            | Phase::Queued
            | Phase::Waking { .. }
            | Phase::Serving
            | Phase::Draining { .. }
            | Phase::Sleeping { .. }
            | Phase::Removed { .. } => false,
        };
        let open_ended = self.engine.in_doubt.is_some() || self.engine.ending.is_some();
        if self.phase.in_transition() || open_ended || unknown {
            return None;
        }
        Some(self.reserved())
    }
}
