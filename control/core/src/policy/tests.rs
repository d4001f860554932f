//! Choices as data: who goes, who stays, and until when it is waited.

use super::*;

fn candidate(name: &str, frees: u64, busy: bool, last_used: u64) -> Candidate {
    Candidate {
        model: ModelId(name.into()),
        gpus: vec![GpuId(0)],
        frees: Bytes(frees),
        pinned: false,
        busy,
        last_used: Millis(last_used),
        not_before: Millis(0),
        spared_until: Millis(0),
        expected_until: Millis(0),
        sleep: Millis(1_000),
        wake: Millis(1_000),
        demand: Demand::default(),
        next_use: 1.0,
    }
}

fn check(missing: u64, candidates: &[Candidate], now: u64, expected: &[&str]) {
    let need = Need {
        missing: vec![(GpuId(0), Bytes(missing))],
        busy_from: Millis(5_000),
        urgent: false,
    };
    let expected = Selection::Victims(
        expected
            .iter()
            .map(|name| ModelId((*name).into()))
            .collect(),
    );
    assert_eq!(
        choose(&lru::POLICY, &need, candidates, Millis(now)),
        expected
    );
}

#[test]
fn least_recently_used_goes_first() {
    check(
        10,
        &[candidate("a", 10, false, 30), candidate("b", 10, false, 20)],
        100,
        &["b"],
    );
    check(
        10,
        &[candidate("b", 10, false, 20), candidate("a", 10, false, 20)],
        100,
        &["a"],
    );
}

#[test]
fn fewest_evictions() {
    // 17 + 8 + 1.7 GB idle and 20 needed with 1 free: never all three.
    let candidates = [
        candidate("small", 17, false, 1),
        candidate("large", 170, false, 3),
        candidate("middle", 80, false, 2),
    ];
    check(190, &candidates, 100, &["middle", "large"]);
    check(100, &candidates, 100, &["large"]);
}

#[test]
fn busy_only_after_max_wait_and_only_without_idle() {
    let candidates = [
        candidate("busy", 10, true, 1),
        candidate("idle", 10, false, 2),
    ];
    check(10, &candidates, 9_000, &["idle"]);
    check(20, &candidates, 9_000, &["idle", "busy"]);
    let need = Need {
        missing: vec![(GpuId(0), Bytes(20))],
        busy_from: Millis(5_000),
        urgent: false,
    };
    assert_eq!(
        choose(&lru::POLICY, &need, &candidates, Millis(100)),
        Selection::Wait(Some(Millis(5_000)))
    );
}

#[test]
fn pinned_and_min_runtime() {
    let mut candidates = [
        candidate("pinned", 10, false, 1),
        candidate("young", 10, false, 2),
    ];
    candidates[0].pinned = true;
    candidates[1].not_before = Millis(700);
    let mut need = Need {
        missing: vec![(GpuId(0), Bytes(10))],
        busy_from: Millis(0),
        urgent: false,
    };
    assert_eq!(
        choose(&lru::POLICY, &need, &candidates, Millis(100)),
        Selection::Wait(Some(Millis(700)))
    );
    need.urgent = true;
    assert_eq!(
        choose(&lru::POLICY, &need, &candidates, Millis(100)),
        Selection::Victims(vec![ModelId("young".into())])
    );
}

#[test]
fn other_gpus_do_not_help() {
    let mut elsewhere = candidate("elsewhere", 100, false, 1);
    elsewhere.gpus = vec![GpuId(1)];
    check(
        10,
        &[elsewhere, candidate("here", 10, false, 9)],
        100,
        &["here"],
    );
}

/// So many requests, a moment ago.
fn asked(requests: u64) -> Demand {
    let mut demand = Demand::default();
    demand.arrived(Millis(0), requests);
    demand
}

/// Sizes in bytes, demand in requests; the same times for all.
fn cheapest(missing: u64, candidates: &[(&str, u64, u64)], expected: &[&str]) {
    let candidates: Vec<Candidate> = candidates
        .iter()
        .map(|(name, frees, demand)| Candidate {
            demand: asked(*demand),
            ..candidate(name, *frees, false, 0)
        })
        .collect();
    let need = Need {
        missing: vec![(GpuId(0), Bytes(missing))],
        busy_from: Millis(0),
        urgent: false,
    };
    let expected = expected.iter().map(|name| ModelId((*name).into()));
    assert_eq!(
        choose(&cost::POLICY, &need, &candidates, Millis(0)),
        Selection::Victims(expected.collect())
    );
}

#[test]
fn the_cheapest_set_makes_room() {
    // 17 + 8 + 1.7 GB idle and 20 needed: never all three.
    let idle = [("a", 170, 1), ("b", 80, 1), ("c", 17, 1)];
    cheapest(200, &idle, &["b", "a"]);
    cheapest(180, &idle, &["c", "a"]);
    // A small one that everybody wants costs more than a large one that nobody asks for.
    cheapest(50, &[("small", 60, 100), ("large", 400, 1)], &["large"]);
    // Two cheap ones before a dear one; equal ones by name.
    cheapest(
        100,
        &[("x", 100, 9), ("y", 50, 1), ("z", 50, 1)],
        &["y", "z"],
    );
    cheapest(10, &[("q", 10, 1), ("p", 10, 1)], &["p"]);
}

