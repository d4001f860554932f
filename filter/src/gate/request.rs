//! Requests on arrival: forwarded, held or answered, by path, method, admission and lease.

use std::sync::Arc;

use super::{Arrival, CLUSTER_HEADER, Effect, Forward, Gate, InFlight, Verdict};
use crate::{
    answers::{Answer, Api, Reply},
    classify::{self, Kind, Target, Wish},
    config::Rewrite,
    documents,
    figures::LEFT,
    hold::{Held, KEPT_HEADERS, RequestId, Waiting},
    row::{Admission, Row},
    shared::Surroundings,
    time::Millis,
};

impl Gate {
    /// Request headers arrived.
    pub fn on_request(
        &mut self,
        now: Millis,
        id: RequestId,
        end_of_stream: bool,
        around: &dyn Surroundings,
        effects: &mut Vec<Effect>,
    ) -> Verdict {
        if !self.is_for_us(around) {
            return Verdict::Pass;
        }
        let path = around.header(":path").unwrap_or_default();
        self.decide(
            now,
            &Arrival {
                id,
                since: now,
                has_body: !end_of_stream,
            },
            &path,
            around,
            effects,
        )
    }

    /// The request ended, in whatever way. Further calls for the same request change nothing.
    pub fn on_request_end(&mut self, now: Millis, id: RequestId) {
        if let Some(held) = self.hold.remove(id) {
            if let Waiting::Row { row, .. } = &held.waiting {
                self.figures.of(row).count(LEFT);
                self.hurry_when_none_is_held(now, row);
            }
        } else if let Some(InFlight { row, uses }) = self.in_flight.remove(&id) {
            let figures = self.figures.of(&row);
            figures.ended(now, uses);
            if figures.in_flight() == 0 && self.table.row(&row).is_some_and(|row| row.is_draining())
            {
                self.hurry(now);
            }
        }
    }

    fn is_for_us(&self, around: &dyn Surroundings) -> bool {
        if self.config.hosts.is_empty() {
            return true;
        }
        let authority = around
            .header(":authority")
            .unwrap_or_default()
            .to_ascii_lowercase();
        let host = match authority.iter().rposition(|byte| *byte == b':') {
            Some(colon) if !authority.ends_with(b"]") => authority.get(..colon).unwrap_or_default(),
            Some(_) | None => &authority,
        };
        self.config
            .hosts
            .iter()
            .any(|known| known.as_bytes() == host)
    }

    pub(super) fn decide(
        &mut self,
        now: Millis,
        arrival: &Arrival,
        path: &[u8],
        around: &dyn Surroundings,
        effects: &mut Vec<Effect>,
    ) -> Verdict {
        let Some((row, prefix_length)) = self.table.find(path) else {
            return self.decide_unknown(now, arrival, path, around, effects);
        };
        let target = Target::behind(path, prefix_length);
        if row.removed {
            return self.refuse(now, &row, Answer::Removed, &target);
        }
        match classify::kind(&row, &target.normalised) {
            Kind::Local(document) => {
                let method = around.header(":method").unwrap_or_default();
                if !documents::method_allowed(&method) {
                    return self.refuse(now, &row, Answer::MethodNotAllowed, &target);
                }
                let elsewhere = self.elsewhere.get(&row.id).copied().unwrap_or(0);
                let in_flight = elsewhere.saturating_add(self.figures.in_flight(&row.id));
                Verdict::Answer(documents::of_model(&row, document, in_flight))
            }
            Kind::ControlPath => self.refuse(now, &row, Answer::ControlPath, &target),
            Kind::HiddenDocument => self.refuse(now, &row, Answer::NotExposed, &target),
            Kind::ExposedDocument if self.admits(now, &row) => {
                self.forward(now, arrival.id, &row, target.forwarded, false)
            }
            Kind::ExposedDocument => {
                self.refuse(now, &row, Answer::Asleep(row.estimate()), &target)
            }
            Kind::Work if self.admits(now, &row) => {
                self.forward(now, arrival.id, &row, target.forwarded, true)
            }
            Kind::Work => self.decide_not_serving(now, arrival, &row, target, around, effects),
        }
    }

    /// A path of no model: a document of the root, a request that came before the first table, or somebody else's.
    fn decide_unknown(
        &mut self,
        now: Millis,
        arrival: &Arrival,
        path: &[u8],
        around: &dyn Surroundings,
        effects: &mut Vec<Effect>,
    ) -> Verdict {
        if self.config.root {
            let normalised = crate::path::normalised(path);
            let reply = documents::of_root(&normalised, &self.table, self.complete);
            if let Some(reply) = reply {
                let method = around.header(":method").unwrap_or_default();
                let allowed = documents::method_allowed(&method);
                let refused = || Answer::MethodNotAllowed.reply(Api::of(&normalised), "(gateway)");
                return Verdict::Answer(if allowed { reply } else { refused() });
            }
        }
        let deadline = self.created.plus(self.config.hold.start);
        // A gate that has said Bye holds nobody.
        let takes = !self.started && !self.has_left() && now < deadline;
        if !takes || self.is_full(now, None, around, arrival.has_body) {
            return Verdict::Pass;
        }
        let kept = KEPT_HEADERS
            .iter()
            .filter_map(|name| around.header(name).map(|value| (*name, value)))
            .collect();
        let bytes = self.bytes_of(arrival, around);
        self.hold.push(
            arrival.id,
            Held {
                waiting: Waiting::Table(kept),
                since: arrival.since,
                deadline,
                bytes,
            },
        );
        self.sharing.publish(now, &self.hold, None, effects);
        Verdict::Hold
    }

