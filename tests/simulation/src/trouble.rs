//! What went wrong where, and for how long: estimates are judged by the waits that no fault touched, too.

use greenthread_core::ids::GpuId;

use crate::world::World;

/// Where something went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At control, at a gate, or between them: every drain waits for every gate.
    Everywhere,
    /// In an engine, by its number.
    Engine(usize),
    /// On a GPU.
    Gpu(usize),
}

/// Everything that went wrong so far.
#[derive(Clone, Debug, Default)]
pub struct Troubles {
    /// From when to when, and where.
    known: Vec<(u64, u64, Place)>,
    /// Since when nobody leads, or the one who does tells nothing yet.
    leaderless_since: Option<u64>,
}

impl World {
    /// Something goes wrong from now on, until then at least.
    pub(crate) fn trouble(&mut self, place: Place, until: u64) {
        self.troubles.known.push((self.now, until, place));
    }

    /// Nobody leads from now on.
    pub(crate) fn leaderless(&mut self) {
        self.troubles.leaderless_since.get_or_insert(self.now);
    }

    /// A control leads and tells gates what it knows.
    pub(crate) fn led_again(&mut self) {
        if let Some(since) = self.troubles.leaderless_since.take() {
            let trouble = (since, self.now, Place::Everywhere);
            self.troubles.known.push(trouble);
        }
    }

    /// Whether a fault that a model's requests can feel happened, or lasted, between these moments.
    pub(crate) fn touched(&self, engine: Option<usize>, from: u64, to: u64) -> bool {
        let Troubles {
            known,
            leaderless_since,
        } = &self.troubles;
        let near = engine.map(|engine| self.gpus_near(engine));
        let is_near = |gpu: usize| near.as_ref().is_none_or(|near| near.contains(&GpuId(gpu)));
        let felt = |place: Place| match place {
            Place::Everywhere => true,
            Place::Engine(engine) => self.engines[engine]
                .spec
                .gpus
                .iter()
                .any(|gpu| is_near(gpu.0)),
            Place::Gpu(gpu) => is_near(gpu),
        };
        let in_time = |(began, until, place): &&(u64, u64, Place)| {
            *began <= to && *until >= from && felt(*place)
        };
        leaderless_since.is_some_and(|since| since <= to) || known.iter().any(|one| in_time(&one))
    }

    /// GPUs of a model, of those who share one with it, of those who share one with them, and so on.
    fn gpus_near(&self, engine: usize) -> Vec<GpuId> {
        let mut near = self.engines[engine].spec.gpus.clone();
        let mut looked_at = 0;
        while let Some(gpu) = near.get(looked_at).copied() {
            looked_at += 1;
            let there = self
                .engines
                .iter()
                .filter(|other| other.spec.gpus.contains(&gpu));
            for other in there.flat_map(|other| &other.spec.gpus) {
                if !near.contains(other) {
                    near.push(*other);
                }
            }
        }
        near
    }
}
