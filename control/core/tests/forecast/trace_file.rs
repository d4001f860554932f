//! A trace of real traffic, when there is one: as it is, in halves and quarters, backwards, and of some of its models only.

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
    println!(
        "miss ratios                lru   rates  forecast  optimum    rates close  forecast closes"
    );
    for traffic in &parts(whole) {
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

/// The trace, and what can be made of it that has its character and other requests.
fn parts(whole: Traffic) -> Vec<Traffic> {
    let part = |name: String, requests: Vec<(u64, usize)>| Traffic {
        name,
        requests,
        models: whole.models,
    };
    let mut parts = Vec::new();
    for pieces in [2, 4] {
        let length = whole.requests.len().div_ceil(pieces);
        for (requests, number) in whole.requests.chunks(length).zip(1..) {
            parts.push(part(format!("{number} of {pieces}"), requests.to_vec()));
        }
    }
    let end = whole.requests.last().map_or(0, |(at, _)| *at);
    let backwards = whole.requests.iter().rev();
    let backwards = backwards.map(|(at, model)| (end - at, *model)).collect();
    parts.push(part("backwards".to_owned(), backwards));
    for left_out in 0..3 {
        let stays = |(_, model): &&(u64, usize)| model % 3 != left_out;
        let requests = whole.requests.iter().filter(stays).copied().collect();
        parts.push(part(format!("no {left_out} mod 3"), requests));
    }
    parts.insert(0, whole);
    parts
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
