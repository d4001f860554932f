//! What is counted while a trace is replayed: waits, transitions, bytes, where the GPUs' time went, and what was regretted.

use std::collections::BTreeMap;

use greenthread_core::{
    effect::{Admission, PublicState, PublishedRow},
    ids::{Bytes, Millis},
};

use super::{gate::Refusal, promises::Told, setting::Setting};

/// What a model is doing, for pictures and for the time of GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Doing {
    /// Not on its GPUs, wanted by nobody.
    Asleep,
    /// Wanted, without room.
    Waiting,
    /// On its way to its GPUs.
    Waking,
    /// Answers requests.
    Awake,
    /// Its barrier is up.
    Draining,
    /// On its way from its GPUs.
    GoingToSleep,
}

impl Doing {
    fn of(row: &PublishedRow) -> Self {
        match (row.state, row.barriered) {
            (PublicState::Sleeping, _) => Self::Asleep,
            (PublicState::Pending, _) => Self::Waiting,
            (PublicState::Waking, _) => Self::Waking,
            (PublicState::Serving, _) => Self::Awake,
            (PublicState::Deactivating, true) => Self::Draining,
            (PublicState::Deactivating, false) => Self::GoingToSleep,
        }
    }
}

/// A stretch of time in which a model did one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Which model.
    pub(super) model: usize,
    /// What it did.
    pub(super) doing: Doing,
    /// Since when.
    pub(super) from: Millis,
    /// Until when.
    pub(super) to: Millis,
}

/// One model's counters.
#[derive(Clone, Debug)]
struct Watch {
    doing: Doing,
    since: Millis,
    busy_since: Option<Millis>,
    busy: Millis,
    /// When requests were told to come back, and after what.
    sent_away: Vec<(Millis, Millis)>,
}

/// Everything that is counted.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    models: Vec<Watch>,
    /// Stretches of everything but sleep, by their ends.
    pub(super) spans: Vec<Span>,
    /// Model and wait in ms of every request that was forwarded.
    pub(super) waits: Vec<(u32, u32)>,
    /// Requests that were not forwarded at once, per model.
    pub(super) misses_of: Vec<u64>,
    /// Requests per model.
    pub(super) requests_of: Vec<u64>,
    /// Wakes and starts that ended.
    pub(super) wakes: u64,
    /// Sleeps that ended.
    pub(super) sleeps: u64,
    /// Bytes that went to GPUs and from them.
    pub(super) moved: Bytes,
    /// Refusals by reason, each try counted.
    pub(super) refusals: BTreeMap<&'static str, u64>,
    /// Requests that gave up, by the reason of their last refusal.
    pub(super) lost: BTreeMap<&'static str, u64>,
    /// Requests that were cut off.
    pub(super) cut: u64,
    /// What held requests were told to wait, and what they waited.
    pub(super) held: Vec<Told>,
    /// Retry-After of refused requests, and when their model held requests, or admitted them, again.
    pub(super) sent_away: Vec<Told>,
}

impl Meter {
    /// Counts from `now` on; everybody sleeps.
    pub(super) fn new(models: usize, now: Millis) -> Self {
        let watch = Watch {
            doing: Doing::Asleep,
            since: now,
            busy_since: None,
            busy: Millis(0),
            sent_away: Vec::new(),
        };
        Self {
            models: vec![watch; models],
            spans: Vec::new(),
            waits: Vec::new(),
            misses_of: vec![0; models],
            requests_of: vec![0; models],
            wakes: 0,
            sleeps: 0,
            moved: Bytes(0),
            refusals: BTreeMap::new(),
            lost: BTreeMap::new(),
            cut: 0,
            held: Vec::new(),
            sent_away: Vec::new(),
        }
    }

    /// Whether a model is not on its GPUs, and wanted by nobody.
    pub(super) fn is_asleep(&self, model: usize) -> bool {
        self.models[model].doing == Doing::Asleep
    }

    /// A request has arrived for the first time.
    pub(super) fn arrived(&mut self, model: usize) {
        self.requests_of[model] += 1;
    }

    /// A request could not go on at once.
    pub(super) fn missed(&mut self, model: usize) {
        self.misses_of[model] += 1;
    }

