//! Which models make room: a function of values, without state.
//!
//! What holds for every policy is here: who can never be a victim (pinned, inside `min_runtime`, already leaving, busy before the
//! waiter has waited `max_wait`), that idle ones go before busy ones, and that nobody goes who is not needed. A policy only says
//! what losing a model costs, and whether few or cheap victims are wanted. To add one: a file with a [`Policy`], and a line in
//! [`Policy::ALL`].

mod cost;
mod forecast;
mod lru;
mod sets;
#[cfg(test)]
mod tests;

use crate::ids::{Bytes, GpuId, Millis, ModelId};

/// A way to choose victims. Compared by name.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// The word for it in fleet files, explanations and metrics.
    pub name: &'static str,
    /// One sentence for people: who goes first.
    pub rule: &'static str,
    /// What losing a resident costs at this moment; who costs least goes first. Never negative, never NaN.
    pub price: fn(&Resident, Millis) -> f64,
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
    pub const ALL: [&'static Self; 3] = [&lru::POLICY, &cost::POLICY, &forecast::POLICY];

    /// The policy with this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        Self::ALL.into_iter().find(|policy| policy.name == name)
    }
}

impl PartialEq for Policy {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Policy {}

impl Default for &'static Policy {
    fn default() -> Self {
        &lru::POLICY
    }
}

/// A model that is awake, as policies see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Resident {
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
    /// How long its next wake would take, as learned.
    pub wake: Millis,
    /// Requests per second that are expected; the stated prior where nobody ever asked.
    pub demand: f64,
    /// Milliseconds until its next use, as forecast.
    pub next_use: f64,
}

impl Resident {
    /// From when on it may be chosen, were it idle.
    pub fn free_from(&self) -> Millis {
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
    /// Ignore how long residents have been awake: frozen requests have waited too long.
    pub urgent: bool,
}

/// What a policy says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// These make room, who costs least first.
    Victims(Vec<ModelId>),
    /// Nobody can go now; ask again then (`None`: only an event can change it).
    Wait(Option<Millis>),
}

/// Residents in the order in which a policy would let them go: idle ones first, then by price, then by name.
pub fn order<'a>(
    policy: &Policy,
    residents: &'a [Resident],
    now: Millis,
) -> Vec<(f64, &'a Resident)> {
    let priced = |resident: &'a Resident| ((policy.price)(resident, now), resident);
    let mut order: Vec<_> = residents.iter().map(priced).collect();
    order.sort_by(|(a_price, a), (b_price, b)| {
        let busy = a.busy.cmp(&b.busy);
        let price = busy.then(a_price.total_cmp(b_price));
        price.then_with(|| a.model.cmp(&b.model))
    });
    order
}

/// Chooses victims for `need` among `residents` at `now`.
pub fn choose(policy: &Policy, need: &Need, residents: &[Resident], now: Millis) -> Choice {
    let mut movable = order(policy, residents, now);
    movable.retain(|(_, resident)| !resident.pinned && helps(need, resident));
    let allowed = |resident: &Resident| need.urgent || resident.free_from() <= now;
    let part = |wanted: &dyn Fn(&Resident) -> bool| -> Vec<(f64, &Resident)> {
        let part = movable.iter().filter(|(_, resident)| wanted(resident));
        part.copied().collect()
    };
    // 1. Idle models that may go.
    let idle = part(&|resident| allowed(resident) && !resident.busy);
    if let Some(victims) = sets::best(policy.wants, need, &idle) {
        return Choice::Victims(victims);
    }
    // 2. An idle model inside its min_runtime goes sooner than a busy one drains.
    let resting = part(&|resident| !resident.busy);
    if sets::covers(need, resting.iter().map(|(_, resident)| *resident)) {
        return Choice::Wait(next_change(&movable, need, now));
    }
    // 3. Busy ones, once the waiter has waited for long enough.
    if need.urgent || now >= need.busy_from {
        let all = part(&allowed);
        if let Some(victims) = sets::best(policy.wants, need, &all) {
            return Choice::Victims(victims);
        }
    }
    Choice::Wait(next_change(&movable, need, now))
}

/// The next moment at which time alone lets another model be chosen.
fn next_change(movable: &[(f64, &Resident)], need: &Need, now: Millis) -> Option<Millis> {
    let from = |(_, resident): &(f64, &Resident)| {
        let busy_from = if resident.busy { need.busy_from } else { now };
        resident.free_from().max(busy_from)
    };
    movable.iter().map(from).filter(|at| *at > now).min()
}

/// Whether a resident frees anything where something is missing.
pub fn helps(need: &Need, resident: &Resident) -> bool {
    let missing_there = |(gpu, _): &(GpuId, Bytes)| resident.gpus.contains(gpu);
    resident.frees > Bytes(0) && need.missing.iter().any(missing_there)
}
