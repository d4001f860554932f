//! Everything the core remembers of one model, and what follows from it without time passing.

use crate::{
    demand::Demand,
    effect::{Admission, PublishedRow},
    ids::{Attempt, Bytes, Epoch, Millis, ModelId},
    learned::{Learned, Samples},
    looks::UNANSWERED_LOOKS,
    model::ModelSpec,
    models::Slot,
    phase::{Boot, Phase, Tier},
    waits::Wait,
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

/// What an action may hold of which nobody knows how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InDoubt {
    /// Per GPU, above `awake`.
    pub(crate) above: Bytes,
    /// Host RAM per GPU.
    pub(crate) host: Bytes,
    /// When it was given up.
    pub(crate) since: Millis,
}

/// One model.
#[derive(Clone, Debug)]
pub(crate) struct ModelState {
    /// Where it is kept; set when it is.
    pub(crate) slot: Slot,
    /// What the operator says of it, with what was measured since.
    pub(crate) spec: ModelSpec,
    /// Awake and asleep bytes per GPU as they were last declared.
    pub(crate) declared: (Bytes, Bytes),
    /// Which settings: grows with every change of them.
    pub(crate) settings: u64,
    pub(crate) phase: Phase,
    /// When it entered its phase.
    pub(crate) since: Millis,
    /// Start of the last service.
    pub(crate) served_at: Option<Millis>,
    /// It served when it began to drain.
    pub(crate) served_before: bool,
    pub(crate) learned: Learned,
    pub(crate) engine: Engine,
    pub(crate) operator: Operator,
    pub(crate) asked: Asked,
    pub(crate) told: Told,
    pub(crate) room: Room,
}

/// What is known of a model's engine, and what it holds.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    pub(crate) resident: Resident,
    /// Where its weights are, or are going, while it is not awake and has a process.
    pub(crate) copy: Tier,
    /// Bytes per GPU that the first look found it to hold awake, until a look at rest tells what it takes.
    pub(crate) found_awake: Bytes,
    /// Requests inside the engine while it is not awake: frozen, or arrived in spite of the gates.
    pub(crate) inside: u64,
    /// Since when there are such requests.
    pub(crate) frozen_since: Option<Millis>,
    /// The look at the engine that is under way, and when it was asked for.
    pub(crate) observing: Option<(Attempt, Millis)>,
    /// When the next look is due.
    pub(crate) observe_at: Millis,
    /// Looks in a row that got no answer.
    pub(crate) unanswered: u32,
    /// Looks in a row that did not say how many requests are in it.
    pub(crate) unsaid: u32,
    /// Its process is being ended, by this attempt; what is seen of it meanwhile does not count.
    pub(crate) ending: Option<Attempt>,
    /// What an action of which nobody knows how it ended may still hold.
    pub(crate) in_doubt: Option<InDoubt>,
    /// A sleep left more memory behind than expected; one repeat was tried.
    pub(crate) sleep_repeated: bool,
    /// What it did last failed since a GPU had no room for it: its figures say less than it takes. Where it goes to sleep next it ends,
    /// and where it wakes next others go before.
    pub(crate) lacked_room: bool,
    /// Its engine ran when this life first looked: gates of which this control never heard may send requests to it by an older table.
    pub(crate) adopted: bool,
    /// It was ready in an earlier life of control, so that such gates may send it requests even where this life started it.
    pub(crate) ready_earlier: bool,
    /// A gate that was silent when it went to sleep may send requests to its engine until then: its process does not end before.
    pub(crate) follows_until: Millis,
    /// Host RAM per GPU that its process keeps for the next copy while it is awake, when last seen.
    pub(crate) host_kept: Bytes,
    /// What failed last, in words for operators; none once it has served again.
    pub(crate) last_error: Option<String>,
    /// Wakes and starts that failed in a row.
    pub(crate) failures: u32,
    /// It died while it woke: where its operator starts it again and it sleeps, it is not woken before.
    pub(crate) cools_until: Millis,
    /// When it died of late, or had to be ended.
    pub(crate) restarts: Vec<Millis>,
    /// The count of the last look.
    #[cfg(feature = "sabotage")]
    pub(crate) cached_count: Option<u64>,
}