    /// A request goes to its engine after a wait.
    pub(super) fn forwarded(&mut self, model: usize, wait: Millis) {
        let model = u32::try_from(model).unwrap_or(u32::MAX);
        self.waits
            .push((model, u32::try_from(wait.0).unwrap_or(u32::MAX)));
    }

    /// A held request goes on.
    pub(super) fn released(&mut self, told: Told) {
        self.held.push(told);
    }

    /// A request for a model was told to come back after a while.
    pub(super) fn sent_away(&mut self, now: Millis, model: usize, retry_after: Millis) {
        self.models[model].sent_away.push((now, retry_after));
    }

    /// A request was answered by the gate.
    pub(super) fn refused(&mut self, refusal: Refusal, gives_up: bool) {
        *self.refusals.entry(refusal.word()).or_default() += 1;
        if gives_up {
            *self.lost.entry(refusal.word()).or_default() += 1;
        }
    }

    /// A row was published.
    pub(super) fn published(&mut self, now: Millis, model: usize, row: &PublishedRow) {
        let doing = Doing::of(row);
        if self.models[model].doing != doing {
            self.close(now, model);
            self.models[model].doing = doing;
        }
        if !matches!(row.admission, Admission::Refuse { .. }) {
            for (at, told) in self.models[model].sent_away.drain(..) {
                let took = now.since(at);
                self.sent_away.push(Told { told, took });
            }
        }
    }

    /// An engine began to compute or ended.
    pub(super) fn busy(&mut self, now: Millis, model: usize, is_busy: bool) {
        let watch = &mut self.models[model];
        match (watch.busy_since, is_busy) {
            (None, true) => watch.busy_since = Some(now),
            (Some(since), false) => {
                watch.busy = watch.busy + now.since(since);
                watch.busy_since = None;
            }
            (None, false) | (Some(_), true) => {}
        }
    }

    /// An engine is awake; `bytes` went to its GPUs.
    pub(super) fn woke(&mut self, bytes: Bytes) {
        self.wakes += 1;
        self.moved = self.moved + bytes;
    }

    /// An engine sleeps; `bytes` went from its GPUs.
    pub(super) fn slept(&mut self, bytes: Bytes) {
        self.sleeps += 1;
        self.moved = self.moved + bytes;
    }

    /// The replay has ended.
    pub(super) fn finish(&mut self, now: Millis) {
        for model in 0..self.models.len() {
            self.busy(now, model, false);
            self.close(now, model);
        }
    }

    fn close(&mut self, now: Millis, model: usize) {
        let watch = &mut self.models[model];
        let from = std::mem::replace(&mut watch.since, now);
        if watch.doing != Doing::Asleep && now > from {
            self.spans.push(Span {
                model,
                doing: watch.doing,
                from,
                to: now,
            });
        }
    }

    /// Where the GPUs' time went, in GPU hours: a model's share of a GPU is its share of the memory. Each: awake, awake and computing,
    /// waking or going to sleep.
    pub(super) fn hours(&self, setting: &Setting) -> Hours {
        let share = |model: usize| -> f64 {
            let spec = &setting.models[model].spec;
            let of = |gpu: &greenthread_core::ids::GpuId| {
                let capacity = setting.gpus.get(gpu.0).map_or(0, |bytes| bytes.0);
                super::slots_report::ratio(spec.awake.0, capacity).unwrap_or(0.0)
            };
            spec.gpus.iter().map(of).sum()
        };
        let mut hours = Hours::default();
        for span in &self.spans {
            let spent = share(span.model) * span.to.since(span.from).0 as f64 / 3_600_000.0;
            match span.doing {
                Doing::Awake | Doing::Draining => hours.awake += spent,
                Doing::Waking | Doing::GoingToSleep => hours.moving += spent,
                Doing::Asleep | Doing::Waiting => {}
            }
        }
        for (model, watch) in self.models.iter().enumerate() {
            hours.computing += share(model) * watch.busy.0 as f64 / 3_600_000.0;
        }
        hours
    }
}

/// GPU hours by memory.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Hours {
    /// Models that could answer.
    pub(super) awake: f64,
    /// Of that, with a request.
    pub(super) computing: f64,
    /// Models on their way in or out.
    pub(super) moving: f64,
}
