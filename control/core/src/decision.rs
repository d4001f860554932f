//! Decisions as values: what was decided about a model, with what in view, what came of it, and whether it was regretted.
//!
//! A [`Decision`] is a sentence for the log. A [`Choice`] is what stands behind those that made room, waited for room, or put a
//! model to sleep: everything that was weighed, so that it can be explained later and compared with what another policy would
//! have done. Nothing here decides anything.

use std::fmt;

use crate::{
    effect::RefuseReason,
    ids::{Bytes, GpuId, Millis, ModelId},
    phase::Tier,
};

/// What a decision is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// One model.
    Model(ModelId),
    /// A GPU, and so all models that are placed there.
    Gpu {
        /// Which.
        gpu: GpuId,
        /// Who is placed there.
        models: Vec<ModelId>,
    },
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model(model) => model.fmt(f),
            Self::Gpu { gpu, models: _ } => write!(f, "GPU {}", gpu.0),
        }
    }
}

/// What was decided about a model or a GPU, when, and why, in words for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// When, on the core's clock.
    pub at: Millis,
    /// What about.
    pub about: Subject,
    /// The sentence, e.g. "put to sleep for qwen-2-5-7b: idle for 41 s, the longest of 2".
    pub sentence: String,
    /// The [`Choice`] behind it, if it was one.
    pub choice: Option<u64>,
}

/// What made a model move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Requests wait for it.
    Demand {
        /// Held by gates.
        held: u64,
        /// Inside its engine, frozen or arrived in spite of the gates.
        inside: u64,
        /// A request was refused with the advice to come back.
        refused: bool,
    },
    /// An operator asked.
    Operator,
    /// It is pinned: awake from the start.
    Pinned,
    /// It is popular, was displaced, and there is room again.
    Popular,
    /// Its first start, or its conditioning cycle.
    Boot,
    /// Nobody asked for it for its idle time-out.
    Idle,
    /// More is awake on a GPU than fits.
    Overcommit,
    /// It was taken out of service or removed.
    Withdrawn,
    /// Sleeping copies take more host RAM than there is.
    HostRam,
    /// What engines keep on a GPU while they sleep was needed there.
    Residual,
}

/// What a wake needs on one GPU, at the moment of the choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuNeed {
    /// Which GPU.
    pub gpu: GpuId,
    /// Bytes that the model takes there on top of what it holds, transient peaks included.
    pub needs: Bytes,
    /// Free bytes by the ledger.
    pub free: Bytes,
    /// Bytes that are on their way out already.
    pub coming: Bytes,
    /// What is missing then.
    pub missing: Bytes,
}

/// Why a model was, or was not, chosen to make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes.
    Chosen,
    /// It could have gone; the policy found others cheaper.
    Kept,
    /// It is pinned.
    Pinned,
    /// It was woken too recently; it may go from then on.
    MinRuntime(Millis),
    /// A drain of it was cancelled, or its frozen requests must finish first; it may go from then on.
    Spared(Millis),
    /// Clients that were told to come back may do so any moment; it may go from then on.
    Expected(Millis),
    /// Requests run in it, and the waiter has not waited for `max_wait`; it may go from then on.
    Busy(Millis),
    /// It is on its way out already.
    Leaving,
    /// It is on its way in, or an action on it is under way.
    Moving,
    /// It frees nothing where something is missing.
    NoHelp,
}

/// A model that was weighed.
#[derive(Clone, Debug, PartialEq)]
pub struct Weighed {
    /// Which.
    pub model: ModelId,
    /// What became of it.
    pub verdict: Verdict,
    /// Bytes per GPU that its sleep frees.
    pub frees: Bytes,
    /// How long it had not been used.
    pub idle: Millis,
    /// Requests in flight or held.
    pub busy: bool,
    /// What the policy took losing it to cost; only comparable within one choice.
    pub price: f64,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// There was room: woken at once.
    Wake(Tier),
    /// These make room first.
    Evict(Vec<ModelId>),
    /// Nobody can go before then (`None`: only an event changes it), and then it is looked at again.
    Wait(Option<Millis>),
    /// Room is on its way already.
    WaitForRoom,
    /// Nothing can make room: requests are told so.
    GiveUp,
    /// It goes to sleep itself, into this tier.
    Sleep(Tier),
    /// It sleeps, and what it takes for that is given up for others.
    Demote(Tier),
}

