//! The simulation must be able to fail: every sabotage is caught by some seed. Run with `--features sabotage`.
#![cfg(feature = "sabotage")]

use greenthread_core::sabotage::Sabotage as Core;
use greenthread_simulation::{
    run,
    sabotage::{Sabotage, choose},
};

/// Seeds that are tried before a sabotage counts as not caught.
const SEEDS: u64 = 4_000;

/// Seeds that are tried of what is harmless.
const HARMLESS_SEEDS: u64 = 200;

/// Seeds that caught one that is rare; they are tried first. When a change makes them miss, all others are tried as before.
const KNOWN: &[(&str, u64)] = &[
    ("OneGateForgotten", 23),
    ("SuccessorWaitsNothing", 17),
    ("SuccessorWaitsOneLease", 40),
    ("CountIgnored", 9),
    ("CachedCount", 22),
    ("ZeroFromAnyReport", 24),
    ("RecordDroppedOnClose", 159),
    ("FenceAtTheLease", 31),
    ("MarginShort", 1),
    ("FoundAsleepStays", 27),
    ("OldAttemptCounts", 112),
    ("MinRuntimeIgnored", 24),
    ("NewestFirst", 1),
    ("HostRamForgotten", 32),
    ("StopsTooEarly", 553),
    ("LostWakeForgotten", 387),
    ("OldEndCounts", 81),
    ("AnyTermObeyed", 9),
    ("LeaseBeforeSnapshot", 34),
    ("FlowsForEver", 41),
    ("OracleIgnored", 134),
    ("PinnedGoes", 40),
    ("DisabledWakes", 22),
    ("PopularStaysAway", 208),
    ("NeverIdle", 8),
    ("OperatorSleepIgnored", 60),
    ("RemovedWithRequests", 381),
    ("StrangerStarted", 36),
    ("RelievesTooEarly", 41),
    ("LeaseFromArrival", 35),
    ("UnansweredOnceIsDead", 7),
    ("AdmitsAfterBye", 50),
    ("DeposedGoesOn", 9),
    ("FreesBeforeTheOracle", 10),
    ("StoppedGpuMoves", 17),
    ("WaitsBeginAnew", 9),
    ("LeaderStopsAtTheEnd", 15),
];

/// What may be done wrong without harm, and why.
const HARMLESS: [(Sabotage, &str); 1] = [(
    Sabotage::Core(Core::OlderAcknowledgementCounts),
    "a gate that has acknowledged an epoch admits nothing under it any more, whichever stream it said so on",
)];

/// The seed that catches it, the steps in that seed and in all before it, and what is said.
fn caught(sabotage: Sabotage, seeds: u64) -> Option<(u64, u64, u64, String)> {
    choose(Some(sabotage));
    let mut before = 0;
    let name = sabotage.name();
    let known = KNOWN.iter().filter(|(known, _)| *known == name);
    let first = known.map(|(_, seed)| *seed);
    let caught = first.chain(1..=seeds).find_map(|seed| {
        let result = run(seed, 0);
        let steps = result.totals.steps();
        before += steps;
        let violation = result.violation?;
        // It is the sabotage that is caught, and nothing else.
        choose(None);
        let sound = run(seed, 0).violation.is_none();
        choose(Some(sabotage));
        sound.then_some((seed, steps, before, violation))
    });
    choose(None);
    caught
}

#[test]
fn every_sabotage_is_caught() {
    // A sabotaged core may panic; that is caught, and need not be printed.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    println!(
        "{:<7}{:<28}{:>6}{:>8}{:>10}  what is said",
        "where", "sabotage", "seed", "steps", "in all"
    );
    let only = std::env::var("SABOTAGE").ok();
    let chosen = |sabotage: &Sabotage| only.as_ref().is_none_or(|only| sabotage.name() == *only);
    for sabotage in Sabotage::all().into_iter().filter(chosen) {
        let harmless = HARMLESS.iter().find(|(known, _)| *known == sabotage);
        let (place, name) = (sabotage.place(), sabotage.name());
        let seeds = if harmless.is_some() {
            HARMLESS_SEEDS
        } else {
            SEEDS
        };
        match (caught(sabotage, seeds), harmless) {
            (Some((seed, steps, in_all, what)), None) => {
                let what: String = what
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .chars()
                    .take(90)
                    .collect();
                println!("{place:<7}{name:<28}{seed:>6}{steps:>8}{in_all:>10}  {what}");
            }
            (None, Some((_, why))) => {
                println!("{place:<7}{name:<28}     -       -         -  harmless: {why}");
            }
            (Some((seed, _, _, what)), Some(_)) => {
                missed.push(format!("{name} is not harmless: seed {seed}: {what}"));
            }
            (None, None) => missed.push(format!("{name} is not caught by {SEEDS} seeds")),
        }
    }
    std::panic::set_hook(hook);
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}
