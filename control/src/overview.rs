//! What control says about itself and its models over HTTP: the documents that operators, `status` and `/metrics` read.
//!
//! Plain values, made by the driver in one step, so that the figures of one document belong together.

mod translate;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::journal::{About, Entry};

pub use translate::{admission_words, tier_word};

/// Everything at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    /// Term of this control.
    pub term: u64,
    /// Milliseconds since it started.
    pub uptime_ms: u64,
    /// Whether gateways have what they need.
    pub readiness: Readiness,
    /// Memory, by GPU.
    pub gpus: Vec<Gpu>,
    /// Host RAM of sleeping copies, by NUMA node; empty where nobody limits it.
    pub hosts: Vec<Host>,
    /// Gates that drains wait for.
    pub gates: Vec<Gate>,
    /// Streams closed since the start because their gate did not read.
    pub overflowed_streams: u64,
    /// Decisions since the start.
    pub decisions: u64,
    /// What choices came to since the start.
    pub tally: Tally,
    /// Models, by name.
    pub models: Vec<Model>,
}

/// Whether every expected gate has a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Every expected gate has a snapshot.
    pub ready: bool,
    /// Gates that have one.
    pub gates: usize,
    /// Gates that should.
    pub expected: usize,
    /// Every engine was looked at, and gates are given tables.
    pub open: bool,
    /// What is missing, in words.
    pub reason: Option<String>,
}

/// Memory of one GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gpu {
    /// Which.
    pub gpu: usize,
    /// Reserved by models, awake and asleep.
    pub reserved_bytes: u64,
    /// What models may use.
    pub capacity_bytes: u64,
    /// What the oracle saw in use last, whoever uses it; absent when nobody measures.
    pub used_bytes: Option<u64>,
    /// What an operator accepted as somebody else's; no part of what models may use.
    pub foreign_bytes: u64,
    /// An operator accepted what will be seen there once nothing moves any more.
    pub accepting: bool,
    /// Why nothing wakes or goes to sleep there, if so: ledger and oracle differ by more than the tolerance.
    pub stopped: Option<String>,
    /// Where sizes of models come from: "simulated", or "declared", when nobody measures.
    pub source: String,
}

/// Host RAM of one NUMA node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Host {
    /// Which.
    pub node: usize,
    /// Taken by sleeping copies, by the ledger.
    pub reserved_bytes: u64,
    /// What sleeping copies may take.
    pub capacity_bytes: u64,
}

/// What choices came to since this control started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    /// Choices made.
    pub choices: u64,
    /// Models put to sleep for others.
    pub evictions: u64,
    /// … that were wanted back within the time that their wake takes.
    pub regrets: u64,
    /// … that were woken again within a minute.
    pub thrash: u64,
    /// Choices in which the shadow policy would have sent others away.
    pub shadow_differs: u64,
    /// Regrets that the shadow policy would have spared.
    pub shadow_saves: u64,
    /// What waits were spent on.
    pub waits: WaitCauses,
    /// How good the estimates of waits were.
    pub estimates: EstimateScore,
}

/// What the waits for wakes were spent on, in milliseconds, over all wakes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WaitCauses {
    /// Others were first, or nobody could go yet.
    pub turn_ms: u64,
    /// Victims drained.
    pub drain_ms: u64,
    /// Victims went to sleep.
    pub sleep_ms: u64,
    /// The model itself woke, or was started.
    pub wake_ms: u64,
}

/// The first estimate of each wait against the wait that followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EstimateScore {
    /// Wakes that were compared.
    pub scored: u64,
    /// … whose wait was not longer than estimated: 90 % is what estimates aim at.
    pub kept: u64,
    /// Sum of the estimates.
    pub estimated_ms: u64,
    /// Sum of the waits.
    pub waited_ms: u64,
    /// Sum of the distances between the two.
    pub off_ms: u64,
}

/// A size in bytes and who says so: "default" (a guess), "declared" (the fleet file), "measured".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Size {
    /// How much.
    pub bytes: u64,
    /// Who says so.
    pub source: String,
}

/// What a model takes, on each of its GPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sizes {
    /// GPU memory while awake.
    pub awake: Size,
    /// GPU memory that stays while it sleeps.
    pub asleep: Size,
    /// GPU memory above `awake` at the worst moment of a wake.
    pub waking: Size,
    /// GPU memory above `awake` at the worst moment of a start; as declared for wakes until one was measured.
    pub starting: Size,
    /// GPU memory above `awake` at the worst moment of a sleep.
    pub sleeping: Size,
    /// Host RAM that its copy takes while it sleeps there, for each of its GPUs.
    pub host: Size,
    /// Disk that its weights take for a reload.
    pub disk: Size,
}

/// What an action is expected to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Expected {
    /// No longer than this, nine times of ten.
    pub ms: u64,
    /// How many measurements of this life of control stand behind it; 0: a guess, or what an earlier life measured.
    pub measured: usize,
}

/// What a model's actions take, as learned; absent: it cannot do that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Takes {
    /// A wake from host RAM.
    pub ram: Expected,
    /// A wake from disk.
    pub disk: Option<Expected>,
    /// A wake of an engine that is stopped: a start.
    pub stopped: Option<Expected>,
    /// A sleep.
    pub sleep: Expected,
}

