//! Everything the core remembers of one model, and what follows from it without time passing.

use crate::{
    effect::{Admission, PublishedRow},
    ids::{Attempt, Bytes, Epoch, Millis, ModelId},
    model::{Durations, ModelSpec},
    phase::{Boot, Phase, Tier},
};

/// What the engine is known to hold on its GPUs when nothing is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resident {
    /// No process, nothing held.
    Stopped,
    /// Asleep; this much stays per GPU.
    Asleep(Bytes),
    /// Awake, or unknown and therefore counted as awake.
    Awake,
}

/// One model.
#[derive(Clone, Debug)]
pub(crate) struct ModelState {
    pub(crate) spec: ModelSpec,
    pub(crate) phase: Phase,
    pub(crate) since: Millis,
    pub(crate) resident: Resident,
    pub(crate) published: Option<PublishedRow>,
    pub(crate) epoch: Epoch,
    /// Look at the engine that is under way, and when the next is due.
    pub(crate) observing: Option<(Attempt, Millis)>,
    pub(crate) observe_at: Millis,
    /// Looks in a row that got no answer.
    pub(crate) silent: u32,
    pub(crate) boot_ready: bool,
    /// Start of the last service.
    pub(crate) served_at: Option<Millis>,
    /// Refused wishes up to this moment are fulfilled.
    pub(crate) fulfilled_at: Option<Millis>,
    pub(crate) last_used: Option<Millis>,
    pub(crate) last_refused: Option<Millis>,
    /// Requests inside the engine while it is not awake: frozen, or arrived in spite of the gates.
    pub(crate) inside: u64,
    /// Since when there are such requests.
    pub(crate) frozen_since: Option<Millis>,
    pub(crate) operator_wants: bool,
    pub(crate) operator_sleeps: bool,
    pub(crate) disabled: bool,
    pub(crate) removing: bool,
    /// No room can be made in reasonable time; shown as `too_long`.
    pub(crate) stuck: bool,
    pub(crate) last_error: Option<String>,
    pub(crate) failures: u32,
    pub(crate) restarts: Vec<Millis>,
    pub(crate) learned: Durations,
    /// It may not be a victim before (a drain of it was cancelled, or frozen requests must finish).
    pub(crate) spare_until: Millis,
    /// How often its drain for the same waiter ran out; each doubles the next.
    pub(crate) futile: Option<(ModelId, u32)>,
    /// The wait that was last published.
    pub(crate) estimate: Millis,
    /// Awake and asleep bytes as they were last declared.
    pub(crate) declared: (Bytes, Bytes),
    /// Its process is being ended; what is seen of it meanwhile does not count.
    pub(crate) ending: bool,
    /// A sleep left more memory behind than expected; one repeat was tried.
    pub(crate) memory_repeat: bool,
    /// The count of the last look.
    #[cfg(feature = "sabotage")]
    pub(crate) cached_count: Option<u64>,
}

impl ModelState {
    /// A model of which nothing is known yet.
    pub(crate) fn new(spec: ModelSpec, now: Millis) -> Self {
        Self {
            learned: spec.guess,
            declared: (spec.awake, spec.asleep),
            phase: Phase::Booting(Boot::Observing { asked: None }),
            since: now,
            resident: Resident::Stopped,
            published: None,
            epoch: Epoch::default(),
            observing: None,
            observe_at: now,
            silent: 0,
            boot_ready: false,
            served_at: None,
            fulfilled_at: None,
            last_used: None,
            last_refused: None,
            inside: 0,
            frozen_since: None,
            operator_wants: false,
            operator_sleeps: false,
            disabled: false,
            removing: false,
            stuck: false,
            last_error: None,
            failures: 0,
            restarts: Vec::new(),
            spare_until: Millis(0),
            futile: None,
            estimate: Millis(0),
            ending: false,
            memory_repeat: false,
            #[cfg(feature = "sabotage")]
            cached_count: None,
            spec,
        }
    }

    /// Bytes per GPU that are reserved for it now, transients included.
    pub(crate) fn reserved(&self) -> Bytes {
        let transient = match &self.phase {
            Phase::Booting(
                Boot::Starting(_) | Boot::Started | Boot::Sleeping(_) | Boot::Waking(_),
            )
            | Phase::Waking { .. }
            | Phase::Serving
            | Phase::Sleeping { .. } => true,
            Phase::Booting(
                Boot::Observing { .. } | Boot::Unanswered | Boot::Waiting | Boot::Slept,
            )
            | Phase::Asleep
            | Phase::Queued
            | Phase::Draining { .. }
            | Phase::Failed { .. }
            | Phase::Removed { .. } => false,
        };
        match self.resident {
            _ if transient => self.spec.awake,
            Resident::Awake => self.spec.awake,
            Resident::Asleep(left) => sabotage!(ResidualForgotten, Bytes(0), left),
            Resident::Stopped => Bytes(0),
        }
    }

    /// Where its weights are while it is not on the GPU.
    pub(crate) const fn tier(&self) -> Tier {
        match self.resident {
            Resident::Stopped => Tier::Stopped,
            Resident::Asleep(_) | Resident::Awake => Tier::Ram,
        }
    }

    /// Learned duration of its next wake.
    pub(crate) const fn wake_takes(&self) -> Millis {
        match self.tier() {
            Tier::Ram => self.learned.wake,
            Tier::Stopped => self.learned.start,
        }
    }

    /// The row as it stands. The epoch is the model's; the caller decides whether it grows.
    pub(crate) fn row(&self) -> PublishedRow {
        PublishedRow {
            model: self.spec.id.clone(),
            epoch: self.epoch,
            admission: self
                .phase
                .admission(self.estimate, self.disabled, self.stuck),
            state: self.phase.public(),
            boot_ready: self.boot_ready,
            barriered: matches!(self.phase, Phase::Draining { .. }),
            error_class: self.phase.error_class(),
            removed: matches!(self.phase, Phase::Removed { .. }),
        }
    }

    /// Whether publishing `row` over what was published needs a new epoch: the kind of admission changed.
    pub(crate) fn needs_epoch(&self, row: &PublishedRow) -> bool {
        let Some(old) = &self.published else {
            return true;
        };
        if sabotage!(OldEpochResumes, row.admission == Admission::Admit, false) {
            return false;
        }
        match (old.admission, row.admission) {
            (Admission::Admit, Admission::Admit)
            | (Admission::Hold { .. }, Admission::Hold { .. }) => false,
            (Admission::Refuse { reason: a, .. }, Admission::Refuse { reason: b, .. }) => {
                a != b || old.removed != row.removed
            }
            (Admission::Admit | Admission::Hold { .. } | Admission::Refuse { .. }, _) => true,
        }
    }

    /// Blends a measured duration into what was learned.
    pub(crate) fn learn(learned: &mut Millis, took: u64) {
        *learned = Millis((learned.0 * 7 + took * 3) / 10);
    }
}
