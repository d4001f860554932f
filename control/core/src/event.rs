//! What the core is told. Outcomes of effects come back here, with the number of their attempt.

use crate::{
    ids::{Attempt, Bytes, Epoch, GateId, GpuId, ModelId, StreamId},
    model::ModelSpec,
    phase::Tier,
};

/// Figures of one row as a gate reported them. Ages, not moments: the clocks of gates and control are unrelated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Requests admitted and not ended.
    pub in_flight: u64,
    /// Requests held now.
    pub held: u64,
    /// Age of the oldest held request in ms.
    pub oldest_age: u64,
    /// Age of the last use in ms.
    pub last_used_age: Option<u64>,
    /// Requests that wanted the model since the gate exists, those that are held now among them: only grows. Zero where the gate does
    /// not count them.
    pub asked: u64,
    /// Age in ms of the last request that wanted the model and was refused.
    pub last_refused_age: Option<u64>,
}

/// What was seen of an engine without changing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineState {
    /// Answers, scheduler running.
    Awake,
    /// Answers, weights away or scheduler paused.
    Asleep,
    /// Its process has ended or its port is closed.
    Gone,
    /// Its server says that the engine behind it is dead, or it contradicts itself (asleep and not paused): only a restart helps.
    Broken,
    /// It did not answer in time.
    Unresponsive,
}

/// One look at an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Its state.
    pub state: EngineState,
    /// Its own number of requests; `None` when it cannot be counted.
    pub count: Option<u64>,
    /// What it holds, by the oracle.
    pub memory: Memory,
    /// How deep it sleeps, when the driver can tell; `None` while awake.
    pub tier: Option<Tier>,
}

/// What an oracle saw of one engine. `None`: it cannot tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// GPU memory now, over all the engine's GPUs; where they carry different amounts, the largest counts for each.
    pub gpu: Option<Bytes>,
    /// The most GPU memory at any moment of the action that has just ended, counted as `gpu` is; `None` also of one that had nothing to
    /// do, such as the wake of an engine that is awake.
    pub peak: Option<Bytes>,
    /// Host RAM that the engine's processes hold for a sleeping copy now: what came on top since before their first sleep into RAM.
    /// Not nothing after a wake: vLLM keeps the pinned blocks for its next sleep.
    pub host: Option<Bytes>,
}

impl Memory {
    /// Only GPU memory is known.
    #[cfg(test)]
    pub(crate) const fn on_gpus(bytes: Bytes) -> Self {
        Self {
            gpu: Some(bytes),
            peak: None,
            host: None,
        }
    }
}

/// Why an action on an engine failed, and what is known of the engine afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionError {
    /// One sentence for people: what failed, with the engine's own words.
    pub cause: String,
    /// State of the engine after the failure, observed.
    pub engine: EngineState,
    /// It failed since a GPU had no room for it, as the engine says.
    pub no_room: bool,
}

impl ActionError {
    /// Nobody knows how it ended, nor what the engine does.
    pub(crate) const fn unknown(cause: String) -> Self {
        Self {
            cause,
            engine: EngineState::Unresponsive,
            no_room: false,
        }
    }
}

/// How one action ended. Durations were measured by the shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done and verified.
    Done {
        /// Milliseconds that the action took.
        took: u64,
        /// What the engine holds afterwards, by the oracle.
        memory: Memory,
    },
    /// A definite failure.
    Failed(ActionError),
    /// Nobody knows: time-out, connection lost, 5xx.
    Unknown {
        /// One sentence for people.
        cause: String,
    },
}

impl Outcome {
    /// What a verified action took in milliseconds, and what the engine holds after it; else why it did not end so, where nobody knows
    /// what it left if nobody knows how it ended.
    pub(crate) fn verified(self) -> Result<(u64, Memory), ActionError> {
        match self {
            Self::Done { took, memory } => Ok((took, memory)),
            Self::Failed(error) => Err(error),
            Self::Unknown { cause } => Err(ActionError::unknown(cause)),
        }
    }
}

/// What an operator can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// Wake the model as if a request had arrived.
    Wake,
    /// Drain it and put it to sleep.
    Sleep,
    /// Take it out of service: sleep, and refuse requests until `Enable`.
    Disable,
    /// End of `Disable`.
    Enable,
}