/// One gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gate {
    /// Its random id.
    pub id: String,
    /// Name of its Envoy; empty when its stream is not open.
    pub gateway: String,
    /// Its stream is open.
    pub attached: bool,
    /// Version of the table that it reported; 0: none yet.
    pub table_version: u64,
}

/// One model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Model {
    /// Its name.
    pub name: String,
    /// Row id: name and engine.
    pub row: String,
    /// This row answers for the name; an older one of the same name only drains or says 404.
    pub current: bool,
    /// Upstream id.
    pub served: String,
    /// Path prefixes.
    pub prefixes: Vec<String>,
    /// Address of its engine.
    pub engine: String,
    /// sleeping, pending, waking, serving or deactivating.
    pub state: String,
    /// The state in the core's own words.
    pub phase: String,
    /// Its weights are on the GPU, or on the way there or from there.
    pub on_gpu: bool,
    /// Where its weights are when they are not on the GPU: "ram", "disk" or "stopped".
    pub tier: String,
    /// What gates do with its requests: "admit", "hold" or "refuse".
    pub admission: String,
    /// Why, when they refuse.
    pub refused_because: Option<String>,
    /// The first boot ended.
    pub boot_ready: bool,
    /// The barrier is up.
    pub barriered: bool,
    /// Requests in flight, over all gates.
    pub in_flight: u64,
    /// Requests held, over all gates.
    pub held: u64,
    /// Requests frozen in the engine.
    pub frozen: u64,
    /// GPUs that it spans.
    pub gpus: Vec<usize>,
    /// What it takes, and who says so.
    pub sizes: Sizes,
    /// What its wakes, by tier, and its sleeps take.
    pub takes: Takes,
    /// GPU memory reserved for it now, on each of its GPUs.
    pub reserved_bytes: u64,
    /// Milliseconds in this phase.
    pub since_ms: u64,
    /// Milliseconds since its last use; absent when never used.
    pub idle_ms: Option<u64>,
    /// Estimated wait of a request that arrives now, or comes back when it would be let wait, in ms; absent while it serves, where nobody
    /// can tell, and where something has to change first.
    pub estimated_wait_ms: Option<u64>,
    /// What is known of its engine where that does not answer.
    pub unanswered: Option<String>,
    /// The last error, in full: for operators only.
    pub last_error: Option<String>,
    /// Where no room can be made for it: who keeps it though it can neither serve nor leave, and what to do about each.
    pub in_the_way: Vec<String>,
    /// Requests by outcome since control started, over all gates.
    pub outcomes: BTreeMap<String, u64>,
    /// Released requests by bucket of their wait.
    pub wait_buckets: Vec<u64>,
    /// Wakes and sleeps.
    pub transitions: Transitions,
    /// What was decided about it and its GPUs, oldest first.
    pub decisions: Vec<Entry>,
}

/// Transitions since control started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Transitions {
    /// Wakes that ended well.
    pub wakes: u64,
    /// Wakes that did not.
    pub failed_wakes: u64,
    /// Sleeps that ended well.
    pub sleeps: u64,
    /// Sleeps that did not.
    pub failed_sleeps: u64,
}

/// An error answer of the HTTP API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// A word for programs ("unknown_model", "unauthorised" …).
    pub code: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl Model {
    /// What was last decided about the model itself.
    pub fn last_decision(&self) -> Option<&Entry> {
        let own = |entry: &&Entry| matches!(entry.about, About::Model(_));
        self.decisions.iter().rfind(own)
    }

    /// Where its weights are, or are moving: "gpu", "ram", "disk" or "stopped".
    pub fn weights(&self) -> &str {
        if self.on_gpu { "gpu" } else { &self.tier }
    }

    /// Host RAM that it takes now: its copy, for each of its GPUs, while it sleeps there.
    pub fn host_bytes(&self) -> u64 {
        if self.weights() == "ram" {
            let gpus = u64::try_from(self.gpus.len()).unwrap_or(u64::MAX);
            self.sizes.host.bytes.saturating_mul(gpus)
        } else {
            0
        }
    }
}

impl Readiness {
    /// Judges the table versions that gates reported; `open`: control gives out tables.
    pub fn of(open: bool, table_versions: impl Iterator<Item = u64>, expected: usize) -> Self {
        let (mut gates, mut waiting) = (0, 0);
        for version in table_versions {
            if version > 0 {
                gates += 1
            } else {
                waiting += 1
            }
        }
        let reason = match (gates >= expected, open, waiting) {
            (true, _, _) => None,
            (false, false, _) => {
                Some("control has just started and looks at its engines first; gateways go by what they were told last".to_owned())
            }
            (false, true, 0) => Some(format!(
                "{gates} of {expected} gates have the table; no other is attached"
            )),
            (false, true, _) => Some(format!(
                "{gates} of {expected} gates have the table; {waiting} have yet to apply it"
            )),
        };
        Self {
            ready: reason.is_none(),
            gates,
            expected,
            open,
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_that_every_expected_gate_has_a_table() {
        let check = |versions: &[u64], ready| {
            assert_eq!(
                Readiness::of(true, versions.iter().copied(), 3).ready,
                ready,
                "{versions:?}"
            )
        };
        check(&[], false);
        check(&[1, 4], false);
        check(&[1, 4, 0], false);
        check(&[1, 4, 2], true);
        check(&[1, 4, 2, 0], true);
    }
}
