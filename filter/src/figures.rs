//! What a gate counts per row and reports: requests in flight, ages, totals by outcome, waits.

use std::collections::BTreeMap;

use greenthread_proto::{
    WAIT_BUCKET_BOUNDS_MS,
    gate::{OutcomeCount, RowFigures},
};

use crate::{row::RowId, time::Millis};

const WAIT_BUCKETS: usize = WAIT_BUCKET_BOUNDS_MS.len() + 1;

/// Outcome of a request that was admitted.
pub const FORWARDED: &str = "forwarded";
/// Outcome of a request whose client went away while it was held.
pub const LEFT: &str = "left";

/// Counts of one row. A row that is gone keeps its counts: its requests are counted to zero.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    in_flight: u64,
    last_used: Option<Millis>,
    last_refused: Option<Millis>,
    outcomes: BTreeMap<&'static str, u64>,
    waits: [u64; WAIT_BUCKETS],
    changed: bool,
    carried_by: Option<u64>,
}

impl Figures {
    /// Requests admitted and not ended.
    pub const fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// A request was admitted, after `waited` when it had been held. Counted before it is resumed.
    pub fn admitted(&mut self, now: Millis, uses: bool, waited: Option<Millis>) {
        self.in_flight = self.in_flight.saturating_add(1);
        self.count(FORWARDED);
        if uses {
            self.last_used = Some(now);
        }
        if let Some(waited) = waited {
            let bucket = WAIT_BUCKET_BOUNDS_MS
                .iter()
                .take_while(|bound| waited.0 > **bound)
                .count();
            if let Some(number) = self.waits.get_mut(bucket) {
                *number = number.saturating_add(1);
            }
        }
    }

    /// An admitted request ended.
    pub fn ended(&mut self, now: Millis, uses: bool) {
        self.in_flight = self
            .in_flight
            .saturating_sub(sabotage!(EndIsForgotten, 0, 1));
        self.changed = true;
        if uses {
            self.last_used = Some(now);
        }
    }

    /// A request was held.
    pub fn held(&mut self, now: Millis) {
        self.last_used = Some(now);
        self.changed = true;
    }

    /// A request that wanted the model was refused.
    pub fn refused(&mut self, now: Millis) {
        self.last_refused = Some(now);
        self.changed = true;
    }

    /// One more of an outcome.
    pub fn count(&mut self, outcome: &'static str) {
        let count = self.outcomes.entry(outcome).or_default();
        *count = count.saturating_add(1);
        self.changed = true;
    }

    fn is_zero(&self) -> bool {
        self.in_flight == 0
            && self.last_used.is_none()
            && self.last_refused.is_none()
            && self.outcomes.is_empty()
    }

    fn message(&self, row: &RowId, now: Millis, held: u64, oldest: Option<Millis>) -> RowFigures {
        RowFigures {
            row: row.to_string(),
            in_flight: self.in_flight,
            held,
            oldest_age_ms: oldest.map_or(0, |since| now.since(since).0),
            last_used_age_ms: self.last_used.map(|at| now.since(at).0),
            last_refused_age_ms: self.last_refused.map(|at| now.since(at).0),
            outcomes: self
                .outcomes
                .iter()
                .map(|(outcome, count)| OutcomeCount {
                    outcome: (*outcome).to_owned(),
                    count: *count,
                })
                .collect(),
            wait_buckets: self.waits.to_vec(),
        }
    }
}

/// How many requests of a row are held, and since when the oldest one.
pub type HeldOf<'a> = &'a dyn Fn(&RowId) -> (u64, Option<Millis>);

/// The figures of all rows.
#[derive(Clone, Debug, Default)]
pub struct AllFigures {
    rows: BTreeMap<RowId, Figures>,
}

impl AllFigures {
    /// Figures of a row, zero when it has none yet.
    pub fn of(&mut self, row: &RowId) -> &mut Figures {
        self.rows.entry(row.clone()).or_default()
    }

    /// Requests of a row admitted and not ended.
    pub fn in_flight(&self, row: &RowId) -> u64 {
        self.rows.get(row).map_or(0, Figures::in_flight)
    }

    /// Requests of all rows admitted and not ended.
    pub fn in_flight_of_all(&self) -> u64 {
        self.rows
            .values()
            .fold(0, |sum, figures| sum.saturating_add(figures.in_flight))
    }

    /// Everything that is not zero, for a Hello of this sequence number.
    pub fn for_hello(&mut self, sequence: u64, now: Millis, held: HeldOf<'_>) -> Vec<RowFigures> {
        for figures in self.rows.values_mut() {
            figures.carried_by = None;
        }
        self.collect(sequence, now, held, |figures, held| {
            held > 0 || !figures.is_zero()
        })
    }

    /// What changed since the last message that was echoed, for a Report of this sequence number. Rows with held requests are
    /// always listed, since their ages grow.
    pub fn for_report(&mut self, sequence: u64, now: Millis, held: HeldOf<'_>) -> Vec<RowFigures> {
        self.collect(sequence, now, held, |figures, held| {
            held > 0 || figures.changed || figures.carried_by.is_some()
        })
    }

    fn collect(
        &mut self,
        sequence: u64,
        now: Millis,
        held: HeldOf<'_>,
        wanted: impl Fn(&Figures, u64) -> bool,
    ) -> Vec<RowFigures> {
        let mut messages = Vec::new();
        for (row, figures) in &mut self.rows {
            let (number, oldest) = held(row);
            if wanted(figures, number) {
                if figures.changed || figures.carried_by.is_none() {
                    figures.carried_by = Some(sequence);
                }
                figures.changed = false;
                messages.push(figures.message(row, now, number, oldest));
            }
        }
        messages
    }

    /// Control has processed everything up to this sequence number.
    pub fn echoed(&mut self, sequence: u64) {
        for figures in self.rows.values_mut() {
            if figures
                .carried_by
                .is_some_and(|carried| carried <= sequence)
            {
                figures.carried_by = None;
            }
        }
    }

    /// Forgets rows that are gone and have nothing left to tell.
    pub fn forget(&mut self, still_known: impl Fn(&RowId) -> bool) {
        self.rows.retain(|row, figures| {
            still_known(row)
                || figures.in_flight > 0
                || figures.changed
                || figures.carried_by.is_some()
        });
    }
}