#[test]
fn policies_have_names_of_their_own() {
    for policy in Policy::ALL {
        assert_eq!(Policy::named(policy.name), Some(*policy));
        let prices = [0, 1, 1 << 40]
            .map(|now| (policy.price)(&candidate("a", 1 << 40, false, 1 << 40), Millis(now)));
        assert!(prices.iter().all(|price| *price >= 0.0), "{prices:?}");
    }
}

#[test]
fn many_small_ones_are_found_without_looking_at_every_set() {
    let candidates: Vec<Candidate> = (0..60)
        .map(|n| Candidate {
            demand: asked(n + 1),
            ..candidate(&format!("m{n:02}"), 10, false, n)
        })
        .collect();
    let need = Need {
        missing: vec![(GpuId(0), Bytes(75))],
        busy_from: Millis(0),
        urgent: false,
    };
    for policy in Policy::ALL {
        let Selection::Victims(victims) = choose(policy, &need, &candidates, Millis(100)) else {
            panic!("{} finds nobody", policy.name)
        };
        assert_eq!(victims.len(), 8, "{}", policy.name);
    }
}

#[test]
fn neither_the_order_of_devices_nor_that_of_residents_decides() {
    let on = |name: &str, gpus: [usize; 2]| Candidate {
        gpus: gpus.map(GpuId).to_vec(),
        ..candidate(name, 10, false, 5)
    };
    // All are worth the same: the name alone may decide.
    let forwards = [on("b", [0, 1]), on("a", [1, 2]), on("c", [2, 0])];
    let mut backwards = [on("c", [0, 2]), on("a", [2, 1]), on("b", [1, 0])];
    for gpus in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let need = Need {
            missing: gpus.map(|gpu| (GpuId(gpu), Bytes(10))).to_vec(),
            busy_from: Millis(0),
            urgent: false,
        };
        for policy in Policy::ALL {
            let chosen = choose(policy, &need, &forwards, Millis(9));
            let expected = ["a", "b"].map(|name| ModelId(name.into())).to_vec();
            assert_eq!(chosen, Selection::Victims(expected), "{}", policy.name);
            assert_eq!(choose(policy, &need, &backwards, Millis(9)), chosen);
        }
        backwards.rotate_left(1);
    }
}

#[test]
fn the_first_moment_at_which_somebody_may_go_is_waited_for() {
    let mut candidates = [
        candidate("one", 10, false, 1),
        candidate("other", 10, false, 2),
        candidate("small", 0, false, 0),
    ];
    candidates[0].not_before = Millis(900);
    candidates[1].spared_until = Millis(700);
    let need = Need {
        missing: vec![(GpuId(0), Bytes(10))],
        busy_from: Millis(0),
        urgent: false,
    };
    for policy in Policy::ALL {
        let wait = choose(policy, &need, &candidates, Millis(100));
        assert_eq!(wait, Selection::Wait(Some(Millis(700))));
        let goes = choose(policy, &need, &candidates, Millis(700));
        assert_eq!(goes, Selection::Victims(vec![ModelId("other".into())]));
    }
}

#[test]
fn a_set_costs_what_all_its_members_cost_and_busy_ones_above_all() {
    let demand = |name: &str, frees: u64, busy: bool, requests: u64| Candidate {
        demand: asked(requests),
        ..candidate(name, frees, busy, 0)
    };
    let need = Need {
        missing: vec![(GpuId(0), Bytes(100))],
        busy_from: Millis(0),
        urgent: true,
    };
    let chosen = |candidates: &[Candidate]| choose(&cost::POLICY, &need, candidates, Millis(0));
    let names = |names: &[&str]| {
        Selection::Victims(names.iter().map(|name| ModelId((*name).into())).collect())
    };
    // One that is asked for less than three together, and more than some of them.
    let parts = ["p", "q", "r"].map(|name| demand(name, 34, false, 20));
    let mut all = parts.to_vec();
    all.push(demand("whole", 100, false, 15));
    assert_eq!(chosen(&all), names(&["whole"]));
    // Two busy ones that hardly cost anything, or one of them with a dear one.
    let few = [
        demand("busy", 50, true, 1),
        demand("busy-too", 50, true, 1),
        demand("dear", 50, false, 900),
    ];
    assert_eq!(chosen(&few), names(&["dear", "busy"]));
}

#[test]
fn who_helps_nobody_is_not_waited_for() {
    let elsewhere = Candidate {
        gpus: vec![GpuId(1)],
        not_before: Millis(900),
        ..candidate("a", 10, false, 20)
    };
    let frees_nothing = Candidate {
        not_before: Millis(900),
        ..candidate("b", 0, false, 20)
    };
    let need = Need {
        missing: vec![(GpuId(0), Bytes(10))],
        busy_from: Millis(0),
        urgent: false,
    };
    let choice = choose(
        &lru::POLICY,
        &need,
        &[elsewhere, frees_nothing],
        Millis(100),
    );
    assert_eq!(choice, Selection::Wait(None));
}

#[test]
fn who_is_urgent_waits_neither_for_max_wait_nor_for_min_runtime() {
    let resting = Candidate {
        not_before: Millis(900),
        ..candidate("a", 10, true, 20)
    };
    let need = |urgent| Need {
        missing: vec![(GpuId(0), Bytes(10))],
        busy_from: Millis(5_000),
        urgent,
    };
    let choose = |urgent| {
        let candidates = [resting.clone()];
        choose(&lru::POLICY, &need(urgent), &candidates, Millis(100))
    };
    assert_eq!(choose(false), Selection::Wait(Some(Millis(5_000))));
    assert_eq!(choose(true), Selection::Victims(vec![ModelId("a".into())]));
}
