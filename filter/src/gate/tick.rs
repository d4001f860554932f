//! Ticks: held requests go on or are answered here, and only here; then reports, sharing, and the end of a gate.

use std::sync::Arc;

use greenthread_proto::gate::{Bye, gate_message};

use super::{Arrival, Effect, Gate, InFlight, Leaving, NEXT_BATCH, Verdict};
use crate::{
    answers::{Answer, Api},
    hold::{Held, RequestId, Waiting},
    row::{Admission, Row, RowId},
    shared::Surroundings,
    time::Millis,
};

/// Most held requests that go on or are answered per tick. Envoy runs them nested within one another when the callback
/// returns; some 260 exhaust the stack of the VM and kill it.
const BATCH: usize = 32;
/// How long control may take to end its side of the stream after Bye.
const FAREWELL: Millis = Millis(1_000);

/// What becomes of the held requests of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Release,
    Answer(Answer),
    Stay,
}

/// Headers of a request that was held before the first table.
struct Kept<'a> {
    headers: &'a [(&'static str, Vec<u8>)],
    around: &'a dyn Surroundings,
}

impl Surroundings for Kept<'_> {
    fn header(&self, name: &str) -> Option<Vec<u8>> {
        self.headers
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value.clone())
    }

    fn shared(&self, key: &str) -> Option<Vec<u8>> {
        self.around.shared(key)
    }
}

impl Gate {
    /// Time has passed. `wall` is the wall clock: where it and the monotonic clock moved apart, the lease is lost.
    pub fn on_tick(
        &mut self,
        now: Millis,
        wall: Millis,
        around: &dyn Surroundings,
        effects: &mut Vec<Effect>,
    ) {
        if self.lease.observe_clocks(now, wall) {
            effects.push(Effect::Warn(
                "the wall clock and the monotonic clock moved apart: lease given up".to_owned(),
            ));
        }
        if matches!(self.leaving, Leaving::No | Leaving::Waiting) {
            self.keep_stream(now, effects);
            self.settle_held(now, around, effects);
            self.report_when_due(now, effects);
        }
        self.sharing.renew(now, &self.hold, around, effects);
        self.leave(now, effects);
    }

    /// When the next tick is wanted. Never far away, since the lease is renewed by reports.
    pub fn next_tick(&self, now: Millis) -> Millis {
        let mut due = self
            .link
            .due(self.table.times().lease)
            .min(self.sharing.due());
        if self.link.is_open() {
            due = due.min(self.next_report);
        }
        if let Some(deadline) = self.hold.next_deadline() {
            due = due.min(deadline);
        }
        if self.unsettled && !self.hold.is_empty() {
            due = due.min(now.plus(NEXT_BATCH));
        }
        due.max(now.plus(NEXT_BATCH))
    }

    /// The gate is being replaced. Returns whether it can be destroyed at once; otherwise [`Effect::Done`] follows.
    pub fn on_replaced(&mut self) -> bool {
        if self.leaving == Leaving::No {
            self.leaving = if self.is_idle() && !self.link.is_open() {
                Leaving::Done
            } else {
                Leaving::Waiting
            };
        }
        self.leaving == Leaving::Done
    }

    fn is_idle(&self) -> bool {
        self.hold.is_empty() && self.figures.in_flight_of_all() == 0
    }

    /// Says Bye when nothing is in flight or held, and waits until control has ended the stream behind it.
    fn leave(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        match self.leaving {
            Leaving::Waiting if self.is_idle() && self.link.is_open() => {
                self.send(now, gate_message::Body::Bye(Bye {}), effects);
                effects.push(Effect::Finish);
                self.leaving = Leaving::SaidBye { at: now };
            }
            Leaving::Waiting if self.is_idle() => {
                self.leaving = Leaving::Done;
                effects.push(Effect::Done);
            }
            Leaving::SaidBye { at } if !self.link.is_open() || now >= at.plus(FAREWELL) => {
                if self.link.is_open() {
                    effects.push(Effect::Close);
                }
                self.leaving = Leaving::Done;
                effects.push(Effect::Done);
            }
            Leaving::No | Leaving::Waiting | Leaving::SaidBye { .. } | Leaving::Done => {}
        }
    }

    fn settle_held(&mut self, now: Millis, around: &dyn Surroundings, effects: &mut Vec<Effect>) {
        let mut left = BATCH;
        self.settle_before_table(now, around, &mut left, effects);
        self.settle_rows(now, &mut left, effects);
        sabotage!(HoldsForEver, {}, self.expire(now, &mut left, effects));
        self.unsettled = left == 0;
    }

