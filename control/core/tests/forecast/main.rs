//! How good the forecast is: misses in strict caching with equal places, against least recently used and against Belady's optimum,
//! which knows the future. One command: `cargo test -p greenthread-core --test forecast -- --nocapture` prints the tables.
//!
//! With `GREENTHREAD_TRACE=file.csv` (columns `time_s,model,…`) a real trace is measured as well, as a whole and in halves.

mod door;
mod slots;
mod trace_file;
mod traffic;

use slots::{Rule, misses};
use traffic::Traffic;

/// Numbers of places that are looked at.
const PLACES: [usize; 3] = [2, 4, 8];
/// Misses that it may cost to find out that recency foresees better.
const LESSON: f64 = 3.0;

/// Share of the gap between least recently used and the optimum that the forecast closes.
fn closed(traffic: &Traffic, places: usize) -> f64 {
    let [lru, forecast, optimum] = counted(traffic, places);
    (lru - forecast) / (lru - optimum)
}

/// Misses of least recently used, of the forecast, and of the optimum.
fn counted(traffic: &Traffic, places: usize) -> [f64; 3] {
    let counted =
        [Rule::Lru, Rule::Forecast, Rule::Optimum].map(|rule| misses(traffic, places, rule) as f64);
    let [lru, forecast, optimum] = counted;
    println!(
        "{:14} {places} places: lru {lru:5} forecast {forecast:5} optimum {optimum:5}, {:+.1} % of lru",
        traffic.name,
        (forecast / lru.max(1.0) - 1.0) * 100.0
    );
    counted
}

fn closes_a_third(traffic: &Traffic, places: &[usize]) {
    for places in places {
        let closed = closed(traffic, *places);
        assert!(
            closed >= 1.0 / 3.0,
            "{} with {places} places: closes {:.0} % of the gap",
            traffic.name,
            closed * 100.0
        );
    }
}

fn hardly_worse_than_lru(traffic: &Traffic) {
    for places in PLACES {
        let [lru, forecast, _] = counted(traffic, places);
        assert!(
            forecast <= lru * 1.02 + LESSON,
            "{} with {places} places: {forecast} misses, least recently used has {lru}",
            traffic.name
        );
    }
}

#[test]
fn popular_models_stay() {
    closes_a_third(&traffic::zipf(20_000.0), &PLACES);
}

#[test]
fn the_pace_of_traffic_makes_no_difference() {
    closes_a_third(&traffic::zipf(50.0), &PLACES);
    closes_a_third(&traffic::zipf(20_000_000.0), &PLACES);
}

#[test]
fn popularity_may_drift() {
    closes_a_third(&traffic::drifting(), &PLACES);
}

#[test]
fn popularity_may_follow_the_hours_of_the_day() {
    closes_a_third(&traffic::diurnal(), &PLACES);
}

#[test]
fn jobs_come_by_the_clock() {
    closes_a_third(&traffic::clockwork(), &PLACES);
    closes_a_third(&traffic::cycle(12), &PLACES);
}

#[test]
fn a_scan_displaces_nobody() {
    closes_a_third(&traffic::scanned(), &PLACES);
}

#[test]
fn pipelines_share_models() {
    closes_a_third(&traffic::pipelines(), &[4, 8]);
}

#[test]
fn where_phases_change_little_is_lost() {
    hardly_worse_than_lru(&traffic::phases(1_500, 8));
    hardly_worse_than_lru(&traffic::phases(60, 5));
    hardly_worse_than_lru(&traffic::phases(250, 5));
}

#[test]
fn where_nothing_can_be_known_nothing_is_lost() {
    hardly_worse_than_lru(&traffic::uniform(20));
    hardly_worse_than_lru(&traffic::uniform(200));
}

#[test]
fn where_only_recency_counts_little_is_lost() {
    hardly_worse_than_lru(&traffic::recent(1.6));
    hardly_worse_than_lru(&traffic::recent(1.3));
}

#[test]
fn sessions_and_pairs_and_cycles_lose_little() {
    hardly_worse_than_lru(&traffic::people());
    hardly_worse_than_lru(&traffic::sessions());
    hardly_worse_than_lru(&traffic::thrice());
    hardly_worse_than_lru(&traffic::pairs());
    hardly_worse_than_lru(&traffic::cycle(2));
}
