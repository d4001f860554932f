//! Sums and lists per GPU and per NUMA node, kept up to date as models change, so that no decision walks the whole fleet.
//!
//! [`Core::refresh`] is the only writer. What others can see of a model is its [`Face`]: where that changes, its GPUs get another
//! look, and nobody else does.

use std::collections::BTreeSet;

use crate::{
    Core,
    ids::{Bytes, GpuId, Millis},
    models::Slot,
    phase::{Boot, Cause, Phase},
    state::{ModelState, Resident},
};

/// One GPU.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    /// Every model that is placed on it.
    pub(crate) models: BTreeSet<Slot>,
    /// Those whose own next step depends on the others there: they drain, or wait for another's action to end.
    pub(crate) attentive: BTreeSet<Slot>,
    /// Those that wait for room.
    pub(crate) queued: BTreeSet<Slot>,
    /// Bytes reserved on it.
    pub(crate) reserved: Bytes,
    /// Models of which an action is under way (S6: at most one, but for what was found at the start).
    pub(crate) moving: BTreeSet<Slot>,
}

/// One NUMA node.
#[derive(Clone, Debug, Default)]
struct Host {
    /// Models that take host RAM there.
    holders: BTreeSet<Slot>,
    /// Bytes that they take.
    reserved: Bytes,
}

/// Everything of a model that decisions about others depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Face {
    reserved: Bytes,
    host: Bytes,
    phase: Stage,
    resident: Resident,
    wanted: bool,
    busy: bool,
    ending: bool,
    removing: bool,
    disabled: bool,
    displaced: bool,
    inside: u64,
    spare_until: Millis,
    /// Which settings, its GPUs among them: grows with every change of them.
    settings: u64,
}

/// As much of a phase as concerns others: neither its attempts nor its counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stage {
    name: &'static str,
    moving: bool,
    waits: bool,
    observing: bool,
    attentive: bool,
    draining: bool,
    /// It goes for good.
    leaving: bool,
}

/// A model in the index.
#[derive(Clone, Debug)]
struct Entry {
    gpus: Vec<GpuId>,
    face: Face,
}

impl Stage {
    fn of(phase: &Phase) -> Self {
        Self {
            name: phase.name(),
            moving: phase.in_transition(),
            waits: phase.waits_for_room(),
            observing: matches!(phase, Phase::Booting(Boot::Observing { .. })),
            attentive: matches!(
                phase,
                Phase::Draining { .. } | Phase::Booting(Boot::Started) | Phase::Failed { .. }
            ),
            draining: matches!(phase, Phase::Draining { .. }),
            leaving: matches!(
                phase,
                Phase::Draining {
                    cause: Cause::Remove,
                    ..
                }
            ),
        }
    }
}

/// The index over all models.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    gpus: Vec<Place>,
    hosts: Vec<Host>,
    /// By slot.
    entries: Vec<Option<Entry>>,
    draining: BTreeSet<Slot>,
    observing: BTreeSet<Slot>,
    /// GPUs that want another look.
    dirty: BTreeSet<GpuId>,
    /// Models whose rows may differ from what was published.
    unpublished: BTreeSet<Slot>,
    /// Models that were touched since this was last taken.
    refreshed: BTreeSet<Slot>,
    /// … and of which others see something new.
    changed: BTreeSet<Slot>,
}

impl Places {
    /// Nothing is anywhere.
    pub(crate) fn new(gpus: usize, hosts: usize) -> Self {
        Self {
            gpus: (0..gpus).map(|_| Place::default()).collect(),
            hosts: vec![Host::default(); hosts],
            ..Self::default()
        }
    }

    /// One GPU; `None` where the fleet has no such GPU.
    pub(crate) fn gpu(&self, gpu: GpuId) -> Option<&Place> {
        self.gpus.get(gpu.0)
    }

    /// Bytes of sleeping copies on a NUMA node.
    pub(crate) fn host_reserved(&self, host: usize) -> Bytes {
        self.hosts.get(host).map_or(Bytes(0), |host| host.reserved)
    }

    /// Every model that takes host RAM of a NUMA node.
    pub(crate) fn in_host(&self, host: usize) -> impl Iterator<Item = Slot> {
        let holders = self.hosts.get(host).map(|host| &host.holders);
        holders.into_iter().flatten().copied()
    }

    /// Every model on any of these GPUs, each once.
    pub(crate) fn on(&self, gpus: &[GpuId]) -> Vec<Slot> {
        let places = gpus.iter().filter_map(|gpu| self.gpu(*gpu));
        let mut there: Vec<Slot> = places
            .flat_map(|place| place.models.iter().copied())
            .collect();
        if gpus.len() > 1 {
            there.sort_unstable();
            there.dedup();
        }
        there
    }

    /// Every model that drains.
    pub(crate) fn draining(&self) -> &BTreeSet<Slot> {
        &self.draining
    }

    /// Some engine was not looked at for the first time.
    pub(crate) fn any_observing(&self) -> bool {
        !self.observing.is_empty()
    }

    /// A GPU wants another look: its queue is served, and who is attentive there has a turn.
    pub(crate) fn mark(&mut self, gpu: GpuId) {
        if gpu.0 < self.gpus.len() {
            self.dirty.insert(gpu);
        }
    }