    fn decide_not_serving(
        &mut self,
        now: Millis,
        arrival: &Arrival,
        row: &Arc<Row>,
        target: Target,
        around: &dyn Surroundings,
        effects: &mut Vec<Effect>,
    ) -> Verdict {
        let method = around.header(":method").unwrap_or_default();
        let upgrade = around.header("upgrade");
        match classify::wish(&method, upgrade.as_deref(), &target.normalised) {
            Wish::Options => Verdict::Answer(Reply::no_content()),
            Wish::Looks => self.refuse(now, row, Answer::Asleep(row.estimate()), &target),
            Wish::Wakes => match row.admission {
                Admission::Refuse(answer) => self.refuse(now, row, answer, &target),
                Admission::Admit | Admission::Hold(_) => {
                    self.try_hold(now, arrival, row, target, around, effects)
                }
            },
        }
    }

    fn try_hold(
        &mut self,
        now: Millis,
        arrival: &Arrival,
        row: &Arc<Row>,
        target: Target,
        around: &dyn Surroundings,
        effects: &mut Vec<Effect>,
    ) -> Verdict {
        let wanted = around
            .header("prefer")
            .and_then(|prefer| classify::preferred_wait(&prefer))
            .map(Millis::seconds)
            .filter(|_| sabotage!(PreferIgnored, false, true));
        let budget = wanted.map_or(row.hold_budget, |wanted| wanted.min(row.hold_budget));
        let deadline = arrival.since.plus(budget);
        let left = deadline.since(now);
        // A gate that has said Bye holds nobody: nothing would release them.
        if left == Millis(0) || self.has_left() {
            return self.refuse(now, row, Answer::HoldExpired(row.estimate()), &target);
        }
        if matches!(row.admission, Admission::Hold(wait) if wait > left) {
            return self.refuse(now, row, Answer::TooLong(row.estimate()), &target);
        }
        let bytes = self.bytes_of(arrival, around);
        if self.is_full(now, Some(row), around, arrival.has_body) {
            return self.refuse(now, row, Answer::HoldFull(row.estimate()), &target);
        }
        let api = Api::of(&target.normalised);
        let waiting = Waiting::Row {
            row: row.id.clone(),
            forwarded: target.forwarded,
            api,
        };
        self.hold.push(
            arrival.id,
            Held {
                waiting,
                since: arrival.since,
                deadline,
                bytes,
            },
        );
        self.figures.of(&row.id).held(now);
        self.sharing
            .publish(now, &self.hold, Some(&row.id), effects);
        if self.hold.of(&row.id).0 == 1 {
            self.hurry(now);
        }
        Verdict::Hold
    }

    /// Whether one more held request, with as much body as may be buffered, would pass a limit of the gateway or of the row.
    fn is_full(
        &self,
        now: Millis,
        row: Option<&Arc<Row>>,
        around: &dyn Surroundings,
        has_body: bool,
    ) -> bool {
        let limits = self.config.hold;
        let others = self.sharing.others(now, row.map(|row| &row.id), around);
        let arriving = if has_body {
            self.declared_bytes(around)
        } else {
            0
        };
        let of_row = row
            .map_or(0, |row| self.hold.of(&row.id).0)
            .saturating_add(others.of_row);
        let bytes = self
            .hold
            .bytes()
            .saturating_add(others.bytes)
            .saturating_add(arriving);
        self.hold.len().saturating_add(others.requests) >= limits.limit
            || bytes > limits.bytes
            || row.is_some_and(|row| sabotage!(HoldLimitIgnored, false, of_row >= row.hold_limit))
    }

    fn bytes_of(&self, arrival: &Arrival, around: &dyn Surroundings) -> u64 {
        if arrival.has_body {
            self.declared_bytes(around)
        } else {
            0
        }
    }

    /// A body of unknown length may fill the whole buffer.
    fn declared_bytes(&self, around: &dyn Surroundings) -> u64 {
        let declared = around.header("content-length");
        let length = declared.and_then(|value| {
            std::str::from_utf8(&value)
                .ok()
                .and_then(|text| text.trim().parse().ok())
        });
        length.unwrap_or(u64::MAX).min(self.config.hold.body_buffer)
    }

    /// Counts the request in flight and says how it goes on.
    fn forward(
        &mut self,
        now: Millis,
        id: RequestId,
        row: &Row,
        path: Vec<u8>,
        uses: bool,
    ) -> Verdict {
        self.figures.of(&row.id).admitted(now, uses, None);
        self.in_flight.insert(
            id,
            InFlight {
                row: row.id.clone(),
                uses,
            },
        );
        Verdict::Forward(self.headers(row, path))
    }

    pub(super) fn headers(&self, row: &Row, path: Vec<u8>) -> Forward {
        match self.config.rewrite {
            Rewrite::Filter => vec![
                (":path", path),
                (CLUSTER_HEADER, row.cluster.clone().into_bytes()),
            ],
            Rewrite::Route => Vec::new(),
        }
    }

    fn refuse(&mut self, now: Millis, row: &Row, answer: Answer, target: &Target) -> Verdict {
        self.count_refusal(now, &row.id, answer);
        Verdict::Answer(answer.reply(Api::of(&target.normalised), &row.model))
    }
}
