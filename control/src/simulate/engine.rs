//! A virtual engine: works on requests for as long as the trace says, sleeps and wakes, keeps what it was working on while it sleeps.

use std::collections::{BTreeMap, VecDeque};

use greenthread_core::{event::EngineState, ids::Millis};

/// Work under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Work {
    /// When it ends; while frozen, how long it still takes.
    ends: Millis,
}

/// One engine. Requests are numbers.
#[derive(Clone, Debug)]
pub(super) struct Engine {
    state: EngineState,
    frozen: bool,
    /// Requests worked on at a time.
    concurrency: usize,
    working: BTreeMap<usize, Work>,
    waiting: VecDeque<(usize, Millis)>,
    /// Grows with every freeze: ends that were foreseen before it do not count.
    freezes: u64,
}

/// A request that will end, if nothing freezes it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Foreseen {
    /// Which.
    pub(super) request: usize,
    /// When.
    pub(super) at: Millis,
    /// Valid while the engine was frozen so often.
    pub(super) freezes: u64,
}

impl Engine {
    /// An engine that sleeps and works on so many requests at a time.
    pub(super) const fn asleep(concurrency: usize) -> Self {
        Self {
            state: EngineState::Asleep,
            frozen: true,
            concurrency,
            working: BTreeMap::new(),
            waiting: VecDeque::new(),
            freezes: 0,
        }
    }

    /// What a look sees.
    pub(super) const fn state(&self) -> EngineState {
        self.state
    }

    /// Requests inside.
    pub(super) fn inside(&self) -> usize {
        self.working.len() + self.waiting.len()
    }

    /// Whether it computes.
    pub(super) fn is_busy(&self) -> bool {
        !self.frozen && !self.working.is_empty()
    }

    /// A request that takes `service` has arrived.
    pub(super) fn take(
        &mut self,
        now: Millis,
        request: usize,
        service: Millis,
    ) -> Option<Foreseen> {
        self.waiting.push_back((request, service));
        self.next(now)
    }

    /// A foreseen end has come. `None`: it was foreseen before a freeze. Otherwise the next request whose work begins, if any.
    pub(super) fn end(&mut self, now: Millis, foreseen: Foreseen) -> Option<Option<Foreseen>> {
        if self.freezes != foreseen.freezes || self.working.remove(&foreseen.request).is_none() {
            return None;
        }
        Some(self.next(now))
    }

    /// Told to sleep, keeping its requests.
    pub(super) fn freeze(&mut self, now: Millis) {
        if !std::mem::replace(&mut self.frozen, true) {
            self.freezes += 1;
            for work in self.working.values_mut() {
                work.ends = work.ends.since(now);
            }
        }
    }

    /// Told to sleep, ending its requests: these are cut off.
    pub(super) fn abort(&mut self, now: Millis) -> Vec<usize> {
        self.freeze(now);
        let working = std::mem::take(&mut self.working);
        let waiting = std::mem::take(&mut self.waiting);
        working
            .into_keys()
            .chain(waiting.into_iter().map(|(request, _)| request))
            .collect()
    }

    /// It sleeps now.
    pub(super) fn slept(&mut self) {
        self.state = EngineState::Asleep;
    }

    /// Its process has ended, and what it was working on with it.
    pub(super) fn gone(&mut self, now: Millis) -> Vec<usize> {
        self.state = EngineState::Gone;
        self.abort(now)
    }

    /// It is awake now, and goes on where it was.
    pub(super) fn woke(&mut self, now: Millis) -> Vec<Foreseen> {
        (self.state, self.frozen) = (EngineState::Awake, false);
        let mut foreseen = Vec::new();
        for (request, work) in &mut self.working {
            work.ends = now + work.ends;
            foreseen.push(Foreseen {
                request: *request,
                at: work.ends,
                freezes: self.freezes,
            });
        }
        while let Some(next) = self.next(now) {
            foreseen.push(next);
        }
        foreseen
    }

    fn next(&mut self, now: Millis) -> Option<Foreseen> {
        if self.frozen || self.working.len() >= self.concurrency {
            return None;
        }
        let (request, service) = self.waiting.pop_front()?;
        let ends = now + service;
        self.working.insert(request, Work { ends });
        Some(Foreseen {
            request,
            at: ends,
            freezes: self.freezes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_frozen_takes_as_long_as_was_left() {
        let mut engine = Engine::asleep(1);
        assert_eq!(engine.woke(Millis(0)), []);
        let first = engine.take(Millis(0), 7, Millis(10)).unwrap();
        assert_eq!(
            (first.at, engine.take(Millis(1), 8, Millis(5))),
            (Millis(10), None)
        );
        engine.freeze(Millis(4));
        engine.slept();
        assert_eq!(
            (
                engine.is_busy(),
                engine.inside(),
                engine.end(Millis(10), first)
            ),
            (false, 2, None)
        );
        let again = engine.woke(Millis(100));
        assert_eq!(
            again
                .iter()
                .map(|seen| (seen.request, seen.at))
                .collect::<Vec<_>>(),
            [(7, Millis(106))]
        );
        let next = engine.end(Millis(106), again[0]).unwrap().unwrap();
        assert_eq!((next.request, next.at), (8, Millis(111)));
        assert_eq!(engine.end(Millis(111), next), Some(None));
    }

    #[test]
    fn an_abort_cuts_everything_off() {
        let mut engine = Engine::asleep(1);
        engine.woke(Millis(0));
        engine.take(Millis(0), 1, Millis(10));
        engine.take(Millis(0), 2, Millis(10));
        assert_eq!((engine.abort(Millis(3)), engine.inside()), (vec![1, 2], 0));
    }
}
