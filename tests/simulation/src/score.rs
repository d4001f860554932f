//! How good estimates are: what held requests were told of their wait, and what refused ones were told of when to come back.

use std::fmt;

use crate::world::World;

/// Refusals whose Retry-After says when it is worth trying again.
const COMES_BACK: [&str; 4] = ["draining", "booting", "too_long", "wake_failed"];

/// Nobody is told a longer Retry-After in seconds: it promises nothing but that it takes long.
const LONGEST_TOLD: u64 = 60;

/// So many held requests say something of estimates.
const ENOUGH: u64 = 2_000;
/// Percent of them that are served within what they were told at least (90 are promised), and by how many percent of what they were told
/// that is off at most.
const WAITS_KEPT: u64 = 85;
const WAITS_OFF: u64 = 60;
/// Percent of refused requests that are not refused again when they come back, at least.
const RETURNS_KEPT: u64 = 70;

/// What was told, and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Score {
    /// Requests that were told something.
    pub told: u64,
    /// … and for which it was kept.
    pub kept: u64,
    /// What they were told, in ms, all together.
    pub promised: u64,
    /// How far off that was, in ms, all together; only of waits.
    pub off: u64,
}

impl Score {
    fn note(&mut self, promised: u64, kept: bool, off: u64) {
        self.told += 1;
        self.kept += u64::from(kept);
        self.promised += promised;
        self.off += off;
    }

    /// Whether at least so many percent were kept.
    fn keeps(&self, percent: u64) -> bool {
        self.kept * 100 >= self.told * percent
    }

    fn add(&mut self, other: &Self) {
        self.told += other.told;
        self.kept += other.kept;
        self.promised += other.promised;
        self.off += other.off;
    }
}

/// When something was told, and what happened until it had to be kept.
const PARTS: [&str; 3] = [
    "touched by a fault",
    "untouched while faults happen elsewhere",
    "without faults, in light traffic",
];
/// The last of them.
const CALM: usize = PARTS.len() - 1;

/// The scores of a run, or of many, by [`PARTS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scores {
    /// Held requests: served within the wait that was estimated when they came.
    pub waits: [Score; PARTS.len()],
    /// Refused requests: not refused again when they come back as they were told, within a minute.
    pub returns: [Score; PARTS.len()],
}

impl Scores {
    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        let both = self.waits.iter_mut().zip(&other.waits);
        for (score, other) in both.chain(self.returns.iter_mut().zip(&other.returns)) {
            score.add(other);
        }
    }
}

impl Scores {
    /// What is wrong with the estimates of all runs together, where there were enough of them and no faults: too little was kept, or
    /// too much was told.
    pub fn complaint(&self) -> Option<&'static str> {
        let (waits, returns) = (&self.waits[CALM], &self.returns[CALM]);
        let enough = waits.told >= ENOUGH && returns.told >= ENOUGH / 4;
        if !enough {
            None
        } else if !waits.keeps(WAITS_KEPT) {
            Some("held requests wait longer than they were told")
        } else if waits.off * 100 > waits.promised * WAITS_OFF {
            Some("held requests are told far too much")
        } else if !returns.keeps(RETURNS_KEPT) {
            Some("refused requests come back too early")
        } else {
            None
        }
    }
}

impl fmt::Display for Scores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_mille = |score: &Score| score.kept * 1_000 / score.told.max(1);
        let percent =
            |score: &Score| format!("{}.{} %", per_mille(score) / 10, per_mille(score) % 10);
        let mean = |sum: u64, score: &Score| sum / score.told.max(1);
        for (when, (wait, back)) in PARTS.iter().zip(self.waits.iter().zip(&self.returns)) {
            writeln!(
                f,
                "estimates {when}: {} of {} held requests were served within what they were told (promised 90 %; {} ms told, {} ms off on average); {} of {} that were told when to come back within a minute are not refused then ({} ms told on average)",
                percent(wait),
                wait.told,
                mean(wait.promised, wait),
                mean(wait.off, wait),
                percent(back),
                back.told,
                mean(back.promised, back),
            )?;
        }
        Ok(())
    }
}

impl World {
    /// Which score counts for what was told to a model's requests then, and had to be kept until then. `stale`: by a gate that had not
    /// heard of control for so long that its lease was over.
    fn part(&self, engine: Option<usize>, told: u64, kept_by: u64, stale: bool) -> usize {
        if self.calm_since.is_some_and(|since| told >= since) {
            CALM
        } else {
            usize::from(!stale && !self.touched(engine, told, kept_by))
        }
    }

    /// A held request is over, or goes on: was the estimate kept? One that goes earlier than its estimate says nothing.
    pub(crate) fn score_wait(&mut self, request: u32, served: bool) {
        let known = &mut self.requests[request as usize];
        let Some(promised) = known.promised.take() else {
            return;
        };
        let (arrived, waited) = (known.arrived, self.now - known.arrived);
        let (engine, stale) = (known.row, known.stale);
        let part = self.part(engine, arrived, arrived + waited.min(promised), stale);
        if served || waited > promised {
            let kept = served && waited <= promised;
            let score = &mut self.totals.scores.waits[part];
            score.note(promised, kept, waited.abs_diff(promised));
        }
    }

    /// A request was refused and told when to come back: it is looked whether that would be of use.
    pub(crate) fn told_to_return(
        &mut self,
        gate: usize,
        name: &str,
        reason: &str,
        after: Option<&str>,
    ) {
        let after = after.and_then(|seconds| seconds.parse::<u64>().ok());
        let after = after.filter(|seconds| *seconds < LONGEST_TOLD);
        if let (Some(after), true) = (after, COMES_BACK.contains(&reason)) {
            let item = crate::agenda::Item::WouldReturn {
                gate,
                name: name.to_owned(),
                told_at: self.now,
                stale: self.gates[gate].is_stale(self.now),
            };
            self.agenda.push(self.now + after * 1_000, item);
        }
    }

    /// Now a refused request would come back: to a gate that forwards or holds it?
    pub(crate) fn would_return(&mut self, gate: usize, name: &str, told_at: u64, stale: bool) {
        let node = &self.gates[gate];
        let row = node.reference.find(name).filter(|_| node.alive);
        let Some(refuses) = row.and_then(|row| node.reference.refuses(row)) else {
            return;
        };
        let engine = row.map(str::to_owned).and_then(|row| self.row_named(&row));
        let part = self.part(engine, told_at, self.now, stale);
        let promised = self.now - told_at;
        let score = &mut self.totals.scores.returns[part];
        score.note(promised, !refuses, 0);
    }
}
