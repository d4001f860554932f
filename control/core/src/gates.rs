//! What control knows of its gates: who must be waited for, what they hold, what they acknowledged.
//!
//! A gate is waited for until it says Bye or has been silent for lease + margin (rules 4 and 5 of the protocol). Streams prove
//! nothing: they only say where an answer goes.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Core,
    event::Figures,
    figures::{FIGURE_MOST, News, Reported, Sum, change},
    ids::{Epoch, GateId, Millis, ModelId, StreamId},
    models::Slot,
};

/// What other gates have in flight is told again after this: it is for people.
const ELSEWHERE_EVERY: Millis = Millis(900);

/// Acknowledgement of one barrier by one gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Acknowledged {
    epoch: Epoch,
    stream: StreamId,
    /// Zero in flight was said in the acknowledgement or behind it on the same stream.
    zero: bool,
}

/// One gate.
#[derive(Clone, Debug)]
struct Gate {
    stream: StreamId,
    /// The stream is still open and may carry answers.
    open: bool,
    snapshot_sent: bool,
    last_heard: Millis,
    last_sequence: u64,
    table_version: u64,
    /// When it was last told what other gates have in flight.
    elsewhere_at: Millis,
    fenced: bool,
    figures: BTreeMap<Slot, Reported>,
    acknowledged: BTreeMap<Slot, Acknowledged>,
}

/// All gates.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gates {
    gates: BTreeMap<GateId, Gate>,
    /// Sums over gates that are not fenced: asked for far more often than they change.
    sums: BTreeMap<Slot, Sum>,
    /// Gates that are not fenced, by when they were heard last.
    live: BTreeSet<(Millis, GateId)>,
    /// Fenced ones, likewise.
    fenced: BTreeSet<(Millis, GateId)>,
    /// Open streams without a snapshot.
    unserved: BTreeSet<GateId>,
}

/// What the silence of gates led to.
#[derive(Debug, Default)]
pub(crate) struct Expired {
    /// Streams to close.
    pub(crate) to_close: Vec<(GateId, StreamId)>,
    /// Models whose sums changed.
    pub(crate) models: Vec<Slot>,
    /// A gate was fenced or forgotten: every drain may go on.
    pub(crate) any: bool,
}

/// What a drain still waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// Every gate that must be waited for has acknowledged the barrier.
    pub(crate) all_acknowledged: bool,
    /// … and has said zero in flight under it.
    pub(crate) all_zero: bool,
    /// A gate fell silent with requests in flight; only time or the engine's count can clear them.
    pub(crate) fenced_in_flight: bool,
}

impl Waiting {
    /// Nobody has acknowledged anything.
    pub(crate) const EVERYBODY: Self = Self {
        all_acknowledged: false,
        all_zero: false,
        fenced_in_flight: false,
    };
}

impl Gate {
    fn has_cleared(&self, model: Slot, epoch: Epoch) -> bool {
        let acknowledged = self.acknowledged.get(&model);
        acknowledged.is_some_and(|said| said.zero && said.epoch == epoch)
    }
}

impl Gates {
    /// A new stream of a gate. Returns the stream that is to be closed: the one before it, or this one when it is the older of the two
    /// and only arrived late.
    pub(crate) fn hello(
        &mut self,
        now: Millis,
        id: &GateId,
        stream: StreamId,
        sequence: u64,
        figures: &[(Slot, &Figures)],
    ) -> Option<StreamId> {
        if !self.gates.contains_key(id) {
            self.live.insert((now, id.clone()));
        }
        let gate = self.gates.entry(id.clone()).or_insert_with(|| Gate {
            stream,
            open: true,
            snapshot_sent: false,
            last_heard: now,
            last_sequence: 0,
            table_version: 0,
            elsewhere_at: Millis(0),
            fenced: false,
            figures: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
        });
        if sequence <= gate.last_sequence {
            return Some(stream);
        }
        let before = (gate.open && gate.stream != stream).then_some(gate.stream);
        gate.stream = stream;
        gate.open = true;
        gate.snapshot_sent = false;
        gate.last_sequence = sequence;
        self.unserved.insert(id.clone());
        self.hear(now, id);
        // A Hello lists everything that is not zero: what it leaves out is zero, except moments that only grow.
        let listed: BTreeSet<Slot> = figures.iter().map(|(model, _)| *model).collect();
        let left_out = self.gates.get(id).map(|gate| gate.figures.keys());
        let zero = Figures::default();
        let zeros: Vec<_> = left_out
            .into_iter()
            .flatten()
            .filter(|model| !listed.contains(model))
            .map(|model| (*model, &zero))
            .collect();
        self.take(now, id, &zeros);
        self.take(now, id, figures);
        before
    }

