//! The overview as Prometheus text, prefix `greenthread_`. Bytes and seconds, no other units.

mod choices;
mod memory;

use std::fmt::{Display, Write};

use greenthread_proto::WAIT_BUCKET_BOUNDS_MS;

use crate::overview::{Model, Overview};

/// The states that `greenthread_model_state` enumerates.
const STATES: [&str; 5] = ["sleeping", "pending", "waking", "serving", "deactivating"];

/// The places that `greenthread_models` enumerates.
const TIERS: [&str; 4] = ["gpu", "ram", "disk", "stopped"];

/// One page.
pub fn render(overview: &Overview) -> String {
    let mut page = Page::default();
    control(&mut page, overview);
    memory::gpus(&mut page, &overview.gpus);
    memory::hosts(&mut page, &overview.hosts);
    choices::tally(&mut page, &overview.tally);
    // A model that is being replaced has two rows; a series must not come twice.
    let current: Vec<&Model> = overview
        .models
        .iter()
        .filter(|model| model.current)
        .collect();
    models(&mut page, &current);
    tiers(&mut page, &current);
    waits(&mut page, &current);
    page.text
}

fn control(page: &mut Page, overview: &Overview) {
    page.one("term", "gauge", "Term of this control.", overview.term);
    page.one(
        "ready",
        "gauge",
        "1 when every expected gate has the table.",
        u64::from(overview.readiness.ready),
    );
    page.one(
        "gates",
        "gauge",
        "Gates that have the table.",
        overview.readiness.gates as u64,
    );
    page.one(
        "gates_expected",
        "gauge",
        "Gates that should have it.",
        overview.readiness.expected as u64,
    );
    page.one(
        "decisions_total",
        "counter",
        "Decisions recorded since the start.",
        overview.decisions,
    );
    page.one(
        "streams_overflowed_total",
        "counter",
        "Gate streams closed because the gate did not read.",
        overview.overflowed_streams,
    );
}

/// Families with one figure per model: name, kind, help, figure.
type Figure = (&'static str, &'static str, &'static str, fn(&Model) -> u64);
const FIGURES: [Figure; 9] = [
    (
        "requests_in_flight",
        "gauge",
        "Requests in flight.",
        |model| model.in_flight,
    ),
    (
        "requests_held",
        "gauge",
        "Requests held at the gates.",
        |model| model.held,
    ),
    (
        "requests_frozen",
        "gauge",
        "Requests frozen in the engine.",
        |model| model.frozen,
    ),
    (
        "model_reserved_bytes",
        "gauge",
        "GPU memory reserved for the model, on each of its GPUs.",
        |model| model.reserved_bytes,
    ),
    (
        "model_barriered",
        "gauge",
        "1 while the model drains.",
        |model| u64::from(model.barriered),
    ),
    (
        "wakes_total",
        "counter",
        "Wakes that ended well.",
        |model| model.transitions.wakes,
    ),
    (
        "wakes_failed_total",
        "counter",
        "Wakes that did not.",
        |model| model.transitions.failed_wakes,
    ),
    (
        "sleeps_total",
        "counter",
        "Sleeps that ended well.",
        |model| model.transitions.sleeps,
    ),
    (
        "sleeps_failed_total",
        "counter",
        "Sleeps that did not.",
        |model| model.transitions.failed_sleeps,
    ),
];

fn models(page: &mut Page, models: &[&Model]) {
    page.family(
        "model_state",
        "gauge",
        "1 for the state that the model is in.",
    );
    for model in models {
        for state in STATES {
            let labels = [("model", model.name.as_str()), ("state", state)];
            page.sample("model_state", &labels, u64::from(model.state == state));
        }
    }
    for (name, kind, help, figure) in FIGURES {
        page.family(name, kind, help);
        for model in models {
            page.sample(name, &[("model", &model.name)], figure(model));
        }
    }
    page.family("requests_total", "counter", "Requests by outcome.");
    for model in models {
        for (outcome, &count) in &model.outcomes {
            page.sample(
                "requests_total",
                &[("model", &model.name), ("outcome", outcome)],
                count,
            );
        }
    }
}

/// Where weights are, and how long a request would wait for them.
fn tiers(page: &mut Page, models: &[&Model]) {
    page.family(
        "models",
        "gauge",
        "Models by where their weights are, or are on their way to.",
    );
    for tier in TIERS {
        let count = models.iter().filter(|model| model.weights() == tier);
        page.sample("models", &[("tier", tier)], count.count());
    }
    page.family(
        "model_estimated_wait_seconds",
        "gauge",
        "Estimated wait of a request that arrives now; absent while the model serves.",
    );
    for model in models {
        if let Some(wait) = model.estimated_wait_ms {
            page.sample(
                "model_estimated_wait_seconds",
                &[("model", &model.name)],
                seconds(wait),
            );
        }
    }
}

/// Waits of released requests as a histogram. Gates count no sum of the waits, so there is none.
fn waits(page: &mut Page, models: &[&Model]) {
    page.family(
        "request_wait_seconds",
        "histogram",
        "Waits of requests that were held and then forwarded.",
    );
    for model in models.iter().filter(|model| !model.wait_buckets.is_empty()) {
        let mut below = 0;
        for (bound, count) in WAIT_BUCKET_BOUNDS_MS.iter().zip(&model.wait_buckets) {
            below += count;
            page.sample(
                "request_wait_seconds_bucket",
                &[("model", &model.name), ("le", &seconds(*bound).to_string())],
                below,
            );
        }
        let all: u64 = model.wait_buckets.iter().sum();
        page.sample(
            "request_wait_seconds_bucket",
            &[("model", &model.name), ("le", "+Inf")],
            all,
        );
        page.sample("request_wait_seconds_count", &[("model", &model.name)], all);
    }
}

#[derive(Debug, Default)]
struct Page {
    text: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(
            self.text,
            "# HELP greenthread_{name} {help}\n# TYPE greenthread_{name} {kind}"
        );
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(label, value)| format!("{label}=\"{}\"", escape(value)))
            .collect();
        let labels = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{}}}", labels.join(","))
        };
        let _ = writeln!(self.text, "greenthread_{name}{labels} {value}");
    }
}