/// What an operator wants of a model.
#[derive(Clone, Debug, Default)]
pub(crate) struct Operator {
    /// It shall be awake.
    pub(crate) wants: bool,
    /// It shall be asleep.
    pub(crate) sleeps: bool,
    /// It was taken out of service.
    pub(crate) disabled: bool,
    /// It is no longer in the fleet.
    pub(crate) removing: bool,
}

/// Who asked for a model, and when.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) demand: Demand,
    /// The latest use that a gate reported, or an operator's wake.
    pub(crate) last_used: Option<Millis>,
    /// The latest request that was refused.
    pub(crate) last_refused: Option<Millis>,
    /// Refused wishes up to this moment are fulfilled.
    pub(crate) fulfilled_at: Option<Millis>,
    /// Since when the oldest request waits that a gate held when it began a stream, before this life knew of it; none where nobody is held
    /// any more, or it has served since.
    pub(crate) held_since: Option<Millis>,
    /// Seconds of Retry-After that were told last to those who were refused.
    pub(crate) retry_after: u32,
    /// Whoever was refused comes back by then, if they do as they were told.
    pub(crate) back_by: Millis,
}

/// What gates are told of a model.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    /// The row that they were told last.
    pub(crate) published: Option<PublishedRow>,
    /// Of the row as it stands.
    pub(crate) epoch: Epoch,
    /// Its first start, with all that belongs to it, has ended once in this life.
    pub(crate) boot_ready: bool,
    /// No room can be made in reasonable time; shown as `too_long`.
    pub(crate) stuck: bool,
    /// The wait that was last published.
    pub(crate) estimate: Millis,
    /// When it was last estimated.
    pub(crate) estimated_at: Millis,
    /// How long its drain takes, by what was learned when it began: who comes back then is held.
    pub(crate) drain_takes: Millis,
}

/// The room that a model waits for, or makes for others.
#[derive(Clone, Debug, Default)]
pub(crate) struct Room {
    /// Its way since somebody began to wait.
    pub(crate) wait: Option<Wait>,
    /// When who could make room for it was last weighed.
    pub(crate) weighed_at: Millis,
    /// Until when it waits for looks at copies that may leave host RAM for its own.
    pub(crate) patient_until: Option<Millis>,
    /// It is popular, was displaced, and comes back into room that nobody else wants.
    pub(crate) restoring: bool,
    /// It was put to sleep for another, and nobody has used it since: a popular one comes back.
    pub(crate) displaced: bool,
    /// The choice by which it is making room.
    pub(crate) making_room: Option<u64>,
    /// The choice by which it last made room, and when it slept.
    pub(crate) evicted: Option<(u64, Millis)>,
    /// Somebody has asked for it anew since then.
    pub(crate) asked_anew: bool,
    /// It may not be a victim before (a drain of it was cancelled, or frozen requests must finish).
    pub(crate) spare_until: Millis,
    /// There was nowhere for its weights to go; nobody asks it to make room before, however urgently.
    pub(crate) no_berth_until: Millis,
    /// For whom its last drain ran out, and how often in a row; each doubles the next (S3).
    pub(crate) futile: Option<(ModelId, u32)>,
    /// Requests in flight when its last drain began.
    pub(crate) drained_from: u64,
    /// How long its last drain would have lasted that ran out, as far as can be guessed; zero once one was over in time.
    pub(crate) would_drain_in: Millis,
}

impl Engine {
    /// An engine that nobody has looked at.
    const fn unseen(now: Millis) -> Self {
        Self {
            resident: Resident::Stopped,
            copy: Tier::Ram,
            found_awake: Bytes(0),
            inside: 0,
            frozen_since: None,
            observing: None,
            observe_at: now,
            unanswered: 0,
            unsaid: 0,
            ending: None,
            in_doubt: None,
            sleep_repeated: false,
            lacked_room: false,
            adopted: false,
            ready_earlier: false,
            follows_until: Millis(0),
            host_kept: Bytes(0),
            last_error: None,
            failures: 0,
            cools_until: Millis(0),
            restarts: Vec::new(),
            #[cfg(feature = "sabotage")]
            cached_count: None,
        }
    }
}

