//! Requests: where each is, and its one outcome.

use crate::world::World;

/// Where a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its gate holds it.
    Held,
    /// Admitted; on its way to the engine.
    OnItsWay,
    /// In the engine.
    Inside,
    /// Answered, or failed, on its way back.
    ComesBack,
    /// It has its outcome.
    Over(Outcome),
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The engine answered it.
    Answered,
    /// Its gate answered it, for this reason.
    Refused(&'static str),
    /// It went on untouched: a path of no model.
    Passed,
    /// The engine died, or could not be reached.
    EngineFailed,
    /// Its answer was truncated.
    Cut,
    /// Its client left.
    Left,
    /// Its Envoy died.
    GatewayDied,
}

impl Outcome {
    /// Its name in the totals.
    pub fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused(reason) => reason,
            Self::Passed => "passed",
            Self::EngineFailed => "engine died",
            Self::Cut => "cut",
            Self::Left => "client left",
            Self::GatewayDied => "gateway died",
        }
    }
}

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its gate.
    pub gate: usize,
    /// Name in its path.
    pub name: String,
    /// When it arrived.
    pub arrived: u64,
    /// Service time in ms.
    pub service: u64,
    /// Where it is.
    pub stage: Stage,
    /// Row for which it is held or in flight; none while it waits for the first table.
    pub row: Option<usize>,
    /// The engine need not answer any more: the client or its Envoy is gone.
    pub abandoned: bool,
    /// It was admitted after the lease, by a row that flows.
    pub flowed: bool,
    /// Control could not know of it: its gate was silent, and its engine has no count.
    pub unseen: bool,
    /// When it was admitted.
    pub admitted: u64,
    /// The wait that was estimated when it was held, in ms.
    pub promised: Option<u64>,
    /// Its gate had no lease when it came: what it was told may be old.
    pub stale: bool,
    /// It takes the longest way to its engine.
    pub slow: bool,
    /// How long its client waits at most, as it says.
    pub budget: Option<u64>,
    /// It came before its gate had a table.
    pub unrouted: bool,
}

impl World {
    /// A request has its outcome: exactly once.
    pub(crate) fn over(&mut self, request: u32, outcome: Outcome) {
        let Some(known) = self.requests.get_mut(request as usize) else {
            return;
        };
        if let Stage::Over(first) = known.stage {
            return self.violated(format!(
                "S5: request {request} ended twice: {first:?}, then {outcome:?}"
            ));
        }
        known.stage = Stage::Over(outcome);
        // Its client, or its Envoy, did not want to know.
        let told = matches!(outcome, Outcome::Refused(_) | Outcome::EngineFailed);
        if told {
            self.score_wait(request, false);
        }
        self.open -= 1;
        *self.totals.outcomes.entry(outcome.name()).or_default() += 1;
        self.note(|_| format!("request {request}: {outcome:?}"));
    }

    /// Whether a request still counts in its engine, or on the way to it, for somebody who waits.
    pub(crate) fn weighs(&self, request: u32) -> bool {
        self.requests
            .get(request as usize)
            .is_some_and(|request| !request.abandoned)
    }
}
