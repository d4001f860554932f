//! What strict caching came to: as a table, as JSON, as CSV.

use serde::Serialize;

use super::{arguments::Output, enough::Tried, policies::Policy, slots::Tally, table::Table};

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Row {
    /// Name of the policy.
    pub(super) policy: &'static str,
    /// GPUs, where their number is swept.
    pub(super) gpus: Option<usize>,
    /// Places, over all GPUs.
    pub(super) slots: usize,
    /// Requests.
    pub(super) requests: u64,
    /// Requests whose model had to be loaded.
    pub(super) misses: u64,
    /// Misses per request.
    pub(super) miss_ratio: f64,
    /// Models that had to leave.
    pub(super) evictions: u64,
    /// Share of the gap between LRU (0) and OPT (1); absent where there is no gap.
    pub(super) gap_closed: Option<f64>,
    /// It knows the future: a bound.
    pub(super) bound: bool,
    /// At most the wanted share of the requests has to load; absent where nobody asked.
    pub(super) meets_target: Option<bool>,
}

/// On what a run was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Places {
    /// GPUs, where their number is swept.
    pub(super) gpus: Option<usize>,
    /// Places over all of them.
    pub(super) slots: usize,
}

/// What the runs say about how many GPUs are enough: those of policies that need no future.
pub(super) fn tried(rows: &[Row]) -> Vec<Tried> {
    let of = |row: &Row| {
        Some(Tried {
            policy: match row.slots / row.gpus?.max(1) {
                1 => format!("{} with 1 place a GPU", row.policy),
                places => format!("{} with {places} places a GPU", row.policy),
            },
            gpus: row.gpus?,
            enough: row.meets_target?,
            result: format!(
                "{:.1} % of the requests have to load",
                row.miss_ratio * 100.0
            ),
        })
    };
    rows.iter()
        .filter(|row| !row.bound)
        .filter_map(of)
        .collect()
}

impl Row {
    /// The figures of a run. `gap`: misses of LRU and of OPT on the same places.
    pub(super) fn of(policy: Policy, places: Places, tally: &Tally, gap: (u64, u64)) -> Self {
        let (lru, opt) = gap;
        Self {
            policy: policy.name(),
            gpus: places.gpus,
            slots: places.slots,
            requests: tally.requests,
            misses: tally.misses,
            miss_ratio: ratio(tally.misses, tally.requests).unwrap_or(0.0),
            evictions: tally.evictions,
            gap_closed: ratio(lru.saturating_sub(opt), 1).and_then(|gap| {
                let closed = lru as f64 - tally.misses as f64;
                (gap > 0.0).then(|| closed / gap)
            }),
            bound: policy.of_core().is_none(),
            meets_target: None,
        }
    }
}

/// `part` of `whole`; `None` of nothing.
pub(super) fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// All rows in one form.
pub(super) fn report(rows: &[Row], answers: &[String], output: Output) -> String {
    match output {
        Output::Text => text(rows, answers),
        Output::Json => json(rows),
        Output::Csv => csv(rows),
    }
}

fn text(rows: &[Row], answers: &[String]) -> String {
    let mut table = Table::new([
        "POLICY",
        "PLACES",
        "REQUESTS",
        "MISSES",
        "RATIO",
        "EVICTIONS",
        "GAP CLOSED",
    ]);
    for row in rows {
        table.line([
            row.policy.to_owned(),
            row.slots.to_string(),
            row.requests.to_string(),
            row.misses.to_string(),
            format!("{:.3}", row.miss_ratio),
            row.evictions.to_string(),
            row.gap_closed
                .map_or("-".to_owned(), |closed| format!("{:.1} %", closed * 100.0)),
        ]);
    }
    let mut text = table.text();
    if !answers.is_empty() {
        text += &format!("\n{}\n", answers.join("\n"));
    }
    text
}

/// A list, one object a line.
pub(super) fn json<T: Serialize>(rows: &[T]) -> String {
    let line = |row: &T| serde_json::to_string(row).unwrap_or_default();
    let lines: Vec<String> = rows.iter().map(line).collect();
    format!("[\n{}\n]\n", lines.join(",\n"))
}

/// The names of the fields, then a line per row.
pub(super) fn csv<T: Serialize>(rows: &[T]) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        // Written into memory, from fields that are numbers and words.
        let _ = writer.serialize(row);
    }
    let written = writer.into_inner().unwrap_or_default();
    String::from_utf8_lossy(&written).into_owned()
}