    /// Requests that waited for the first table are decided again; when it did not come in time, they pass.
    fn settle_before_table(
        &mut self,
        now: Millis,
        around: &dyn Surroundings,
        left: &mut usize,
        effects: &mut Vec<Effect>,
    ) {
        let over = now >= self.created.plus(self.config.hold.start);
        while *left > 0 && (self.started || over) {
            let Some(id) = self.hold.first(None) else {
                return;
            };
            let Some(Held {
                waiting: Waiting::Table(headers),
                since,
                bytes,
                ..
            }) = self.hold.remove(id)
            else {
                return;
            };
            let kept = Kept {
                headers: &headers,
                around,
            };
            let path = kept.header(":path").unwrap_or_default();
            let arrival = Arrival {
                id,
                since,
                has_body: bytes > 0,
            };
            match self.decide(now, &arrival, &path, &kept, effects) {
                Verdict::Hold => continue,
                Verdict::Pass => effects.push(Effect::Resume {
                    request: id,
                    headers: Vec::new(),
                }),
                Verdict::Forward(headers) => effects.push(Effect::Resume {
                    request: id,
                    headers,
                }),
                Verdict::Answer(reply) => effects.push(Effect::Reply { request: id, reply }),
            }
            *left = left.saturating_sub(1);
        }
    }

    /// One request of each row in turn, oldest first, as long as there is one that need not stay.
    fn settle_rows(&mut self, now: Millis, left: &mut usize, effects: &mut Vec<Effect>) {
        let mut rows = self.hold.rows_in_turn(self.turn.as_ref());
        rows.retain(|row| self.fate(now, row) != Fate::Stay);
        while *left > 0 && !rows.is_empty() {
            rows.retain(|row| {
                let Some(id) = self.hold.first(Some(row)).filter(|_| *left > 0) else {
                    return false;
                };
                match self.fate(now, row) {
                    Fate::Release => self.release(now, id, effects),
                    Fate::Answer(answer) => self.answer_held(now, id, answer, effects),
                    Fate::Stay => return false,
                }
                self.turn = Some(row.clone());
                *left = left.saturating_sub(1);
                true
            });
        }
    }

    /// Requests whose time is over, unless their row has just opened: then they are on their way out already.
    fn expire(&mut self, now: Millis, left: &mut usize, effects: &mut Vec<Effect>) {
        while *left > 0 {
            let stays =
                |row: Option<&RowId>| row.is_some_and(|row| self.fate(now, row) == Fate::Stay);
            let Some(id) = self.hold.expired(now, stays) else {
                return;
            };
            let estimate = self.row_of(id).map_or(1, |row| row.estimate());
            self.answer_held(now, id, Answer::HoldExpired(estimate), effects);
            *left = left.saturating_sub(1);
        }
    }

    fn row_of(&self, id: RequestId) -> Option<&Arc<Row>> {
        self.hold.row_of(id).and_then(|row| self.table.row(row))
    }

    /// Decided at the moment of release, by the same check as for a new request.
    fn fate(&self, now: Millis, row: &RowId) -> Fate {
        let Some(row) = self.table.row(row).filter(|row| !row.removed) else {
            return Fate::Answer(Answer::Removed);
        };
        match row.admission {
            Admission::Admit if sabotage!(HeldWithoutLease, true, self.admits(now, row)) => {
                Fate::Release
            }
            Admission::Admit | Admission::Hold(_) => Fate::Stay,
            // Requests that are held when a barrier rises stay held.
            Admission::Refuse(Answer::Draining(_) | Answer::Booting(_))
                if sabotage!(BarrierRefusesHeld, false, true) =>
            {
                Fate::Stay
            }
            Admission::Refuse(answer) => Fate::Answer(answer),
        }
    }

    /// Counts the request in flight, then lets it go on.
    fn release(&mut self, now: Millis, id: RequestId, effects: &mut Vec<Effect>) {
        let Some(row) = self.row_of(id).cloned() else {
            return;
        };
        let Some(Held {
            waiting: Waiting::Row { forwarded, .. },
            since,
            ..
        }) = self.hold.remove(id)
        else {
            return;
        };
        self.figures
            .of(&row.id)
            .admitted(now, true, Some(now.since(since)));
        sabotage!(
            CountedTwice,
            self.figures.of(&row.id).admitted(now, true, None)
        );
        self.in_flight.insert(
            id,
            InFlight {
                row: row.id.clone(),
                uses: true,
            },
        );
        effects.push(Effect::Resume {
            request: id,
            headers: self.headers(&row, forwarded),
        });
        self.hurry_when_none_is_held(now, &row.id);
    }

    fn answer_held(
        &mut self,
        now: Millis,
        id: RequestId,
        answer: Answer,
        effects: &mut Vec<Effect>,
    ) {
        let Some(Held {
            waiting: Waiting::Row { row, api, .. },
            ..
        }) = self.hold.remove(id)
        else {
            return;
        };
        self.count_refusal(now, &row, answer);
        self.hurry_when_none_is_held(now, &row);
        effects.push(Effect::Reply {
            request: id,
            reply: self.reply(&row, api, answer),
        });
    }

    fn reply(&self, id: &RowId, api: Api, answer: Answer) -> crate::answers::Reply {
        match self.table.row(id) {
            Some(row) => answer.reply(api, &row.model),
            // The row is gone; its id begins with the model's name.
            None => answer.reply(
                api,
                id.to_string()
                    .rsplit_once('.')
                    .map_or("", |(model, _)| model),
            ),
        }
    }
}