    /// All GPUs do.
    pub(crate) fn mark_all(&mut self) {
        self.dirty.extend((0..self.gpus.len()).map(GpuId));
    }

    /// GPUs that want another look.
    pub(crate) fn dirty(&self) -> impl Iterator<Item = GpuId> {
        self.dirty.iter().copied()
    }

    /// … which they have from here on.
    pub(crate) fn take_dirty(&mut self) -> BTreeSet<GpuId> {
        std::mem::take(&mut self.dirty)
    }

    /// Models of which others see something new since this was last taken.
    pub(crate) fn take_changed(&mut self) -> BTreeSet<Slot> {
        std::mem::take(&mut self.changed)
    }

    /// Models that were touched since this was last taken.
    pub(crate) fn take_refreshed(&mut self) -> BTreeSet<Slot> {
        std::mem::take(&mut self.refreshed)
    }

    /// Models whose rows may differ from what gates were told when this was last taken.
    pub(crate) fn take_unpublished(&mut self) -> BTreeSet<Slot> {
        std::mem::take(&mut self.unpublished)
    }

    /// No GPU wants another look.
    pub(crate) fn is_settled(&self) -> bool {
        self.dirty.is_empty()
    }

    fn put(&mut self, slot: Slot, entry: Entry, host_of: &[usize]) {
        let face = &entry.face;
        for gpu in &entry.gpus {
            let Some(place) = self.gpus.get_mut(gpu.0) else {
                continue;
            };
            place.models.insert(slot);
            place.reserved = place.reserved + face.reserved;
            if face.waits() {
                place.queued.insert(slot);
            }
            if face.phase.attentive {
                place.attentive.insert(slot);
            }
            if face.phase.moving {
                place.moving.insert(slot);
            }
            let host = host_of.get(gpu.0).copied().unwrap_or(0);
            if let Some(host) = self.hosts.get_mut(host)
                && face.host > Bytes(0)
            {
                host.holders.insert(slot);
                host.reserved = host.reserved + face.host;
            }
            self.dirty.insert(*gpu);
        }
        if face.phase.draining {
            self.draining.insert(slot);
        }
        if face.phase.observing {
            self.observing.insert(slot);
        }
        if self.entries.len() <= slot.index() {
            self.entries.resize(slot.index() + 1, None);
        }
        if let Some(place) = self.entries.get_mut(slot.index()) {
            *place = Some(entry);
        }
    }

    /// Returns the GPUs on which it was.
    fn take(&mut self, slot: Slot, host_of: &[usize]) -> Option<Vec<GpuId>> {
        let Entry { gpus, face } = self.entries.get_mut(slot.index())?.take()?;
        for gpu in &gpus {
            let Some(place) = self.gpus.get_mut(gpu.0) else {
                continue;
            };
            place.models.remove(&slot);
            place.queued.remove(&slot);
            place.attentive.remove(&slot);
            place.moving.remove(&slot);
            place.reserved = place.reserved.less(face.reserved);
            let host = host_of.get(gpu.0).copied().unwrap_or(0);
            if let Some(host) = self.hosts.get_mut(host) {
                host.holders.remove(&slot);
                host.reserved = host.reserved.less(face.host);
            }
            self.dirty.insert(*gpu);
        }
        self.draining.remove(&slot);
        self.observing.remove(&slot);
        Some(gpus)
    }

    fn entry(&self, slot: Slot) -> Option<&Entry> {
        self.entries.get(slot.index())?.as_ref()
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
        while let Some(slot) = self.models.take_touched() {
            let face = self.models.at(slot).map(|state| self.face(slot, state));
            let old = self.places.entry(slot).map(|entry| entry.face);
            if old != face {
                self.places.changed.insert(slot);
                let observing = self.places.any_observing();
                let before = self.places.take(slot, &self.fleet.host_of);
                if let (Some(face), Some(state)) = (face, self.models.at(slot)) {
                    let same = old.is_some_and(|old| old.settings == face.settings);
                    let gpus = before.filter(|_| same);
                    let gpus = gpus.unwrap_or_else(|| state.spec.gpus.clone());
                    self.places
                        .put(slot, Entry { gpus, face }, &self.fleet.host_of);
                }
                // Nothing is scheduled before every engine was looked at: then everybody gets a turn.
                if observing && !self.places.any_observing() {
                    self.places.mark_all();
                }
            }
            self.places.unpublished.insert(slot);
            self.places.refreshed.insert(slot);
        }
    }

    fn face(&self, slot: Slot, state: &ModelState) -> Face {
        Face {
            reserved: state.reserved(),
            host: state.host_reserved(),
            phase: Stage::of(&state.phase),
            resident: state.engine.resident,
            wanted: self.wanted(self.now, state),
            busy: self.gates.in_flight(slot) > 0 || self.gates.held(slot) > 0,
            ending: state.engine.ending.is_some(),
            removing: state.operator.removing,
            disabled: state.operator.disabled,
            displaced: state.room.displaced,
            inside: state.engine.inside,
            spare_until: state.room.spare_until,
            settings: state.settings,
        }
    }
}
