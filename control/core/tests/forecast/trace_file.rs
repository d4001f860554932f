//! A trace of real traffic, when there is one: the whole, each half by itself, and the second half after the first.

use std::{collections::BTreeMap, env, fs};

use crate::{
    PLACES,
    slots::{Rule, misses},
    traffic::Traffic,
};

#[test]
fn a_trace_is_measured() {
    let Some(path) = env::var_os("GREENTHREAD_TRACE") else {
        return;
    };
    let text = fs::read_to_string(path).expect("GREENTHREAD_TRACE can be read");
    let whole = read(&text);
    let (first, second) = whole.requests.split_at(whole.requests.len() / 2);
    let part = |name: &str, requests: &[(u64, usize)]| Traffic {
        name: name.to_owned(),
        requests: requests.to_vec(),
        models: whole.models,
    };
    println!(
        "miss ratios                lru   rates  forecast  optimum    rates close  forecast closes"
    );
    for traffic in [
        &whole,
        &part("first half", first),
        &part("second half", second),
    ] {
        for places in PLACES {
            let count = traffic.requests.len() as f64;
            let rules = [Rule::Lru, Rule::Rates, Rule::Forecast, Rule::Optimum];
            let ratios = rules.map(|rule| misses(traffic, places, rule) as f64 / count);
            let [lru, rates, forecast, optimum] = ratios;
            let closed = |ratio: f64| (lru - ratio) / (lru - optimum) * 100.0;
            println!(
                "{:12} {places:2} places   {lru:.4}  {rates:.4}    {forecast:.4}   {optimum:.4}         {:4.1} %           {:4.1} %",
                traffic.name,
                closed(rates),
                closed(forecast)
            );
            assert!(forecast <= lru * 1.02, "worse than least recently used");
        }
    }
}

/// `time_s,model,…`, with a header.
fn read(text: &str) -> Traffic {
    let mut models = BTreeMap::new();
    let mut requests = Vec::new();
    for line in text.lines().skip(1).filter(|line| !line.is_empty()) {
        let mut fields = line.split(',');
        let seconds = fields.next().and_then(|field| field.parse::<f64>().ok());
        let (Some(seconds), Some(model)) = (seconds, fields.next()) else {
            panic!("{line:?} is not time_s,model,…");
        };
        let count = models.len();
        let model = *models.entry(model.to_owned()).or_insert(count);
        requests.push(((seconds * 1_000.0) as u64, model));
    }
    Traffic {
        name: "whole".to_owned(),
        requests,
        models: models.len(),
    }
}
