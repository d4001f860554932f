//! Streams between gates and control: in order within one stream, never between two. What is on the wire when one end closes may
//! still arrive, or not.

use std::collections::VecDeque;

use greenthread_core::ids::StreamId;
use greenthread_proto::gate::{ControlMessage, GateMessage};

use crate::{agenda::Item, world::World};

/// What arrives at one end.
#[derive(Clone, Debug)]
pub enum Arrival<T> {
    /// A message.
    Message(T),
    /// The other end has closed.
    Ended,
}

/// One direction.
#[derive(Clone, Debug)]
pub struct Pipe<T> {
    /// On the wire, in order, with the time of arrival.
    pub wire: VecDeque<(u64, Arrival<T>)>,
    /// The receiving end is open.
    pub open: bool,
    /// So many messages were read before the end closed, and will still be looked at.
    pub read_ahead: usize,
}

impl<T> Pipe<T> {
    fn new() -> Self {
        Self {
            wire: VecDeque::new(),
            open: true,
            read_ahead: 0,
        }
    }

    /// Puts something behind everything else; returns when it arrives.
    pub fn put(&mut self, due: u64, what: Arrival<T>) -> u64 {
        let due = self.wire.back().map_or(due, |(last, _)| due.max(*last));
        self.wire.push_back((due, what));
        due
    }

    /// What has arrived by now.
    pub fn take(&mut self, now: u64) -> Option<Arrival<T>> {
        if self.wire.front().is_none_or(|(due, _)| *due > now) {
            return None;
        }
        self.wire.pop_front().map(|(_, what)| what)
    }
}

/// One stream.
#[derive(Debug)]
pub struct Stream {
    /// Its gate.
    pub gate: usize,
    /// The gate's own number of it.
    pub number: u64,
    /// The control that it leads to.
    pub life: usize,
    /// Control's number of it, once its Hello was read.
    pub id: Option<StreamId>,
    /// What goes up is stuck before.
    pub stalled_until: u64,
    /// The newest number that control has echoed on it.
    pub echoed: u64,
    /// Towards control.
    pub up: Pipe<GateMessage>,
    /// Towards the gate.
    pub down: Pipe<ControlMessage>,
}

impl World {
    /// A gate opens a stream to whichever control answers.
    pub(crate) fn open_stream(&mut self, gate: usize, number: u64) {
        let listening: Vec<usize> = (0..self.controls.len())
            .filter(|life| self.controls[*life].alive && !self.controls[*life].deposed)
            .collect();
        let stream = self.streams.len();
        let life = if listening.is_empty() {
            usize::MAX
        } else {
            self.random.pick(&listening)
        };
        self.streams.push(Stream {
            gate,
            number,
            life,
            id: None,
            stalled_until: 0,
            echoed: 0,
            up: Pipe::new(),
            down: Pipe::new(),
        });
        self.gates[gate].stream = Some(stream);
        if life == usize::MAX {
            self.streams[stream].up.open = false;
            let refused_at = self.now + self.random.below(20);
            self.send_down(stream, refused_at, Arrival::Ended);
        }
    }

    /// What a gate sends.
    pub(crate) fn send_up(&mut self, stream: usize, what: Arrival<GateMessage>) {
        let due = self.now + self.way(self.streams[stream].gate);
        let due = due.max(self.streams[stream].stalled_until);
        let due = self.streams[stream].up.put(due, what);
        self.agenda.push(due, Item::ToControl { stream });
    }

    /// What control sends, on the wire at that time.
    pub(crate) fn send_down(&mut self, stream: usize, at: u64, what: Arrival<ControlMessage>) {
        let due = self.streams[stream].down.put(at, what);
        self.agenda.push(due, Item::ToGate { stream });
    }

    /// How long a message takes.
    pub(crate) fn way(&mut self, gate: usize) -> u64 {
        let way = self.short_way();
        let stalled_until = self.gateways[self.gates[gate].gateway].stalled_until;
        way.max(stalled_until.saturating_sub(self.now))
    }

    /// The gate closes its end, or dies. What control has not read may be lost.
    pub(crate) fn gate_closes(&mut self, stream: usize, told_after: Option<u64>) {
        let kept = self.random.index(self.streams[stream].up.wire.len() + 1);
        let Stream { up, down, gate, .. } = &mut self.streams[stream];
        down.open = false;
        down.wire.clear();
        up.wire.truncate(kept);
        let gate = *gate;
        if self.gates[gate].stream == Some(stream) {
            self.gates[gate].stream = None;
        }
        if let Some(after) = told_after {
            let due = self.streams[stream]
                .up
                .put(self.now + after, Arrival::Ended);
            self.agenda.push(due, Item::ToControl { stream });
        }
    }

    /// Control closes its end, or dies. What waits in its queue is not sent any more.
    pub(crate) fn control_closes(&mut self, stream: usize, told_after: Option<u64>) {
        let (now, kept) = (
            self.now,
            self.random.index(self.streams[stream].down.wire.len() + 1),
        );
        let Stream { up, down, .. } = &mut self.streams[stream];
        up.open = false;
        // What its reader has put into the queue of the driver stays there.
        let soon = now + 5;
        let is_read = |(due, arrival): &&(u64, Arrival<GateMessage>)| {
            *due <= soon && matches!(arrival, Arrival::Message(_))
        };
        up.read_ahead = up.wire.iter().take_while(is_read).count();
        up.wire.truncate(up.read_ahead);
        down.wire.truncate(kept);
        if let Some(after) = told_after {
            let at = self.now + after;
            self.send_down(stream, at, Arrival::Ended);
        }
    }

    /// The connection breaks between the ends; each learns of it in its own time.
    pub(crate) fn stream_breaks(&mut self, stream: usize) {
        let kept = self.random.index(self.streams[stream].up.wire.len() + 1);
        self.streams[stream].up.wire.truncate(kept);
        let kept = self.random.index(self.streams[stream].down.wire.len() + 1);
        self.streams[stream].down.wire.truncate(kept);
        let (gate_after, control_after) = (self.random.below(2_000), self.random.below(20_000));
        let due = self.streams[stream]
            .up
            .put(self.now + control_after, Arrival::Ended);
        self.agenda.push(due, Item::ToControl { stream });
        let at = self.now + gate_after;
        self.send_down(stream, at, Arrival::Ended);
    }
}
