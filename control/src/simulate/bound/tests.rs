//! The figures around the fewest loads, against every possible choice on small traces.

use greenthread_core::ids::{Bytes, GpuId, Millis};

use super::*;
use crate::simulate::{arguments::Assumptions, dice::Dice, setting, trace::Request};

/// A world of one GPU with these sizes, and a trace of these models.
fn world(capacity: u64, sizes: &[u64], wanted: &[usize]) -> (Trace, Setting) {
    let trace = Trace {
        models: (0..sizes.len()).map(|model| format!("m{model}")).collect(),
        requests: wanted
            .iter()
            .zip(0..)
            .map(|(model, second)| Request {
                at: Millis::seconds(second),
                model: *model,
                service: Millis(0),
            })
            .collect(),
        ..Trace::default()
    };
    let second = std::time::Duration::from_secs(1);
    let assumptions = Assumptions {
        gpus: 1,
        places: 1,
        place_size: 1,
        wake: second,
        sleep: second,
        start: second,
    };
    let mut setting = setting::assumed(&trace, 1, &assumptions);
    setting.gpus = vec![Bytes(capacity)];
    for (actor, size) in setting.models.iter_mut().zip(sizes) {
        actor.spec.awake = Bytes(*size);
    }
    (trace, setting)
}

/// The fewest loads, by trying everything that can leave.
fn fewest(wanted: &[usize], resident: &[usize], sizes: &[u64], capacity: u64) -> u64 {
    let Some((model, rest)) = wanted.split_first() else {
        return 0;
    };
    if resident.contains(model) {
        return fewest(rest, resident, sizes, capacity);
    }
    let kept = (0..1_usize << resident.len()).filter_map(|mask| {
        let stay = resident
            .iter()
            .enumerate()
            .filter(|(at, _)| mask >> at & 1 == 1);
        let mut after: Vec<usize> = stay.map(|(_, model)| *model).collect();
        after.push(*model);
        let bytes: u64 = after.iter().map(|model| sizes[*model]).sum();
        (bytes <= capacity).then_some(after)
    });
    1 + kept
        .map(|after| fewest(rest, &after, sizes, capacity))
        .min()
        .unwrap_or(0)
}

#[test]
fn equal_sizes_are_exact() {
    for seed in 0..25 {
        let mut dice = Dice::new(seed);
        let wanted: Vec<usize> = (0..9).map(|_| dice.below(4)).collect();
        let (trace, setting) = world(2, &[1; 4], &wanted);
        let loads = strict_loads(&trace, &setting);
        assert_eq!(loads.opt, fewest(&wanted, &[], &[1; 4], 2), "seed {seed}");
        assert_eq!(
            (loads.exact, loads.bound, loads.requests),
            (true, loads.opt, 9)
        );
        assert!(
            area_bound(&trace, &Room::of(&setting), &next_uses(&trace)) <= loads.opt,
            "seed {seed}"
        );
    }
}

#[test]
fn different_sizes_lie_between_the_bound_and_the_heuristic() {
    let sizes = [1, 2, 3, 5];
    let mut tight = 0;
    for seed in 0..40 {
        let mut dice = Dice::new(seed);
        let wanted: Vec<usize> = (0..9).map(|_| dice.below(4)).collect();
        let (trace, setting) = world(6, &sizes, &wanted);
        let loads = strict_loads(&trace, &setting);
        let best = fewest(&wanted, &[], &sizes, 6);
        assert!(
            !loads.exact && loads.bound <= best && best <= loads.opt,
            "seed {seed}: {} ≤ {best} ≤ {}",
            loads.bound,
            loads.opt
        );
        tight += u32::from(loads.bound == best) + u32::from(loads.opt == best);
    }
    assert!(
        tight > 40,
        "figures that are seldom met say little: {tight} of 80"
    );
}

#[test]
fn who_never_fits_and_who_is_pinned_does_not_count() {
    let (trace, mut setting) = world(4, &[2, 2, 2, 9], &[0, 1, 2, 3, 0, 1, 2, 3]);
    setting.models[0].spec.pinned = true;
    // The pinned one keeps half of the GPU; the others take turns on the other half, the large one never fits.
    let loads = strict_loads(&trace, &setting);
    assert_eq!((loads.requests, loads.lru, loads.opt), (6, 5, 5));
}

#[test]
fn gpus_are_counted_apart_and_models_may_span_them() {
    let (trace, mut setting) = world(2, &[1; 6], &[0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]);
    setting.gpus = vec![Bytes(3), Bytes(3)];
    for (model, actor) in setting.models.iter_mut().enumerate() {
        actor.spec.gpus = vec![GpuId(model % 2)];
    }
    assert_eq!(strict_loads(&trace, &setting).opt, 6);
    setting.models[0].spec.gpus = vec![GpuId(0), GpuId(1)];
    let loads = strict_loads(&trace, &setting);
    // Four on GPU 1 now, which has three places: somebody has to leave.
    assert!(
        !loads.exact && loads.opt > 6 && loads.bound >= 6 && loads.bound <= loads.opt,
        "{loads:?}"
    );
}

#[test]
fn requests_that_may_wait_are_served_together() {
    // Two models in turn, a second apart, on one place: each request alone loads.
    let wanted: Vec<usize> = (0..12).map(|n| n % 2).collect();
    let (trace, mut setting) = world(1, &[1, 1], &wanted);
    let loads = |setting: &Setting| strict_loads(&trace, setting);
    setting
        .models
        .iter_mut()
        .for_each(|actor| actor.spec.max_wait = Millis(0));
    assert_eq!((loads(&setting).opt, loads(&setting).grouped), (12, 12));
    // Held for 5 s, three go together: at 0, 2, 4 s and at 1, 3, 5 s, and so on.
    setting
        .models
        .iter_mut()
        .for_each(|actor| actor.spec.max_wait = Millis::seconds(5));
    assert_eq!((loads(&setting).opt, loads(&setting).grouped), (12, 4));
}

#[test]
fn who_works_on_a_request_does_not_leave() {
    // On two places, 0 works for long: who knows the future would let it go for 2, and cannot.
    let (mut trace, setting) = world(2, &[1; 3], &[0, 1, 2, 1, 2, 1, 2, 0]);
    let loads = strict_loads(&trace, &setting);
    assert_eq!((loads.opt, loads.idle), (4, 4));
    trace.requests[0].service = Millis::seconds(60);
    let loads = strict_loads(&trace, &setting);
    assert_eq!((loads.opt, loads.idle), (4, 7));
}