/// Everything that can happen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the fields are named after their types; each variant says what they mean"
)]
pub enum Event {
    /// Time has passed; also sent when `next_deadline` is reached.
    Tick,
    /// A gate's first message on a stream. Replaces its older stream. `largest_term`: the largest that the gate has met; `figures`: rows
    /// not listed are zero.
    Hello {
        gate: GateId,
        stream: StreamId,
        largest_term: u64,
        sequence: u64,
        figures: Vec<(ModelId, Figures)>,
    },
    /// What a gate holds and has in flight. `table_version`: of the table that it has; `figures`: rows not listed are unchanged.
    Report {
        gate: GateId,
        stream: StreamId,
        sequence: u64,
        table_version: u64,
        figures: Vec<(ModelId, Figures)>,
    },
    /// The gate applied the barrier of `epoch`, with so many requests in flight.
    Ack {
        gate: GateId,
        stream: StreamId,
        sequence: u64,
        model: ModelId,
        epoch: Epoch,
        in_flight: u64,
    },
    /// The gate's last message.
    Bye {
        gate: GateId,
        stream: StreamId,
        sequence: u64,
    },
    /// The stream ended. By itself this proves nothing about the gate.
    StreamClosed { gate: GateId, stream: StreamId },
    /// An answer to `Effect::Observe`, or a look of the shell's own (process exit).
    Observed {
        model: ModelId,
        attempt: Attempt,
        observation: Observation,
    },
    /// `Effect::Start` ended.
    Started {
        model: ModelId,
        attempt: Attempt,
        outcome: Outcome,
    },
    /// `Effect::Wake` ended.
    Woke {
        model: ModelId,
        attempt: Attempt,
        outcome: Outcome,
    },
    /// `Effect::Sleep` ended.
    Slept {
        model: ModelId,
        attempt: Attempt,
        outcome: Outcome,
    },
    /// The engine's process ended, or an attached engine refuses connections. `attempt`: that of the `Effect::Kill` or `Effect::Removed`
    /// by which it did; `None` when it ended by itself.
    EngineGone {
        model: ModelId,
        attempt: Option<Attempt>,
        cause: String,
    },
    /// The oracle read all memory in use on a GPU, whoever uses it. Sent every second or so where the oracle can tell.
    GpuRead { gpu: GpuId, used: Bytes },
    /// An operator decided that what the oracle sees on a GPU beyond the ledger is somebody else's: it is taken off its capacity.
    GpuAccepted(GpuId),
    /// A model is new or its settings changed (same id). Its cluster exists in every Envoy already.
    ModelSet(Box<ModelSpec>),
    /// The model is to go: refuse, drain, then `Effect::Removed`.
    ModelRemoved(ModelId),
    /// An operator asked.
    Operator { model: ModelId, verb: Operator },
    /// Control is no longer leader: stop transitions, then heartbeats, close every stream.
    Deposed,
    /// A larger term was met and persisted; every epoch from here on carries it, and the successor's wait starts again.
    TermRaised(u64),
}

impl Event {
    /// Gate, stream and sequence number of what a gate said; 0 for the end of a stream, which has no number.
    pub(crate) const fn sender(&self) -> Option<(&GateId, StreamId, u64)> {
        match self {
            Self::Hello {
                gate,
                stream,
                sequence,
                ..
            }
            | Self::Report {
                gate,
                stream,
                sequence,
                ..
            }
            | Self::Ack {
                gate,
                stream,
                sequence,
                ..
            }
            | Self::Bye {
                gate,
                stream,
                sequence,
            } => Some((gate, *stream, *sequence)),
            Self::StreamClosed { gate, stream } => Some((gate, *stream, 0)),
            Self::Tick
            | Self::Observed { .. }
            | Self::Started { .. }
            | Self::Woke { .. }
            | Self::Slept { .. }
            | Self::EngineGone { .. }
            | Self::GpuRead { .. }
            | Self::GpuAccepted(_)
            | Self::ModelSet(_)
            | Self::ModelRemoved(_)
            | Self::Operator { .. }
            | Self::Deposed
            | Self::TermRaised(_) => None,
        }
    }
}
