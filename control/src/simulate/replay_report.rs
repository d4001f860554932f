//! What replays came to: tables for people, one object per run as JSON, one line per run as CSV.

mod text;

use std::collections::BTreeMap;

use greenthread_core::ids::Millis;
use serde::Serialize;

use super::{
    arguments::Output,
    bound::StrictLoads,
    enough::Tried,
    policies::LRU,
    promises::{Score, score},
    replay::Replayed,
    setting::Setting,
    slots_report::{csv, ratio},
    waits::{self, ModelWaits},
};
use text::time;

/// Models that are shown as worst off.
const WORST: usize = 5;
/// One run, as numbers. Times in seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Row {
    /// Name of the policy.
    pub(super) policy: &'static str,
    /// How the figures came about.
    computed: &'static str,
    /// It knows the future: a bound, or a heuristic on the way to one.
    bound: bool,
    /// GPUs.
    pub(super) gpus: usize,
    /// `maxWait`, where it was given for the run.
    max_wait_s: Option<f64>,
    /// Requests.
    pub(super) requests: u64,
    /// Requests that an engine got.
    served: Option<u64>,
    /// Requests that had to wait for a wake, or came at a moment without admission.
    misses: u64,
    miss_ratio: f64,
    /// Models that were brought onto their GPUs.
    wakes: u64,
    /// Models that left their GPUs, for whatever reason.
    sleeps: Option<u64>,
    /// Models that left for another one.
    evictions: Option<u64>,
    /// Evicted models that were asked for within their own wake time.
    regrets: Option<u64>,
    /// Models woken again within a minute after they left for another one.
    thrash: Option<u64>,
    /// To GPUs and from them.
    bytes_moved: Option<u64>,
    wait_mean_s: Option<f64>,
    wait_p50_s: Option<f64>,
    wait_p95_s: Option<f64>,
    /// Absent when more than a hundredth of the requests was lost.
    pub(super) wait_p99_s: Option<f64>,
    wait_max_s: Option<f64>,
    /// The longest of all models' mean waits, and of their 99 % quantiles.
    worst_mean_s: Option<f64>,
    worst_p99_s: Option<f64>,
    /// What a wake waited for, in seconds on average: others first or nobody who could go, victims' requests, their sleep, its own wake.
    wait_turn_s: Option<f64>,
    wait_drain_s: Option<f64>,
    wait_sleep_s: Option<f64>,
    wait_wake_s: Option<f64>,
    /// Share of the wakes that took no longer than was estimated when somebody began to wait, and by how much estimates were off on
    /// average, as the core counts it.
    estimates_kept: Option<f64>,
    estimates_off_s: Option<f64>,
    /// The same of each held request, by what its row said when it came.
    held_kept: Option<f64>,
    held_off_p50_s: Option<f64>,
    held_off_p95_s: Option<f64>,
    /// The same of each refused request: its Retry-After, and when it would have been held, or admitted.
    retry_kept: Option<f64>,
    retry_off_p50_s: Option<f64>,
    retry_off_p95_s: Option<f64>,
    /// Refusals, each try counted.
    refusals: Option<u64>,
    /// Requests that gave up.
    lost: Option<u64>,
    /// Requests that were truncated.
    cut: Option<u64>,
    /// Jain's index of the models' mean waits.
    fairness: Option<f64>,
    /// All GPUs, from the first request until everything had ended.
    gpu_hours: Option<f64>,
    gpu_hours_awake: Option<f64>,
    gpu_hours_idle: Option<f64>,
    gpu_hours_moving: Option<f64>,
    gpu_hours_free: Option<f64>,
    /// Loads of LRU and OPT in strict order, each request alone.
    strict_lru: u64,
    strict_opt: u64,
    /// Loads of OPT in strict order when who works on a request stays.
    idle_opt: u64,
    /// Share of the gap between LRU as replayed (0) and `idle_opt` (1); absent where LRU was not replayed or needs no more.
    gap_closed: Option<f64>,
    /// Loads of OPT when each request may be held for `maxWait` to go with others.
    grouped_opt: u64,
    /// How many loads fewer than strict OPT this took; negative: more.
    saved_beyond_opt: i64,
    /// 99 of 100 requests wait no longer than the target.
    pub(super) meets_target: Option<bool>,
}

/// What does not fit into a line.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Details {
    held_told: u64,
    retry_told: u64,
    refusals_by_reason: BTreeMap<&'static str, u64>,
    lost_by_reason: BTreeMap<&'static str, u64>,
    worst_models: Vec<Worst>,
    assumptions: Vec<String>,
}

/// A model that waits longer than others.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Worst {
    model: String,
    requests: u64,
    misses: u64,
    wait_mean_s: f64,
    wait_p95_s: Option<f64>,
    wait_max_s: Option<f64>,
}

/// A run with everything about it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Run {
    /// Numbers.
    pub(super) row: Row,
    details: Details,
}