    /// Models that a gate has figures of.
    pub(crate) fn known_to(&self, id: &GateId) -> Vec<Slot> {
        let known = self.gates.get(id).map(|gate| gate.figures.keys().copied());
        known.into_iter().flatten().collect()
    }

    /// A gate speaks: the fence counts from here on, and one that was fenced is waited for again.
    fn hear(&mut self, now: Millis, id: &GateId) {
        let Some(gate) = self.gates.get_mut(id) else {
            return;
        };
        let mut entry = (gate.last_heard, id.clone());
        self.live.remove(&entry);
        self.fenced.remove(&entry);
        gate.last_heard = now;
        entry.0 = now;
        self.live.insert(entry);
        if std::mem::take(&mut gate.fenced) {
            for (model, seen) in &gate.figures {
                change(&mut self.sums, *model, Sum::default(), seen.sum());
            }
        }
    }

    /// New figures of a gate. Returns the models of which more than ages and uses changed.
    fn take(&mut self, now: Millis, id: &GateId, figures: &[(Slot, &Figures)]) -> Vec<Slot> {
        let mut changed = Vec::new();
        let Some(gate) = self.gates.get_mut(id) else {
            return changed;
        };
        for (model, figures) in figures {
            let seen = gate.figures.entry(*model).or_default();
            let old = seen.sum();
            seen.take(now, figures);
            if old != seen.sum() || figures.last_refused_age.is_some() {
                changed.push(*model);
            }
            if !gate.fenced {
                change(&mut self.sums, *model, old, seen.sum());
            }
        }
        changed
    }

    /// Whether a message on `stream` with `sequence` is to be believed: what an older stream says after a new Hello is ignored.
    pub(crate) fn accepts(
        &mut self,
        now: Millis,
        id: &GateId,
        stream: StreamId,
        sequence: u64,
    ) -> bool {
        let Some(gate) = self.gates.get_mut(id) else {
            return false;
        };
        let older = gate.stream != stream || sequence <= gate.last_sequence;
        if sabotage!(OlderStreamCounts, false, older) {
            return false;
        }
        gate.last_sequence = sabotage!(
            OlderStreamCounts,
            sequence.max(gate.last_sequence),
            sequence
        );
        // A fenced gate that speaks again is waited for again; its acknowledgements stay valid.
        self.hear(now, id);
        true
    }

    /// Figures of a Report (after [`Self::accepts`]). Returns the models of which they change more than ages.
    pub(crate) fn report(
        &mut self,
        now: Millis,
        id: &GateId,
        table_version: u64,
        figures: &[(Slot, &Figures)],
    ) -> Vec<Slot> {
        let mut changed = self.take(now, id, figures);
        let Some(gate) = self.gates.get_mut(id) else {
            return changed;
        };
        gate.table_version = table_version;
        for (model, figures) in figures {
            if let Some(acknowledged) = gate.acknowledged.get_mut(model)
                && acknowledged.stream == gate.stream
                && acknowledged.zero != (figures.in_flight == 0)
            {
                acknowledged.zero = figures.in_flight == 0;
                changed.push(*model);
            }
        }
        changed
    }

    /// An acknowledgement (after [`Self::accepts`]). Whether its epoch is the running one is asked later.
    pub(crate) fn acknowledge(&mut self, id: &GateId, model: Slot, epoch: Epoch, in_flight: u64) {
        let Some(gate) = self.gates.get_mut(id) else {
            return;
        };
        let reported = gate.figures.get(&model).map_or(0, |seen| seen.in_flight);
        let in_flight_counted = sabotage!(ZeroFromAnyReport, in_flight.min(reported), {
            let _ = reported;
            in_flight
        });
        gate.acknowledged.insert(
            model,
            Acknowledged {
                epoch,
                stream: gate.stream,
                zero: in_flight_counted == 0,
            },
        );
        let seen = gate.figures.entry(model).or_default();
        let old = seen.sum();
        seen.in_flight = in_flight.min(FIGURE_MOST);
        if !gate.fenced {
            change(&mut self.sums, model, old, seen.sum());
        }
    }

    /// The gate's last message (after [`Self::accepts`]).
    pub(crate) fn bye(&mut self, id: &GateId) {
        sabotage!(ByeRemovesNobody, return);
        let Some(gate) = self.gates.remove(id) else {
            return;
        };
        let entry = (gate.last_heard, id.clone());
        self.live.remove(&entry);
        self.fenced.remove(&entry);
        self.unserved.remove(id);
        for (model, seen) in gate.figures.iter().filter(|_| !gate.fenced) {
            change(&mut self.sums, *model, seen.sum(), Sum::default());
        }
    }

