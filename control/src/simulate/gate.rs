//! The virtual gate: one gate that does to requests what the filter does, and tells control of every change at once.
//!
//! Its network has no delay, so its lease never ends and what it admits is never late.

use std::collections::VecDeque;

use greenthread_core::{
    effect::{Admission, PublishedRow, RefuseReason},
    event::Figures,
    ids::{Epoch, Millis},
};

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// By its row.
    Row(RefuseReason),
    /// Its hold lasted as long as a hold may.
    HoldExpired,
    /// Too many requests are held.
    HoldFull,
}

impl Refusal {
    /// The word in `x-greenthread-reason`.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Row(reason) => reason.as_str(),
            Self::HoldExpired => "hold_expired",
            Self::HoldFull => "hold_full",
        }
    }

    /// Whether asking again can help.
    pub(super) fn is_worth_another_try(self) -> bool {
        self != Self::Row(RefuseReason::NeverFits)
    }

    /// Whether the gate tells control that somebody still wants the model.
    const fn is_demand(self) -> bool {
        match self {
            Self::Row(
                RefuseReason::Disabled | RefuseReason::NeverFits | RefuseReason::EngineFailed,
            ) => false,
            Self::Row(
                RefuseReason::Draining
                | RefuseReason::Booting
                | RefuseReason::WakeFailed
                | RefuseReason::TooLong,
            )
            | Self::HoldExpired
            | Self::HoldFull => true,
        }
    }
}

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes to its engine.
    Forward,
    /// It waits, and is told to expect so many milliseconds of it.
    Hold(u64),
    /// It is answered; seconds until it may come back.
    Refuse(Refusal, u32),
}

/// Limits of the hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HoldLimits {
    /// Longest hold of one request.
    pub(super) budget: Millis,
    /// Requests.
    pub(super) limit: usize,
    /// Requests for one model.
    pub(super) per_model: usize,
}

/// One row and its requests.
#[derive(Clone, Debug)]
struct Row {
    admission: Admission,
    epoch: Epoch,
    barriered: bool,
    held: VecDeque<(usize, Millis)>,
    in_flight: u64,
    asked: u64,
    last_used: Option<Millis>,
    last_refused: Option<Millis>,
}

/// The gate. Models and requests are numbers.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    limits: HoldLimits,
    rows: Vec<Row>,
    held: usize,
}

/// What became of held requests when their row changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// These go on, oldest first.
    pub(super) released: Vec<usize>,
    /// These are answered.
    pub(super) refused: Vec<(usize, Refusal, u32)>,
    /// The barrier of this epoch is to be acknowledged.
    pub(super) barrier: Option<Epoch>,
}

impl Gate {
    /// A gate without a table for so many models: it holds everything.
    pub(super) fn new(models: usize, limits: HoldLimits) -> Self {
        let row = Row {
            admission: Admission::Hold { estimated_wait: 0 },
            epoch: Epoch::default(),
            barriered: false,
            held: VecDeque::new(),
            in_flight: 0,
            asked: 0,
            last_used: None,
            last_refused: None,
        };
        Self {
            limits,
            rows: vec![row; models],
            held: 0,
        }
    }

    /// A request has arrived, for the first time or again.
    pub(super) fn arrive(&mut self, now: Millis, model: usize, request: usize) -> Verdict {
        let full =
            self.held >= self.limits.limit || self.rows[model].held.len() >= self.limits.per_model;
        let budget = self.limits.budget;
        let row = &mut self.rows[model];
        row.asked += 1;
        let verdict = match row.admission {
            Admission::Admit => Verdict::Forward,
            Admission::Refuse {
                reason,
                retry_after,
            } => Verdict::Refuse(Refusal::Row(reason), retry_after),
            Admission::Hold { estimated_wait } if Millis(estimated_wait) > budget => {
                let retry_after = Millis(estimated_wait).retry_after();
                Verdict::Refuse(Refusal::Row(RefuseReason::TooLong), retry_after)
            }
            Admission::Hold { estimated_wait } if full => {
                Verdict::Refuse(Refusal::HoldFull, Millis(estimated_wait).retry_after())
            }
            Admission::Hold { estimated_wait } => Verdict::Hold(estimated_wait),
        };
        match verdict {
            Verdict::Forward => row.admit(now),
            Verdict::Hold(_) => {
                row.held.push_back((request, now));
                self.held += 1;
            }
            Verdict::Refuse(refusal, _) => row.refuse(now, refusal),
        }
        verdict
    }