/// What a run was of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Of<'a> {
    /// Name of the policy.
    pub(super) policy: &'static str,
    /// The world.
    pub(super) setting: &'a Setting,
    /// `maxWait`, where it was given.
    pub(super) max_wait: Option<Millis>,
    /// The strict loads of the same trace and world.
    pub(super) strict: StrictLoads,
    /// Longest wait that is good enough.
    pub(super) target: Millis,
}

fn seconds(time: Millis) -> f64 {
    time.0 as f64 / 1_000.0
}

impl Run {
    /// A replay through the core.
    pub(super) fn of_core(of: Of<'_>, replayed: &Replayed) -> Self {
        let Of {
            policy,
            setting,
            max_wait,
            strict,
            target,
        } = of;
        let meter = &replayed.meter;
        let (all, models) = waits::split(&meter.waits);
        let lost: u64 = meter.lost.values().sum();
        let requests: u64 = meter.requests_of.iter().sum();
        let misses: u64 = meter.misses_of.iter().sum();
        let quantile = |share| all.quantile(share, lost).map(seconds);
        let worst_of = |of: &dyn Fn(&ModelWaits) -> Option<f64>| {
            models.iter().filter_map(of).max_by(f64::total_cmp)
        };
        let tally = &replayed.tally;
        let scored = tally.estimates.scored;
        let per_wake = |millis: u64| ratio(millis, scored).map(|mean| mean / 1_000.0);
        let (held, retry) = (score(&meter.held), score(&meter.sent_away));
        let p99 = all.quantile(0.99, lost);
        let hours = meter.hours(setting);
        let total = setting.gpus.len() as f64 * seconds(replayed.to.since(replayed.from)) / 3_600.0;
        let row = Row {
            policy,
            computed: "replayed through the core of production",
            bound: false,
            gpus: setting.gpus.len(),
            max_wait_s: max_wait.map(seconds),
            requests,
            served: Some(all.count()),
            misses,
            miss_ratio: ratio(misses, requests).unwrap_or(0.0),
            wakes: meter.wakes,
            sleeps: Some(meter.sleeps),
            evictions: Some(replayed.tally.evictions),
            regrets: Some(replayed.tally.regrets),
            thrash: Some(replayed.tally.thrash),
            bytes_moved: Some(meter.moved.0),
            wait_mean_s: all.mean_s(),
            wait_p50_s: quantile(0.5),
            wait_p95_s: quantile(0.95),
            wait_p99_s: p99.map(seconds),
            wait_max_s: all.longest().map(seconds),
            worst_mean_s: worst_of(&|model| model.waits.mean_s()),
            worst_p99_s: worst_of(&|model| model.waits.quantile(0.99, 0).map(seconds)),
            wait_turn_s: per_wake(tally.waits.turn),
            wait_drain_s: per_wake(tally.waits.drain),
            wait_sleep_s: per_wake(tally.waits.sleep),
            wait_wake_s: per_wake(tally.waits.wake),
            estimates_kept: ratio(tally.estimates.kept, scored),
            estimates_off_s: per_wake(tally.estimates.off),
            held_kept: held.map(|held| held.kept),
            held_off_p50_s: held.map(|held| held.off_p50_s),
            held_off_p95_s: held.map(|held| held.off_p95_s),
            retry_kept: retry.map(|retry| retry.kept),
            retry_off_p50_s: retry.map(|retry| retry.off_p50_s),
            retry_off_p95_s: retry.map(|retry| retry.off_p95_s),
            refusals: Some(meter.refusals.values().sum()),
            lost: Some(lost),
            cut: Some(meter.cut),
            fairness: waits::jain(&models),
            gpu_hours: Some(total),
            gpu_hours_awake: Some(hours.awake),
            gpu_hours_idle: Some((hours.awake - hours.computing).max(0.0)),
            gpu_hours_moving: Some(hours.moving),
            gpu_hours_free: Some((total - hours.awake - hours.moving).max(0.0)),
            strict_lru: strict.lru,
            strict_opt: strict.opt,
            idle_opt: strict.idle,
            gap_closed: None,
            grouped_opt: strict.grouped,
            saved_beyond_opt: strict.opt.cast_signed() - meter.wakes.cast_signed(),
            meets_target: Some(p99.is_some_and(|wait| wait <= target)),
        };
        let told = |score: Option<Score>| score.map_or(0, |score| score.count);
        let details = Details {
            held_told: told(held),
            retry_told: told(retry),
            refusals_by_reason: meter.refusals.clone(),
            lost_by_reason: meter.lost.clone(),
            worst_models: worst(&models, replayed, setting),
            assumptions: setting.assumptions.clone(),
        };
        Self { row, details }
    }

