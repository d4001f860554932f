//! What gates have said of the use of models: figures of each gate and model, and their sums over gates. Ages become moments of the
//! core's clock as they are heard.

use std::collections::BTreeMap;

use crate::{event::Figures, ids::Millis, models::Slot};

/// A gate that says more requests than this lies; sums of the figures of all gates stay far from overflowing.
pub(crate) const FIGURE_MOST: u64 = 1 << 32;

/// One model's figures of one gate, as it reported them last; moments only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reported {
    pub(crate) in_flight: u64,
    pub(crate) held: u64,
    pub(crate) last_used: Option<Millis>,
    pub(crate) last_refused: Option<Millis>,
    /// Requests that wanted the model since the gate exists.
    asked: u64,
    /// … of which the core has not been told yet.
    pub(crate) news: u64,
}

/// What a gate has said of the use of one model.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct News {
    pub(crate) used: Option<Millis>,
    pub(crate) refused: Option<Millis>,
    /// Of a gate that does not count, one for each report of a use or a refusal.
    pub(crate) asked: u64,
}

/// Requests of one model over all gates that are not fenced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) in_flight: u64,
    pub(crate) held: u64,
}

impl Reported {
    /// What this gate adds to the sum over all.
    pub(crate) fn sum(&self) -> Sum {
        Sum {
            in_flight: self.in_flight,
            held: self.held,
        }
    }

    /// Takes what the gate reports, ages as moments.
    pub(crate) fn take(&mut self, now: Millis, figures: &Figures) {
        let Figures {
            in_flight,
            held,
            oldest_age: _,
            last_used_age,
            last_refused_age,
            asked,
        } = figures;
        let moments = (self.last_used, self.last_refused);
        let held = sabotage!(DemandIsKept, self.held.max(*held), *held);
        (self.in_flight, self.held) = ((*in_flight).min(FIGURE_MOST), held.min(FIGURE_MOST));
        let at = |age: &u64| sabotage!(UsedWhenReported, now, now.since(Millis(*age)));
        self.last_used = self.last_used.max(last_used_age.as_ref().map(at));
        self.last_refused = self.last_refused.max(last_refused_age.as_ref().map(at));
        // The end of a request is a use and no further wish: moments only tell of wishes where the gate counts none.
        let wished = u64::from(moments != (self.last_used, self.last_refused));
        self.news += match (*asked).max(self.asked) {
            0 => wished,
            counted => counted.saturating_sub(self.asked).min(FIGURE_MOST),
        };
        self.asked = self.asked.max(*asked);
    }
}

/// What one gate contributes to a sum changed. Saturating sums would not go down again as they went up: figures of gates that lie
/// are cut where they are read.
pub(crate) fn change(sums: &mut BTreeMap<Slot, Sum>, model: Slot, old: Sum, new: Sum) {
    if old == new {
        return;
    }
    let mut sum = sums.get(&model).copied().unwrap_or_default();
    sum.in_flight = sum.in_flight - old.in_flight + new.in_flight;
    sum.held = sum.held - old.held + new.held;
    if sum == Sum::default() {
        sums.remove(&model);
    } else {
        sums.insert(model, sum);
    }
}
