//! Ends of requests, as gates and clients see them.

use super::*;

impl World {
    /// Tells the gate that a request has ended there.
    pub(crate) fn end_at_gate(&mut self, request: u32) {
        let gate = self.requests[request as usize].gate;
        self.gates[gate].requests.remove(&request);
        if !self.gates[gate].alive {
            return;
        }
        let local = Millis(self.gates[gate].local(self.now));
        let node = &mut self.gates[gate];
        node.gate.on_request_end(local, RequestId(request));
        self.totals.gate_steps += 1;
        self.check_occupancy(gate);
        self.after_gate(gate);
    }

    /// The answer is back.
    pub(crate) fn answered(&mut self, request: u32) {
        self.comes_back(request, Item::Answered { request }, Outcome::Answered);
    }

    /// The engine failed under it.
    pub(crate) fn failed(&mut self, request: u32) {
        self.comes_back(request, Item::Failed { request }, Outcome::EngineFailed);
    }

    fn comes_back(&mut self, request: u32, item: Item, outcome: Outcome) {
        let known = &self.requests[request as usize];
        if known.abandoned || self.waits_for(known.gate, item) {
            return;
        }
        self.over(request, outcome);
        self.end_at_gate(request);
    }

    /// A client leaves, if its request is still open.
    pub(crate) fn client_leaves(&mut self, request: u32) {
        let known = &self.requests[request as usize];
        if matches!(known.stage, Stage::Over(_))
            || self.waits_for(known.gate, Item::ClientLeaves { request })
        {
            return;
        }
        self.faulted(crate::fault::Fault::ClientLeaves);
        self.abandon(request, Outcome::Left);
        self.end_at_gate(request);
    }

    /// Nobody waits for the request any more; its engine learns of it a little later.
    pub(crate) fn abandon(&mut self, request: u32, outcome: Outcome) {
        let stage = self.requests[request as usize].stage;
        self.requests[request as usize].abandoned = true;
        self.over(request, outcome);
        if matches!(stage, Stage::OnItsWay | Stage::Inside) {
            let after = self.random.below(self.plan.times.forward_bound.0);
            self.agenda
                .push(self.now + after, Item::Dropped { request });
        }
    }

    /// The index of a row.
    pub(crate) fn row_named(&self, id: &str) -> Option<usize> {
        (0..self.engines.len()).find(|row| self.engines[*row].spec.id.0 == id)
    }
}
