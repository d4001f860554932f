//! Who wants a model awake now, and in which words that is told. A wish is a level (rule 9): nothing consumes it, it holds while somebody
//! waits, and ends with whoever had it.

use crate::{
    Core,
    decision::Trigger,
    ids::{Millis, ModelId},
    phase::Phase,
    state::ModelState,
};

/// A refused request is demand for so long: the longest Retry-After.
const REFUSED_IS_DEMAND: Millis = Millis(60_000);

impl Core {
    /// Whether somebody wants the model now (rule 9: a level, nothing consumes it).
    pub(crate) fn wanted(&self, now: Millis, state: &ModelState) -> bool {
        state.room.restoring && !state.operator.disabled && !state.operator.removing
            || self.asked_for(now, state)
    }

    /// … for another reason than that it comes back into room that nobody wants.
    pub(crate) fn asked_for(&self, now: Millis, state: &ModelState) -> bool {
        if sabotage!(
            DisabledWakes,
            state.operator.removing,
            state.operator.disabled || state.operator.removing
        ) {
            return state.engine.inside > 0;
        }
        let fulfilled = state.asked.fulfilled_at;
        let refused = state.asked.last_refused.is_some_and(|at| {
            now.since(at) < REFUSED_IS_DEMAND && fulfilled.is_none_or(|fulfilled| at > fulfilled)
        });
        let asked = self.gates.held(state.slot) > 0 || state.engine.inside > 0;
        let always = state.spec.pinned && !state.operator.sleeps;
        asked || refused || state.operator.wants || always
    }

    /// Why room is needed for a model now: what wants it, the most urgent first.
    pub(crate) fn trigger(&self, now: Millis, id: &ModelId) -> Trigger {
        let Some(state) = self.models.get(id) else {
            return Trigger::Boot;
        };
        let held = self.held(id);
        if matches!(state.phase, Phase::Booting(_)) {
            Trigger::Boot
        } else if held > 0 || state.engine.inside > 0 {
            Trigger::Demand {
                held,
                inside: state.engine.inside,
                refused: false,
            }
        } else if state.operator.wants {
            Trigger::Operator
        } else if state.spec.pinned {
            Trigger::Pinned
        } else if self.asked_for(now, state) {
            Trigger::Demand {
                held,
                inside: 0,
                refused: true,
            }
        } else {
            Trigger::Popular
        }
    }

    /// Who wants a model that waits, for `why-not`.
    pub(crate) fn wish(&self, state: &ModelState) -> String {
        match (self.gates.held(state.slot), state.engine.inside) {
            (0, 0) if state.operator.wants => "an operator asked".to_owned(),
            (0, 0) if state.spec.pinned => "it is pinned".to_owned(),
            (0, 0) if state.room.restoring => "it is popular".to_owned(),
            (0, 0) => "a refused request may come back".to_owned(),
            (0, inside) => format!("{} inside its engine", requests(inside)),
            (held, _) => format!("{} held", requests(held)),
        }
    }
}

impl ModelState {
    /// When the latest refused request counts as a wish no longer; `None` where it has ended, or there is none.
    pub(crate) fn refused_wish_ends(&self, now: Millis) -> Option<Millis> {
        let ends = self.asked.last_refused.map(|at| at + REFUSED_IS_DEMAND);
        ends.filter(|at| *at > now)
    }
}

/// For whom a model wakes, for its decision.
pub(crate) fn for_whom(state: &ModelState, held: u64) -> String {
    let waiting = format!("{} held", requests(held));
    let frozen = format!("{} inside the engine", requests(state.engine.inside));
    match (held, state.engine.inside) {
        (0, 0) if state.operator.wants => "its operator".to_owned(),
        (0, 0) if state.spec.pinned => "whoever comes, since it is pinned".to_owned(),
        (0, 0) if state.room.restoring => {
            "whoever comes, since it is popular and there is room".to_owned()
        }
        (0, 0) => "a request that was told to come back".to_owned(),
        (_, 0) => waiting,
        (0, _) => frozen,
        (_, _) => format!("{waiting} and {frozen}"),
    }
}

/// "1 request", "2 requests".
pub(crate) fn requests(requests: u64) -> String {
    format!("{requests} request{}", if requests == 1 { "" } else { "s" })
}
