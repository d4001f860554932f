//! Strict caching: equal places, every request at once and in order, a miss must load. Rules differ in who makes room.

use greenthread_core::{
    forecast::Forecast,
    ids::{Millis, ModelId},
};

use crate::traffic::Traffic;

/// Who makes room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Least recently used.
    Lru,
    /// Whoever the forecast says is used last.
    Forecast,
    /// Whoever is asked for least, by rates over a minute, ten minutes, an hour and a day, each by its inverse: what the forecast has to beat.
    Rates,
    /// Whoever is used last: Belady's optimum, which knows.
    Optimum,
}

/// Misses of a rule.
pub(crate) fn misses(traffic: &Traffic, places: usize, rule: Rule) -> usize {
    let ids: Vec<ModelId> = (0..traffic.models)
        .map(|model| ModelId(format!("model-{model:05}.0")))
        .collect();
    let mut forecast = Forecast::default();
    let mut rates = vec![Rates::default(); traffic.models];
    let mut last = vec![0_usize; traffic.models];
    let mut next = vec![usize::MAX; traffic.models];
    let nexts = nexts(traffic);
    let (mut resident, mut misses): (Vec<usize>, usize) = (Vec::new(), 0);
    for (at, (now, model)) in traffic.requests.iter().enumerate() {
        last[*model] = at;
        next[*model] = nexts[at];
        rates[*model].arrived(*now);
        if rule == Rule::Forecast {
            forecast.arrived(&ids[*model], Millis(*now), 1);
        }
        if resident.contains(model) {
            continue;
        }
        misses += 1;
        if resident.len() == places {
            let victim = match rule {
                Rule::Lru => pick(&resident, |model| -(last[model] as f64)),
                Rule::Optimum => pick(&resident, |model| next[model] as f64),
                Rule::Rates => pick(&resident, |model| -rates[model].at(*now)),
                Rule::Forecast => {
                    forecast.chosen_among(resident.iter().map(|model| &ids[*model]));
                    pick(&resident, |model| forecast.next_use(&ids[model]))
                }
            };
            resident.retain(|model| *model != victim);
        }
        resident.push(*model);
    }
    misses
}

/// The one with the largest value.
fn pick(resident: &[usize], value: impl Fn(usize) -> f64) -> usize {
    let largest = resident
        .iter()
        .max_by(|a, b| value(**a).total_cmp(&value(**b)));
    *largest.expect("somebody is resident")
}

/// For each request, the next one for the same model.
fn nexts(traffic: &Traffic) -> Vec<usize> {
    let mut next = vec![usize::MAX; traffic.models];
    let mut nexts = vec![usize::MAX; traffic.requests.len()];
    for (at, (_, model)) in traffic.requests.iter().enumerate().rev() {
        nexts[at] = next[*model];
        next[*model] = at;
    }
    nexts
}

#[derive(Clone, Debug, Default)]
struct Rates {
    counts: [f64; 4],
    last: u64,
}

impl Rates {
    const HORIZONS: [f64; 4] = [60_000.0, 600_000.0, 3_600_000.0, 86_400_000.0];

    fn arrived(&mut self, now: u64) {
        for (count, horizon) in self.counts.iter_mut().zip(Self::HORIZONS) {
            *count = *count * (-((now - self.last) as f64) / horizon).exp() + 1.0;
        }
        self.last = now;
    }

    fn at(&self, now: u64) -> f64 {
        let parts = self.counts.iter().zip(Self::HORIZONS);
        parts
            .map(|(count, horizon)| count * (-((now - self.last) as f64) / horizon).exp() / horizon)
            .sum()
    }
}