/// One more thing that happened because of a choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Followed {
    /// When.
    pub at: Millis,
    /// To which model.
    pub model: ModelId,
    /// What, in words: "asleep after 92 ms".
    pub what: String,
}

/// Somebody asked anew for a victim within the time that its wake takes: it should have stayed. Requests that were frozen in it do not
/// count, since they were known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regret {
    /// Who.
    pub victim: ModelId,
    /// How long after its sleep it was asked for.
    pub after: Millis,
    /// How long its wake takes.
    pub wake_takes: Millis,
}

/// What the shadow policy would have done in the same place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shadow {
    /// Its name.
    pub policy: &'static str,
    /// Whom it would have sent away.
    pub victims: Vec<ModelId>,
    /// Whether that differs from what was done.
    pub differs: bool,
}

/// A choice with everything that was in view.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Number of the choice; grows, never used twice in one life of control.
    pub number: u64,
    /// When, on the core's clock.
    pub at: Millis,
    /// Who moves, or for whom room is made.
    pub target: ModelId,
    /// Why now.
    pub trigger: Trigger,
    /// Name of the policy.
    pub policy: &'static str,
    /// What it needs, per GPU; empty where nothing was needed.
    pub need: Vec<GpuNeed>,
    /// Who was weighed, in the order of the policy: who would go first stands first.
    pub weighed: Vec<Weighed>,
    /// What was decided.
    pub taken: Taken,
    /// The second policy, when one watches.
    pub shadow: Option<Shadow>,
    /// What came of it, oldest first; bounded.
    pub followed: Vec<Followed>,
    /// Victims that were wanted back too soon.
    pub regrets: Vec<Regret>,
}

/// Why a model is not awake now, in the order in which the reasons would have to go away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhyNot {
    /// Which model.
    pub model: ModelId,
    /// It is awake and serves: there is nothing to explain.
    pub serving: bool,
    /// Sentences for people, most important first; the last says what would change it.
    pub reasons: Vec<String>,
    /// Models that wait before it on its GPUs, first first.
    pub ahead: Vec<ModelId>,
    /// Why gates would refuse a request that arrived now, if they would, and after how many seconds it is told to come back.
    pub refused: Option<(RefuseReason, u32)>,
    /// Estimated wait of a request that arrived now, were it held; 0: nobody can tell.
    pub estimated_wait: Millis,
    /// The latest choice about it in which something was weighed.
    pub choice: Option<u64>,
}

/// What waits of requests were spent on, over all wakes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitCauses {
    /// Others were first, or nobody could go yet, in milliseconds.
    pub turn: u64,
    /// Victims drained.
    pub drain: u64,
    /// Victims went to sleep.
    pub sleep: u64,
    /// The model itself woke, or was started.
    pub wake: u64,
}

/// How good the estimates of waits were: each first estimate against the wait that followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EstimateScore {
    /// Wakes that were compared.
    pub scored: u64,
    /// … whose wait was within the estimate (which is a 90 % quantile).
    pub kept: u64,
    /// Sum of the estimates in ms.
    pub estimated: u64,
    /// Sum of the waits in ms.
    pub waited: u64,
    /// Sum of the distances between the two in ms.
    pub off: u64,
}

/// Totals since this control started, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Choices made.
    pub choices: u64,
    /// Victims sent to sleep for others.
    pub evictions: u64,
    /// Victims that somebody asked for anew within their own wake time.
    pub regrets: u64,
    /// Models woken again within a minute after they were put to sleep for another.
    pub thrash: u64,
    /// Choices in which the shadow policy would have sent others away.
    pub shadow_differs: u64,
    /// Regrets of victims that the shadow policy would have kept.
    pub shadow_saves: u64,
    /// What waits were spent on.
    pub waits: WaitCauses,
    /// How good estimates were.
    pub estimates: EstimateScore,
}
