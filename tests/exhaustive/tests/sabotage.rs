//! The check must be able to fail: every sabotage is caught by some row. Run with `--features sabotage`.
#![cfg(feature = "sabotage")]

use greenthread_core::sabotage::{self as core, Sabotage as Core};
use greenthread_exhaustive::{
    checker::{Found, explore},
    row::{Row, Sabotage as Around},
    rows,
};
use greenthread_filter::sabotage::{self as filter, Sabotage as Gate};

/// What is done wrong: around the core and the gates, in the core, or in a gate.
#[derive(Clone, Copy, Debug)]
enum Wrong {
    Around(Around),
    Core(Core),
    Gate(Gate),
}
use Wrong::{Around as A, Core as C, Gate as G};

const CASES: &[(Wrong, &str)] = &[
    (A(Around::FenceAtTheLease), ""),
    (A(Around::SuccessorWaitsOneLease), ""),
    (A(Around::SuccessorWaitsNothing), ""),
    (A(Around::SuccessorBelievesAtOnce), ""),
    (A(Around::LeaseFromArrival), ""),
    (A(Around::HeartbeatOvertakes), ""),
    (A(Around::AnyEpochCounts), ""),
    (A(Around::ForgottenWhenClosed), ""),
    (A(Around::CachedCount), ""),
    (A(Around::DeposedGoesOn), ""),
    (A(Around::LateCall), ""),
    (A(Around::RowDropped), ""),
    (C(Core::OneGateForgotten), ""),
    (C(Core::NoAcknowledgement), ""),
    (C(Core::SuccessorWaitsNothing), ""),
    (C(Core::SuccessorWaitsOneLease), ""),
    (C(Core::OlderStreamCounts), ""),
    (C(Core::AnyEpochAcknowledges), ""),
    (C(Core::CountIgnored), ""),
    (C(Core::CachedCount), ""),
    (C(Core::ZeroFromAnyReport), ""),
    (C(Core::RecordDroppedOnClose), ""),
    (C(Core::HeartbeatOvertakes), ""),
    (C(Core::FenceAtTheLease), ""),
    (C(Core::FoundAsleepStays), ""),
    (C(Core::WakesDuringPendingSleep), ""),
    (C(Core::OldAttemptCounts), ""),
    (C(Core::OldEpochResumes), ""),
    (C(Core::OlderAcknowledgementCounts), ""),
    (G(Gate::LeaseFromArrival), ""),
    (G(Gate::HeldWithoutLease), ""),
    (G(Gate::AnyTermObeyed), ""),
    (G(Gate::CountedTwice), ""),
    (G(Gate::OlderEpochApplied), ""),
    (G(Gate::BarrierNotAcknowledged), ""),
    (G(Gate::LeaseBeforeSnapshot), ""),
    (G(Gate::FlowsForEver), ""),
    (G(Gate::EndIsForgotten), ""),
];

/// Explores a row with something wrong in it.
fn explored(wrong: Wrong, mut row: Row) -> Found {
    // Looking whether states are told apart well enough is not what this is about.
    row.audited = u128::MAX;
    match wrong {
        Wrong::Around(sabotage) => row.sabotage = Some(sabotage),
        Wrong::Core(sabotage) => core::choose(Some(sabotage)),
        Wrong::Gate(sabotage) => filter::choose(Some(sabotage)),
    }
    let found = explore(&row);
    core::choose(None);
    filter::choose(None);
    found
}

#[test]
fn discover() {
    std::panic::set_hook(Box::new(|_| {}));
    let most: usize = std::env::var("MOST").map_or(30_000, |m| m.parse().unwrap());
    let only = std::env::var("SAB").ok();
    for (wrong, _) in CASES {
        if only
            .as_ref()
            .is_some_and(|only| !only.split(',').any(|o| format!("{wrong:?}").contains(o)))
        {
            continue;
        }
        let mut best: Option<(usize, String)> = None;
        let wanted = std::env::var("ROWS").unwrap_or_default();
        for mut row in rows::short() {
            if !wanted.is_empty() && !wanted.split(';').any(|w| w == row.name) {
                continue;
            }
            row.most_states = best.as_ref().map_or(most, |(n, _)| *n);
            let found = explored(*wrong, row);
            if let Some(broken) = found.broken {
                if best.as_ref().is_none_or(|(n, _)| *n > found.states.max(1)) {
                    best = Some((
                        found.states.max(1),
                        format!(
                            "{} | {} steps, {} states, {:.1} s | {}",
                            found.name,
                            broken.steps,
                            found.states,
                            found.took.as_secs_f64(),
                            broken.rule
                        ),
                    ));
                }
            }
        }
        println!("{wrong:?} | {}", best.map_or("MISSED".to_owned(), |b| b.1));
    }
}
