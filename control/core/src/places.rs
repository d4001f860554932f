//! Sums and lists per GPU and per NUMA node, kept up to date as models change, so that no decision walks the whole fleet.
//!
//! [`Core::refresh`] is the only writer. What others can see of a model is its [`Face`]: where that changes, its GPUs get another
//! look, and nobody else does.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Core,
    ids::{Bytes, GpuId, Millis, ModelId},
    phase::{Boot, Phase},
    state::{ModelState, Resident},
};

/// One GPU.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    /// Every model that is placed on it.
    pub(crate) models: BTreeSet<ModelId>,
    /// Those that wait for room.
    pub(crate) queued: BTreeSet<ModelId>,
    /// Bytes reserved on it.
    pub(crate) reserved: Bytes,
    /// Models of which an action is under way (S6: at most one, but for what was found at the start).
    pub(crate) moving: BTreeSet<ModelId>,
}

/// Everything of a model that decisions about others depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Face {
    gpus: Vec<GpuId>,
    reserved: Bytes,
    host: Bytes,
    phase: Phase,
    resident: Resident,
    wanted: bool,
    busy: bool,
    ending: bool,
    removing: bool,
    disabled: bool,
    displaced: bool,
    inside: u64,
    spare_until: Millis,
    /// Which settings: grows with every change of them.
    settings: u64,
}

/// The index over all models.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    gpus: Vec<Place>,
    hosts: Vec<Bytes>,
    faces: BTreeMap<ModelId, Face>,
    draining: BTreeSet<ModelId>,
    observing: BTreeSet<ModelId>,
    /// GPUs that want another look.
    dirty: BTreeSet<GpuId>,
    /// Models whose rows may differ from what was published.
    unpublished: BTreeSet<ModelId>,
    /// Models that were touched since this was last taken.
    refreshed: BTreeSet<ModelId>,
}

impl Places {
    pub(crate) fn new(gpus: usize, hosts: usize) -> Self {
        Self {
            gpus: (0..gpus).map(|_| Place::default()).collect(),
            hosts: vec![Bytes(0); hosts],
            ..Self::default()
        }
    }

    pub(crate) fn gpu(&self, gpu: GpuId) -> Option<&Place> {
        self.gpus.get(gpu.0)
    }

    /// Bytes of sleeping copies on a NUMA node.
    pub(crate) fn host_reserved(&self, host: usize) -> Bytes {
        self.hosts.get(host).copied().unwrap_or_default()
    }

    /// Every model on any of these GPUs, by id, each once.
    pub(crate) fn on(&self, gpus: &[GpuId]) -> BTreeSet<&ModelId> {
        let places = gpus.iter().filter_map(|gpu| self.gpu(*gpu));
        places.flat_map(|place| &place.models).collect()
    }

    pub(crate) fn draining(&self) -> &BTreeSet<ModelId> {
        &self.draining
    }

    /// Some engine was not looked at for the first time.
    pub(crate) fn any_observing(&self) -> bool {
        !self.observing.is_empty()
    }

    pub(crate) fn mark(&mut self, gpu: GpuId) {
        if gpu.0 < self.gpus.len() {
            self.dirty.insert(gpu);
        }
    }

    pub(crate) fn mark_all(&mut self) {
        self.dirty.extend((0..self.gpus.len()).map(GpuId));
    }

    pub(crate) fn dirty(&self) -> impl Iterator<Item = GpuId> {
        self.dirty.iter().copied()
    }

    pub(crate) fn take_dirty(&mut self) -> BTreeSet<GpuId> {
        std::mem::take(&mut self.dirty)
    }

    pub(crate) fn take_refreshed(&mut self) -> BTreeSet<ModelId> {
        std::mem::take(&mut self.refreshed)
    }

    pub(crate) fn take_unpublished(&mut self) -> BTreeSet<ModelId> {
        std::mem::take(&mut self.unpublished)
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.dirty.is_empty()
    }

    fn put(&mut self, id: &ModelId, face: &Face, host_of: &[usize]) {
        for gpu in &face.gpus {
            let Some(place) = self.gpus.get_mut(gpu.0) else {
                continue;
            };
            place.models.insert(id.clone());
            place.reserved = place.reserved + face.reserved;
            if face.waits() {
                place.queued.insert(id.clone());
            }
            if face.phase.in_transition() {
                place.moving.insert(id.clone());
            }
            let host = host_of.get(gpu.0).copied().unwrap_or(0);
            if let Some(sum) = self.hosts.get_mut(host) {
                *sum = *sum + face.host;
            }
        }
        if matches!(face.phase, Phase::Draining { .. }) {
            self.draining.insert(id.clone());
        }
        if matches!(face.phase, Phase::Booting(Boot::Observing { .. })) {
            self.observing.insert(id.clone());
        }
    }

    fn take(&mut self, id: &ModelId, face: &Face, host_of: &[usize]) {
        for gpu in &face.gpus {
            let Some(place) = self.gpus.get_mut(gpu.0) else {
                continue;
            };
            place.models.remove(id);
            place.queued.remove(id);
            place.moving.remove(id);
            place.reserved = place.reserved.less(face.reserved);
            let host = host_of.get(gpu.0).copied().unwrap_or(0);
            if let Some(sum) = self.hosts.get_mut(host) {
                *sum = sum.less(face.host);
            }
        }
        self.draining.remove(id);
        self.observing.remove(id);
    }
}

impl Face {
    fn waits(&self) -> bool {
        let phase = matches!(
            self.phase,
            Phase::Queued | Phase::Booting(Boot::Waiting | Boot::Slept)
        );
        phase && !self.ending
    }
}

impl Core {
    /// Brings the index up to date with every model that was touched.
    pub(crate) fn refresh(&mut self) {
        while let Some(id) = self.models.take_touched() {
            let face = self.models.get(&id).map(|state| self.face(state));
            let old = self.places.faces.get(&id);
            if old != face.as_ref() {
                let old = self.places.faces.remove(&id);
                let observing = self.places.any_observing();
                for face in [&old, &face].into_iter().flatten() {
                    face.gpus.iter().for_each(|gpu| self.places.mark(*gpu));
                }
                if let Some(old) = &old {
                    self.places.take(&id, old, &self.fleet.host_of);
                }
                if let Some(face) = face {
                    self.places.put(&id, &face, &self.fleet.host_of);
                    self.places.faces.insert(id.clone(), face);
                }
                // Nothing is scheduled before every engine was looked at: then everybody gets a turn.
                if observing && !self.places.any_observing() {
                    self.places.mark_all();
                }
            }
            self.places.unpublished.insert(id.clone());
            self.places.refreshed.insert(id);
        }
    }

    fn face(&self, state: &ModelState) -> Face {
        let id = &state.spec.id;
        Face {
            gpus: state.spec.gpus.clone(),
            reserved: state.reserved(),
            host: state.host_reserved(),
            phase: state.phase.clone(),
            resident: state.resident,
            wanted: self.wanted(self.now, state),
            busy: self.gates.in_flight(id) > 0 || self.gates.held(id) > 0,
            ending: state.ending,
            removing: state.removing,
            disabled: state.disabled,
            displaced: state.displaced,
            inside: state.inside,
            spare_until: state.spare_until,
            settings: state.settings,
        }
    }
}
