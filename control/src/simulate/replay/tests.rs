//! Small stories through the production core, with waits that can be computed by hand.

use std::time::Duration;

use greenthread_core::{ids::GpuId, model::OnDrainTimeout};

use super::*;
use crate::simulate::{arguments::Assumptions, meter::Doing, setting, trace::Request};

pub(super) const HABITS: Habits = Habits {
    policy: Policy::ALL[0],
    concurrency: usize::MAX,
    retries: 2,
    vary: 0.0,
    seed: 0,
};

/// Requests as (second, model, seconds of service).
pub(super) fn trace(requests: &[(u64, usize, u64)]) -> Trace {
    let models = requests
        .iter()
        .map(|(_, model, _)| model + 1)
        .max()
        .unwrap_or(0);
    Trace {
        models: (0..models).map(|model| format!("m{model}")).collect(),
        requests: requests
            .iter()
            .map(|(at, model, service)| Request {
                at: Millis::seconds(*at),
                model: *model,
                service: Millis::seconds(*service),
            })
            .collect(),
        ..Trace::default()
    }
}

/// One GPU with so many places; a wake takes 2 s, a sleep 1 s.
pub(super) fn world(trace: &Trace, places: usize) -> Setting {
    let assumptions = Assumptions {
        gpus: 1,
        places,
        place_size: 1 << 30,
        wake: Duration::from_secs(2),
        sleep: Duration::from_secs(1),
        start: Duration::from_secs(60),
    };
    setting::assumed(trace, 1, &assumptions)
}

pub(super) fn run(trace: &Trace, setting: &Setting, habits: Habits) -> Replayed {
    replay(trace, setting, habits, &mut Progress::to_stderr(), "test")
}

/// Waits in ms, in the order in which requests went on.
fn waits(replayed: &Replayed) -> Vec<u32> {
    replayed.meter.waits.iter().map(|(_, wait)| *wait).collect()
}

#[test]
fn a_first_request_waits_for_a_wake_and_later_ones_for_nothing() {
    let trace = trace(&[(100, 0, 5), (101, 0, 5), (110, 0, 5)]);
    let replayed = run(&trace, &world(&trace, 1), HABITS);
    assert_eq!(waits(&replayed), [2_000, 1_000, 0]);
    let meter = &replayed.meter;
    assert_eq!((meter.wakes, meter.sleeps, meter.misses_of[0]), (1, 0, 2));
    // From the first request to the end of the last one.
    assert_eq!(replayed.to.since(replayed.from), Millis::seconds(15));
    assert_eq!(meter.moved, Bytes(1 << 30));
}

#[test]
fn an_idle_model_makes_room() {
    let trace = trace(&[(0, 0, 1), (60, 1, 1)]);
    let replayed = run(&trace, &world(&trace, 1), HABITS);
    // A sleep of the other one, then its own wake.
    assert_eq!(waits(&replayed), [2_000, 3_000]);
    let meter = &replayed.meter;
    assert_eq!(
        (
            meter.wakes,
            meter.sleeps,
            replayed.tally.evictions,
            replayed.tally.regrets
        ),
        (2, 1, 1, 0)
    );
}

#[test]
fn a_busy_model_is_frozen_after_its_drain_and_goes_on_later() {
    // Busy for ten minutes; the other one waits 5 s (maxWait), 30 s (drain), 1 s (sleep), 2 s (wake).
    let trace = trace(&[(0, 0, 600), (20, 1, 5)]);
    let replayed = run(&trace, &world(&trace, 1), HABITS);
    assert_eq!(waits(&replayed), [2_000, 38_000]);
    let meter = &replayed.meter;
    assert_eq!(
        (
            replayed.tally.evictions,
            replayed.tally.regrets,
            meter.wakes,
            meter.cut,
            meter.waits.len()
        ),
        (2, 0, 3, 0, 2),
        "what was frozen was known"
    );
    // Its frozen request brings it back as soon as the other one is idle: that one leaves too.
    // Nothing of the ten minutes was lost or done twice: they end late by what it was frozen for.
    let total = replayed.to.since(replayed.from);
    assert!(
        total > Millis::seconds(602 + 8) && total < Millis::seconds(602 + 60),
        "{total}"
    );
}

#[test]
fn an_abort_cuts_off_and_a_cut_request_is_over() {
    let trace = trace(&[(0, 0, 600), (20, 1, 5)]);
    let mut setting = world(&trace, 1);
    setting.models[0].spec.on_drain_timeout = OnDrainTimeout::Abort;
    let replayed = run(&trace, &setting, HABITS);
    assert_eq!(
        (
            replayed.meter.cut,
            replayed.meter.waits.len(),
            replayed.meter.wakes
        ),
        (1, 2, 2)
    );
}

#[test]
fn who_is_wanted_back_within_its_wake_time_is_a_regret() {
    // m0 leaves for m1 and is asleep at 61 s; it is wanted at 62 s, within the 2 s of its wake.
    let soon = trace(&[(0, 0, 1), (60, 1, 1), (62, 0, 1)]);
    assert_eq!(run(&soon, &world(&soon, 1), HABITS).tally.regrets, 1);
    let later = trace(&[(0, 0, 1), (60, 1, 1), (64, 0, 1)]);
    assert_eq!(run(&later, &world(&later, 1), HABITS).tally.regrets, 0);
}