    /// The stream ended; the gate itself is waited for until it is fenced.
    pub(crate) fn closed(&mut self, id: &GateId, stream: StreamId) {
        if let Some(gate) = self
            .gates
            .get_mut(id)
            .filter(|gate| sabotage!(OlderCloses, true, gate.stream == stream))
        {
            gate.open = false;
            gate.snapshot_sent = false;
            self.unserved.remove(id);
            sabotage!(RecordDroppedOnClose, self.bye(id));
        }
    }

    /// Fences gates that were silent for `fence` and forgets those silent for `forget`.
    pub(crate) fn expire(&mut self, now: Millis, fence: Millis, forget: Millis) -> Expired {
        let mut expired = Expired::default();
        let due = |heard: &BTreeSet<(Millis, GateId)>, silence| {
            heard
                .first()
                .is_some_and(|(at, _)| now.since(*at) >= silence)
        };
        while due(&self.live, fence) {
            let Some(entry) = self.live.pop_first() else {
                break;
            };
            self.fence(&entry.1, &mut expired);
            self.fenced.insert(entry);
        }
        while due(&self.fenced, forget) {
            let Some((_, id)) = self.fenced.pop_first() else {
                break;
            };
            self.gates.remove(&id);
            expired.any = true;
        }
        expired
    }

    fn fence(&mut self, id: &GateId, expired: &mut Expired) {
        let Some(gate) = self.gates.get_mut(id) else {
            return;
        };
        (gate.fenced, expired.any) = (true, true);
        for (model, seen) in &mut gate.figures {
            change(&mut self.sums, *model, seen.sum(), Sum::default());
            expired.models.push(*model);
            seen.held = 0;
        }
        if sabotage!(FencedStreamStays, false, gate.open) {
            (gate.open, gate.snapshot_sent) = (false, false);
            self.unserved.remove(id);
            expired.to_close.push((id.clone(), gate.stream));
        }
    }

    /// When the next gate would be fenced, or a fenced one forgotten, if it stays silent.
    pub(crate) fn next_expiry(&self, fence: Millis, forget: Millis) -> Option<Millis> {
        let next = |heard: &BTreeSet<(Millis, GateId)>, silence| {
            heard.first().map(|(at, _)| *at + silence)
        };
        let fence = next(&self.live, fence);
        let forget = next(&self.fenced, forget);
        fence.into_iter().chain(forget).min()
    }

    /// What a drain under `epoch` waits for. `silence`: a gate silent for this long does not block (lease + margin; longer where
    /// the engine's server goes away, rule 14).
    pub(crate) fn waiting(
        &self,
        now: Millis,
        model: Slot,
        epoch: Epoch,
        silence: Millis,
    ) -> Waiting {
        let mut waiting = Waiting {
            all_acknowledged: true,
            all_zero: true,
            fenced_in_flight: false,
        };
        let mut gates = self.gates.values();
        sabotage!(OneGateForgotten, gates.next());
        for gate in gates.by_ref() {
            let acknowledged = gate.acknowledged.get(&model).filter(|acknowledged| {
                sabotage!(AnyEpochAcknowledges, true, acknowledged.epoch == epoch)
            });
            let blocks = now.since(gate.last_heard) < silence;
            match (acknowledged, blocks) {
                (Some(acknowledged), true) => waiting.all_zero &= acknowledged.zero,
                (Some(acknowledged), false) => waiting.fenced_in_flight |= !acknowledged.zero,
                (None, true) if sabotage!(NoAcknowledgement, true, false) => {}
                (None, true) => (waiting.all_acknowledged, waiting.all_zero) = (false, false),
                (None, false) => {
                    waiting.fenced_in_flight |= gate
                        .figures
                        .get(&model)
                        .is_some_and(|seen| seen.in_flight > 0)
                }
            }
        }
        waiting
    }

    /// Until when gates that have fallen silent keep a drain waiting, unless they come back; see [`Self::waiting`].
    pub(crate) fn blocked_until(&self, model: Slot, epoch: Epoch, silence: Millis) -> Millis {
        let silent = |gate: &&Gate| (gate.fenced || !gate.open) && !gate.has_cleared(model, epoch);
        let silent = self.gates.values().filter(silent);
        let until = silent.map(|gate| gate.last_heard + silence);
        until.max().unwrap_or_default()
    }

    /// Whether a gate is fenced.
    pub(crate) fn is_fenced(&self, id: &GateId) -> bool {
        self.gates.get(id).is_some_and(|gate| gate.fenced)
    }

    /// Whether a gate has acknowledged the barrier of this epoch, and said zero under it.
    pub(crate) fn has_cleared(&self, id: &GateId, model: Slot, epoch: Epoch) -> bool {
        let gate = self.gates.get(id);
        gate.is_some_and(|gate| gate.has_cleared(model, epoch))
    }

