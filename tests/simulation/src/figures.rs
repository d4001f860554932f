//! What a gate says of itself and answers at once, against the truth and the rules.

use greenthread_filter::gate::Effect;
use greenthread_proto::gate::{GateMessage, RowFigures, gate_message};

use crate::{request::Stage, world::World};

impl World {
    /// The gate's own numbers of requests in flight and held are the true ones.
    pub(crate) fn check_occupancy(&mut self, gate: usize) {
        let (in_flight, held) = self.gates[gate].gate.occupancy();
        let truth = self.truth(gate, None);
        self.check((in_flight, held) == truth, |world| {
            format!(
                "S5: {} counts {in_flight} in flight and {held} held; it is {truth:?}",
                world.gates[gate].id
            )
        });
    }

    /// Requests in flight and held at a gate, of one row or of all.
    pub(crate) fn truth(&self, gate: usize, row: Option<usize>) -> (u64, u64) {
        let mut truth = (0, 0);
        for request in &self.gates[gate].requests {
            let request = &self.requests[*request as usize];
            if row.is_some() && request.row != row {
                continue;
            }
            match request.stage {
                Stage::Held => truth.1 += 1,
                Stage::OnItsWay | Stage::Inside | Stage::ComesBack => truth.0 += 1,
                Stage::Over(_) => {}
            }
        }
        truth
    }

    /// Figures tell the truth at the moment of sending (rules 5 and 9).
    pub(crate) fn check_figures(
        &mut self,
        gate: usize,
        message: &GateMessage,
        listed: &[RowFigures],
    ) {
        let unrouted = |world: &Self| {
            let mut requests = world.gates[gate].requests.iter();
            requests.any(|request| world.requests[*request as usize].row.is_none())
        };
        if unrouted(self) {
            return;
        }
        let is_hello = matches!(&message.body, Some(gate_message::Body::Hello(_)));
        for row in 0..self.engines.len() {
            let id = &self.engines[row].spec.id.0;
            let said = listed
                .iter()
                .find(|figures| figures.row == *id)
                .map(|figures| (figures.in_flight, figures.held));
            let said = match (said, &message.body) {
                (Some(said), _) => said,
                (None, _) if is_hello => (0, 0),
                (None, Some(gate_message::Body::BarrierAck(ack))) if ack.row == *id => {
                    let truth = self.truth(gate, Some(row));
                    (ack.in_flight, truth.1)
                }
                (None, _) => continue,
            };
            let truth = self.truth(gate, Some(row));
            // Held requests of a row that is gone are answered in this tick.
            let id = &self.engines[row].spec.id.0;
            let is_gone = said == (0, 0) && !self.gates[gate].reference.knows(id);
            self.check(said == truth || (is_gone && truth.0 == 0), |world| {
                format!(
                    "{} says {said:?} in flight and held for {}; it is {truth:?}",
                    world.gates[gate].id, world.engines[row].spec.id.0
                )
            });
        }
        if let Some(gate_message::Body::Bye(_)) = &message.body {
            let truth = self.truth(gate, None);
            self.check(truth == (0, 0), |_| {
                format!("rule 4: Bye with {truth:?} requests")
            });
        }
    }

    /// A gate does what a message obliges it to: it closes the stream, or acknowledges.
    pub(crate) fn check_owed(&mut self, owed: &crate::reference::Owed, effects: &[Effect]) {
        let closes = effects.iter().any(|effect| matches!(effect, Effect::Close));
        self.check(!owed.closes || closes, |_| {
            "rules 12 and 16: a gate goes on with a stream that it must close".to_owned()
        });
        let acknowledged = |row: &str, epoch: (u64, u64)| {
            effects.iter().any(|effect| match effect {
                Effect::Send(GateMessage {
                    body: Some(gate_message::Body::BarrierAck(ack)),
                    ..
                }) => {
                    let said = ack.epoch.map(|epoch| (epoch.term, epoch.counter));
                    ack.row == row && said == Some(epoch)
                }
                Effect::Open { .. }
                | Effect::Send(_)
                | Effect::Close
                | Effect::Finish
                | Effect::Resume { .. }
                | Effect::Reply { .. }
                | Effect::Share { .. }
                | Effect::Warn(_)
                | Effect::Done => false,
            })
        };
        for (row, epoch) in &owed.acknowledgements {
            self.check(acknowledged(row, *epoch), |_| {
                format!("rule 5: the barrier of {row} under {epoch:?} is not acknowledged")
            });
            self.totals.barriers += 1;
        }
    }
}
