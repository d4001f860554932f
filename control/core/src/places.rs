//! Sums and lists per GPU and per NUMA node, kept up to date as models change, so that no decision walks the whole fleet.
//!
//! [`Core::refresh`] is the only writer. What others can see of a model is its [`Face`]: where that changes, its GPUs get another
//! look, and nobody else does.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Core,
    ids::{Bytes, GpuId, Millis, ModelId},
    models::Slot,
    phase::{Boot, Cause, Phase},
    state::{ModelState, Resident},
};

/// One GPU.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    /// Every model that is placed on it, by id.
    pub(crate) models: BTreeMap<ModelId, Slot>,
    /// Those whose own next step depends on the others there: they drain, or wait for another's action to end.
    pub(crate) attentive: BTreeSet<ModelId>,
    /// Those that wait for room.
    pub(crate) queued: BTreeMap<ModelId, Slot>,
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
    phase: Step,
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

/// As much of a phase as concerns others: neither its attempts nor its counts.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    name: &'static str,
    moving: bool,
    waits: bool,
    observing: bool,
    attentive: bool,
    drains_for: Option<Cause>,
}

impl Step {
    fn of(phase: &Phase) -> Self {
        Self {
            name: phase.name(),
            moving: phase.in_transition(),
            waits: matches!(
                phase,
                Phase::Queued | Phase::Booting(Boot::Waiting | Boot::Slept)
            ),
            observing: matches!(phase, Phase::Booting(Boot::Observing { .. })),
            attentive: matches!(
                phase,
                Phase::Draining { .. } | Phase::Booting(Boot::Started) | Phase::Failed { .. }
            ),
            drains_for: match phase {
                Phase::Draining { cause, .. } => Some(cause.clone()),
                Phase::Booting(_)
                | Phase::Asleep
                | Phase::Queued
                | Phase::Waking { .. }
                | Phase::Serving
                | Phase::Sleeping { .. }
                | Phase::Failed { .. }
                | Phase::Removed { .. } => None,
            },
        }
    }
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
    /// … and of which others see something new.
    changed: BTreeSet<ModelId>,
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
    pub(crate) fn on(&self, gpus: &[GpuId]) -> Vec<Slot> {
        let places = gpus.iter().filter_map(|gpu| self.gpu(*gpu));
        if gpus.len() == 1 {
            return places
                .flat_map(|place| place.models.values().copied())
                .collect();
        }
        let there: BTreeMap<&ModelId, Slot> = places
            .flat_map(|place| place.models.iter().map(|(id, slot)| (id, *slot)))
            .collect();
        there.into_values().collect()
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

    pub(crate) fn take_changed(&mut self) -> BTreeSet<ModelId> {
        std::mem::take(&mut self.changed)
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

    fn put(&mut self, id: &ModelId, slot: Slot, face: &Face, host_of: &[usize]) {
        for gpu in &face.gpus {
            let Some(place) = self.gpus.get_mut(gpu.0) else {
                continue;
            };
            place.models.insert(id.clone(), slot);
            place.reserved = place.reserved + face.reserved;
            if face.waits() {
                place.queued.insert(id.clone(), slot);
            }
            if face.phase.attentive {
                place.attentive.insert(id.clone());
            }
            if face.phase.moving {
                place.moving.insert(id.clone());
            }
            let host = host_of.get(gpu.0).copied().unwrap_or(0);
            if let Some(sum) = self.hosts.get_mut(host) {
                *sum = *sum + face.host;
            }
        }
        if face.phase.drains_for.is_some() {
            self.draining.insert(id.clone());
        }
        if face.phase.observing {
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
            place.attentive.remove(id);
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
        self.phase.waits && !self.ending
    }
}

impl Core {
    /// Brings the index up to date with every model that was touched.
    pub(crate) fn refresh(&mut self) {
        while let Some(id) = self.models.take_touched() {
            let face = self.models.get(&id).map(|state| self.face(state));
            let old = self.places.faces.get(&id);
            if old != face.as_ref() {
                self.places.changed.insert(id.clone());
                let old = self.places.faces.remove(&id);
                let observing = self.places.any_observing();
                for face in [&old, &face].into_iter().flatten() {
                    face.gpus.iter().for_each(|gpu| self.places.mark(*gpu));
                }
                if let Some(old) = &old {
                    self.places.take(&id, old, &self.fleet.host_of);
                }
                if let (Some(face), Some(slot)) = (face, self.models.slot(&id)) {
                    self.places.put(&id, slot, &face, &self.fleet.host_of);
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
            phase: Step::of(&state.phase),
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
