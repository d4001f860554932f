//! What control knows of its gates: who must be waited for, what they hold, what they acknowledged.
//!
//! A gate is waited for until it says Bye or has been silent for lease + margin (rules 4 and 5 of the protocol). Streams prove
//! nothing: they only say where an answer goes.

use std::collections::BTreeMap;

use crate::{
    event::Figures,
    ids::{Epoch, GateId, Millis, ModelId, StreamId},
};

/// One row's figures of one gate, with ages turned into moments of the core's clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) in_flight: u64,
    pub(crate) held: u64,
    pub(crate) last_used: Option<Millis>,
    pub(crate) last_refused: Option<Millis>,
}

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
    fenced: bool,
    figures: BTreeMap<ModelId, Seen>,
    acknowledged: BTreeMap<ModelId, Acknowledged>,
}

/// All gates.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gates {
    gates: BTreeMap<GateId, Gate>,
    /// Sums over gates that are not fenced: asked for far more often than they change.
    sums: BTreeMap<ModelId, Sum>,
}

/// Requests of one model over all gates that are not fenced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    in_flight: u64,
    held: u64,
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

impl Gates {
    /// A new stream of a gate. Returns the stream that is to be closed: the one before it, or this one when it is the older of the two
    /// and only arrived late.
    pub(crate) fn hello(
        &mut self,
        now: Millis,
        id: &GateId,
        stream: StreamId,
        sequence: u64,
        figures: &[(ModelId, Figures)],
    ) -> Option<StreamId> {
        let gate = self.gates.entry(id.clone()).or_insert_with(|| Gate {
            stream,
            open: true,
            snapshot_sent: false,
            last_heard: now,
            last_sequence: 0,
            table_version: 0,
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
        gate.fenced = false;
        gate.last_heard = now;
        gate.last_sequence = sequence;
        // A Hello lists everything that is not zero: what it leaves out is zero, except moments that only grow.
        for seen in gate.figures.values_mut() {
            (seen.in_flight, seen.held) = (0, 0);
        }
        gate.take(now, figures);
        self.sum_of_gate(id);
        before
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
        gate.last_heard = now;
        // A fenced gate that speaks again is waited for again; its acknowledgements stay valid.
        if std::mem::take(&mut gate.fenced) {
            self.sum_of_gate(id);
        }
        true
    }

    /// Figures of a Report (after [`Self::accepts`]). Returns whether they change anything but ages.
    pub(crate) fn report(
        &mut self,
        now: Millis,
        id: &GateId,
        table_version: u64,
        figures: &[(ModelId, Figures)],
    ) -> bool {
        let Some(gate) = self.gates.get_mut(id) else {
            return false;
        };
        gate.table_version = table_version;
        let mut changed = gate.take(now, figures);
        for (model, figures) in figures {
            if let Some(acknowledged) = gate.acknowledged.get_mut(model)
                && acknowledged.stream == gate.stream
                && acknowledged.zero != (figures.in_flight == 0)
            {
                acknowledged.zero = figures.in_flight == 0;
                changed = true;
            }
        }
        if changed {
            for (model, _) in figures {
                self.sum(model);
            }
        }
        changed
    }

    /// An acknowledgement (after [`Self::accepts`]). Whether its epoch is the running one is asked later.
    pub(crate) fn acknowledge(
        &mut self,
        id: &GateId,
        model: &ModelId,
        epoch: Epoch,
        in_flight: u64,
    ) {
        let Some(gate) = self.gates.get_mut(id) else {
            return;
        };
        let reported = gate.figures.get(model).map_or(0, |seen| seen.in_flight);
        let in_flight_counted = sabotage!(ZeroFromAnyReport, in_flight.min(reported), {
            let _ = reported;
            in_flight
        });
        gate.acknowledged.insert(
            model.clone(),
            Acknowledged {
                epoch,
                stream: gate.stream,
                zero: in_flight_counted == 0,
            },
        );
        gate.figures.entry(model.clone()).or_default().in_flight = in_flight;
        self.sum(model);
    }

    /// The gate's last message (after [`Self::accepts`]).
    pub(crate) fn bye(&mut self, id: &GateId) {
        let Some(gate) = self.gates.remove(id) else {
            return;
        };
        for model in gate.figures.keys() {
            self.sum(model);
        }
    }

    /// The stream ended; the gate itself is waited for until it is fenced.
    pub(crate) fn closed(&mut self, id: &GateId, stream: StreamId) {
        if let Some(gate) = self.gates.get_mut(id).filter(|gate| gate.stream == stream) {
            gate.open = false;
            gate.snapshot_sent = false;
            sabotage!(RecordDroppedOnClose, self.bye(id));
        }
    }

    /// Fences gates that were silent for `fence` and forgets those silent for `forget`. Returns streams to close.
    pub(crate) fn expire(
        &mut self,
        now: Millis,
        fence: Millis,
        forget: Millis,
    ) -> Vec<(GateId, StreamId)> {
        let mut to_close = Vec::new();
        let mut fenced = Vec::new();
        self.gates
            .retain(|_, gate| now.since(gate.last_heard) < forget);
        for (id, gate) in &mut self.gates {
            if !gate.fenced && now.since(gate.last_heard) >= fence {
                gate.fenced = true;
                fenced.push(id.clone());
                for seen in gate.figures.values_mut() {
                    seen.held = 0;
                }
                if gate.open {
                    gate.open = false;
                    gate.snapshot_sent = false;
                    to_close.push((id.clone(), gate.stream));
                }
            }
        }
        for id in &fenced {
            self.sum_of_gate(id);
        }
        to_close
    }

    /// When the next gate would be fenced, if it stays silent.
    pub(crate) fn next_fence(&self, fence: Millis) -> Option<Millis> {
        self.gates
            .values()
            .filter(|gate| !gate.fenced)
            .map(|gate| gate.last_heard + fence)
            .min()
    }

    /// What a drain under `epoch` waits for. `silence`: a gate silent for this long does not block (lease + margin; longer where
    /// the engine's server goes away, rule 14).
    pub(crate) fn waiting(
        &self,
        now: Millis,
        model: &ModelId,
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
            let acknowledged = gate.acknowledged.get(model).filter(|acknowledged| {
                sabotage!(AnyEpochAcknowledges, true, acknowledged.epoch == epoch)
            });
            let blocks = !gate.fenced || now.since(gate.last_heard) < silence;
            match (acknowledged, blocks) {
                (Some(acknowledged), true) => waiting.all_zero &= acknowledged.zero,
                (Some(acknowledged), false) => waiting.fenced_in_flight |= !acknowledged.zero,
                (None, true) if sabotage!(NoAcknowledgement, true, false) => {}
                (None, true) => (waiting.all_acknowledged, waiting.all_zero) = (false, false),
                (None, false) => {
                    waiting.fenced_in_flight |= gate
                        .figures
                        .get(model)
                        .is_some_and(|seen| seen.in_flight > 0)
                }
            }
        }
        waiting
    }

    /// Requests held for a model, over gates that are not fenced.
    pub(crate) fn held(&self, model: &ModelId) -> u64 {
        self.sums.get(model).map_or(0, |sum| sum.held)
    }

    /// Requests in flight for a model, over gates that are not fenced.
    pub(crate) fn in_flight(&self, model: &ModelId) -> u64 {
        self.sums.get(model).map_or(0, |sum| sum.in_flight)
    }

    /// Newest use and newest refused wish that a gate saw.
    pub(crate) fn moments(&self, id: &GateId, model: &ModelId) -> (Option<Millis>, Option<Millis>) {
        let seen = self.gates.get(id).and_then(|gate| gate.figures.get(model));
        seen.map_or((None, None), |seen| (seen.last_used, seen.last_refused))
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
        let unserved = self
            .gates
            .iter_mut()
            .filter(|(_, gate)| gate.open && !gate.snapshot_sent);
        unserved
            .map(|(id, gate)| {
                gate.snapshot_sent = true;
                (id.clone(), gate.stream, gate.last_sequence)
            })
            .collect()
    }

    /// Every open stream; marks them closed.
    pub(crate) fn close_all(&mut self) -> Vec<(GateId, StreamId)> {
        let open = self.gates.iter_mut().filter(|(_, gate)| gate.open);
        open.map(|(id, gate)| {
            (gate.open, gate.snapshot_sent) = (false, false);
            (id.clone(), gate.stream)
        })
        .collect()
    }

    /// What the other gates have in flight, by model, for `/status` at this gate.
    pub(crate) fn elsewhere(&self, id: &GateId) -> Vec<(ModelId, u64)> {
        let mut sums: BTreeMap<&ModelId, u64> = BTreeMap::new();
        for (_, gate) in self
            .gates
            .iter()
            .filter(|(other, gate)| *other != id && !gate.fenced)
        {
            for (model, seen) in gate.figures.iter().filter(|(_, seen)| seen.in_flight > 0) {
                *sums.entry(model).or_default() += seen.in_flight;
            }
        }
        sums.into_iter()
            .map(|(model, sum)| (model.clone(), sum))
            .collect()
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
        self.live().next().is_some()
    }

    /// Forgets a model that is gone.
    pub(crate) fn forget_model(&mut self, model: &ModelId) {
        for gate in self.gates.values_mut() {
            gate.figures.remove(model);
            gate.acknowledged.remove(model);
        }
        self.sums.remove(model);
    }

    fn sum(&mut self, model: &ModelId) {
        let mut sum = Sum::default();
        for seen in self.live().filter_map(|gate| gate.figures.get(model)) {
            sum.in_flight = sum.in_flight.saturating_add(seen.in_flight);
            sum.held = sum.held.saturating_add(seen.held);
        }
        if sum == Sum::default() {
            self.sums.remove(model);
        } else {
            self.sums.insert(model.clone(), sum);
        }
    }

    /// Sums again what a gate is part of.
    fn sum_of_gate(&mut self, id: &GateId) {
        let models = self.gates.get(id).map(|gate| gate.figures.keys().cloned());
        for model in models.map(Vec::from_iter).unwrap_or_default() {
            self.sum(&model);
        }
    }

    fn live(&self) -> impl Iterator<Item = &Gate> {
        self.gates.values().filter(|gate| !gate.fenced)
    }
}

impl Gate {
    /// Returns whether more than ages and uses changed.
    fn take(&mut self, now: Millis, figures: &[(ModelId, Figures)]) -> bool {
        let mut changed = false;
        for (
            model,
            Figures {
                in_flight,
                held,
                oldest_age: _,
                last_used_age,
                last_refused_age,
            },
        ) in figures
        {
            let seen = self.figures.entry(model.clone()).or_default();
            changed |= (seen.in_flight, seen.held) != (*in_flight, *held);
            changed |= last_refused_age.is_some();
            let kept = sabotage!(DemandIsKept, seen.held.max(*held), *held);
            (seen.in_flight, seen.held) = (*in_flight, kept);
            seen.last_used = seen
                .last_used
                .max(last_used_age.map(|age| now.since(Millis(age))));
            seen.last_refused = seen
                .last_refused
                .max(last_refused_age.map(|age| now.since(Millis(age))));
        }
        changed
    }
}