    /// A request has ended.
    pub(super) fn end(&mut self, now: Millis, model: usize) {
        let row = &mut self.rows[model];
        row.in_flight = row.in_flight.saturating_sub(1);
        row.last_used = Some(now);
    }

    /// The hold of a request has lasted as long as it may. `None`: it is not held any more. Otherwise the seconds until it may come back.
    pub(super) fn expire(&mut self, now: Millis, model: usize, request: usize) -> Option<u32> {
        let row = &mut self.rows[model];
        let at = row.held.iter().position(|(held, _)| *held == request)?;
        row.held.remove(at);
        row.refuse(now, Refusal::HoldExpired);
        self.held -= 1;
        Some(row.retry_after())
    }

    /// Control has published a row.
    pub(super) fn publish(&mut self, now: Millis, model: usize, new: &PublishedRow) -> Settled {
        let row = &mut self.rows[model];
        let barrier =
            (new.barriered && (!row.barriered || row.epoch != new.epoch)).then_some(new.epoch);
        (row.admission, row.epoch, row.barriered) = (new.admission, new.epoch, new.barriered);
        let mut settled = Settled {
            barrier,
            ..Settled::default()
        };
        match row.admission {
            Admission::Admit => {
                for (request, _) in std::mem::take(&mut row.held) {
                    row.admit(now);
                    settled.released.push(request);
                }
                self.held -= settled.released.len();
            }
            // Requests that are held when a barrier rises stay held.
            Admission::Hold { .. }
            | Admission::Refuse {
                reason: RefuseReason::Draining | RefuseReason::Booting,
                ..
            } => {}
            Admission::Refuse {
                reason,
                retry_after,
            } => {
                let refusal = Refusal::Row(reason);
                for (request, _) in std::mem::take(&mut row.held) {
                    row.refuse(now, refusal);
                    settled.refused.push((request, refusal, retry_after));
                }
                self.held -= settled.refused.len();
            }
        }
        settled
    }

    /// Control has published another estimate of a hold.
    pub(super) fn expect(&mut self, model: usize, wait: Millis) {
        if let Admission::Hold { estimated_wait } = &mut self.rows[model].admission {
            *estimated_wait = wait.0;
        }
    }

    /// What the gate reports of a model.
    pub(super) fn figures(&self, now: Millis, model: usize) -> Figures {
        let row = &self.rows[model];
        let age = |at: Millis| now.since(at).0;
        Figures {
            in_flight: row.in_flight,
            held: row.held.len() as u64,
            asked: row.asked,
            oldest_age: row.held.front().map_or(0, |(_, since)| age(*since)),
            last_used_age: row.last_used.map(age),
            last_refused_age: row.last_refused.map(age),
        }
    }

    /// Requests of a model that were admitted and have not ended.
    pub(super) fn in_flight(&self, model: usize) -> u64 {
        self.rows[model].in_flight
    }
}

impl Row {
    fn admit(&mut self, now: Millis) {
        self.in_flight += 1;
        self.last_used = Some(now);
    }

    fn refuse(&mut self, now: Millis, refusal: Refusal) {
        if refusal.is_demand() {
            self.last_refused = Some(now);
        }
    }

    fn retry_after(&self) -> u32 {
        match self.admission {
            Admission::Admit => 1,
            Admission::Hold { estimated_wait } => Millis(estimated_wait).retry_after(),
            Admission::Refuse { retry_after, .. } => retry_after,
        }
    }
}
