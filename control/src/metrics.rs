//! The overview as Prometheus text, prefix `greenthread_`.

use std::fmt::Write;

use greenthread_proto::WAIT_BUCKET_BOUNDS_MS;

use crate::overview::{Model, Overview};

/// The states that `greenthread_model_state` enumerates.
const STATES: [&str; 5] = ["sleeping", "pending", "waking", "serving", "deactivating"];

/// One page.
pub fn render(overview: &Overview) -> String {
    let mut page = Page::default();
    control(&mut page, overview);
    // A model that is being replaced has two rows; a series must not come twice.
    let current: Vec<&Model> = overview
        .models
        .iter()
        .filter(|model| model.current)
        .collect();
    models(&mut page, &current);
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
    page.family(
        "gpu_info",
        "gauge",
        "Where figures of memory come from: simulated, or declared when nobody measures.",
    );
    for (gpu, memory) in overview.gpus.iter().enumerate() {
        page.sample(
            "gpu_info",
            &[("gpu", &gpu.to_string()), ("source", &memory.source)],
            1,
        );
    }
    page.family(
        "gpu_reserved_bytes",
        "gauge",
        "GPU memory reserved by models.",
    );
    for (gpu, memory) in overview.gpus.iter().enumerate() {
        page.sample(
            "gpu_reserved_bytes",
            &[("gpu", &gpu.to_string())],
            memory.reserved_bytes,
        );
    }
    page.family(
        "gpu_capacity_bytes",
        "gauge",
        "GPU memory that models may use.",
    );
    for (gpu, memory) in overview.gpus.iter().enumerate() {
        page.sample(
            "gpu_capacity_bytes",
            &[("gpu", &gpu.to_string())],
            memory.capacity_bytes,
        );
    }
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
            #[allow(clippy::cast_precision_loss)]
            let seconds = (*bound as f64 / 1_000.0).to_string();
            page.sample(
                "request_wait_seconds_bucket",
                &[("model", &model.name), ("le", &seconds)],
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

    fn one(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
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
        ] {
            assert_eq!(
                page.lines().filter(|found| *found == line).count(),
                1,
                "{line}\n{page}"
            );
        }
    }
}
