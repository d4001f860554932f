//! What the shell shows of the core: values for `status`, `/readyz` and metrics.

use crate::{
    Core,
    decision::{Choice, Tally},
    effect::{Admission, PublicState},
    explain::unanswered,
    ids::{Bytes, GateId, GpuId, Millis, ModelId},
    learned::Expected,
    phase::Tier,
    state::ModelState,
};

/// What `status` shows of one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelView {
    /// Row id.
    pub id: ModelId,
    /// Public state.
    pub state: PublicState,
    /// Phase by its internal name ("Serving", "Draining" …).
    pub phase: &'static str,
    /// Its weights are on the GPU, or on the way there or from there.
    pub on_gpu: bool,
    /// Where its weights are when they are not on the GPU.
    pub tier: Tier,
    /// What gates do.
    pub admission: Admission,
    /// The barrier is up.
    pub barriered: bool,
    /// First boot ended.
    pub boot_ready: bool,
    /// Sum over live gates.
    pub in_flight: u64,
    /// Sum over live gates.
    pub held: u64,
    /// Requests inside the engine while it is not awake.
    pub frozen: u64,
    /// Taken out of service by an operator.
    pub disabled: bool,
    /// When it was last used, on the core's clock.
    pub last_used: Option<Millis>,
    /// When it entered its phase.
    pub since: Millis,
    /// Bytes reserved per GPU now.
    pub reserved: Bytes,
    /// What its actions take.
    pub takes: Takes,
    /// What is known of its engine where that does not answer.
    pub unanswered: Option<String>,
    /// Last error, in full, for operators.
    pub last_error: Option<String>,
    /// Where no room can be made for it: who keeps it though it can neither serve nor leave, and what to do about each.
    pub in_the_way: Vec<String>,
}

/// What the actions of one model take, as learned; `None`: it cannot do that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Takes {
    /// A wake from host RAM.
    pub wake: Expected,
    /// A wake from disk.
    pub reload: Option<Expected>,
    /// A start.
    pub start: Option<Expected>,
    /// A sleep.
    pub sleep: Expected,
}

/// What `status` shows of one GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuView {
    /// Which.
    pub gpu: GpuId,
    /// Bytes that models may use.
    pub capacity: Bytes,
    /// Bytes that the ledger has reserved.
    pub reserved: Bytes,
    /// Bytes that the oracle saw in use last; `None` when it cannot tell.
    pub used: Option<Bytes>,
    /// Bytes that an operator accepted as somebody else's; not part of what models may use.
    pub foreign: Bytes,
    /// An operator accepted what will be seen there once nothing moves any more.
    pub accepting: bool,
    /// Why no transition begins on it, if so: ledger and oracle differ by more than the tolerance.
    pub stopped: Option<String>,
}

/// What `status` shows of the host RAM of one NUMA node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostView {
    /// Bytes that sleeping copies may take.
    pub capacity: Bytes,
    /// Bytes that they take by the ledger.
    pub reserved: Bytes,
}

impl Core {
    /// The latest choices in which a model was the target or a victim, oldest first, `last` at most.
    pub fn explain(&self, model: &ModelId, last: usize) -> Vec<Choice> {
        self.choices.of(model, last)
    }

    /// One choice by its number, as long as it is kept.
    pub fn choice(&self, number: u64) -> Option<&Choice> {
        self.choices.get(number)
    }

    /// Totals since the start.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Every GPU.
    pub fn gpus(&self) -> Vec<GpuView> {
        let view = |gpu: usize| {
            let audit = self.audit(GpuId(gpu));
            GpuView {
                gpu: GpuId(gpu),
                capacity: self.capacity(GpuId(gpu)),
                reserved: self.reserved_on(GpuId(gpu)),
                used: audit.used,
                foreign: audit.foreign,
                accepting: audit.accepting,
                stopped: self.why_stopped(GpuId(gpu)),
            }
        };
        (0..self.fleet.gpus.len()).map(view).collect()
    }

    /// Every NUMA node whose host RAM is limited.
    pub fn hosts(&self) -> Vec<HostView> {
        let nodes = self.fleet.hosts.iter().enumerate();
        nodes
            .map(|(host, capacity)| HostView {
                capacity: *capacity,
                reserved: self.places.host_reserved(host),
            })
            .collect()
    }

    /// Every model, by id.
    pub fn view(&self) -> Vec<ModelView> {
        let view = |state: &ModelState| {
            let id = &state.spec.id;
            let row = state.row();
            ModelView {
                id: id.clone(),
                state: row.state,
                phase: state.phase.name(),
                on_gpu: state.holds_room(),
                tier: state.tier(),
                admission: row.admission,
                barriered: row.barriered,
                boot_ready: state.told.boot_ready,
                in_flight: self.gates.in_flight(state.slot),
                held: self.gates.held(state.slot),
                frozen: state.engine.inside,
                disabled: state.operator.disabled,
                last_used: state.asked.last_used,
                since: state.since,
                reserved: state.reserved(),
                takes: state.takes(),
                unanswered: unanswered(state),
                last_error: state.engine.last_error.clone(),
                in_the_way: if state.told.stuck {
                    self.in_the_way(state)
                } else {
                    Vec::new()
                },
            }
        };
        self.models.values().map(view).collect()
    }

    /// Gates that drains wait for, with the table version that each reported last.
    pub fn gates(&self) -> Vec<(GateId, u64)> {
        self.gates.live_versions()
    }

    /// Every engine was looked at or timed out: gates may attach and get a table.
    pub const fn is_open(&self) -> bool {
        self.open
    }
}

impl ModelState {
    fn takes(&self) -> Takes {
        let (caps, learned) = (self.spec.caps, &self.learned);
        Takes {
            wake: learned.wake.expected(),
            reload: caps.disk.then(|| learned.reload.expected()),
            start: caps.restartable.then(|| learned.start.expected()),
            sleep: learned.sleep.expected(),
        }
    }
}