    /// Requests held for a model, over gates that are not fenced.
    pub(crate) fn held(&self, model: Slot) -> u64 {
        self.sums.get(&model).map_or(0, |sum| sum.held)
    }

    /// Requests in flight for a model, over gates that are not fenced.
    pub(crate) fn in_flight(&self, model: Slot) -> u64 {
        self.sums.get(&model).map_or(0, |sum| sum.in_flight)
    }

    /// Newest use and newest refused wish that a gate saw of a model, and the requests that wanted it since this was last taken.
    pub(crate) fn take_news(&mut self, id: &GateId, model: Slot) -> News {
        let gate = self.gates.get_mut(id);
        let seen = gate.and_then(|gate| gate.figures.get_mut(&model));
        seen.map_or_else(News::default, |seen| News {
            used: seen.last_used,
            refused: seen.last_refused,
            asked: std::mem::take(&mut seen.news),
        })
    }

    /// Streams that have a snapshot, for deltas and heartbeats.
    pub(crate) fn served(&self, id: &GateId) -> Option<StreamId> {
        self.gates
            .get(id)
            .filter(|gate| gate.open && gate.snapshot_sent)
            .map(|gate| gate.stream)
    }

    /// Gates with an open stream that have not been sent a snapshot; marks them as sent.
    pub(crate) fn take_unserved(&mut self) -> Vec<(GateId, StreamId, u64)> {
        let mut unserved = Vec::new();
        for id in std::mem::take(&mut self.unserved) {
            if let Some(gate) = self.gates.get_mut(&id).filter(|gate| gate.open) {
                gate.snapshot_sent = true;
                unserved.push((id, gate.stream, gate.last_sequence));
            }
        }
        unserved
    }

    /// Every open stream; marks them closed.
    pub(crate) fn close_all(&mut self) -> Vec<(GateId, StreamId)> {
        self.unserved.clear();
        let open = self.gates.iter_mut().filter(|(_, gate)| gate.open);
        open.map(|(id, gate)| {
            (gate.open, gate.snapshot_sent) = (false, false);
            (id.clone(), gate.stream)
        })
        .collect()
    }

    /// What the other gates have in flight, by model, for `/status` at this gate; `None` where it was told a moment ago.
    pub(crate) fn elsewhere(
        &mut self,
        now: Millis,
        id: &GateId,
        anew: bool,
    ) -> Option<Vec<(Slot, u64)>> {
        let gate = self.gates.get_mut(id)?;
        if !anew && now < gate.elsewhere_at + ELSEWHERE_EVERY {
            return None;
        }
        gate.elsewhere_at = now;
        Some(self.in_flight_elsewhere(id))
    }

    fn in_flight_elsewhere(&self, id: &GateId) -> Vec<(Slot, u64)> {
        let own = self.gates.get(id).filter(|gate| !gate.fenced);
        let elsewhere = |(model, sum): (&Slot, &Sum)| {
            let mine = own.and_then(|own| own.figures.get(model));
            let mine = mine.map_or(0, |seen| seen.in_flight);
            let others = sum.in_flight - sabotage!(OwnCountsAsElsewhere, 0, mine);
            (others > 0).then_some((*model, others))
        };
        let busy = self.sums.iter().filter(|(_, sum)| sum.in_flight > 0);
        busy.filter_map(elsewhere).collect()
    }

    /// Gates that are not fenced, with the table version they reported last.
    pub(crate) fn live_versions(&self) -> Vec<(GateId, u64)> {
        self.gates
            .iter()
            .filter(|(_, gate)| !gate.fenced)
            .map(|(id, gate)| (id.clone(), gate.table_version))
            .collect()
    }

    /// Whether any gate is alive: without one there is no evidence that nobody asks.
    pub(crate) fn any_alive(&self) -> bool {
        !self.live.is_empty()
    }

    /// Forgets a model that is gone.
    pub(crate) fn forget_model(&mut self, model: Slot) {
        for gate in self.gates.values_mut() {
            gate.figures.remove(&model);
            gate.acknowledged.remove(&model);
        }
        self.sums.remove(&model);
    }
}

impl Core {
    /// Requests held for a model, over gates that are not fenced.
    pub(crate) fn held(&self, id: &ModelId) -> u64 {
        self.models.slot(id).map_or(0, |slot| self.gates.held(slot))
    }

    /// Requests in flight for a model, over gates that are not fenced.
    pub(crate) fn in_flight(&self, id: &ModelId) -> u64 {
        let slot = self.models.slot(id);
        slot.map_or(0, |slot| self.gates.in_flight(slot))
    }
}
