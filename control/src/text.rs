//! The overview as text for a terminal: a table that is read at a glance, then why things are as they are and what to do.

mod memory;

use greenthread_core::ids::Bytes;

use crate::{
    explain::{brief, length},
    journal::About,
    overview::{EstimateScore, Model, Overview, Tally},
};

pub use memory::gpu;

/// Decisions shown for one model when it was asked for by name.
const SHOWN: usize = 20;

/// Characters of a decision in the table of all models.
const GLANCE: usize = 100;

/// As much of a sentence as is read at a glance.
fn glance(words: &str) -> String {
    let words = brief(words);
    match words.char_indices().nth(GLANCE) {
        Some((end, _)) => format!("{} …", words[..end].trim_end()),
        None => words.to_owned(),
    }
}

/// Every model in one line each, memory and gates, and advice where something is not as it should be.
pub fn fleet(overview: &Overview) -> String {
    let head = [
        "MODEL",
        "STATE",
        "WEIGHTS",
        "IN FLIGHT",
        "HELD",
        "FROZEN",
        "MEMORY",
        "WAIT",
        "SINCE",
        "LAST DECISION",
    ]
    .map(str::to_owned);
    let mut lines = vec![head];
    lines.extend(overview.models.iter().map(cells));
    let mut text = table(&lines);
    text.push('\n');
    let gpus = overview.gpus.iter();
    text.extend(gpus.map(|one| gpu(one, &overview.models)));
    text.push_str(&memory::hosts(overview));
    let readiness = &overview.readiness;
    text.push_str(&format!(
        "gates: {} of {} have the table; term {}\n",
        readiness.gates, readiness.expected, overview.term
    ));
    text.push_str(&tally(&overview.tally));
    // Before that nothing is known of any.
    let known = overview.models.iter().filter(|_| readiness.open);
    for (model, advice) in known.filter_map(|model| Some((model, advice(model)?))) {
        text.push_str(&format!("\n{}: {advice}\n", model.name));
    }
    if let Some(reason) = &readiness.reason {
        text.push_str(&format!("\nnot ready: {reason}. If that lasts: is Envoy running, and does its plugin name this control's address and token?\n"));
    }
    text
}

/// One model with all figures and its latest decisions.
pub fn model(model: &Model) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| text.push_str(&format!("{name:<16}{value}\n"));
    line("model", format!("{} ({})", model.name, model.served));
    line("state", state(model));
    line("since", length(model.since_ms));
    line(
        "requests",
        format!(
            "{} in flight, {} held, {} frozen",
            model.in_flight, model.held, model.frozen
        ),
    );
    line(
        "last use",
        model
            .idle_ms
            .map_or("never".to_owned(), |idle| format!("{} ago", length(idle))),
    );
    line(
        "memory",
        format!(
            "{} reserved on GPU {}",
            Bytes(model.reserved_bytes),
            gpus(model)
        ),
    );
    line("takes", memory::sizes(&model.sizes));
    line("wakes in", memory::wakes(&model.takes));
    line("sleeps in", memory::sleeps(&model.takes));
    line(
        "paths",
        model
            .prefixes
            .iter()
            .map(|prefix| format!("/{prefix}"))
            .collect::<Vec<_>>()
            .join(", "),
    );
    line("engine", model.engine.clone());
    if model.weights() != "gpu" {
        line("weights", weights(model).to_owned());
    }
    if let Some(wait) = model.estimated_wait_ms {
        line("expected wait", length(wait));
    }
    if let Some(error) = &model.last_error {
        line("last error", error.clone());
    }
    if let Some(advice) = advice(model) {
        text.push_str(&format!("\n{advice}\n"));
    }
    if !model.decisions.is_empty() {
        text.push_str("\ndecisions (UTC):\n");
    }
    for entry in model
        .decisions
        .iter()
        .skip(model.decisions.len().saturating_sub(SHOWN))
    {
        let whose = match &entry.about {
            About::Model(_) => String::new(),
            About::Gpu(gpu) => format!("GPU {gpu}: "),
        };
        let words = entry.words();
        text.push_str(&format!("  {}  {whose}{}\n", entry.clock(), brief(&words)));
    }
    if model.decisions.iter().any(|entry| entry.choice.is_some()) {
        text.push_str(&format!(
            "\nWhat was weighed: `greenthread explain {}`, or `greenthread explain --choice <number>`.\n",
            model.name
        ));
    }
    text
}

