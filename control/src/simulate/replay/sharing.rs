//! What sharing a GPU means by default, shown on traffic that is hard to share: models that alternate, and rare ones among frequent ones.

use super::{
    tests::{HABITS, run, trace, world},
    *,
};
use crate::simulate::{
    bound::{StrictLoads, strict_loads},
    meter::Doing,
};

/// A replay with the product's defaults, and what it would need in strict order.
fn replayed(trace: &Trace, places: usize, policy: &'static Policy) -> (Replayed, StrictLoads) {
    let setting = world(trace, places);
    let habits = Habits { policy, ..HABITS };
    let strict = strict_loads(trace, &setting);
    (run(trace, &setting, habits), strict)
}

/// Moments at which models began to wake, with the model.
fn loads(replayed: &Replayed) -> Vec<(Millis, usize)> {
    let wakes = |span: &&crate::simulate::meter::Span| span.doing == Doing::Waking;
    let spans = replayed.meter.spans.iter().filter(wakes);
    let mut loads: Vec<_> = spans.map(|span| (span.from, span.model)).collect();
    loads.sort_unstable();
    loads
}

#[test]
fn two_models_that_alternate_every_second_swap_seldom_and_wait_within_their_bound() {
    for policy in Policy::ALL {
        for service in [0, 1, 3] {
            let requests: Vec<_> = (0..900).map(|n| (n, n as usize % 2, service)).collect();
            let trace = trace(&requests);
            let (replayed, strict) = replayed(&trace, 1, policy);
            let name = policy.name;
            // Each has its place for minRuntime (10 s), and a swap takes 3 s: five in a minute at most.
            let loads = loads(&replayed);
            for first in &loads {
                let minute = first.0..first.0 + Millis::seconds(60);
                let swaps = loads.iter().filter(|(at, _)| minute.contains(at)).count();
                assert!(swaps <= 5, "{name}: {swaps} swaps in a minute");
            }
            // Liveness: maxWait, minRuntime, what is in flight, a sleep, the wake under way; and its own wake.
            let bound = Millis::seconds(5 + 10 + service + 1 + 2 + 2);
            let longest = replayed.meter.waits.iter().map(|(_, wait)| *wait).max();
            let longest = Millis(longest.unwrap_or_default().into());
            assert!(longest <= bound, "{name}: {longest} of {bound}");
            assert_eq!(replayed.meter.waits.len(), 900, "everybody is served");
            // In strict order each request is a load, whoever chooses.
            assert_eq!(strict.opt, 900);
            assert!(replayed.meter.wakes <= 75, "{}", replayed.meter.wakes);
        }
    }
}

/// Requests for `often` models in turns of chance, and 1 % for `rare` ones, `pause` seconds apart on average.
fn mixed(often: u64, rare: u64, pause: u64, service: u64) -> Trace {
    let mut dice = Dice::new(often * 100 + rare * 10 + pause);
    let mut at = 0;
    let requests: Vec<_> = (0..4_000)
        .map(|_| {
            at += dice.below(2 * pause + 1) as u64;
            let model = match dice.below(100) {
                0 => usize::try_from(often).unwrap_or(0) + dice.below(rare),
                _ => dice.below(often),
            };
            (at, model, service)
        })
        .collect();
    trace(&requests)
}

/// Loads of the rare models and of all, of a replay and of OPT in order.
fn rare_loads(trace: &Trace, often: usize, policy: &'static Policy) -> (u64, u64, u64) {
    let (replayed, strict) = replayed(trace, 3, policy);
    let loads = loads(&replayed);
    let rare = loads.iter().filter(|(_, model)| *model >= often).count();
    (rare as u64, loads.len() as u64, strict.opt)
}

#[test]
fn one_rare_model_of_five_causes_few_of_the_loads() {
    for policy in Policy::ALL {
        for pause in [2, 10, 60] {
            let (rare, all, _) = rare_loads(&mixed(4, 1, pause, pause / 2), 4, policy);
            let share = rare as f64 / all as f64;
            assert!(share < 0.2, "{}: {rare} of {all}", policy.name);
        }
    }
}

#[test]
fn where_the_frequent_ones_have_a_place_each_a_rare_request_costs_two_loads() {
    // Its own, and the return of whoever made room: in order nobody can do with fewer.
    for name in ["cost", "forecast"] {
        let policy = Policy::named(name).unwrap();
        for pause in [20, 60] {
            let (rare, all, opt) = rare_loads(&mixed(3, 2, pause, pause / 2), 3, policy);
            assert!(rare > 20 && opt <= 2 * rare + 3, "{opt} for {rare}");
            let most = 2.5 * rare as f64 + 10.0;
            assert!(all as f64 <= most, "{name}: {all} for {rare} rare ones");
        }
    }
}

#[test]
fn while_a_rare_model_has_its_min_runtime_each_frequent_one_makes_room_once_at_most() {
    // It stays for 10 s after its only request, and nobody waits so long: the frequent ones share the places that are left. Whoever
    // comes back has 10 s too, so that each goes once: its own load and three more.
    for policy in Policy::ALL {
        for (pause, service) in [(1, 0), (1, 1), (1, 5), (2, 1), (5, 2)] {
            let (rare, all, _) = rare_loads(&mixed(3, 2, pause, service), 3, policy);
            let name = policy.name;
            assert!(rare > 20, "{name}: {rare} rare loads");
            assert!(all <= 4 * rare + 3, "{name}: {all} for {rare} rare ones");
        }
    }
}
