//! Choices as documents: what the core weighed, with names instead of ids and the wall clock instead of its own.
//!
//! Knows no HTTP and no text for people: `explain` renders these values, the HTTP API sends them as they are.

mod translate;

use serde::{Deserialize, Serialize};

pub use translate::Wall;

/// A choice with everything that was in view when it was made, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Choice {
    /// Its number; grows, never used twice in one life of control.
    pub number: u64,
    /// When, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// How long ago that was when control was asked.
    pub age_ms: u64,
    /// Who moves, or for whom room is made.
    pub target: String,
    /// Why then.
    pub trigger: Trigger,
    /// Name of the policy that chose.
    pub policy: String,
    /// What it needed, by GPU; empty where nothing was needed.
    pub need: Vec<Need>,
    /// Who was weighed: who would go first stands first.
    pub weighed: Vec<Weighed>,
    /// What was decided.
    pub taken: Taken,
    /// What the second policy would have done, where one watches.
    pub shadow: Option<Shadow>,
    /// What came of it, oldest first.
    pub followed: Vec<Followed>,
    /// Victims that were wanted back within the time that their wake takes.
    pub regrets: Vec<Regret>,
}

/// What made a model move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
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
    /// It is pinned.
    Pinned,
    /// It is popular, was displaced, and there is room again.
    Popular,
    /// Its first start, or its conditioning cycle.
    Boot,
    /// Nobody asked for it for its idle time-out.
    Idle,
    /// More was awake on a GPU than fits.
    Overcommit,
    /// It was taken out of service or removed.
    Withdrawn,
    /// Sleeping copies took more host RAM than there is.
    HostRam,
}

/// What a wake needed on one GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Need {
    /// Which GPU.
    pub gpu: usize,
    /// Bytes that the model takes there on top of what it held, transient peaks included.
    pub needs_bytes: u64,
    /// Bytes that were free by the ledger.
    pub free_bytes: u64,
    /// Bytes that were on their way out already.
    pub coming_bytes: u64,
    /// Bytes that were missing then.
    pub missing_bytes: u64,
}

/// A model that was weighed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Weighed {
    /// Which.
    pub model: String,
    /// What became of it.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Bytes per GPU that its sleep frees.
    pub frees_bytes: u64,
    /// How long it had not been used.
    pub idle_ms: u64,
    /// It had requests in flight or held.
    pub busy: bool,
    /// What the policy took losing it to cost, comparable within one choice only; absent where the policy named no figure.
    pub price: Option<f64>,
}

/// Why a model was, or was not, chosen to make room. `until`: from then on it may go, in milliseconds since 1970; absent: only
/// when something changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "verdict",
    rename_all = "snake_case",
    rename_all_fields = "camelCase"
)]
#[allow(missing_docs, reason = "the field is described above")]
pub enum Verdict {
    /// It goes.
    Chosen,
    /// It could have gone; the policy found others cheaper.
    Kept,
    /// It is pinned.
    Pinned,
    /// It was woken too recently.
    MinRuntime { until_unix_ms: Option<u64> },
    /// A drain of it was cancelled, or its frozen requests must finish first.
    Spared { until_unix_ms: Option<u64> },
    /// Requests run in it, and the waiter has not waited long enough.
    Busy { until_unix_ms: Option<u64> },
    /// It is on its way out already.
    Leaving,
    /// It is on its way in, or an action on it is under way.
    Moving,
    /// It frees nothing where something is missing.
    NoHelp,
}

/// Where the weights of a sleeping model are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// In host RAM.
    Ram,
    /// On disk; its engine reloads them.
    Disk,
    /// On disk; its engine is stopped and starts anew.
    Stopped,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "action",
    rename_all = "snake_case",
    rename_all_fields = "camelCase"
)]
pub enum Taken {
    /// There was room: woken at once.
    Wake {
        /// From where.
        tier: Tier,
    },
    /// Others make room first.
    Evict {
        /// Who.
        victims: Vec<String>,
    },
    /// Nobody could go yet.
    Wait {
        /// It is looked at again then, in milliseconds since 1970; absent: when something changes.
        until_unix_ms: Option<u64>,
    },
    /// Room was on its way already.
    WaitForRoom,
    /// Nothing could make room: requests are told so.
    GiveUp,
    /// It goes to sleep itself.
    Sleep {
        /// Where its weights go.
        tier: Tier,
    },
    /// Its copy in host RAM is given up for others.
    Demote {
        /// Where its weights are then.
        tier: Tier,
    },
}

/// What the shadow policy would have done in the same place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shadow {
    /// Its name.
    pub policy: String,
    /// Whom it would have sent away; empty: nobody.
    pub victims: Vec<String>,
    /// Whether that differs from what was done.
    pub differs: bool,
}

/// One thing that happened because of a choice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Followed {
    /// When, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// To which model.
    pub model: String,
    /// What, in words: "asleep after 92 ms".
    pub what: String,
}

/// A victim that was wanted back too soon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Regret {
    /// Who.
    pub victim: String,
    /// How long after its sleep it was wanted again.
    pub after_ms: u64,
    /// How long its wake takes.
    pub wake_takes_ms: u64,
}

/// Why a model is not awake now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WhyNot {
    /// Which model.
    pub model: String,
    /// It is awake and serves: there is nothing to explain.
    pub serving: bool,
    /// Sentences for people, most important first; the last says what would change it.
    pub reasons: Vec<String>,
    /// Models that wait before it on its GPUs, first first.
    pub ahead: Vec<String>,
    /// What a request that arrived now would be refused with ("disabled", "booting" …); absent when it would not.
    pub refused_because: Option<String>,
    /// Seconds of its Retry-After then.
    pub retry_after_s: Option<u32>,
    /// Estimated wait of a request that arrived now, in ms; absent when it would be refused, or nobody knows.
    pub estimated_wait_ms: Option<u64>,
    /// Number of the latest choice about it.
    pub choice: Option<u64>,
}
