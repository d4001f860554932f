//! What an operator says about a model and about the fleet: values, validated by the shell.

use crate::{
    ids::{Bytes, GpuId, Millis, ModelId},
    phase::Tier,
    policy::Policy,
};

/// How requests in an engine are treated when it is put to sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SleepMode {
    /// Requests stay in the engine and go on after the wake. The only mode without loss.
    Keep,
    /// Requests are ended, truncated. Only where the operator asked for it.
    Abort,
}

/// What to do with a victim that is still busy at the end of its drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDrainTimeout {
    /// Freeze its requests in the engine (default), where the engine can.
    Freeze,
    /// Reopen it and look for another victim.
    Cancel,
    /// Truncate its requests.
    Abort,
}

/// What gates do with a row when their lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnLeaseEnd {
    /// Hold.
    Hold,
    /// Admit for `max_flow`.
    Flow,
}

/// What an engine's driver can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Its own number of requests can be trusted (vLLM `/load` with load tracking, proven).
    pub counts: bool,
    /// Requests in flight survive a sleep (`mode=keep`), and requests received while asleep are answered after the wake.
    pub lossless: bool,
    /// Control can start and end its process.
    pub restartable: bool,
    /// It can sleep without a copy in host RAM, and reload its weights from disk (vLLM sleep level 2).
    pub disk: bool,
}

/// One model as the core sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSpec {
    /// Row id.
    pub id: ModelId,
    /// GPUs it spans; each carries `awake` or `asleep` bytes.
    pub gpus: Vec<GpuId>,
    /// Bytes per GPU while awake: declared, or measured when the shell knows better.
    pub awake: Bytes,
    /// Bytes per GPU that stay while it sleeps.
    pub asleep: Bytes,
    /// What else it takes, and where all figures come from.
    pub sizes: Sizes,
    /// The conditioning cycle was done in an earlier life (its footprint is known).
    pub conditioned: bool,
    /// Never a victim, awake from the start.
    pub pinned: bool,
    /// Where its weights go when it sleeps: always into this tier. `None`: as deep as host RAM needs.
    pub tier: Option<Tier>,
    /// Woken again after it was displaced, once there is room and nobody waits.
    pub popular: bool,
    /// Idle this long: sleep. `None`: never by itself.
    pub idle_timeout: Option<Millis>,
    /// Length of a drain before `on_drain_timeout`.
    pub drain_timeout: Millis,
    /// What then.
    pub on_drain_timeout: OnDrainTimeout,
    /// Longest time that requests stay frozen before they go first.
    pub max_freeze: Millis,
    /// Awake at least this long before it can be a victim.
    pub min_runtime: Millis,
    /// A waiter has waited this long: busy models can be victims.
    pub max_wait: Millis,
    /// What gates do without a lease.
    pub on_lease_end: OnLeaseEnd,
    /// What its driver can do.
    pub caps: Caps,
    /// First guesses of durations, replaced by what is measured.
    pub guess: Durations,
}

/// Durations of an engine's actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durations {
    /// Start of the process until it serves.
    pub start: Millis,
    /// Wake from host RAM.
    pub wake: Millis,
    /// Wake from disk.
    pub reload: Millis,
    /// Sleep.
    pub sleep: Millis,
}

/// Times of the protocol and of the core (rules 1, 2, 7, 14 of the protocol).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// A gate may admit this long after sending what was echoed.
    pub lease: Millis,
    /// Fence = lease + margin.
    pub margin: Millis,
    /// How often gates report.
    pub heartbeat: Millis,
    /// A call to an engine that was not accepted after this is abandoned.
    pub command: Millis,
    /// `flow` rows are admitted this long after the lease.
    pub max_flow: Millis,
    /// Longest time from admission to arrival at the engine.
    pub forward_bound: Millis,
    /// How often engines are looked at (rule 8 and S7: every second in production; trace replay looks rarely).
    pub observe: Millis,
}

/// Where a figure comes from. A later one is worth more than an earlier one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Nobody said anything: a guess of ours.
    #[default]
    Default,
    /// The operator declared it.
    Declared,
    /// It was measured, by a conditioning cycle or since.
    Measured,
}

/// A size, and where it comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// How much.
    pub bytes: Bytes,
    /// Says who.
    pub source: Source,
}

/// What a model takes beside `awake` and `asleep`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Where [`ModelSpec::awake`] comes from.
    pub awake: Source,
    /// Where [`ModelSpec::asleep`] comes from.
    pub asleep: Source,
    /// Bytes per GPU above `awake` at the worst moment of a wake.
    pub waking: Size,
    /// Bytes per GPU above `awake` at the worst moment of a start: what was said of wakes, until a start was measured.
    pub starting: Size,
    /// Bytes per GPU above `awake` at the worst moment of a sleep.
    pub sleeping: Size,
    /// Host RAM that its copy takes while it sleeps in RAM, for each of its GPUs.
    pub host: Size,
    /// Disk that its weights take for a reload; for people, nothing is decided by it.
    pub disk: Size,
}

impl Sizes {
    /// A start that takes little says nothing of wakes; what one was measured to take more is reserved for both.
    pub fn wakes_like_starts(&mut self) {
        let measured = self.starting.source == Source::Measured;
        if measured && self.starting.bytes > self.waking.bytes {
            self.waking = self.starting;
        }
    }
}

/// What the core is created with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetSpec {
    /// Capacity of each GPU, in bytes that models may use.
    pub gpus: Vec<Bytes>,
    /// Host RAM that sleeping copies may take, by NUMA node (one for a machine whose nodes are not told apart). Empty: nobody said
    /// how much, and nothing is limited by it.
    pub hosts: Vec<Bytes>,
    /// NUMA node of each GPU: an index of `hosts`. A GPU that is not listed is at node 0.
    pub host_of: Vec<usize>,
    /// How far ledger and oracle may differ on a GPU before transitions stop there.
    pub tolerance: Bytes,
    /// How victims are chosen.
    pub policy: &'static Policy,
    /// A second policy that decides beside the first without acting.
    pub shadow: Option<&'static Policy>,
    /// Times.
    pub times: Times,
    /// Term of this life, persisted before.
    pub term: u64,
}