impl ModelState {
    /// A model of which nothing is known yet.
    pub(crate) fn new(spec: ModelSpec, now: Millis) -> Self {
        Self {
            slot: Slot::default(),
            declared: (spec.awake, spec.asleep),
            settings: 0,
            phase: Phase::Booting(Boot::Observing { asked: None }),
            since: now,
            served_at: None,
            served_before: false,
            learned: Learned::guessed(&spec.guess),
            engine: Engine::unseen(now),
            operator: Operator::default(),
            asked: Asked::default(),
            told: Told::default(),
            room: Room::default(),
            spec,
        }
    }

    /// Where its weights are while it is not on the GPU.
    pub(crate) const fn tier(&self) -> Tier {
        match self.engine.resident {
            Resident::Stopped => Tier::Stopped,
            Resident::Asleep(_) | Resident::Awake => self.engine.copy,
        }
    }

    /// Its next wake takes no longer than this, as promised by what was learned.
    pub(crate) fn wake_takes(&self) -> Millis {
        self.next_wake().promised()
    }

    /// What was learned of the kind of wake that comes next.
    pub(crate) const fn next_wake(&self) -> &Samples {
        if self.engine.ending.is_some() {
            return self.learned.back_from(Tier::Stopped);
        }
        self.learned.back_from(self.tier())
    }

    /// No request is in its sleeping engine, as far as anybody can tell. Gates that fell silent while it was frozen did not say what they
    /// had in it: an engine with a count says so at the first look after it fell asleep. One that never served has none, and of one
    /// that does not say so again and again nothing more will be known.
    pub(crate) fn is_surely_empty(&self, observe: Millis) -> bool {
        let told = self.engine.unsaid == 0 || self.engine.unsaid >= UNANSWERED_LOOKS;
        let looked_at = self.engine.observe_at > self.since + observe && told;
        let says_so = self.spec.caps.counts && self.spec.caps.lossless;
        let new = matches!(self.phase, Phase::Booting(Boot::Slept));
        self.engine.inside == 0 && (looked_at || !says_so || new)
    }

    /// The row as it stands. The epoch is the model's; the caller decides whether it grows.
    pub(crate) fn row(&self) -> PublishedRow {
        PublishedRow {
            model: self.spec.id.clone(),
            epoch: self.told.epoch,
            admission: self.admission(),
            state: self.phase.public(),
            boot_ready: self.told.boot_ready,
            barriered: matches!(self.phase, Phase::Draining { .. }),
            error_class: self.phase.error_class(),
            removed: matches!(self.phase, Phase::Removed { .. }),
        }
    }

    /// Whether gates were told all of the row as it stands.
    pub(crate) fn is_published(&self) -> bool {
        let row = |published: &PublishedRow| {
            let PublishedRow {
                model: _,
                epoch,
                admission,
                state,
                boot_ready,
                barriered,
                error_class,
                removed,
            } = published;
            *epoch == self.told.epoch
                && *admission == self.admission()
                && *state == self.phase.public()
                && *boot_ready == self.told.boot_ready
                && *barriered == matches!(self.phase, Phase::Draining { .. })
                && *error_class == self.phase.error_class()
                && *removed == matches!(self.phase, Phase::Removed { .. })
        };
        self.told.published.as_ref().is_some_and(row)
    }

    fn admission(&self) -> Admission {
        let (estimate, drain) = (self.told.estimate, self.told.drain_takes);
        self.phase
            .admission(estimate, drain, self.operator.disabled, self.told.stuck)
    }

    /// Whether publishing `row` over what was published needs a new epoch: the kind of admission changed.
    pub(crate) fn needs_epoch(&self, row: &PublishedRow) -> bool {
        let Some(old) = &self.told.published else {
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
}
