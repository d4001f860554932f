//! What the driver can be told, by whom it may be.

use greenthread_core::{
    event::{Event, Operator},
    ids::{GateId, ModelId, StreamId},
};
use tokio::sync::oneshot;
use tonic::Status;

use crate::{
    config::Model, overview::Overview, state::StateError, streams::Outbound, totals::RowTotals,
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
    /// A model is new, or its settings changed. Engine and cluster exist.
    SetModel(Box<Model>),
    /// A model is to go.
    RemoveModel(ModelId),
    /// The answer of the disk to a larger term.
    TermTaken(Result<u64, StateError>),
    /// End: gates are let go, engines keep running.
    Stop,
}