/// Milliseconds as Prometheus wants them.
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

fn escape(label: &str) -> String {
    label
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::testing;

    #[test]
    fn models_are_counted_where_their_weights_are() {
        let asleep = |name, tier: &str, wait| Model {
            state: "sleeping".into(),
            on_gpu: false,
            tier: tier.into(),
            estimated_wait_ms: Some(wait),
            ..testing::model_overview(name)
        };
        let page = render(&Overview {
            models: vec![
                asleep("a", "ram", 642),
                asleep("b", "ram", 0),
                asleep("c", "disk", 2_000),
                testing::model_overview("d"),
            ],
            ..Overview::default()
        });
        for line in [
            "greenthread_models{tier=\"gpu\"} 1",
            "greenthread_models{tier=\"ram\"} 2",
            "greenthread_models{tier=\"disk\"} 1",
            "greenthread_models{tier=\"stopped\"} 0",
            "greenthread_model_estimated_wait_seconds{model=\"a\"} 0.642",
            "greenthread_model_estimated_wait_seconds{model=\"c\"} 2",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
        assert!(
            !page.contains("estimated_wait_seconds{model=\"d\"}"),
            "{page}"
        );
    }

    #[test]
    fn a_page_has_every_model_once_per_family() {
        let mut waits = vec![0; WAIT_BUCKET_BOUNDS_MS.len() + 1];
        (waits[0], waits[4]) = (2, 3);
        let model = Model {
            in_flight: 3,
            outcomes: BTreeMap::from([("a\"b".into(), 7)]),
            wait_buckets: waits,
            ..testing::model_overview("m")
        };
        let page = render(&Overview {
            term: 9,
            models: vec![
                model.clone(),
                Model {
                    current: false,
                    ..model
                },
            ],
            ..Overview::default()
        });
        for line in [
            "greenthread_term 9",
            "greenthread_model_state{model=\"m\",state=\"serving\"} 1",
            "greenthread_model_state{model=\"m\",state=\"waking\"} 0",
            "greenthread_requests_in_flight{model=\"m\"} 3",
            "greenthread_requests_total{model=\"m\",outcome=\"a\\\"b\"} 7",
            "greenthread_request_wait_seconds_bucket{model=\"m\",le=\"0.01\"} 2",
            "greenthread_request_wait_seconds_bucket{model=\"m\",le=\"0.5\"} 5",
            "greenthread_request_wait_seconds_bucket{model=\"m\",le=\"+Inf\"} 5",
            "greenthread_request_wait_seconds_count{model=\"m\"} 5",
            "greenthread_models{tier=\"gpu\"} 1",
            "greenthread_models{tier=\"disk\"} 0",
        ] {
            assert_eq!(
                page.lines().filter(|found| *found == line).count(),
                1,
                "{line}\n{page}"
            );
        }
    }
}
