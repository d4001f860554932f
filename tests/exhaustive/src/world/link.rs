//! Streams: two queues in order, and two ends that notice on their own that the other is gone.

use std::{collections::VecDeque, sync::Arc};

use greenthread_core::ids::StreamId;
use greenthread_proto::gate::{ControlMessage, GateMessage};

use super::{Action, Life, Step, World};
use crate::{
    rendering::Token,
    row::{Budget, Row},
};

/// What a gate said.
#[derive(Debug)]
pub(crate) struct Up {
    pub(crate) message: GateMessage,
    pub(crate) sent_at: u64,
    pub(crate) tokens: Arc<[Token]>,
}

/// What control said.
#[derive(Debug)]
pub(crate) struct Down {
    pub(crate) message: ControlMessage,
    /// When the message was sent that this one echoes; 0 for others.
    pub(crate) renews: u64,
    /// A hash of the message.
    pub(crate) id: u128,
    pub(crate) tokens: Arc<[Token]>,
}

/// One stream.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) gate: usize,
    /// The gate's own number of it.
    pub(crate) number: u64,
    /// The gate's end is open.
    pub(crate) gate_open: bool,
    /// Who answered, and by which number it knows the stream.
    pub(crate) control: Option<(usize, StreamId)>,
    pub(crate) control_open: bool,
    /// Nothing that is sent from now on arrives.
    pub(crate) broken: bool,
    /// Version of the table behind everything that was sent; 0 before the snapshot.
    pub(crate) version: u64,
    pub(crate) up: VecDeque<Arc<Up>>,
    pub(crate) down: VecDeque<Arc<Down>>,
}

impl Link {
    pub(crate) fn new(gate: usize, number: u64) -> Self {
        Self {
            gate,
            number,
            gate_open: true,
            control: None,
            control_open: true,
            broken: false,
            version: 0,
            up: VecDeque::new(),
            down: VecDeque::new(),
        }
    }
}

impl World {
    /// Queues of a stream that could be emptied now.
    pub(super) fn waiting(&self, link: &Link) -> usize {
        usize::from(self.can_be_heard(link)) + usize::from(self.can_be_read(link))
    }

    fn can_be_heard(&self, link: &Link) -> bool {
        let listens = |index: usize| self.controls[index].is == Life::Running;
        let listened_to = match link.control {
            Some((index, _)) => listens(index),
            None => (0..self.controls.len()).any(listens),
        };
        link.control_open && listened_to && !link.up.is_empty()
    }

    fn can_be_read(&self, link: &Link) -> bool {
        link.gate_open && self.gates[link.gate].is == Life::Running && !link.down.is_empty()
    }

    pub(super) fn link_actions(&self, row: &Row, actions: &mut Vec<Action>) {
        for (at, link) in (0_u8..).zip(&self.links) {
            match link.control {
                Some(_) if self.can_be_heard(link) => actions.push(Action::Up(at)),
                None if self.can_be_heard(link) => {
                    let controls = (0_u8..).zip(&self.controls);
                    let running = controls.filter(|(_, control)| control.is == Life::Running);
                    actions.extend(running.map(|(index, _)| Action::Attach(at, index)));
                }
                Some(_) | None => {}
            }
            if self.can_be_read(link) {
                actions.push(Action::Down(at));
            }
            let gate_runs = self.gates[link.gate].is == Life::Running;
            if link.gate_open && gate_runs && (link.broken || !link.control_open) {
                actions.push(Action::GateLoses(at));
            }
            let control_runs = link
                .control
                .is_some_and(|(index, _)| self.controls[index].is == Life::Running);
            if link.control_open && control_runs && (link.broken || !link.gate_open) {
                actions.push(Action::ControlLoses(at));
            }
            let whole = link.gate_open && link.control_open && !link.broken;
            let may_break = self.left.breaks > 0 && row.may_fail(link.gate);
            if whole && link.control.is_some() && may_break {
                actions.push(Action::Break(at));
            }
        }
    }

    /// Where nothing can come between what control sends and its gate any more (no delay, break or freeze is left), a gate reads in the
    /// step in which control sent: whatever else could happen in between commutes with what control did, since it concerns another
    /// gate, the engine, or this gate's clients, and so happened before as well. `self` is the state before that step.
    pub(super) fn read_at_once(&self, after: &mut Self, step: &mut Step<'_>) {
        let Budget {
            delays,
            breaks,
            gate_freezes,
            ..
        } = after.left;
        if delays > 0 || breaks > 0 || gate_freezes > 0 {
            return;
        }
        let is_same =
            |link: &Link, other: &Link| (link.gate, link.number) == (other.gate, other.number);
        let runs = |gate: usize| self.gates[gate].is == Life::Running;
        let idle: Vec<Link> = self
            .links
            .iter()
            .filter(|link| link.down.is_empty() && !link.broken && runs(link.gate))
            .cloned()
            .collect();
        while let Some(at) = after.links.iter().position(|link| {
            after.can_be_read(link) && idle.iter().any(|before| is_same(before, link))
        }) {
            after.gate_reads(at, step);
            after.tidy_links();
        }
    }

    /// Forgets streams that nobody has an end of any more.
    pub(super) fn tidy_links(&mut self) {
        let controls = &self.controls;
        let gates = &self.gates;
        for link in &mut self.links {
            if !link.gate_open || gates[link.gate].is == Life::Gone {
                link.down.clear();
            }
            let gone = link
                .control
                .is_some_and(|(index, _)| controls[index].is == Life::Gone);
            if !link.control_open || gone {
                link.up.clear();
                link.control_open = false;
            }
        }
        self.links.retain(|link| {
            let unanswered = link.control.is_none() && !link.gate_open;
            let gone = gates[link.gate].is == Life::Gone && !link.control_open;
            (link.gate_open || link.control_open) && !unanswered && !gone
        });
    }

    /// The newest stream that a gate opened and has not closed.
    pub(super) fn open_link(&mut self, gate: usize) -> Option<&mut Link> {
        self.links
            .iter_mut()
            .find(|link| link.gate == gate && link.gate_open)
    }

    /// The stream that a control knows by this number.
    pub(super) fn link_of(&mut self, control: usize, stream: StreamId) -> Option<&mut Link> {
        self.links
            .iter_mut()
            .find(|link| link.control == Some((control, stream)))
    }
}