#[test]
fn requests_that_are_refused_come_back_or_give_up() {
    // m1 is larger than its GPU.
    let trace = trace(&[(0, 0, 1), (1, 1, 1)]);
    let mut setting = world(&trace, 1);
    setting.models[1].spec.awake = Bytes::gib(9);
    let replayed = run(&trace, &setting, HABITS);
    let lost: Vec<_> = replayed.meter.lost.iter().collect();
    assert_eq!(
        (lost, replayed.meter.waits.len()),
        (vec![(&"never_fits", &1)], 1)
    );
    // A request that meets the barrier of a drain is told to come back, and does.
    let requests = [(0, 0, 60), (1, 1, 60), (20, 2, 1), (28, 0, 1), (28, 1, 1)];
    let busy = super::tests::trace(&requests);
    let patient = Habits {
        retries: 60,
        ..HABITS
    };
    let replayed = run(&busy, &world(&busy, 2), patient);
    assert!(
        replayed.meter.refusals.contains_key("draining"),
        "{:?}",
        replayed.meter.refusals
    );
    assert_eq!(
        (replayed.meter.lost.len(), replayed.meter.waits.len()),
        (0, 5)
    );
    let hasty = Habits {
        retries: 0,
        ..HABITS
    };
    let replayed = run(&busy, &world(&busy, 2), hasty);
    assert!(
        replayed.meter.lost.contains_key("draining"),
        "{:?}",
        replayed.meter.lost
    );
}

#[test]
fn a_hold_ends_after_its_budget() {
    let trace = trace(&[(0, 0, 1)]);
    let mut setting = world(&trace, 1);
    setting.hold.budget = Millis::seconds(3);
    setting.models[0].takes.wake = Millis::seconds(10);
    let replayed = run(
        &trace,
        &setting,
        Habits {
            retries: 0,
            ..HABITS
        },
    );
    assert_eq!(
        replayed.meter.lost.iter().collect::<Vec<_>>(),
        [(&"hold_expired", &1)]
    );
    // Who comes back finds it awake.
    let replayed = run(&trace, &setting, HABITS);
    assert!(
        replayed.meter.lost.is_empty() && waits(&replayed)[0] >= 10_000,
        "{:?}",
        waits(&replayed)
    );
}

#[test]
fn an_engine_works_on_so_many_requests_at_a_time() {
    let trace = trace(&[(0, 0, 10), (0, 0, 10), (0, 0, 10)]);
    let setting = world(&trace, 1);
    let length = |habits| {
        let replayed = run(&trace, &setting, habits);
        replayed.to.since(replayed.from)
    };
    assert_eq!(length(HABITS), Millis::seconds(12));
    assert_eq!(
        length(Habits {
            concurrency: 1,
            ..HABITS
        }),
        Millis::seconds(32)
    );
}

#[test]
fn spans_are_whole_and_hours_add_up() {
    let trace = trace(&[(0, 0, 100), (60, 1, 1), (200, 0, 10)]);
    let setting = world(&trace, 1);
    let replayed = run(&trace, &setting, HABITS);
    for model in 0..2 {
        let of_model: Vec<_> = replayed
            .meter
            .spans
            .iter()
            .filter(|span| span.model == model)
            .collect();
        assert!(
            of_model.windows(2).all(|pair| pair[0].to <= pair[1].from),
            "{of_model:?}"
        );
        let word = |doing: Doing| of_model.iter().filter(|span| span.doing == doing).count();
        assert!(
            word(Doing::Awake) >= 1 && word(Doing::Waking) >= 1 && word(Doing::GoingToSleep) >= 1,
            "{of_model:?}"
        );
    }
    let hours = replayed.meter.hours(&setting);
    let total = replayed.to.since(replayed.from).0 as f64 / 3_600_000.0;
    assert!(
        hours.computing <= hours.awake && hours.awake + hours.moving <= total + 1e-9,
        "{hours:?} of {total}"
    );
    assert!(
        (hours.computing * 3_600.0 - 111.0).abs() < 0.01,
        "111 s of work: {hours:?}"
    );
}

#[test]
fn two_gpus_work_side_by_side() {
    let trace = trace(&[(0, 0, 10), (0, 1, 10)]);
    let mut setting = world(&trace, 1);
    setting.spread(&trace, 2);
    assert_eq!(setting.models[1].spec.gpus, [GpuId(1)]);
    assert_eq!(waits(&run(&trace, &setting, HABITS)), [2_000, 2_000]);
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_one_differs() {
    let mut dice = Dice::new(9);
    let requests: Vec<_> = (0..200).map(|n| (n * 15, dice.below(5), 3)).collect();
    let trace = trace(&requests);
    let setting = world(&trace, 2);
    let of = |seed| {
        waits(&run(
            &trace,
            &setting,
            Habits {
                vary: 0.3,
                seed,
                ..HABITS
            },
        ))
    };
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
}

#[test]
fn every_request_has_one_outcome_under_pressure() {
    for seed in 0..12 {
        let mut dice = Dice::new(seed);
        let mut at = 0;
        let requests: Vec<_> = (0..300)
            .map(|_| {
                at += dice.below(12) as u64;
                (at, dice.below(8), dice.below(90) as u64)
            })
            .collect();
        let trace = trace(&requests);
        let habits = Habits {
            vary: 0.5,
            seed,
            concurrency: 2,
            ..HABITS
        };
        let replayed = run(&trace, &world(&trace, 2), habits);
        let lost: u64 = replayed.meter.lost.values().sum();
        // `close` asserts that no request ends twice; here, that none is missing.
        assert_eq!(replayed.meter.waits.len() as u64 + lost, 300, "seed {seed}");
    }
}
