//! The report of replays for people.

use greenthread_core::ids::Bytes;

use super::Run;
use crate::simulate::table::{Table, gpus};

/// Runs for which they are shown as text.
const RUNS_IN_DETAIL: usize = 3;

/// What the columns mean.
const ABOUT: &str = "
misses: requests that had to wait; evicted: left for another model; regrets: wanted back within their own wake time
worst: of the model that is worst off; turn, drain, sleep, wake: what a wake waited for on average
estimated: wakes that took no longer than was estimated at first (9 of 10 should); held, retry: the same of what each request was told
GPU hours are by memory; idle: awake without a request; fairness: 1 when all models wait equally long on average
in order: loads when each request needs its model at its turn; idle: when, besides, who works on a request does not leave
grouped: when a request may be held for maxWait to go with others; gap: between lru, replayed, and opt idle
";

/// All runs as tables. `notes` and `answers` are sentences.
pub(super) fn text(runs: &[Run], notes: &[String], answers: &[String]) -> String {
    let mut text = String::new();
    for note in notes {
        text += &format!("{note}\n");
    }
    for sentence in runs.first().map_or(&[][..], |run| &run.details.assumptions) {
        text += &format!("assumed: {sentence}\n");
    }
    let mut tables = vec![waits_table(runs)];
    if replayed(runs).next().is_some() {
        tables.extend([reasons_table(runs), hours_table(runs)]);
    }
    text += &format!("\n{}{ABOUT}", tables.join("\n"));
    if replayed(runs).count() <= RUNS_IN_DETAIL {
        text.extend(replayed(runs).map(details));
    }
    if !answers.is_empty() {
        text += &format!("\n{}\n", answers.join("\n"));
    }
    text
}

fn waits_table(runs: &[Run]) -> String {
    let mut table = Table::new([
        "POLICY",
        "GPUS",
        "MAX WAIT",
        "REQUESTS",
        "MISSES",
        "RATIO",
        "WAKES",
        "EVICTED",
        "REGRETS",
        "MOVED",
        "MEAN",
        "P50",
        "P95",
        "P99",
        "MAX",
        "WORST MEAN",
        "WORST P99",
        "LOST",
    ]);
    for Run { row, .. } in runs {
        table.line([
            row.policy.to_owned(),
            row.gpus.to_string(),
            time(row.max_wait_s),
            row.requests.to_string(),
            row.misses.to_string(),
            format!("{:.3}", row.miss_ratio),
            row.wakes.to_string(),
            count(row.evictions),
            count(row.regrets),
            row.bytes_moved.map_or_else(absent, moved),
            time(row.wait_mean_s),
            time(row.wait_p50_s),
            time(row.wait_p95_s),
            time(row.wait_p99_s),
            time(row.wait_max_s),
            time(row.worst_mean_s),
            time(row.worst_p99_s),
            count(row.lost),
        ]);
    }
    table.text()
}

fn reasons_table(runs: &[Run]) -> String {
    let mut table = Table::new([
        "POLICY",
        "GPUS",
        "MAX WAIT",
        "TURN",
        "DRAIN",
        "SLEEP",
        "WAKE",
        "ESTIMATED",
        "OFF",
        "HELD",
        "P50 OFF",
        "P95 OFF",
        "RETRY",
        "P50 OFF",
        "P95 OFF",
    ]);
    for Run { row, .. } in replayed(runs) {
        table.line([
            row.policy.to_owned(),
            row.gpus.to_string(),
            time(row.max_wait_s),
            time(row.wait_turn_s),
            time(row.wait_drain_s),
            time(row.wait_sleep_s),
            time(row.wait_wake_s),
            share(row.estimates_kept),
            time(row.estimates_off_s),
            share(row.held_kept),
            time(row.held_off_p50_s),
            time(row.held_off_p95_s),
            share(row.retry_kept),
            time(row.retry_off_p50_s),
            time(row.retry_off_p95_s),
        ]);
    }
    table.text()
}

fn replayed(runs: &[Run]) -> impl Iterator<Item = &Run> {
    runs.iter().filter(|run| !run.row.bound)
}

fn hours_table(runs: &[Run]) -> String {
    let mut table = Table::new([
        "POLICY",
        "GPUS",
        "MAX WAIT",
        "GPU HOURS",
        "AWAKE",
        "IDLE",
        "MOVING",
        "FREE",
        "FAIRNESS",
        "LRU IN ORDER",
        "OPT IN ORDER",
        "OPT IDLE",
        "GAP CLOSED",
        "OPT GROUPED",
        "SAVED BEYOND OPT",
    ]);
    let hours = |hours: Option<f64>| hours.map_or_else(absent, |hours| format!("{hours:.1}"));
    for Run { row, .. } in replayed(runs) {
        table.line([
            row.policy.to_owned(),
            row.gpus.to_string(),
            time(row.max_wait_s),
            hours(row.gpu_hours),
            hours(row.gpu_hours_awake),
            hours(row.gpu_hours_idle),
            hours(row.gpu_hours_moving),
            hours(row.gpu_hours_free),
            row.fairness
                .map_or_else(absent, |index| format!("{index:.3}")),
            row.strict_lru.to_string(),
            row.strict_opt.to_string(),
            row.idle_opt.to_string(),
            share(row.gap_closed),
            row.grouped_opt.to_string(),
            row.saved_beyond_opt.to_string(),
        ]);
    }
    table.text()
}

fn details(run: &Run) -> String {
    let Run { row, details } = run;
    let mut text = format!("\n{} on {}", row.policy, gpus(row.gpus));
    if let Some(max_wait) = row.max_wait_s {
        text += &format!(", maxWait {}", time(Some(max_wait)));
    }
    let idle = row
        .sleeps
        .zip(row.evictions)
        .map_or(0, |(all, evicted)| all.saturating_sub(evicted));
    if idle > 0 {
        text +=
            &format!("; {idle} sleeps were not for another model: nobody had asked for so long");
    }
    if details.worst_models.is_empty() {
        return format!("{text}; no request waited.\n");
    }
    text += "; the models that wait longest:\n";
    let mut table = Table::new(["MODEL", "REQUESTS", "MISSES", "MEAN", "P95", "MAX"]);
    for worst in &details.worst_models {
        table.line([
            worst.model.clone(),
            worst.requests.to_string(),
            worst.misses.to_string(),
            time(Some(worst.wait_mean_s)),
            time(worst.wait_p95_s),
            time(worst.wait_max_s),
        ]);
    }
    text += &table.text();
    for (what, reasons) in [
        ("refused", &details.refusals_by_reason),
        ("gave up", &details.lost_by_reason),
    ] {
        if !reasons.is_empty() {
            let each = reasons
                .iter()
                .map(|(reason, count)| format!("{count} {reason}"));
            text += &format!("{what}: {}\n", each.collect::<Vec<_>>().join(", "));
        }
    }
    text
}

fn share(share: Option<f64>) -> String {
    share.map_or_else(absent, |share| format!("{:.1} %", share * 100.0))
}

fn absent() -> String {
    "-".to_owned()
}

fn count(count: Option<u64>) -> String {
    count.map_or_else(absent, |count| count.to_string())
}

fn moved(bytes: u64) -> String {
    Bytes(bytes).to_string()
}

/// Seconds for people.
pub(super) fn time(seconds: Option<f64>) -> String {
    seconds.map_or_else(absent, |seconds| {
        if seconds >= 100.0 {
            format!("{seconds:.0} s")
        } else {
            format!("{seconds:.1} s")
        }
    })
}
