//! What an engine holds: on its GPUs, at the worst moment of an action, and in host RAM for its sleeping copy.

use std::{pin::pin, time::Duration};

use greenthread_core::{
    event::{Memory, Outcome},
    ids::Bytes,
};
use tokio::time::sleep;

use super::{Known, Transition, Worker, transition::TOLERANCE};
use crate::engine::vllm::Depth;

/// Between two looks at the memory of an engine that sleeps, wakes or starts.
const SAMPLE: Duration = Duration::from_millis(25);

impl Worker {
    /// GPU memory over all the engine's GPUs: where they carry different amounts, the largest counts for each, because that is what
    /// has to fit.
    pub(super) fn held(&self, known: &Known) -> Option<Bytes> {
        let group = known.running.as_ref().map(|running| running.pid);
        let by_gpu = self.settings.oracle.held(group)?;
        let largest = by_gpu.into_values().max().unwrap_or_default();
        Some(known.model.spec.gpus.iter().map(|_| largest).sum())
    }

    /// What it was seen to hold in service replaces what was measured when it woke.
    pub(in crate::engine) fn holds_awake(&self, seen: Option<Bytes>) {
        let kept = &mut self.lock().footprint;
        kept.awake = seen.map(|bytes| bytes.0).or(kept.awake);
    }

    /// Host RAM of the engine's processes, whatever it is for.
    fn host(&self, known: &Known) -> Option<u64> {
        let group = known.running.as_ref().map(|running| running.pid);
        let bytes = self.settings.oracle.host(group, &self.groups)?;
        Some(bytes.0)
    }

    /// What the engine holds now.
    pub(super) fn memory(&self, known: &Known) -> Memory {
        let copy = known
            .host_before
            .and_then(|before| Some(Bytes(self.host(known)?.saturating_sub(before))));
        Memory {
            gpu: self.held(known),
            peak: None,
            host: copy,
        }
    }

    /// Before the first sleep of a life: what it has now in host RAM is no sleeping copy. Later it could be one that it kept.
    pub(super) fn notes_host(&self) {
        let noted = {
            let mut known = self.lock();
            if known.host_before.is_some() {
                return;
            }
            known.host_before = self.host(&known);
            known.running.clone().zip(known.host_before)
        };
        if let Some((running, before)) = noted {
            self.note(running.pid, |record| record.host_before = Some(before));
        }
    }

    /// Performs an action and looks at the memory meanwhile: an outcome that is done tells the most that there ever was, where the action
    /// had something to do.
    pub(super) async fn watched(
        &self,
        action: Transition,
        perform: impl Future<Output = Outcome>,
    ) -> Outcome {
        let mut perform = pin!(perform);
        let before = self.held(&self.lock());
        let mut peak = None;
        let mut outcome = loop {
            peak = peak.max(self.held(&self.lock()));
            tokio::select! {
                outcome = &mut perform => break outcome,
                () = sleep(SAMPLE) => {}
            }
        };
        if let Outcome::Done { memory, .. } = &mut outcome {
            let moved = |gpu: &Bytes| {
                let before = before.unwrap_or_default();
                before.less(*gpu).max(gpu.less(before)) > Bytes(TOLERANCE)
            };
            let gpu = memory.gpu.filter(moved);
            memory.peak = gpu.map(|gpu| peak.unwrap_or_default().max(gpu));
            if let Some(peak) = memory.peak {
                self.lock().keep_peak(action, peak);
            }
        }
        outcome
    }
}

impl Known {
    fn keep_peak(&mut self, action: Transition, peak: Bytes) {
        let most = match action {
            Transition::Wake(_) => &mut self.footprint.waking,
            Transition::Sleep(..) => &mut self.footprint.sleeping,
            Transition::Start => &mut self.footprint.starting,
        };
        *most = (*most).max(Some(peak.0));
    }

    /// Keeps what a sleep that took `took` ms left behind.
    pub(super) fn keep_sleep(&mut self, depth: Depth, took: u64, memory: Memory) {
        let kept = &mut self.footprint;
        kept.asleep = memory.gpu.map(|bytes| bytes.0).or(kept.asleep);
        match depth {
            Depth::Ram => {
                kept.sleep_ms = Some(took);
                kept.host = memory.host.map(|bytes| bytes.0).or(kept.host);
            }
            Depth::Disk => kept.sleep_ms = kept.sleep_ms.or(Some(took)),
        }
    }

    /// Keeps how long a wake took.
    pub(super) fn keep_wake(&mut self, depth: Depth, took: u64) {
        match depth {
            Depth::Ram => self.footprint.wake_ms = Some(took),
            Depth::Disk => self.footprint.reload_ms = Some(took),
        }
    }
}
