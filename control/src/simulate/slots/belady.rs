//! OPT: who is wanted again last leaves (Belady). With equal places, in strict order, nobody loads less often; it needs the future, so
//! it is a bound and no policy.

use super::{Arrival, Eviction};
use crate::simulate::trace::Trace;

/// Never again.
const NEVER: usize = usize::MAX;

/// Position of the next request for the same model, for each request; `usize::MAX` when there is none.
pub(crate) fn next_uses(trace: &Trace) -> Vec<usize> {
    let mut next = vec![NEVER; trace.requests.len()];
    let mut seen = vec![NEVER; trace.models.len()];
    for (position, request) in trace.requests.iter().enumerate().rev() {
        next[position] = std::mem::replace(&mut seen[request.model], position);
    }
    next
}

/// Knows the future.
#[derive(Clone, Debug)]
pub(crate) struct Belady {
    next: Vec<usize>,
    /// Next use of each model, from where the run is.
    next_of: Vec<usize>,
}

impl Belady {
    /// Looks into the future of a trace.
    pub(crate) fn of(trace: &Trace) -> Self {
        Self {
            next: next_uses(trace),
            next_of: vec![NEVER; trace.models.len()],
        }
    }
}

impl Eviction for Belady {
    fn arrived(&mut self, arrival: Arrival) {
        self.next_of[arrival.model] = self.next[arrival.position];
    }

    fn victim(&mut self, _: Arrival, residents: &[usize]) -> usize {
        let wanted_last = |(_, model): &(usize, &usize)| (self.next_of[**model], **model);
        let last = residents.iter().enumerate().max_by_key(wanted_last);
        last.map_or(0, |(index, _)| index)
    }
}
