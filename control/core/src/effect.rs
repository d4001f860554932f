//! What the core asks the shell to do. Effects return nothing; outcomes come back as events.

use crate::{
    decision::Decision,
    ids::{Attempt, Epoch, GateId, ModelId, StreamId},
    model::SleepMode,
    phase::Tier,
};

/// Why a gate refuses requests of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefuseReason {
    /// The barrier of a drain.
    Draining,
    /// First start or conditioning.
    Booting,
    /// The last wake failed; cooling down.
    WakeFailed,
    /// By an operator.
    Disabled,
    /// Needs more memory than its GPUs have.
    NeverFits,
    /// The engine is gone and is not restarted.
    EngineFailed,
    /// Room cannot be made in any time worth waiting for.
    TooLong,
}

impl RefuseReason {
    /// The word in `x-greenthread-reason`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Booting => "booting",
            Self::WakeFailed => "wake_failed",
            Self::Disabled => "disabled",
            Self::NeverFits => "never_fits",
            Self::EngineFailed => "engine_failed",
            Self::TooLong => "too_long",
        }
    }
}

/// What gates do with requests of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Forward.
    Admit,
    /// Hold; `estimated_wait` ms for a request that arrives now (0: unknown).
    Hold {
        /// Milliseconds.
        estimated_wait: u64,
    },
    /// Answer at once.
    Refuse {
        /// Why.
        reason: RefuseReason,
        /// Seconds, 1 to 60.
        retry_after: u32,
    },
}

/// The public state of a model: what `/status` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublicState {
    /// Not on the GPU; a request wakes it.
    Sleeping,
    /// Waits for room, or boots.
    Pending,
    /// On its way to the GPU.
    Waking,
    /// Answers requests.
    Serving,
    /// Drains or goes to sleep.
    Deactivating,
}

impl PublicState {
    /// The word in `/status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sleeping => "sleeping",
            Self::Pending => "pending",
            Self::Waking => "waking",
            Self::Serving => "serving",
            Self::Deactivating => "deactivating",
        }
    }
}

/// One row as control publishes it; the shell adds prefixes, cluster, control paths and documents from its own fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedRow {
    /// Which model.
    pub model: ModelId,
    /// Version of the admission.
    pub epoch: Epoch,
    /// What gates do.
    pub admission: Admission,
    /// For `/status`.
    pub state: PublicState,
    /// For `/status`: false until the first boot ended.
    pub boot_ready: bool,
    /// For `/status`: the barrier is up.
    pub barriered: bool,
    /// Class of the last error, never its text; empty when there is none.
    pub error_class: &'static str,
    /// The model was removed: 404.
    pub removed: bool,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the fields are named after their types; each variant says what they mean"
)]
pub enum Effect {
    /// Send the row to every gate that has a snapshot, as a delta.
    Publish(PublishedRow),
    /// Send the whole table on this stream: these rows, in this order.
    SendSnapshot {
        gate: GateId,
        stream: StreamId,
        rows: Vec<PublishedRow>,
    },
    /// Send a heartbeat on this stream, behind everything that was sent before it. `echoed`: the sequence number that it answers.
    Heartbeat {
        gate: GateId,
        stream: StreamId,
        echoed: u64,
        /// What other gates have in flight; `None`: what was said last stays.
        elsewhere: Option<Vec<(ModelId, u64)>>,
    },
    /// Close the stream (fenced gate, deposed leader, protocol error).
    CloseStream { gate: GateId, stream: StreamId },
    /// Look at the engine, freshly, and answer with `Event::Observed` of this attempt; one that is not answered is asked for again.
    Observe { model: ModelId, attempt: Attempt },
    /// Start the engine's process and wait until it serves (awake); `Event::Started`.
    Start { model: ModelId, attempt: Attempt },
    /// Wake the engine from this tier and verify it (status, state, memory, canary); `Event::Woke`.
    Wake {
        model: ModelId,
        attempt: Attempt,
        tier: Tier,
    },
    /// Put the engine to sleep, its weights into this tier, and verify it (state, memory); `Event::Slept`. Abandon when not accepted
    /// within `command`.
    Sleep {
        model: ModelId,
        attempt: Attempt,
        mode: SleepMode,
        tier: Tier,
    },
    /// End the engine's process; `Event::EngineGone` of this attempt follows.
    Kill {
        model: ModelId,
        attempt: Attempt,
        cause: String,
    },
    /// The model has drained and sleeps; forget it, end its process, drop its cluster; `Event::EngineGone` of this attempt follows. Its
    /// row stays as 404 until it is dropped.
    Removed { model: ModelId, attempt: Attempt },
    /// The row's ten minutes as 404 are over.
    Dropped(ModelId),
    /// Keep this sentence.
    Record(Decision),
    /// A Hello carried a larger term than ours: raise and persist it (then `Event::TermRaised`), or exit.
    RaiseTerm { at_least: u64 },
    /// Persist what was measured of this model.
    Footprint { model: ModelId },
}
