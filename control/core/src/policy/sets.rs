//! The best set of victims that covers a need. Exact for what fits on a GPU; bounded work beyond that.

use super::{Candidate, Need, Wants};
use crate::ids::{Bytes, ModelId};

/// Sets that are looked at before the best one found so far is taken.
const SETS_MOST: usize = 20_000;

/// Whether these free enough on every GPU where something is missing.
pub(super) fn covers<'a>(
    need: &Need,
    victims: impl Iterator<Item = &'a Candidate> + Clone,
) -> bool {
    need.missing.iter().all(|(gpu, missing)| {
        let there = victims.clone().filter(|victim| victim.gpus.contains(gpu));
        there.map(|victim| victim.frees).sum::<Bytes>() >= *missing
    })
}

/// The best set among candidates that stand in the order in which the policy would let them go; `None` when all together are not
/// enough. No set contains a member that it does not need.
pub(super) fn best(wants: Wants, need: &Need, order: &[(f64, &Candidate)]) -> Option<Vec<ModelId>> {
    if !covers(need, order.iter().map(|(_, candidate)| *candidate)) {
        return None;
    }
    let mut search = Search {
        need,
        order,
        chosen: Vec::new(),
        best: None,
        looked_at: 0,
    };
    match wants {
        // By size: the first that covers is the one whose members come first.
        Wants::Fewest => {
            for size in 1..=order.len() {
                search.fewest(0, size);
                if search.best.is_some() || search.looked_at >= SETS_MOST {
                    break;
                }
            }
        }
        Wants::Cheapest => search.cheapest(0, Cost::default()),
    }
    let best = search
        .best
        .map_or_else(|| greedy(need, order), |(_, set)| set);
    let names = best.into_iter().filter_map(|at| order.get(at));
    Some(
        names
            .map(|(_, candidate)| candidate.model.clone())
            .collect(),
    )
}

/// What a set costs as a whole, in the order of what counts.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    busy: usize,
    price: f64,
    members: usize,
}

impl Cost {
    fn with(self, (price, candidate): (f64, &Candidate)) -> Self {
        Self {
            busy: self.busy + usize::from(candidate.busy),
            price: self.price + price,
            members: self.members + 1,
        }
    }

    fn is_less(self, other: Self) -> bool {
        let busy = self.busy.cmp(&other.busy);
        let price = busy.then(self.price.total_cmp(&other.price));
        price.then(self.members.cmp(&other.members)).is_lt()
    }
}

struct Search<'a> {
    need: &'a Need,
    order: &'a [(f64, &'a Candidate)],
    chosen: Vec<usize>,
    best: Option<(Cost, Vec<usize>)>,
    looked_at: usize,
}

impl Search<'_> {
    fn covered(&self) -> bool {
        let chosen = self.chosen.iter().filter_map(|at| self.order.get(*at));
        covers(self.need, chosen.map(|(_, candidate)| *candidate))
    }

    /// Sets of exactly `size` more members, in order, until one covers.
    fn fewest(&mut self, from: usize, size: usize) {
        if size == 0 {
            self.looked_at += 1;
            if self.covered() {
                self.best = Some((Cost::default(), self.chosen.clone()));
            }
            return;
        }
        for at in from..self.order.len() {
            if self.best.is_some() || self.looked_at >= SETS_MOST {
                return;
            }
            self.chosen.push(at);
            self.fewest(at + 1, size - 1);
            self.chosen.pop();
        }
    }

    /// Branch and bound: a branch that costs as much as the best set already is left.
    fn cheapest(&mut self, from: usize, cost: Cost) {
        self.looked_at += 1;
        let bound = self.best.as_ref().map(|(cost, _)| *cost);
        if self.looked_at > SETS_MOST || bound.is_some_and(|bound| !cost.is_less(bound)) {
            return;
        }
        if self.covered() {
            self.best = Some((cost, self.chosen.clone()));
            return;
        }
        for at in from..self.order.len() {
            let Some(member) = self.order.get(at) else {
                return;
            };
            self.chosen.push(at);
            self.cheapest(at + 1, cost.with(*member));
            self.chosen.pop();
        }
    }
}

/// The first in order that cover the need, without those that turn out not to be needed, dearest first.
fn greedy(need: &Need, order: &[(f64, &Candidate)]) -> Vec<usize> {
    let covered = |set: &[usize]| {
        let members = set.iter().filter_map(|at| order.get(*at));
        covers(need, members.map(|(_, candidate)| *candidate))
    };
    let mut set = Vec::new();
    for at in 0..order.len() {
        set.push(at);
        if covered(&set) {
            break;
        }
    }
    for candidate in set.clone().into_iter().rev() {
        let without: Vec<usize> = set.iter().copied().filter(|at| *at != candidate).collect();
        if covered(&without) {
            set = without;
        }
    }
    set
}
