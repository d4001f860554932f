//! What the driver can be told, by whom it may be.

use greenthread_core::{
    event::{Event, Operator},
    ids::{GateId, ModelId, StreamId},
};
use tokio::sync::oneshot;
use tonic::Status;

use crate::{
    choice::{Choice, WhyNot},
    config::Model,
    overview::{Gpu, Overview},
    state::StateError,
    streams::Outbound,
    totals::RowTotals,
};

/// What a gate said, translated.
#[derive(Debug)]
pub struct Said {
    /// Who.
    pub gate: GateId,
    /// On which stream.
    pub stream: StreamId,
    /// For the core.
    pub event: Event,
    /// For the counters.
    pub totals: Vec<(ModelId, RowTotals)>,
}

/// An operator named a model that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no model {name:?}; there is {known:?}")]
pub struct UnknownModel {
    /// The name.
    pub name: String,
    /// Names that exist.
    pub known: Vec<String>,
}

/// Why the memory that an operator called somebody else's was not taken off a GPU.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAccepted {
    /// The fleet has no such GPU.
    #[error("there is no GPU {gpu}; the fleet has {gpus}")]
    UnknownGpu {
        /// The number asked for.
        gpu: usize,
        /// How many there are.
        gpus: usize,
    },
    /// Nothing says what is in use there.
    #[error("nobody measures GPU {gpu}")]
    Unmeasured {
        /// Which.
        gpu: usize,
    },
}

/// What the driver can be told. Outcomes of engines come as events on a channel of their own.
#[derive(Debug)]
pub enum Input {
    /// A gate opened a stream and said Hello.
    Opened {
        /// Name of its Envoy.
        gateway: String,
        /// Where it listens.
        outbound: Outbound,
        /// Its Hello.
        hello: Said,
    },
    /// A gate said something, or its stream ended.
    Said(Said),
    /// A gate broke the rules of the stream, which is to be closed.
    Violated {
        /// Which.
        stream: StreamId,
        /// How.
        why: Status,
    },
    /// Everything, for operators.
    Ask(oneshot::Sender<Overview>),
    /// An operator asks something of a model.
    Operate {
        /// Its name.
        name: String,
        /// What.
        verb: Operator,
        /// Whether the model exists.
        reply: oneshot::Sender<Result<(), UnknownModel>>,
    },
    /// The latest choices about a model.
    Explain {
        /// Its name.
        name: String,
        /// At most so many.
        last: usize,
        /// Oldest first.
        reply: oneshot::Sender<Result<Vec<Choice>, UnknownModel>>,
    },
    /// One choice by its number.
    Choice {
        /// Its number.
        number: u64,
        /// `None`: there is none of this number, or it is kept no longer.
        reply: oneshot::Sender<Option<Choice>>,
    },
    /// Why a model is not awake.
    WhyNot {
        /// Its name.
        name: String,
        /// The reasons.
        reply: oneshot::Sender<Result<WhyNot, UnknownModel>>,
    },
    /// An operator decided that what a GPU holds beyond the ledger is somebody else's.
    AcceptGpu {
        /// Which.
        gpu: usize,
        /// What is known of it afterwards.
        reply: oneshot::Sender<Result<Gpu, NotAccepted>>,
    },
    /// A model is new, or its settings changed. Engine and cluster exist.
    SetModel(Box<Model>),
    /// A model is to go.
    RemoveModel(ModelId),
    /// The answer of the disk to a larger term.
    TermTaken(Result<u64, StateError>),
    /// End: gates are let go, engines keep running.
    Stop,
}
