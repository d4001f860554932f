//! What happened in a run, counted: for the closing line, and so that it is seen that every fault really happens.

use std::{collections::BTreeMap, fmt};

use crate::{fault::Fault, score::Scores};

/// Counts of one run, or of many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Runs.
    pub seeds: u64,
    /// Events delivered to a core.
    pub core_steps: u64,
    /// Calls into a gate.
    pub gate_steps: u64,
    /// Virtual time in ms.
    pub virtual_ms: u64,
    /// Requests that arrived.
    pub requests: u64,
    /// Requests by how they ended.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Wakes and starts that an engine carried out.
    pub wakes: u64,
    /// Sleeps that an engine carried out.
    pub sleeps: u64,
    /// Requests that were frozen in a sleeping engine.
    pub frozen: u64,
    /// Requests that reached an engine while it slept, as rules 8 and 14 allow.
    pub late: u64,
    /// Terms of office.
    pub lives: u64,
    /// Acknowledged barriers.
    pub barriers: u64,
    /// Outcomes of old attempts that were told again, and changed nothing.
    pub old_outcomes: u64,
    /// Seconds for which a GPU stood still, since ledger and oracle differed.
    pub stopped: u64,
    /// Actions for which a GPU had no room, since nobody could know what they take.
    pub unknown_sizes: u64,
    /// Times that an engine took more from then on.
    pub grown: u64,
    /// Times that what was accepted as somebody else's fell by itself.
    pub given_back: u64,
    /// How good estimates were.
    pub scores: Scores,
    /// Faults that happened.
    pub faults: BTreeMap<Fault, u64>,
}

impl Totals {
    /// Events delivered to a core, and calls into a gate.
    pub fn steps(&self) -> u64 {
        self.core_steps + self.gate_steps
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        let Self {
            seeds,
            core_steps,
            gate_steps,
            virtual_ms,
            requests,
            outcomes,
            wakes,
            sleeps,
            frozen,
            late,
            lives,
            barriers,
            old_outcomes,
            stopped,
            unknown_sizes,
            grown,
            given_back,
            scores,
            faults,
        } = other;
        self.scores.add(scores);
        self.stopped += stopped;
        self.unknown_sizes += unknown_sizes;
        self.grown += grown;
        self.given_back += given_back;
        self.seeds += seeds;
        self.core_steps += core_steps;
        self.gate_steps += gate_steps;
        self.virtual_ms += virtual_ms;
        self.requests += requests;
        self.wakes += wakes;
        self.sleeps += sleeps;
        self.frozen += frozen;
        self.late += late;
        self.lives += lives;
        self.barriers += barriers;
        self.old_outcomes += old_outcomes;
        for (outcome, count) in outcomes {
            *self.outcomes.entry(outcome).or_default() += count;
        }
        for (fault, count) in faults {
            *self.faults.entry(*fault).or_default() += count;
        }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} steps ({} of the core, {} of gates) over {} seeds, {} s of virtual time",
            self.steps(),
            self.core_steps,
            self.gate_steps,
            self.seeds,
            self.virtual_ms / 1_000
        )?;
        let outcomes: Vec<String> = (self.outcomes.iter())
            .map(|(outcome, count)| format!("{outcome} {count}"))
            .collect();
        writeln!(f, "{} requests: {}", self.requests, outcomes.join(", "))?;
        writeln!(
            f,
            "{} wakes, {} sleeps, {} requests frozen, {} late, {} lives of control, {} barriers acknowledged, {} old outcomes ignored, {} s of GPUs standing still, {} times no room for what nobody could know, {} times grown, {} times given back",
            self.wakes,
            self.sleeps,
            self.frozen,
            self.late,
            self.lives,
            self.barriers,
            self.old_outcomes,
            self.stopped,
            self.unknown_sizes,
            self.grown,
            self.given_back
        )?;
        write!(f, "{}", self.scores)?;
        let faults: Vec<String> = Fault::ALL
            .iter()
            .map(|fault| {
                format!(
                    "{} {}",
                    fault.name(),
                    self.faults.get(fault).copied().unwrap_or(0)
                )
            })
            .collect();
        write!(f, "faults: {}", faults.join(", "))
    }
}
