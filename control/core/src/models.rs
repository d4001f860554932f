//! Every model of the fleet, and who was touched since it was last looked at: whoever changes a model cannot forget to say so.
//!
//! Ids are long; what is looked up often goes by [`Slot`], a small number that stands for an id as long as anything is known of it.
//! Gates may name rows that are in no fleet, of a fleet before or after: those have a slot without a model, a bounded number of them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
};

use crate::{ids::ModelId, state::ModelState};

/// Rows of no fleet that are remembered; for more of them the oldest are forgotten.
const STRANGERS_MOST: usize = 1_024;

/// Where a model is kept, as long as it is: much faster than its id.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot(usize);

impl Slot {
    /// Its place in a vector with one element for each slot.
    pub(crate) const fn index(self) -> usize {
        self.0
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// What is known under one slot.
#[derive(Clone, Debug)]
struct Kept {
    id: ModelId,
    /// `None`: a row that only gates know.
    state: Option<ModelState>,
}

/// Models by id. Every way to a mutable model marks it as touched.
#[derive(Clone, Debug, Default)]
pub(crate) struct Models {
    /// Slots by the digests of their ids: numbers are compared much faster than texts.
    by_digest: BTreeMap<u64, Vec<Slot>>,
    /// Models, not strangers, in the order of their ids.
    by_id: BTreeMap<ModelId, Slot>,
    slots: Vec<Option<Kept>>,
    free: Vec<Slot>,
    /// Oldest first.
    strangers: VecDeque<Slot>,
    touched: BTreeSet<Slot>,
}

impl Models {
    /// A model by its id.
    pub(crate) fn get(&self, id: &ModelId) -> Option<&ModelState> {
        self.at(self.slot(id)?)
    }

    /// The slot of an id, be it of a model or of a stranger.
    pub(crate) fn slot(&self, id: &ModelId) -> Option<Slot> {
        let mut slots = self.by_digest.get(&digest(id))?.iter();
        slots.find(|slot| self.id(**slot) == Some(id)).copied()
    }

    /// The id that a slot stands for.
    pub(crate) fn id(&self, slot: Slot) -> Option<&ModelId> {
        Some(&self.slots.get(slot.0)?.as_ref()?.id)
    }

    /// A model by its slot; `None` for a stranger.
    pub(crate) fn at(&self, slot: Slot) -> Option<&ModelState> {
        self.slots.get(slot.0)?.as_ref()?.state.as_ref()
    }

    /// A model by its id, to be changed: it counts as touched.
    pub(crate) fn get_mut(&mut self, id: &ModelId) -> Option<&mut ModelState> {
        self.at_mut(self.slot(id)?)
    }

    /// A model by its slot, likewise.
    pub(crate) fn at_mut(&mut self, slot: Slot) -> Option<&mut ModelState> {
        let state = self.slots.get_mut(slot.0)?.as_mut()?.state.as_mut()?;
        self.touched.insert(slot);
        Some(state)
    }

    /// A model that is new, or takes the place of one with the same id.
    pub(crate) fn insert(&mut self, mut state: ModelState) {
        let id = state.spec.id.clone();
        let slot = self.slot(&id).unwrap_or_else(|| self.take_slot(&id));
        self.strangers.retain(|stranger| *stranger != slot);
        self.touched.insert(slot);
        state.slot = slot;
        if let Some(Some(kept)) = self.slots.get_mut(slot.0) {
            kept.state = Some(state);
        }
        self.by_id.insert(id, slot);
    }

    /// Nothing is known of the model any more. Returns the slot that it had.
    pub(crate) fn remove(&mut self, id: &ModelId) -> Option<Slot> {
        let slot = self.slot(id)?;
        self.touched.insert(slot);
        self.by_id.remove(id);
        self.free_slot(slot);
        Some(slot)
    }

    /// The slot of a row that gates name, whether it is a model or not; and another that is free from now on, if one had to be.
    pub(crate) fn slot_for(&mut self, id: &ModelId) -> (Slot, Option<Slot>) {
        if let Some(slot) = self.slot(id) {
            return (slot, None);
        }
        let full = self.strangers.len() >= STRANGERS_MOST;
        let forgotten = full.then(|| self.strangers.pop_front()).flatten();
        if let Some(slot) = forgotten {
            self.free_slot(slot);
        }
        let slot = self.take_slot(id);
        self.strangers.push_back(slot);
        (slot, forgotten)
    }

    fn take_slot(&mut self, id: &ModelId) -> Slot {
        let kept = Some(Kept {
            id: id.clone(),
            state: None,
        });
        let slot = self.free.pop().unwrap_or(Slot(self.slots.len()));
        if let Some(place) = self.slots.get_mut(slot.0) {
            *place = kept;
        } else {
            self.slots.push(kept);
        }
        self.by_digest.entry(digest(id)).or_default().push(slot);
        slot
    }

    fn free_slot(&mut self, slot: Slot) {
        let Some(kept) = self.slots.get_mut(slot.0).and_then(Option::take) else {
            return;
        };
        self.free.push(slot);
        let digest = digest(&kept.id);
        if let Some(slots) = self.by_digest.get_mut(&digest) {
            slots.retain(|other| *other != slot);
            if slots.is_empty() {
                self.by_digest.remove(&digest);
            }
        }
    }

    /// Something that is not kept here but concerns the model has changed.
    pub(crate) fn touch(&mut self, slot: Slot) {
        self.touched.insert(slot);
    }

    /// Something that concerns every model has changed.
    pub(crate) fn touch_all(&mut self) {
        self.touched.extend(self.by_id.values());
    }

    /// Takes the first of those that were touched.
    pub(crate) fn take_touched(&mut self) -> Option<Slot> {
        self.touched.pop_first()
    }

    /// Every model, by id.
    pub(crate) fn values(&self) -> impl Iterator<Item = &ModelState> {
        self.by_id.values().filter_map(|slot| self.at(*slot))
    }
}

/// FNV-1a, of eight bytes at a time: the same on every machine.
fn digest(id: &ModelId) -> u64 {
    let mut digest = 0xcbf2_9ce4_8422_2325_u64;
    for part in id.0.as_bytes().chunks(8) {
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(part) {
            *to = *from;
        }
        digest = (digest ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3);
        digest ^= digest >> 32;
    }
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_no_fleet_are_remembered_but_not_without_end() {
        let mut models = Models::default();
        let id = |number: usize| ModelId(format!("stranger.{number}"));
        let (first, _) = models.slot_for(&id(0));
        for number in 1..STRANGERS_MOST {
            assert_eq!(models.slot_for(&id(number)).1, None);
        }
        assert_eq!(models.slot_for(&id(0)), (first, None));
        let (next, forgotten) = models.slot_for(&id(STRANGERS_MOST));
        assert_eq!((next, forgotten), (first, Some(first)));
        assert_eq!(
            (models.slot(&id(0)), models.slot(&id(STRANGERS_MOST))),
            (None, Some(first))
        );
        assert_eq!(models.slots.len(), STRANGERS_MOST);
    }
}
