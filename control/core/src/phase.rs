//! The phases of a model and what each means for gates and for people.

use crate::{
    effect::{Admission, PublicState, RefuseReason},
    ids::{Attempt, Epoch, Millis, ModelId},
    model::SleepMode,
};

/// Where the weights of a model are that is not on its GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// In host RAM, the engine's process is there.
    Ram,
    /// Only on disk: the engine's process is there and reloads them.
    Disk,
    /// No process; a wake is a cold start.
    Stopped,
}

/// Steps of a first start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Boot {
    /// The engine is looked at for the first time.
    Observing {
        /// Attempt of the look that is under way, and when it was asked for.
        asked: Option<(Attempt, Millis)>,
    },
    /// It did not answer at the first look: an action of an earlier life may still be under way in it, so nothing is sent until it does.
    Unanswered,
    /// Waits for room on its GPUs.
    Waiting,
    /// Its process starts.
    Starting(Attempt),
    /// It is awake for the first time, and used by nobody: next it sleeps, serves or is measured.
    Started,
    /// First sleep.
    Sleeping(Attempt),
    /// It sleeps and is not conditioned: wakes once to be measured.
    Slept,
    /// Second wake.
    Waking(Attempt),
}

/// Why a model drains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Nobody asked for it for its idle time-out.
    Idle,
    /// Another model needs its room.
    Preempt(ModelId),
    /// More is awake on a GPU than fits.
    Overcommit,
    /// An operator asked for sleep.
    Operator,
    /// An operator took it out of service.
    Disable,
    /// It is to be removed.
    Remove,
}

/// How far a drain is with the engine's own count (rule 6: asked for after the last gate said zero, never cached).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    /// Gates are still waited for.
    NotYet,
    /// Asked; an answer with another attempt is not the answer.
    Asked {
        /// Attempt of the look.
        attempt: Attempt,
        /// When it was asked for.
        at: Millis,
        /// This is the second look of an engine without a lossless sleep.
        confirming: bool,
    },
    /// Ask again then.
    AgainAt {
        /// When.
        at: Millis,
        /// The first look said zero.
        confirming: bool,
    },
}

/// Why a model is out of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// A wake failed; cooling down.
    Wake,
    /// A start failed; cooling down.
    Start,
    /// The engine is gone and nobody restarts it, or it does not answer.
    Engine,
    /// It needs more memory than its GPUs can ever give.
    NeverFits,
}

/// What a model is doing. Carries only what the phase needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// First start and conditioning.
    Booting(Boot),
    /// Not on the GPU, not wanted.
    Asleep,
    /// Wanted; waits for room.
    Queued,
    /// On its way.
    Waking {
        /// Number of this wake.
        attempt: Attempt,
    },
    /// Answers requests.
    Serving,
    /// The barrier is up.
    Draining {
        /// Why.
        cause: Cause,
        /// End of the drain; then freeze, cancel or abort.
        deadline: Millis,
        /// Epoch of the barrier that gates acknowledge.
        epoch: Epoch,
        /// The engine's count.
        count: Count,
    },
    /// The engine was told to sleep.
    Sleeping {
        /// Number of this sleep.
        attempt: Attempt,
        /// Why it drained.
        cause: Cause,
        /// How.
        mode: SleepMode,
        /// When an unknown outcome is asked for again; `None` while an attempt is under way.
        again_at: Option<Millis>,
        /// Repeats so far.
        repeats: u32,
    },
    /// Out of service until `retry_at` (`None`: until something changes).
    Failed {
        /// Class.
        failure: Failure,
        /// When demand is obeyed again.
        retry_at: Option<Millis>,
    },
    /// Removed; its row says 404 until then.
    Removed {
        /// When the row is dropped.
        until: Millis,
    },
}

