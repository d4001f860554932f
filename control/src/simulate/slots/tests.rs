//! OPT against every possible choice, LRU against a list, and what strict means.

use greenthread_core::policy::Policy;

use super::*;
use crate::simulate::{dice::Dice, trace::Request};

/// Requests one second apart.
fn trace(models: &[usize]) -> Trace {
    let most = models.iter().max().map_or(0, |most| most + 1);
    Trace {
        models: (0..most).map(|model| format!("m{model:03}")).collect(),
        requests: models
            .iter()
            .zip(1..)
            .map(|(model, second)| Request {
                at: Millis::seconds(second),
                model: *model,
                service: Millis(0),
            })
            .collect(),
        ..Trace::default()
    }
}

fn random(seed: u64, length: usize, models: u64) -> Trace {
    let mut dice = Dice::new(seed);
    let drawn: Vec<usize> = (0..length).map(|_| dice.below(models)).collect();
    trace(&drawn)
}

fn lru() -> &'static Policy {
    Policy::named("lru").unwrap()
}

/// The fewest loads, by trying everything.
fn fewest(requests: &[usize], residents: &[usize], slots: usize) -> u64 {
    let Some((model, rest)) = requests.split_first() else {
        return 0;
    };
    if residents.contains(model) {
        return fewest(rest, residents, slots);
    }
    if residents.len() < slots {
        return 1 + fewest(rest, &[residents, &[*model]].concat(), slots);
    }
    let without = |leaver: usize| {
        let mut after: Vec<usize> = residents.to_vec();
        after[leaver] = *model;
        after
    };
    let best = (0..residents.len()).map(|leaver| fewest(rest, &without(leaver), slots));
    1 + best.min().unwrap_or(0)
}

/// LRU with a list: the front is used longest ago.
fn naive(requests: &[usize], slots: usize) -> u64 {
    let (mut list, mut misses) = (Vec::new(), 0);
    for model in requests {
        if let Some(at) = list.iter().position(|resident| resident == model) {
            list.remove(at);
        } else {
            misses += 1;
            if list.len() == slots {
                list.remove(0);
            }
        }
        list.push(*model);
    }
    misses
}

fn wanted(trace: &Trace) -> Vec<usize> {
    trace.requests.iter().map(|request| request.model).collect()
}

#[test]
fn opt_is_what_trying_everything_finds() {
    for seed in 0..60 {
        let trace = random(seed, 11, 5);
        for slots in 1..=4 {
            let opt = replay(&trace, slots, &mut Belady::of(&trace)).misses;
            assert_eq!(
                opt,
                fewest(&wanted(&trace), &[], slots),
                "seed {seed}, {slots} places"
            );
        }
    }
}

#[test]
fn the_policy_of_the_core_is_lru() {
    for seed in 0..20 {
        let trace = random(seed, 400, 12);
        for slots in [1, 2, 5, 12, 20] {
            let lru = replay(&trace, slots, &mut OfCore::new(lru(), &trace));
            assert_eq!(
                lru.misses,
                naive(&wanted(&trace), slots),
                "seed {seed}, {slots} places"
            );
        }
    }
}

#[test]
fn requests_of_the_same_moment_have_an_order() {
    // All in the same millisecond: 0 was used before 1, so it leaves.
    let mut trace = trace(&[0, 1, 2, 1]);
    for request in &mut trace.requests {
        request.at = Millis(7);
    }
    let tally = replay(&trace, 2, &mut OfCore::new(lru(), &trace));
    assert_eq!((tally.misses, tally.evictions), (3, 1));
    assert_eq!(
        (tally.misses_of, tally.requests_of),
        (vec![1, 1, 1], vec![1, 2, 1])
    );
}

#[test]
fn a_miss_must_load_even_what_is_wanted_once() {
    // Passing 2 by would keep 0 and 1: two loads. Strict caching loads three times at least, and once more for who left.
    let trace = trace(&[0, 1, 2, 0, 1]);
    assert_eq!(replay(&trace, 2, &mut Belady::of(&trace)).misses, 4);
}
