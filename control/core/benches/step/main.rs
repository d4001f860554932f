//! How long a step of the core takes in a large fleet, and whether its memory grows over a simulated month. `make bench`.
//!
//! Engines and gates answer in virtual time as real ones do: looks every second, reports at every change, drains that are acknowledged
//! and counted. Only the time inside [`Core::step`] is measured.
//!
//! The same history runs several times, and of each step the shortest time counts: what other processes take away meanwhile is not the
//! core's. The times of a single run are printed beside it.

#![allow(
    clippy::disallowed_methods,
    reason = "a bench reads the clock; the core does not"
)]

mod world;

use std::{collections::BTreeMap, time::Duration};

use world::{Size, World};

/// What a step may take at the 99th percentile, with 10,000 models on 1,000 GPUs.
const STEP_P99: Duration = Duration::from_micros(50);
/// How often the history runs.
const RUNS: usize = 4;

fn main() {
    let size = Size {
        models: 10_000,
        gpus: 1_000,
        gates: 32,
        observe_ms: 1_000,
        requests_per_second: 400,
    };
    let single = history(size);
    let mut shortest = single.times.clone();
    for _ in 1..RUNS {
        for (best, (_, time)) in shortest.iter_mut().zip(history(size).times) {
            best.1 = best.1.min(time);
        }
    }
    println!(
        "{} models, {} GPUs, {} gates, {} requests/s: {} steps in 30 s of virtual time",
        size.models,
        size.gpus,
        size.gates,
        size.requests_per_second,
        shortest.len()
    );
    println!("{} wakes, {} sleeps", single.wakes, single.sleeps);
    let mut kinds: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    for (kind, time) in &shortest {
        kinds.entry(kind).or_default().push(*time);
    }
    for (kind, times) in &mut kinds {
        line(kind, times);
    }
    let all = |times: &[(&str, Duration)]| times.iter().map(|(_, time)| *time).collect::<Vec<_>>();
    line("single run", &mut all(&single.times));
    let p99 = line("all", &mut all(&shortest));
    drop(single);
    month();
    if p99 > STEP_P99 {
        println!("the 99th percentile is above {STEP_P99:?}");
        std::process::exit(1);
    }
}

/// A fleet that has found its rhythm, for 30 s.
fn history(size: Size) -> World {
    let mut world = World::new(size);
    world.run(20_000);
    world.times.clear();
    (world.wakes, world.sleeps) = (0, 0);
    world.run(30_000);
    world
}

/// Prints the distribution of one kind of step; returns its 99th percentile.
fn line(kind: &str, times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    let at = |per_mille: usize| {
        let rank = (times.len() * per_mille).div_ceil(1_000).max(1) - 1;
        times.get(rank).copied().unwrap_or_default()
    };
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    println!(
        "{kind:>10} {:>9} steps  p50 {:>8.1} µs  p99 {:>8.1} µs  p99.9 {:>8.1} µs  max {:>9.1} µs",
        times.len(),
        micros(at(500)),
        micros(at(990)),
        micros(at(999)),
        micros(at(1_000))
    );
    at(990)
}

/// Thirty days of traffic on a small fleet: what the process holds after the second day it must not outgrow.
fn month() {
    let mut world = World::new(Size {
        models: 40,
        gpus: 4,
        gates: 3,
        observe_ms: 60_000,
        requests_per_second: 0,
    });
    const DAY: u64 = 86_400_000;
    let mut held = Vec::new();
    for day in 1..=30 {
        world.requests_per_hour(200);
        world.run(DAY);
        world.times.clear();
        held.push(resident_kib());
        if day % 10 == 0 {
            println!(
                "day {day:>2}: {} KiB resident, {} wakes",
                held[day - 1],
                world.wakes
            );
        }
    }
    let (early, late) = (held[1], held[29]);
    println!("memory after 2 days {early} KiB, after 30 days {late} KiB");
    if late > early + early / 20 + 512 {
        println!("it grows");
        std::process::exit(1);
    }
}

/// Resident memory of this process, from `/proc/self/statm` (pages of 4 KiB).
fn resident_kib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4
}
