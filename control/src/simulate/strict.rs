//! Strict caching as the command line asks for it: every number of places, every policy.

use super::{
    arguments::Arguments,
    policies::{self, LRU, OPT, Policy},
    slots::{self, Tally},
    slots_report::{Places, Row},
    trace::Trace,
};

/// One row per number of places and policy.
pub(super) fn rows(arguments: &Arguments, trace: &Trace, policies: &[Policy]) -> Vec<Row> {
    let mut rows = Vec::new();
    for slots in &arguments.slots {
        match &arguments.sweep_gpus {
            None => {
                let places = Places {
                    gpus: None,
                    slots: *slots,
                };
                rows.extend(rows_on(trace, places, policies));
            }
            Some(range) => {
                for gpus in range.clone() {
                    let places = Places {
                        gpus: Some(gpus),
                        slots: slots.saturating_mul(gpus),
                    };
                    let mut of_gpus = rows_on(trace, places, policies);
                    for row in &mut of_gpus {
                        row.meets_target = Some(row.miss_ratio <= arguments.target_misses);
                    }
                    rows.extend(of_gpus);
                }
            }
        }
    }
    rows
}

/// The ends of the gap are replayed whether they are asked for or not.
fn rows_on(trace: &Trace, places: Places, policies: &[Policy]) -> Vec<Row> {
    let asked = |policy: &Policy| policies.iter().any(|asked| asked.name() == policy.name());
    let needed = |policy: &Policy| asked(policy) || [LRU, OPT].contains(&policy.name());
    let run = |policy: &Policy| slots::replay(trace, places.slots, &mut *policy.eviction(trace));
    let tallies: Vec<(Policy, Tally)> = policies::all()
        .into_iter()
        .filter(needed)
        .map(|policy| (policy, run(&policy)))
        .collect();
    let misses = |name: &str| {
        let of = tallies.iter().find(|(policy, _)| policy.name() == name);
        of.map_or(0, |(_, tally)| tally.misses)
    };
    let gap = (misses(LRU), misses(OPT));
    tallies
        .iter()
        .filter(|(policy, _)| asked(policy))
        .map(|(policy, tally)| Row::of(*policy, places, tally, gap))
        .collect()
}
