//! `state/footprints.json`: what was measured of each model in earlier lives, so that it need not be measured again.

use std::{collections::BTreeMap, fs, io, path::Path};

use greenthread_core::{
    ids::{Bytes, Millis},
    model::ModelSpec,
};
use serde::{Deserialize, Serialize};

use super::registry::write_whole;

const FILE: &str = "footprints.json";

/// What was measured of one model. Bytes are per engine; absent values were not measured yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Footprint {
    /// GPU memory while awake, in bytes.
    pub(super) awake: Option<u64>,
    /// GPU memory that stays while it sleeps, in bytes.
    pub(super) asleep: Option<u64>,
    /// Last start in ms.
    pub(super) start_ms: Option<u64>,
    /// Last wake in ms.
    pub(super) wake_ms: Option<u64>,
    /// Last sleep in ms.
    pub(super) sleep_ms: Option<u64>,
    /// Who measured the bytes: the oracle's name.
    pub(super) measured: String,
    /// What was measured: a hash of the engine's settings. Figures of other settings are worth nothing.
    pub(super) settings: String,
}

impl Footprint {
    /// The spec with measured values in place of declared ones. Conditioned means: a whole cycle was measured.
    pub(super) fn apply(&self, mut spec: ModelSpec) -> ModelSpec {
        let gpus = u64::try_from(spec.gpus.len().max(1)).unwrap_or(1);
        let per_gpu = |bytes: u64| Bytes(bytes.div_ceil(gpus));
        if let Some(awake) = self.awake.filter(|awake| *awake > 0) {
            spec.awake = per_gpu(awake);
        }
        if let Some(asleep) = self.asleep {
            spec.asleep = per_gpu(asleep);
        }
        spec.guess.start = self.start_ms.map_or(spec.guess.start, Millis);
        spec.guess.wake = self.wake_ms.map_or(spec.guess.wake, Millis);
        spec.guess.sleep = self.sleep_ms.map_or(spec.guess.sleep, Millis);
        spec.conditioned |= self.wake_ms.is_some() && self.sleep_ms.is_some();
        spec
    }
}

/// The footprint of a model with these settings; empty when nothing is known of it.
pub(super) fn load(state: &Path, id: &str, settings: &str) -> Footprint {
    read(state)
        .remove(id)
        .filter(|footprint| footprint.settings == settings)
        .unwrap_or_default()
}

/// Keeps the footprint of a model; on disk when this returns.
pub(super) fn save(state: &Path, id: &str, footprint: Footprint) -> io::Result<()> {
    let mut all = read(state);
    all.insert(id.to_owned(), footprint);
    write_whole(&state.join(FILE), &serde_json::to_vec_pretty(&all)?)
}

fn read(state: &Path) -> BTreeMap<String, Footprint> {
    fs::read(state.join(FILE))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default()
}
