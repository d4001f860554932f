//! Which models make room: a function of values, without state.
//!
//! What holds for every policy is here: who can never be a victim (pinned, inside `min_runtime`, already leaving, busy before the
//! waiter has waited `max_wait`), that idle ones go before busy ones, and that nobody goes who is not needed. A policy only says
//! what losing a model costs, and whether few or cheap victims are wanted.
//!
//! # How to add one
//!
//! A file beside this one with a [`Policy`], and two lines here: its `mod`, and its place in [`Policy::ALL`]. Everything else goes by that
//! list: `policy:` and `shadow:` in fleet files, `greenthread simulate --policy`, explanations, metrics, simulation, and the tests that
//! hold for every policy. `lfu.rs` would be (with `super` and `crate` for `greenthread_core` in the first two lines):
//!
//! ```
//! use greenthread_core::policy::{Policy, Candidate, Wants};
//! use greenthread_core::ids::Millis;
//!
//! pub(super) const POLICY: Policy = Policy {
//!     name: "lfu",
//!     rule: "least often asked for in the last hour",
//!     price,
//!     wants: Wants::Fewest,
//! };
//!
//! fn price(candidate: &Candidate, now: Millis) -> f64 {
//!     let [_minute, _ten_minutes, hour, _day] = candidate.demand.rates(now);
//!     hour
//! }
//! ```
//!
//! Tests of its own stand in `tests.rs`; `greenthread simulate --trace FILE --slots 4 --policy lru,lfu` shows at once what it does to a
//! trace, and the same without `--slots` what it does with durations.
//!
//! A policy keeps nothing: what it can know is in [`Candidate`]. What nobody knows yet is learned elsewhere ([`crate::demand`],
//! [`crate::learned`], [`crate::forecast`]), and `candidates.rs` shows it.

mod cost;
mod forecast;
mod lru;
mod sets;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::{
    demand::Demand,
    ids::{Bytes, GpuId, Millis, ModelId},
};

/// A way to choose victims. Compared by name.
#[derive(Clone, Copy)]
pub struct Policy {
    /// The word for it in fleet files, explanations and metrics.
    pub name: &'static str,
    /// Who goes first, for people: what stands before "of 3 that can go".
    pub rule: &'static str,
    /// What losing a model costs at this moment, in a unit of the policy's own; who costs least goes first. Never negative, never NaN.
    pub price: fn(&Candidate, Millis) -> f64,
    /// Which sets of victims are best.
    pub wants: Wants,
}

/// Which of all sets of victims that make room is best. Both prefer sets with fewer busy models above all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// The fewest; among those, the one whose members cost least, first by first.
    Fewest,
    /// The one that costs least as a whole.
    Cheapest,
}

impl Policy {
    /// Every policy, the default first.
    pub const ALL: &'static [&'static Self] = &[&lru::POLICY, &cost::POLICY, &forecast::POLICY];

    /// The policy with this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        Self::ALL.iter().copied().find(|policy| policy.name == name)
    }
}

impl PartialEq for Policy {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Policy {}

/// Its name: the address of a function differs from process to process.
impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Default for &'static Policy {
    fn default() -> Self {
        Policy::ALL[0]
    }
}

/// A model that is awake, as policies see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Which.
    pub model: ModelId,
    /// GPUs it is on.
    pub gpus: Vec<GpuId>,
    /// Bytes per GPU that its sleep frees.
    pub frees: Bytes,
    /// Pinned by the operator.
    pub pinned: bool,
    /// Has requests in flight or held.
    pub busy: bool,
    /// Last use, or the start of service when later.
    pub last_used: Millis,
    /// It may not be chosen before: it was woken too recently.
    pub not_before: Millis,
    /// It may not be chosen before: a drain of it was cancelled, or frozen requests must finish.
    pub spared_until: Millis,
    /// It may not be chosen before: clients that were refused were told to come back by then.
    pub expected_until: Millis,
    /// How long its sleep takes, as learned.
    pub sleep: Millis,
    /// How long its next wake would take, as learned, from where its weights would go if it went now, and went alone: host RAM, disk, or
    /// nowhere.
    pub wake: Millis,
    /// How often it is asked for.
    pub demand: Demand,
    /// Milliseconds until its next use, as forecast: finite, 1 at least.
    pub next_use: f64,
}

