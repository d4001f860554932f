//! The check must be able to fail: every sabotage is caught by some row. Run with `--features sabotage`.
#![cfg(feature = "sabotage")]

use greenthread_core::sabotage::{self as core, Sabotage as Core};
use greenthread_exhaustive::{
    checker::{Counterexample, Found, explore},
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

/// What is done wrong, and in which row it is caught.
const CAUGHT: [(Wrong, &str); 22] = [
    (
        A(Around::FenceAtTheLease),
        "control freezes, a call is lost",
    ),
    (
        A(Around::SuccessorWaitsOneLease),
        "control is deposed, a call is lost",
    ),
    (
        A(Around::SuccessorWaitsNothing),
        "control crashes, a call is late",
    ),
    (
        A(Around::SuccessorBelievesAtOnce),
        "control crashes, a call is late",
    ),
    (A(Around::AnyEpochCounts), "operators change their mind"),
    (
        A(Around::ForgottenWhenClosed),
        "a message is late, a stream breaks",
    ),
    (
        A(Around::DeposedGoesOn),
        "control is deposed, a call is lost",
    ),
    (A(Around::LateCall), "control crashes, a call is late"),
    (A(Around::RowDropped), "a message is late"),
    (C(Core::OneGateForgotten), "two messages are late"),
    (C(Core::NoAcknowledgement), "two messages are late"),
    (
        C(Core::SuccessorWaitsNothing),
        "control is deposed, a call is lost",
    ),
    (
        C(Core::SuccessorWaitsOneLease),
        "control is deposed, a call is lost",
    ),
    (C(Core::AnyEpochAcknowledges), "operators change their mind"),
    (C(Core::CountIgnored), "a client leaves, the engine loses"),
    (C(Core::ZeroFromAnyReport), "a call is lost"),
    (
        C(Core::RecordDroppedOnClose),
        "a message is late, a stream breaks",
    ),
    (C(Core::FenceAtTheLease), "control freezes, a call is lost"),
    (C(Core::WakesDuringPendingSleep), "a call is lost"),
    (C(Core::OldEpochResumes), "operators change their mind"),
    (G(Gate::LeaseFromArrival), "idle, a gate freezes"),
    (G(Gate::HeldWithoutLease), "control freezes"),
];

/// What no row tells from what is right (see [`Around`]), looked for where it would be nearest.
const NOT_CAUGHT: [(Wrong, &str); 2] = [
    (A(Around::HeartbeatOvertakes), "two messages are late"),
    (A(Around::CachedCount), "a client leaves, the engine loses"),
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

fn named(name: &str) -> Row {
    let row = rows::short().into_iter().find(|row| row.name == name);
    row.unwrap_or_else(|| panic!("no row is called `{name}`"))
}

#[test]
fn every_sabotage_is_caught() {
    // A sabotaged core may panic; that is caught, and need not be printed.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    println!("sabotage                         steps   states  what is said");
    for (wrong, name) in CAUGHT {
        let found = explored(wrong, named(name));
        match found.broken {
            Some(Counterexample { rule, steps, .. }) => {
                println!(
                    "{:<32} {steps:>5} {:>8}  {name}: {rule}",
                    format!("{wrong:?}"),
                    found.states
                );
            }
            None => missed.push(format!("{wrong:?} is not caught by `{name}`")),
        }
    }
    for (wrong, name) in NOT_CAUGHT {
        let found = explored(wrong, named(name));
        match found.broken {
            Some(broken) => missed.push(format!("{wrong:?} is caught after all: {}", broken.rule)),
            None => println!(
                "{:<32}     - {:>8}  {name}: not caught",
                format!("{wrong:?}"),
                found.states
            ),
        }
    }
    std::panic::set_hook(hook);
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}