/// What choices came to; nothing before the first.
fn tally(tally: &Tally) -> String {
    let Tally {
        choices,
        evictions,
        regrets,
        thrash,
        shadow_differs,
        shadow_saves,
        waits: _,
        estimates,
    } = *tally;
    let mut text = String::new();
    if choices > 0 {
        text.push_str(&format!(
            "choices: {choices}; put to sleep for others: {evictions}, of these wanted back too soon: {regrets}, \
             woken again within a minute: {thrash}\n"
        ));
    }
    if shadow_differs > 0 {
        text.push_str(&format!(
            "shadow policy: would have chosen others {shadow_differs} time{}, and spared {shadow_saves} of those wanted back too soon\n",
            if shadow_differs == 1 { "" } else { "s" }
        ));
    }
    let EstimateScore {
        scored,
        kept,
        off_ms,
        ..
    } = estimates;
    if let Some(off) = off_ms.checked_div(scored) {
        text.push_str(&format!(
            "estimated waits: {kept} of {scored} were kept (the aim is 90 %), off by {} on average\n",
            length(off)
        ));
    }
    text
}

/// "0" or "0, 1".
fn gpus(model: &Model) -> String {
    let numbers: Vec<String> = model.gpus.iter().map(ToString::to_string).collect();
    numbers.join(", ")
}

/// Where the weights of a model are that is not on its GPU.
fn weights(model: &Model) -> &'static str {
    match model.weights() {
        "ram" => "in host RAM",
        "disk" => "on disk, its engine reloads them",
        _ => "on disk, its engine is stopped",
    }
}

/// What an operator should know or do about a model; nothing when all is well.
pub fn advice(model: &Model) -> Option<String> {
    if !model.current {
        return None;
    }
    if model.unanswered.is_some() {
        return model.unanswered.clone();
    }
    let name = &model.name;
    let error = model
        .last_error
        .as_deref()
        .map_or("the engine said nothing", brief);
    match model.refused_because.as_deref() {
        Some("wake_failed") => Some(format!(
            "its wake failed: {error}. It is tried again by itself after a pause; the engine's output is in state/logs/{name}.log; \
             `greenthread wake {name}` tries at once."
        )),
        Some("engine_failed") => Some(format!(
            "its engine is gone: {error}. See state/logs/{name}.log, correct the engine's command or start the engine, then `greenthread wake {name}`."
        )),
        Some("never_fits") => {
            Some("it needs more memory than its GPUs have: lower the model's `memory` in the fleet file, or give it other GPUs.".to_owned())
        }
        Some("disabled") => Some(format!("an operator took it out of service: `greenthread enable {name}` puts it back.")),
        Some("booting") => Some("its first start is not over; requests get 503 until then.".to_owned()),
        Some("too_long") if !model.in_the_way.is_empty() => Some(format!(
            "no room can be made for it: {}. Requests get 503 meanwhile.",
            model.in_the_way.join("; ")
        )),
        Some("too_long") => Some("room for it cannot be made in time: the models on its GPUs are busy or pinned; requests get 503 meanwhile.".to_owned()),
        Some(_) | None => match &model.last_error {
            Some(error) => Some(format!("the last error was: {}", brief(error))),
            None if model.held > 0 && model.state == "pending" => {
                let (held, name) = (model.held, &model.name);
                let wait = if held == 1 { "request waits" } else { "requests wait" };
                Some(format!("{held} {wait} until there is room for it: `greenthread why-not {name}` says for what."))
            }
            None => None,
        },
    }
}

fn state(model: &Model) -> String {
    match (&model.refused_because, model.current) {
        (_, false) => format!("{} (leaving)", model.state),
        (Some(reason), true) => format!("{} ({reason})", model.state),
        (None, true) => model.state.clone(),
    }
}

fn cells(model: &Model) -> [String; 10] {
    let last = model.last_decision().map_or(String::new(), |entry| {
        format!("{} {}", entry.clock(), glance(&entry.words()))
    });
    let weights = match model.weights() {
        "gpu" => "GPU",
        "ram" => "RAM",
        other => other,
    };
    [
        model.name.clone(),
        state(model),
        weights.to_owned(),
        model.in_flight.to_string(),
        model.held.to_string(),
        model.frozen.to_string(),
        Bytes(model.reserved_bytes).to_string(),
        model.estimated_wait_ms.map_or("-".to_owned(), length),
        length(model.since_ms),
        last,
    ]
}

