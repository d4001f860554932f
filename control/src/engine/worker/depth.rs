//! How deep an engine sleeps: what control told it, what it says itself, and what follows from the two.

use greenthread_core::event::EngineState;

use super::{Known, Worker};
use crate::engine::{registry::Record, vllm::Depth};

/// The last sleep that control told an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// How deep. `None`: control has not put it to sleep since it was awake.
    depth: Option<Depth>,
    /// It was seen asleep since.
    is_confirmed: bool,
}

impl Told {
    /// What an earlier life of control noted: it may have been woken since.
    pub(super) fn before(record: &Record) -> Self {
        Self {
            depth: record.depth,
            is_confirmed: false,
        }
    }

    /// What an engine in this state that nothing is done to says of its last sleep. Returns what it really is: one that dropped its
    /// weights and that somebody else woke has none, though it answers.
    fn seen(&mut self, state: EngineState) -> EngineState {
        match (state, self.depth) {
            (EngineState::Asleep, Some(_)) => self.is_confirmed = true,
            (EngineState::Awake, Some(Depth::Disk)) if self.is_confirmed => {
                return EngineState::Broken;
            }
            (EngineState::Awake, Some(_)) if self.is_confirmed => *self = Self::default(),
            // Told and not seen asleep yet: it may still fall asleep.
            (EngineState::Asleep | EngineState::Awake, _)
            | (EngineState::Gone | EngineState::Broken | EngineState::Unresponsive, _) => {}
        }
        state
    }
}

impl Known {
    /// What an engine's answers mean beside what is known of its last sleep.
    pub(super) fn judge_sleep(&mut self, state: EngineState) -> EngineState {
        // During an action it passes through states that mean nothing yet.
        if self.is_acting {
            state
        } else {
            self.told.seen(state)
        }
    }

    /// It is awake, woken by control, weights and all.
    pub(super) fn is_awake(&mut self) {
        self.told = Told::default();
    }

    /// It was seen asleep, as deep as it was told.
    pub(super) fn is_asleep(&mut self) {
        self.told.is_confirmed = self.told.depth.is_some();
    }
}

impl Worker {
    /// Notes what the engine is about to be told, so that a later life of control knows too.
    pub(super) fn tells(&self, depth: Depth) {
        let running = {
            let mut known = self.lock();
            known.told = Told {
                depth: Some(depth),
                is_confirmed: false,
            };
            known.running.clone()
        };
        if let Some(running) = running {
            self.note(running.pid, |record| record.depth = Some(depth));
        }
    }

    /// How deep the sleeping engine sleeps, as far as is known.
    pub(super) async fn depth(&self) -> Option<Depth> {
        let told = self.lock().told.depth;
        match told {
            Some(depth) => Some(depth),
            // Somebody else put it to sleep.
            None => self.driver().sleeps_by_metric().await.flatten(),
        }
    }

    /// Where to wake the engine from. In doubt from disk, which loads weights that may be there: answers are right whichever it was.
    pub(super) async fn wakes_from(&self) -> Depth {
        let shown = self.driver().sleeps_by_metric().await;
        let (told, reloads) = {
            let known = self.lock();
            (known.told.depth, known.reloads)
        };
        let in_doubt = if reloads { Depth::Disk } else { Depth::Ram };
        match (told, shown) {
            (Some(Depth::Disk), _) | (None, Some(Some(Depth::Disk))) => Depth::Disk,
            (Some(Depth::Ram), Some(Some(Depth::Ram) | None) | None)
            | (None, Some(Some(Depth::Ram) | None)) => Depth::Ram,
            // It was told level 2 by somebody else: asleep already, or awake in between.
            (Some(Depth::Ram), Some(Some(Depth::Disk))) => in_doubt,
            (None, None) => in_doubt,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(depth: Option<Depth>, is_confirmed: bool) -> Told {
        Told {
            depth,
            is_confirmed,
        }
    }

    #[test]
    fn who_dropped_its_weights_and_was_woken_by_somebody_else_is_broken() {
        use EngineState::{Asleep, Awake, Broken, Unresponsive};
        let nothing = Told::default();
        let (ram, disk) = (Some(Depth::Ram), Some(Depth::Disk));
        for (before, state, judged, after) in [
            (nothing, Awake, Awake, nothing),
            (nothing, Asleep, Asleep, nothing),
            // Not asleep yet, or never.
            (told(disk, false), Awake, Awake, told(disk, false)),
            (told(disk, false), Asleep, Asleep, told(disk, true)),
            (told(disk, true), Awake, Broken, told(disk, true)),
            (
                told(disk, true),
                Unresponsive,
                Unresponsive,
                told(disk, true),
            ),
            (told(ram, true), Awake, Awake, nothing),
            (told(ram, true), Asleep, Asleep, told(ram, true)),
        ] {
            let mut seen = before;
            let expected = (judged, after);
            assert_eq!((seen.seen(state), seen), expected, "{before:?}");
        }
    }
}
