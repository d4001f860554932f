//! The decisions of GreenThread: which model sleeps, which wakes, what gates may do, and why.
//!
//! Pure: no clock, no I/O, no async, no randomness, no logging, no hash-ordered iteration. One door:
//! [`Core::step`] takes an event and appends effects; [`Core::next_deadline`] says when it wants a tick.
//! The same core drives production, simulation and replay.

pub mod decision;
pub mod effect;
pub mod event;
pub mod ids;
pub mod model;

use effect::Effect;
use event::Event;
use ids::{Millis, ModelId};
use model::{FleetSpec, ModelSpec};

/// All decisions about one fleet.
#[derive(Debug)]
pub struct Core {
    fleet: FleetSpec,
}

/// What `status` shows of one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelView {
    /// Row id.
    pub id: ModelId,
    /// Public state, phase in the core's own words, last error, figures.
    pub state: effect::PublicState,
    /// Phase by its internal name ("Serving", "Draining" …).
    pub phase: &'static str,
    /// What gates do.
    pub admission: effect::Admission,
    /// The barrier is up.
    pub barriered: bool,
    /// First boot ended.
    pub boot_ready: bool,
    /// Sum over live gates.
    pub in_flight: u64,
    /// Sum over live gates.
    pub held: u64,
    /// Requests frozen in the engine.
    pub frozen: u64,
    /// When it was last used, on the core's clock.
    pub last_used: Option<Millis>,
    /// When it entered its phase.
    pub since: Millis,
    /// Bytes reserved per GPU now.
    pub reserved: ids::Bytes,
    /// Estimated wait of a request that arrives now.
    pub estimated_wait: Option<Millis>,
    /// Last error, in full, for operators.
    pub last_error: Option<String>,
}

impl Core {
    /// An empty fleet that became leader at `now`. Models follow as [`Event::ModelSet`].
    pub fn new(fleet: FleetSpec, _now: Millis) -> Self {
        Self { fleet }
    }

    /// Takes one event at `now` (never smaller than before) and appends what has to be done.
    pub fn step(&mut self, _now: Millis, _event: Event, _effects: &mut Vec<Effect>) {
        let _ = &self.fleet;
    }

    /// When the core wants a [`Event::Tick`] at the latest; `None`: only events matter.
    pub fn next_deadline(&self) -> Option<Millis> {
        None
    }

    /// Every model, by id.
    pub fn view(&self) -> Vec<ModelView> {
        Vec::new()
    }

    /// Gates that are waited for by drains, with the table version they last reported.
    pub fn gates(&self) -> Vec<(ids::GateId, u64)> {
        Vec::new()
    }

    /// Bytes reserved and capacity per GPU.
    pub fn ledger(&self) -> Vec<(ids::Bytes, ids::Bytes)> {
        Vec::new()
    }

    /// The spec of a model, as last set.
    pub fn spec(&self, _model: &ModelId) -> Option<&ModelSpec> {
        None
    }
}