/// Columns as wide as their widest cell; the last one is as long as it is.
fn table<const N: usize>(lines: &[[String; N]]) -> String {
    let mut text = String::new();
    for line in lines {
        let mut row = String::new();
        for (column, cell) in line.iter().enumerate() {
            let width = lines
                .iter()
                .map(|line| line[column].chars().count())
                .max()
                .unwrap_or(0);
            row.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        journal::Entry,
        overview::{Gpu, Readiness},
        testing,
    };

    #[test]
    fn a_fleet_is_a_table_and_advice() {
        let decided = Entry {
            unix_seconds: 36_187,
            about: About::Model("llama-3-8b".into()),
            sentence: "woken: 1 request waits".into(),
            choice: Some(17),
        };
        let of_its_gpu = Entry {
            unix_seconds: 36_190,
            about: About::Gpu(0),
            sentence: "stands still".into(),
            choice: None,
        };
        let serving = Model {
            in_flight: 3,
            decisions: vec![decided, of_its_gpu],
            ..testing::model_overview("llama-3-8b")
        };
        let failed = Model {
            state: "sleeping".into(),
            on_gpu: false,
            refused_because: Some("wake_failed".into()),
            last_error: Some("out of memory".into()),
            reserved_bytes: 1 << 30,
            estimated_wait_ms: Some(642),
            ..testing::model_overview("qwen")
        };
        let overview = Overview {
            term: 4,
            gpus: vec![Gpu {
                reserved_bytes: 17 << 30,
                capacity_bytes: 40 << 30,
                source: "declared".into(),
                ..Gpu::default()
            }],
            tally: Tally {
                choices: 20,
                evictions: 9,
                regrets: 2,
                thrash: 1,
                shadow_differs: 4,
                shadow_saves: 1,
                estimates: EstimateScore {
                    scored: 10,
                    kept: 9,
                    off_ms: 2_500,
                    ..EstimateScore::default()
                },
                ..Tally::default()
            },
            readiness: Readiness::of(true, [1, 2, 3].into_iter(), 3),
            models: vec![serving, failed],
            ..Overview::default()
        };
        let expected = "\
MODEL       STATE                   WEIGHTS  IN FLIGHT  HELD  FROZEN  MEMORY    WAIT    SINCE   LAST DECISION
llama-3-8b  serving                 GPU      3          0     0       16.0 GiB  -       41.0 s  10:03:07 woken: 1 request waits (choice 17)
qwen        sleeping (wake_failed)  RAM      0          0     0       1.0 GiB   642 ms  41.0 s

GPU 0: 17.0 GiB of 40.0 GiB reserved, as declared: nobody measures
gates: 3 of 3 have the table; term 4
choices: 20; put to sleep for others: 9, of these wanted back too soon: 2, woken again within a minute: 1
shadow policy: would have chosen others 4 times, and spared 1 of those wanted back too soon
estimated waits: 9 of 10 were kept (the aim is 90 %), off by 250 ms on average

qwen: its wake failed: out of memory. It is tried again by itself after a pause; the engine's output is in state/logs/qwen.log; \
`greenthread wake qwen` tries at once.
";
        assert_eq!(fleet(&overview), expected);
    }

    #[test]
    fn an_engines_own_words_are_told_once() {
        let error = format!(
            "it answered 500{}m.log: long | lines",
            crate::engine::LAST_LINES
        );
        let told = Entry {
            unix_seconds: 1,
            about: About::Model("m".into()),
            sentence: format!("could not be woken: {error}"),
            choice: None,
        };
        let failed = Model {
            refused_because: Some("wake_failed".into()),
            last_error: Some(error),
            decisions: vec![told],
            ..testing::model_overview("m")
        };
        assert_eq!(model(&failed).matches("long | lines").count(), 1);
        let overview = Overview {
            models: vec![failed],
            ..Overview::default()
        };
        assert!(!fleet(&overview).contains("long | lines"));
    }

    #[test]
    fn the_table_has_the_beginning_of_a_long_sentence() {
        let long = "ä".repeat(GLANCE + 1);
        assert_eq!(glance(&long), format!("{} …", "ä".repeat(GLANCE)));
        assert_eq!(glance("short"), "short");
    }

    #[test]
    fn who_waits_for_room_is_pointed_to_the_reason() {
        let queued = |held| Model {
            state: "pending".into(),
            held,
            ..testing::model_overview("qwen")
        };
        let expected =
            "1 request waits until there is room for it: `greenthread why-not qwen` says for what.";
        assert_eq!(advice(&queued(1)).as_deref(), Some(expected));
        assert_eq!(advice(&queued(0)), None);
    }

    #[test]
    fn who_gets_no_room_is_told_who_keeps_it() {
        let stuck = |in_the_way: &[&str]| {
            let words = in_the_way.iter().map(|word| (*word).to_owned());
            let model = Model {
                refused_because: Some("too_long".into()),
                in_the_way: words.collect(),
                ..testing::model_overview("qwen")
            };
            advice(&model).unwrap_or_default()
        };
        assert_eq!(
            stuck(&["a keeps 5 GiB", "b may hold 9 GiB"]),
            "no room can be made for it: a keeps 5 GiB; b may hold 9 GiB. Requests get 503 meanwhile."
        );
        assert!(stuck(&[]).contains("busy or pinned"));
    }

    #[test]
    fn a_model_alone_shows_its_decisions_and_those_of_its_gpus() {
        let decided = |n| Entry {
            unix_seconds: n,
            about: match n {
                29 => About::Gpu(1),
                _ => About::Model("m".into()),
            },
            sentence: format!("decision {n}"),
            choice: None,
        };
        let decisions = (0..30).map(decided).collect();
        let text = model(&Model {
            decisions,
            ..testing::model_overview("m")
        });
        assert!(
            !text.contains("decision 9\n")
                && text.contains("decision 10\n")
                && text.contains("GPU 1: decision 29\n"),
            "{text}"
        );
    }
}