impl Phase {
    /// Name for people and tests.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Booting(_) => "Booting",
            Self::Asleep => "Asleep",
            Self::Queued => "Queued",
            Self::Waking { .. } => "Waking",
            Self::Serving => "Serving",
            Self::Draining { .. } => "Draining",
            Self::Sleeping { .. } => "Sleeping",
            Self::Failed { .. } => "Failed",
            Self::Removed { .. } => "Removed",
        }
    }

    /// The public word.
    pub(crate) const fn public(&self) -> PublicState {
        match self {
            Self::Booting(_) | Self::Queued => PublicState::Pending,
            Self::Asleep | Self::Failed { .. } | Self::Removed { .. } => PublicState::Sleeping,
            Self::Waking { .. } => PublicState::Waking,
            Self::Serving => PublicState::Serving,
            Self::Draining { .. } | Self::Sleeping { .. } => PublicState::Deactivating,
        }
    }

    /// An engine action on its GPUs is under way (S6: one per GPU).
    pub(crate) const fn in_transition(&self) -> bool {
        match self {
            Self::Booting(Boot::Starting(_) | Boot::Sleeping(_) | Boot::Waking(_))
            | Self::Waking { .. }
            | Self::Sleeping { .. } => true,
            Self::Booting(
                Boot::Observing { .. }
                | Boot::Unanswered
                | Boot::Waiting
                | Boot::Started
                | Boot::Slept,
            )
            | Self::Asleep
            | Self::Queued
            | Self::Serving
            | Self::Draining { .. }
            | Self::Failed { .. }
            | Self::Removed { .. } => false,
        }
    }

    /// It waits for room on its GPUs: for a wake, for its first start, or to be woken once and measured.
    pub(crate) const fn waits_for_room(&self) -> bool {
        match self {
            Self::Queued | Self::Booting(Boot::Waiting | Boot::Slept) => true,
            Self::Booting(
                Boot::Observing { .. }
                | Boot::Unanswered
                | Boot::Starting(_)
                | Boot::Started
                | Boot::Sleeping(_)
                | Boot::Waking(_),
            )
            | Self::Asleep
            | Self::Waking { .. }
            | Self::Serving
            | Self::Draining { .. }
            | Self::Sleeping { .. }
            | Self::Failed { .. }
            | Self::Removed { .. } => false,
        }
    }

    /// What gates do; `wait`: estimate for a request that arrives now, `drain`: how long a drain takes.
    pub(crate) fn admission(
        &self,
        wait: Millis,
        drain: Millis,
        disabled: bool,
        stuck: bool,
    ) -> Admission {
        let refuse_for = |reason, wait: Millis| Admission::Refuse {
            reason,
            retry_after: wait.retry_after(),
        };
        let refuse = |reason| refuse_for(reason, wait);
        match self {
            // Its engine runs, so this is no first start: requests wait as they would for a wake.
            Self::Booting(Boot::Unanswered) => Admission::Hold {
                estimated_wait: wait.0,
            },
            Self::Booting(_) => refuse(RefuseReason::Booting),
            Self::Serving => Admission::Admit,
            // Whoever comes back when it is over is held, and nobody overtakes.
            Self::Draining { .. } => refuse_for(RefuseReason::Draining, drain),
            Self::Asleep | Self::Queued | Self::Waking { .. } | Self::Sleeping { .. }
                if disabled =>
            {
                Admission::Refuse {
                    reason: RefuseReason::Disabled,
                    retry_after: 60,
                }
            }
            Self::Queued if stuck => Admission::Refuse {
                reason: RefuseReason::TooLong,
                retry_after: 60,
            },
            Self::Asleep | Self::Queued | Self::Waking { .. } | Self::Sleeping { .. } => {
                Admission::Hold {
                    estimated_wait: wait.0,
                }
            }
            Self::Failed {
                failure: Failure::Wake | Failure::Start,
                ..
            } => refuse(RefuseReason::WakeFailed),
            Self::Failed {
                failure: Failure::Engine,
                ..
            } => Admission::Refuse {
                reason: RefuseReason::EngineFailed,
                retry_after: 5,
            },
            Self::Failed {
                failure: Failure::NeverFits,
                ..
            } => Admission::Refuse {
                reason: RefuseReason::NeverFits,
                retry_after: 60,
            },
            Self::Removed { .. } => Admission::Refuse {
                reason: RefuseReason::Disabled,
                retry_after: 60,
            },
        }
    }

    /// Class of the error that `/status` names; empty when all is well.
    pub(crate) const fn error_class(&self) -> &'static str {
        match self {
            Self::Failed {
                failure: Failure::Wake,
                ..
            } => "wake_failed",
            Self::Failed {
                failure: Failure::Start,
                ..
            } => "start_failed",
            Self::Failed {
                failure: Failure::Engine,
                ..
            } => "engine_failed",
            Self::Failed {
                failure: Failure::NeverFits,
                ..
            } => "never_fits",
            Self::Booting(_)
            | Self::Asleep
            | Self::Queued
            | Self::Waking { .. }
            | Self::Serving
            | Self::Draining { .. }
            | Self::Sleeping { .. }
            | Self::Removed { .. } => "",
        }
    }
}