impl Candidate {
    /// From when on it may be chosen, were it idle.
    pub(crate) fn free_from(&self) -> Millis {
        let spared = self.spared_until.max(self.expected_until);
        self.not_before.max(spared)
    }
}

/// What is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Bytes missing per GPU; only GPUs where something is missing.
    pub missing: Vec<(GpuId, Bytes)>,
    /// From when on busy models can be chosen.
    pub busy_from: Millis,
    /// Ignore how long candidates have been awake: frozen requests have waited too long.
    pub urgent: bool,
}

/// What a policy says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// These make room, who costs least first.
    Victims(Vec<ModelId>),
    /// Nobody can go now; ask again then (`None`: only an event can change it).
    Wait(Option<Millis>),
}

/// Candidates in the order in which a policy would let them go: idle ones first, then by price, then by name.
pub(crate) fn order<'a>(
    policy: &Policy,
    candidates: &'a [Candidate],
    now: Millis,
) -> Vec<(f64, &'a Candidate)> {
    let priced = |candidate: &'a Candidate| ((policy.price)(candidate, now), candidate);
    let mut order: Vec<_> = candidates.iter().map(priced).collect();
    order.sort_by(|(a_price, a), (b_price, b)| {
        let busy = a.busy.cmp(&b.busy);
        let price = busy.then(a_price.total_cmp(b_price));
        price.then_with(|| a.model.cmp(&b.model))
    });
    order
}

/// Chooses victims for `need` among `candidates` at `now`.
pub fn choose(policy: &Policy, need: &Need, candidates: &[Candidate], now: Millis) -> Selection {
    let mut movable = order(policy, candidates, now);
    movable.retain(|(_, candidate)| !candidate.pinned && helps(need, candidate));
    let allowed = |candidate: &Candidate| need.urgent || candidate.free_from() <= now;
    let part = |wanted: &dyn Fn(&Candidate) -> bool| -> Vec<(f64, &Candidate)> {
        let part = movable.iter().filter(|(_, candidate)| wanted(candidate));
        part.copied().collect()
    };
    // 1. Idle models that may go.
    let idle = part(&|candidate| allowed(candidate) && !candidate.busy);
    if let Some(victims) = sets::best(policy.wants, need, &idle) {
        return Selection::Victims(victims);
    }
    // 2. An idle model inside its min_runtime goes sooner than a busy one drains.
    let resting = part(&|candidate| !candidate.busy);
    if sets::covers(need, resting.iter().map(|(_, candidate)| *candidate)) {
        return Selection::Wait(next_change(&movable, need, now));
    }
    // 3. Busy ones, once the waiter has waited for long enough.
    if need.urgent || now >= need.busy_from {
        let all = part(&allowed);
        if let Some(victims) = sets::best(policy.wants, need, &all) {
            return Selection::Victims(victims);
        }
    }
    Selection::Wait(next_change(&movable, need, now))
}

/// The next moment at which time alone lets another model be chosen.
fn next_change(movable: &[(f64, &Candidate)], need: &Need, now: Millis) -> Option<Millis> {
    let from = |(_, candidate): &(f64, &Candidate)| {
        let busy_from = if candidate.busy { need.busy_from } else { now };
        candidate.free_from().max(busy_from)
    };
    movable.iter().map(from).filter(|at| *at > now).min()
}

/// Whether a candidate frees anything where something is missing.
pub(crate) fn helps(need: &Need, candidate: &Candidate) -> bool {
    let missing_there = |(gpu, _): &(GpuId, Bytes)| candidate.gpus.contains(gpu);
    candidate.frees > Bytes(0) && need.missing.iter().any(missing_there)
}