    /// OPT: exact where places are equal, a heuristic and a bound where sizes differ; and what grouping could save.
    pub(super) fn of_future(of: Of<'_>) -> Vec<Self> {
        let StrictLoads {
            lru: _,
            opt,
            bound,
            idle,
            grouped,
            exact,
            requests: _,
        } = of.strict;
        let computed = if exact {
            "strict order, equal places: Belady, exact"
        } else {
            "strict order, sizes differ: farthest next use × bytes leaves first, a heuristic"
        };
        let mut runs = vec![Self::future(of, "opt", computed, opt)];
        if !exact {
            let area = "strict order, sizes differ: area bound, nobody needs fewer loads";
            runs.push(Self::future(of, "opt-bound", area, bound));
        }
        let stays = "as opt, but who works on a request does not leave: a heuristic";
        runs.push(Self::future(of, "opt-idle", stays, idle));
        let together =
            "as opt, but each request may be held for maxWait to go with others: a heuristic";
        runs.push(Self::future(of, "opt-grouped", together, grouped));
        runs
    }

    fn future(of: Of<'_>, policy: &'static str, computed: &'static str, loads: u64) -> Self {
        let strict = of.strict;
        let row = Row {
            policy,
            computed,
            bound: true,
            gpus: of.setting.gpus.len(),
            max_wait_s: of.max_wait.map(seconds),
            requests: strict.requests,
            misses: loads,
            miss_ratio: ratio(loads, strict.requests).unwrap_or(0.0),
            wakes: loads,
            strict_lru: strict.lru,
            strict_opt: strict.opt,
            idle_opt: strict.idle,
            grouped_opt: strict.grouped,
            saved_beyond_opt: strict.opt.cast_signed() - loads.cast_signed(),
            ..Row::default()
        };
        Self {
            row,
            details: Details::default(),
        }
    }
}

/// How much of the gap between LRU and who knows the future each of these runs in one world closes.
pub(super) fn measure_gap(runs: &mut [Run]) {
    let lru = runs.iter().find(|run| run.row.policy == LRU);
    let Some(lru) = lru.map(|run| run.row.wakes) else {
        return;
    };
    for row in runs.iter_mut().map(|run| &mut run.row) {
        let gap = lru.saturating_sub(row.idle_opt) as f64;
        let closed = lru as f64 - row.wakes as f64;
        row.gap_closed = (gap > 0.0 && !row.bound).then(|| closed / gap);
    }
}

/// The models with the longest mean waits.
fn worst(models: &[ModelWaits], replayed: &Replayed, setting: &Setting) -> Vec<Worst> {
    let mut worst: Vec<Worst> = models
        .iter()
        .map(|ModelWaits { model, waits }| Worst {
            model: setting.models[*model].name.clone(),
            requests: replayed.meter.requests_of[*model],
            misses: replayed.meter.misses_of[*model],
            wait_mean_s: waits.mean_s().unwrap_or(0.0),
            wait_p95_s: waits.quantile(0.95, 0).map(seconds),
            wait_max_s: waits.longest().map(seconds),
        })
        .filter(|worst| worst.wait_mean_s > 0.0)
        .collect();
    worst.sort_by(|a, b| {
        b.wait_mean_s
            .total_cmp(&a.wait_mean_s)
            .then_with(|| a.model.cmp(&b.model))
    });
    worst.truncate(WORST);
    worst
}

/// What the runs say about how many GPUs are enough.
pub(super) fn tried(runs: &[Run]) -> Vec<Tried> {
    let of = |row: &Row| {
        Some(Tried {
            policy: row.max_wait_s.map_or_else(
                || row.policy.to_owned(),
                |wait| format!("{} with maxWait {}", row.policy, time(Some(wait))),
            ),
            gpus: row.gpus,
            enough: row.meets_target?,
            result: match row.wait_p99_s {
                Some(wait) => format!("99 of 100 requests wait at most {}", time(Some(wait))),
                None => "more than one of 100 requests gives up".to_owned(),
            },
        })
    };
    runs.iter().filter_map(|run| of(&run.row)).collect()
}

/// All runs in one form. `notes` and `answers` are for people.
pub(super) fn report(runs: &[Run], notes: &[String], answers: &[String], output: Output) -> String {
    match output {
        Output::Text => text::text(runs, notes, answers),
        Output::Json => json(runs),
        Output::Csv => csv(&runs.iter().map(|run| &run.row).collect::<Vec<_>>()),
    }
}

fn json(runs: &[Run]) -> String {
    #[derive(Serialize)]
    struct Whole<'a> {
        #[serde(flatten)]
        row: &'a Row,
        #[serde(flatten)]
        details: &'a Details,
    }
    let whole = |run: &Run| {
        serde_json::to_string(&Whole {
            row: &run.row,
            details: &run.details,
        })
        .unwrap_or_default()
    };
    let lines: Vec<String> = runs.iter().map(whole).collect();
    format!("[\n{}\n]\n", lines.join(",\n"))
}
