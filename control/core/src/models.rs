//! Every model of the fleet, and who was touched since it was last looked at: whoever changes a model cannot forget to say so.

use std::collections::{BTreeMap, BTreeSet};

use crate::{ids::ModelId, state::ModelState};

/// Where a model is kept, as long as it is: much faster than its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot(usize);

/// Models by id. Every way to a mutable model marks it as touched.
#[derive(Clone, Debug, Default)]
pub(crate) struct Models {
    by_id: BTreeMap<ModelId, Slot>,
    slots: Vec<Option<ModelState>>,
    free: Vec<Slot>,
    touched: BTreeSet<ModelId>,
}

impl Models {
    pub(crate) fn get(&self, id: &ModelId) -> Option<&ModelState> {
        self.at(*self.by_id.get(id)?)
    }

    pub(crate) fn slot(&self, id: &ModelId) -> Option<Slot> {
        self.by_id.get(id).copied()
    }

    pub(crate) fn at(&self, slot: Slot) -> Option<&ModelState> {
        self.slots.get(slot.0)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: &ModelId) -> Option<&mut ModelState> {
        let slot = *self.by_id.get(id)?;
        mark(&mut self.touched, id);
        self.slots.get_mut(slot.0)?.as_mut()
    }

    /// A model that is new, or takes the place of one with the same id.
    pub(crate) fn insert(&mut self, state: ModelState) {
        let id = state.spec.id.clone();
        mark(&mut self.touched, &id);
        let known = self.slot(&id).or_else(|| self.free.pop());
        let slot = known.unwrap_or(Slot(self.slots.len()));
        if let Some(place) = self.slots.get_mut(slot.0) {
            *place = Some(state);
        } else {
            self.slots.push(Some(state));
        }
        self.by_id.insert(id, slot);
    }

    pub(crate) fn remove(&mut self, id: &ModelId) {
        mark(&mut self.touched, id);
        let slot = self.by_id.remove(id);
        if let Some(slot) = slot
            && let Some(place) = self.slots.get_mut(slot.0)
        {
            *place = None;
            self.free.push(slot);
        }
    }

    /// Something that is not kept here but concerns the model has changed.
    pub(crate) fn touch(&mut self, id: &ModelId) {
        mark(&mut self.touched, id);
    }

    /// Something that concerns every model has changed.
    pub(crate) fn touch_all(&mut self) {
        self.touched.extend(self.by_id.keys().cloned());
    }

    /// Takes the first of those that were touched.
    pub(crate) fn take_touched(&mut self) -> Option<ModelId> {
        self.touched.pop_first()
    }

    /// Every model, by id.
    pub(crate) fn values(&self) -> impl Iterator<Item = &ModelState> {
        self.by_id.values().filter_map(|slot| self.at(*slot))
    }
}

/// Most touches are of the same model again: those cost no copy of its id.
fn mark(touched: &mut BTreeSet<ModelId>, id: &ModelId) {
    if !touched.contains(id) {
        touched.insert(id.clone());
    }
}
