//! Every model of the fleet, and who was touched since it was last looked at: whoever changes a model cannot forget to say so.

use std::collections::{BTreeMap, BTreeSet, btree_map};

use crate::{ids::ModelId, state::ModelState};

/// Models by id. Every way to a mutable model marks it as touched.
#[derive(Clone, Debug, Default)]
pub(crate) struct Models {
    all: BTreeMap<ModelId, ModelState>,
    touched: BTreeSet<ModelId>,
}

impl Models {
    pub(crate) fn get(&self, id: &ModelId) -> Option<&ModelState> {
        self.all.get(id)
    }

    pub(crate) fn get_mut(&mut self, id: &ModelId) -> Option<&mut ModelState> {
        let state = self.all.get_mut(id)?;
        mark(&mut self.touched, id);
        Some(state)
    }

    pub(crate) fn insert(&mut self, state: ModelState) {
        mark(&mut self.touched, &state.spec.id);
        self.all.insert(state.spec.id.clone(), state);
    }

    pub(crate) fn remove(&mut self, id: &ModelId) {
        self.all.remove(id);
        mark(&mut self.touched, id);
    }

    /// Something that is not kept here but concerns the model has changed.
    pub(crate) fn touch(&mut self, id: &ModelId) {
        mark(&mut self.touched, id);
    }

    /// Something that concerns every model has changed.
    pub(crate) fn touch_all(&mut self) {
        self.touched.extend(self.all.keys().cloned());
    }

    /// Takes the first of those that were touched.
    pub(crate) fn take_touched(&mut self) -> Option<ModelId> {
        self.touched.pop_first()
    }

    /// Every model, by id.
    pub(crate) fn values(&self) -> btree_map::Values<'_, ModelId, ModelState> {
        self.all.values()
    }
}

/// Most touches are of the same model again: those cost no copy of its id.
fn mark(touched: &mut BTreeSet<ModelId>, id: &ModelId) {
    if !touched.contains(id) {
        touched.insert(id.clone());
    }
}
