//! `state/footprints.json`: what was measured of each model in earlier lives, so that it need not be measured again.

use std::{
    collections::BTreeMap,
    fs, io,
    path::Path,
    sync::{Mutex, PoisonError},
};

use greenthread_core::{
    ids::{Bytes, Millis},
    model::{ModelSpec, Size, Source},
};
use serde::{Deserialize, Serialize};

use super::registry::write_whole;

const FILE: &str = "footprints.json";

/// What was measured of one model. Bytes are over all its GPUs; absent values were not measured yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Footprint {
    /// GPU memory while awake, in bytes.
    pub(super) awake: Option<u64>,
    /// GPU memory that stays while it sleeps, in bytes.
    pub(super) asleep: Option<u64>,
    /// Most GPU memory at any moment of any start, in bytes.
    pub(super) starting: Option<u64>,
    /// Most GPU memory at any moment of any wake, in bytes.
    pub(super) waking: Option<u64>,
    /// Most GPU memory at any moment of any sleep, in bytes.
    pub(super) sleeping: Option<u64>,
    /// Host RAM of its copy while it sleeps in RAM, in bytes.
    pub(super) host: Option<u64>,
    /// Last start in ms.
    pub(super) start_ms: Option<u64>,
    /// Last wake from RAM in ms.
    pub(super) wake_ms: Option<u64>,
    /// Last wake from disk in ms.
    pub(super) reload_ms: Option<u64>,
    /// Last sleep in ms; into RAM where it ever slept there, that being the slower one.
    pub(super) sleep_ms: Option<u64>,
    /// The version of its engine that could not load its weights again.
    pub(super) no_reload: Option<String>,
    /// Who measured the bytes of GPUs: the oracle's name. Host RAM was measured by `/proc`, or told by the simulation.
    pub(super) measured: String,
    /// What was measured: a hash of the engine's settings. Figures of other settings are worth nothing.
    pub(super) settings: String,
}

impl Footprint {
    /// The spec with measured values in place of declared ones. Conditioned means: a whole cycle was measured.
    pub(super) fn apply(&self, mut spec: ModelSpec) -> ModelSpec {
        let gpus = u64::try_from(spec.gpus.len().max(1)).unwrap_or(1);
        let per_gpu = |bytes: u64| Bytes(bytes.div_ceil(gpus));
        let measured = |bytes| Size {
            bytes,
            source: Source::Measured,
        };
        if let Some(awake) = self.awake.filter(|awake| *awake > 0) {
            spec.awake = per_gpu(awake);
            spec.sizes.awake = Source::Measured;
        }
        if let Some(asleep) = self.asleep {
            spec.asleep = per_gpu(asleep);
            spec.sizes.asleep = Source::Measured;
        }
        let above = |most: u64| measured(per_gpu(most).less(spec.awake));
        spec.sizes.waking = self.waking.map_or(spec.sizes.waking, above);
        // What wakes were measured to take says nothing of starts, whose declared peak stands until one was measured.
        spec.sizes.starting = self.starting.map_or(spec.sizes.starting, above);
        spec.sizes.wakes_like_starts();
        spec.sizes.sleeping = self.sleeping.map_or(spec.sizes.sleeping, above);
        let copy = |bytes| measured(per_gpu(bytes));
        spec.sizes.host = self.host.map_or(spec.sizes.host, copy);
        spec.guess.start = self.start_ms.map_or(spec.guess.start, Millis);
        spec.guess.wake = self.wake_ms.map_or(spec.guess.wake, Millis);
        spec.guess.reload = self.reload_ms.map_or(spec.guess.reload, Millis);
        spec.guess.sleep = self.sleep_ms.map_or(spec.guess.sleep, Millis);
        let has_woken = self.wake_ms.is_some() || self.reload_ms.is_some();
        spec.conditioned |= has_woken && self.sleep_ms.is_some();
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

/// The turn to write: the file is read, changed and replaced as a whole.
static TURN: Mutex<()> = Mutex::new(());

/// Keeps the footprint of a model; on disk when this returns. Blocks.
pub(super) fn save(state: &Path, id: &str, footprint: Footprint) -> io::Result<()> {
    // A writer that panicked left the file whole.
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
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

#[cfg(test)]
mod tests {
    use greenthread_core::ids::GpuId;

    use super::*;
    use crate::testing;

    #[test]
    fn measured_figures_stand_above_declared_ones() {
        let mut declared = testing::model("a", "127.0.0.1:1").spec;
        declared.gpus = vec![GpuId(0), GpuId(1)];
        declared.conditioned = false;
        let nothing = Footprint::default().apply(declared.clone());
        assert_eq!(nothing, declared);
        let gib = |n: u64| n << 30;
        let footprint = Footprint {
            awake: Some(gib(30)),
            asleep: Some(gib(2)),
            starting: Some(gib(32)),
            waking: Some(gib(34)),
            sleeping: Some(gib(28)),
            host: Some(gib(40)),
            reload_ms: Some(9_000),
            sleep_ms: Some(80),
            ..Footprint::default()
        };
        let spec = footprint.apply(declared);
        assert_eq!((spec.awake, spec.asleep), (Bytes::gib(15), Bytes::gib(1)));
        let measured = |bytes| Size {
            bytes,
            source: Source::Measured,
        };
        assert_eq!(spec.sizes.awake, Source::Measured);
        assert_eq!(spec.sizes.asleep, Source::Measured);
        assert_eq!(spec.sizes.waking, measured(Bytes::gib(2)));
        assert_eq!(spec.sizes.sleeping, measured(Bytes(0)));
        assert_eq!(spec.sizes.host, measured(Bytes::gib(20)));
        assert_eq!(spec.guess.reload, Millis(9_000));
        assert!(spec.conditioned);
    }

    #[test]
    fn a_declared_peak_of_starts_stands_until_one_was_measured() {
        let size = |gib, source| Size {
            bytes: Bytes::gib(gib),
            source,
        };
        let declared = size(3, Source::Declared);
        let check = |starting: Option<u64>, waking: u64, expected: (Size, Size)| {
            let mut spec = testing::model("a", "127.0.0.1:1").spec;
            (spec.sizes.waking, spec.sizes.starting) = (declared, declared);
            let gib = |n: u64| n << 30;
            let footprint = Footprint {
                awake: Some(gib(20)),
                starting: starting.map(|above| gib(20 + above)),
                waking: Some(gib(20 + waking)),
                ..Footprint::default()
            };
            let sizes = footprint.apply(spec).sizes;
            assert_eq!((sizes.starting, sizes.waking), expected);
        };
        let measured = |gib| size(gib, Source::Measured);
        check(None, 1, (declared, measured(1)));
        check(Some(0), 1, (measured(0), measured(1)));
        check(Some(2), 1, (measured(2), measured(2)));
    }

    #[test]
    fn footprints_of_earlier_versions_are_read() {
        let state = super::super::test_folder("footprint");
        let old = r#"{"a.1":{"awake":5,"asleep":1,"start_ms":1,"wake_ms":2,"sleep_ms":3,"measured":"simulated","settings":"s"}}"#;
        fs::write(state.join(FILE), old).expect("write");
        let footprint = load(&state, "a.1", "s");
        assert_eq!((footprint.awake, footprint.host), (Some(5), None));
        assert_eq!(load(&state, "a.1", "other"), Footprint::default());
        fs::remove_dir_all(state).expect("clean up");
    }
}
