//! Controls: the production core, and the shell around it that sends what it wants sent, as long as it leads.

use std::sync::Arc;

use greenthread_core::{
    Core,
    effect::{Effect, PublishedRow},
    event::Event,
    ids::{Epoch, GateId, Millis, StreamId},
};
use greenthread_proto::gate::{
    self, ControlMessage, Delta, Heartbeat, Snapshot, control_message::Body,
};

use super::{Answer, Call, CallKind, Down, GATES, Life, Stage, Step, World};
use crate::{
    TICK,
    fingerprint::Hash,
    memo::{CoreAfter, Known, key},
    rendering::{Scope, tokens},
    row::{Row, Sabotage},
    shell,
};

/// The newest message of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) stream: StreamId,
    pub(crate) sequence: u64,
    pub(crate) sent_at: u64,
    pub(crate) at: u64,
}

/// One control.
#[derive(Clone, Debug)]
pub(crate) struct ControlSide {
    pub(crate) core: Known<Core>,
    pub(crate) is: Life,
    pub(crate) term: u64,
    /// When it got leadership, or a new term.
    pub(crate) since: u64,
    /// End of its leader lease; `None` while it renews it.
    pub(crate) leads_until: Option<u64>,
    /// A larger term that it met and has not taken yet.
    pub(crate) met: Option<u64>,
    /// What it last published: epoch, and the kind of admission.
    pub(crate) published: Option<(Epoch, String)>,
    /// That row as gates get it.
    pub(crate) told: Option<Arc<gate::Row>>,
    /// Epoch of its newest barrier.
    pub(crate) barrier: Epoch,
    /// It told the engine to sleep behind that barrier, and has admitted nothing since. (Follows from what the core is in.)
    pub(crate) slept: bool,
    pub(crate) heard: [Option<Heard>; GATES],
    /// Number of its newest stream.
    pub(crate) streams: u64,
}

fn scope(index: usize, row: &Row) -> Scope {
    Scope {
        control: index as u64,
        idles: row.idle.is_some(),
        ..Scope::default()
    }
}

/// What one step publishes, until something else is sent.
struct Batch {
    rows: Vec<gate::Row>,
    /// Which step it is, and how many messages it has sent.
    step: u128,
    sent: u128,
}

impl World {
    /// A control gets the lock, or leadership, with a term that is larger than every one before it.
    pub(super) fn succeed(&mut self, step: &mut Step<'_>) {
        let index = self.controls.len();
        self.term += 1;
        step.note(|| format!("control {index} begins, term {}", self.term));
        let row = step.row;
        let mut fleet = shell::fleet(row, self.term);
        let mut since = self.now;
        let wrong = |by| index > 0 && row.is_sabotaged(by);
        if row.is_sabotaged(Sabotage::FenceAtTheLease) || wrong(Sabotage::SuccessorWaitsOneLease) {
            fleet.times.margin = Millis(0);
        }
        if wrong(Sabotage::SuccessorBelievesAtOnce) {
            fleet.times.command = Millis(0);
        }
        if wrong(Sabotage::SuccessorWaitsNothing) {
            since -= row.fence().0;
        }
        self.controls.push(ControlSide {
            core: Known::new(Core::new(fleet, Millis(since)), scope(index, row)),
            is: Life::Running,
            term: self.term,
            since: self.now,
            leads_until: None,
            met: None,
            published: None,
            told: None,
            barrier: Epoch::default(),
            slept: false,
            heard: [None; GATES],
            streams: 0,
        });
        let model = Event::ModelSet(Box::new(shell::spec(row)));
        self.control_step(index, model, step);
    }

    /// One step of a core, and its effects in their order.
    pub(super) fn control_step(&mut self, index: usize, event: Event, step: &mut Step<'_>) {
        let now = self.moment();
        let before = &self.controls[index].core;
        let met = key(&[before.id, index as u128, now.0.into()], &event);
        let after = step.memo.cores.get(met, || {
            let (mut core, mut effects) = (Core::clone(&before.value), Vec::new());
            core.step(now, event, &mut effects);
            let core = Known::new(core, scope(index, step.row));
            let core = step
                .memo
                .same
                .get(key(&[core.id, index as u128], &()), || core);
            Arc::new(CoreAfter { core, effects })
        });
        self.controls[index].core = after.core.clone();
        let mut batch = Batch {
            rows: Vec::new(),
            step: met,
            sent: 0,
        };
        for effect in &after.effects {
            self.perform(index, effect, &mut batch, step);
        }
        self.send_rows(index, &mut batch, step);
    }

    fn perform(&mut self, index: usize, effect: &Effect, batch: &mut Batch, step: &mut Step<'_>) {
        match effect {
            Effect::Publish(row) => {
                self.check_published(index, row, step);
                let told = Arc::new(shell::rendered(row, step.row.on_lease_end));
                // One that only tells how long something takes is here what gates have.
                let side = &mut self.controls[index];
                if side.told.as_ref() != Some(&told) {
                    batch.rows.push(gate::Row::clone(&told));
                    side.told = Some(told);
                }
            }
            Effect::SendSnapshot { stream, rows, .. } => {
                self.send_rows(index, batch, step);
                self.send_snapshot(index, *stream, rows, batch, step);
            }
            Effect::Heartbeat {
                gate,
                stream,
                echoed,
                ..
            } => {
                self.send_rows(index, batch, step);
                self.send_heartbeat(index, gate, *stream, *echoed, batch, step);
            }
            Effect::CloseStream { gate, stream } => {
                self.send_rows(index, batch, step);
                step.note(|| format!("control {index} closes the stream of {gate}"));
                if let Some(link) = self.link_of(index, *stream) {
                    link.control_open = false;
                }
            }
            Effect::Observe { attempt, .. } => self.call(index, CallKind::Look, attempt.0, step),
            Effect::Wake { attempt, .. } => {
                self.send_rows(index, batch, step);
                self.call(index, CallKind::Wake, attempt.0, step);
            }
            Effect::Sleep { attempt, .. } => {
                self.check_sleep(index, step);
                self.controls[index].slept = true;
                self.call(index, CallKind::Sleep, attempt.0, step);
            }
            Effect::Start { .. } | Effect::Kill { .. } => {
                step.breaks(|| {
                    format!("control {index} starts or ends an engine that is not its own")
                });
            }
            Effect::RaiseTerm { at_least } => {
                step.note(|| format!("control {index} meets term {at_least}"));
                let met = &mut self.controls[index].met;
                *met = Some(met.unwrap_or(0).max(*at_least));
            }
            Effect::Record(decision) => {
                step.note(|| format!("control {index}: {}", decision.sentence));
            }
            Effect::Removed { .. } | Effect::Dropped(_) | Effect::Footprint { .. } => {}
        }
    }

    fn send_snapshot(
        &mut self,
        index: usize,
        stream: StreamId,
        rows: &[PublishedRow],
        batch: &mut Batch,
        step: &mut Step<'_>,
    ) {
        for row in rows {
            self.check_published(index, row, step);
        }
        let rows = rows
            .iter()
            .map(|row| shell::rendered(row, step.row.on_lease_end))
            .collect();
        let Some(link) = self.link_of(index, stream) else {
            return;
        };
        link.version += 1;
        let times = step.row.times;
        let snapshot = Body::Snapshot(Snapshot {
            version: link.version,
            rows,
            last: true,
            times: Some(gate::Times {
                lease_ms: times.lease.0,
                heartbeat_ms: times.heartbeat.0,
                max_flow_ms: times.max_flow.0,
            }),
        });
        self.send(index, stream, snapshot, 0, batch, step);
    }

    fn send_heartbeat(
        &mut self,
        index: usize,
        gate: &GateId,
        stream: StreamId,
        echoed: u64,
        batch: &mut Batch,
        step: &mut Step<'_>,
    ) {
        let of_gate = (0..GATES).find(|at| shell::gate_id(*at) == *gate);
        let heard = of_gate.and_then(|at| self.controls[index].heard[at]);
        let renews = match heard {
            Some(heard) if heard.sequence == echoed => heard.sent_at,
            Some(_) | None => {
                step.breaks(|| format!("control {index} echoes what it did not just hear"));
                0
            }
        };
        let heartbeat = Body::Heartbeat(Heartbeat {
            echoed_sequence: echoed,
            elsewhere: Vec::new(),
            elsewhere_stays: true,
        });
        self.send(index, stream, heartbeat, renews, batch, step);
    }

    /// Rows that were published one after the other go out as one delta, before anything else is sent.
    fn send_rows(&mut self, index: usize, batch: &mut Batch, step: &mut Step<'_>) {
        if batch.rows.is_empty() {
            return;
        }
        let rows = std::mem::take(&mut batch.rows);
        let streams: Vec<StreamId> = self
            .links
            .iter()
            .filter(|link| link.control_open && link.version > 0)
            .filter_map(|link| link.control)
            .filter(|(control, _)| *control == index)
            .map(|(_, stream)| stream)
            .collect();
        for stream in streams {
            let Some(link) = self.link_of(index, stream) else {
                continue;
            };
            if step.row.is_sabotaged(Sabotage::RowDropped) && !link.down.is_empty() {
                continue;
            }
            link.version += 1;
            let delta = Body::Delta(Delta {
                version: link.version,
                rows: rows.clone(),
            });
            self.send(index, stream, delta, 0, batch, step);
        }
    }

    fn send(
        &mut self,
        index: usize,
        stream: StreamId,
        body: Body,
        renews: u64,
        batch: &mut Batch,
        step: &mut Step<'_>,
    ) {
        self.check_leads(index, step);
        batch.sent += 1;
        let term = self.controls[index].term;
        let Some(link) = self.link_of(index, stream) else {
            return;
        };
        if !link.control_open || link.broken || !link.gate_open {
            return;
        }
        let is_heartbeat = matches!(body, Body::Heartbeat(_));
        let scope = Scope {
            gate: link.gate as u64,
            ..Scope::default()
        };
        let version = link.version;
        let sent = [
            batch.step,
            batch.sent,
            link.gate as u128,
            version.into(),
            renews.into(),
        ];
        let down = step.memo.downs.get(key(&sent, &term), || {
            let message = ControlMessage {
                term,
                body: Some(body),
            };
            let text = format!("{message:?}");
            Arc::new(Down {
                tokens: tokens(&text, scope),
                id: Hash::of(&text),
                message,
                renews,
            })
        });
        let overtakes = step.row.is_sabotaged(Sabotage::HeartbeatOvertakes) && is_heartbeat;
        let is_delta = |down: &&Arc<Down>| matches!(down.message.body, Some(Body::Delta(_)));
        let overtaken = link.down.iter().rev().take_while(is_delta).count();
        let at = link.down.len() - if overtakes { overtaken } else { 0 };
        link.down.insert(at, down);
    }

    /// Calls the engine, where the leader lease lasts longer than the call may be on its way (rule 7).
    fn call(&mut self, index: usize, kind: CallKind, attempt: u64, step: &mut Step<'_>) {
        let until = self.now + step.row.times.command.0;
        let leads_until = self.controls[index].leads_until;
        let may = kind == CallKind::Look
            || leads_until.is_none_or(|end| until < end)
            || step.row.is_sabotaged(Sabotage::DeposedGoesOn);
        step.note(|| {
            let not = if may {
                ""
            } else {
                " (nothing is sent: its lease is too short)"
            };
            format!("control {index} calls the engine: {kind:?}{not}")
        });
        if may && kind != CallKind::Look {
            self.check_leads(index, step);
        }
        let stage = if may {
            Stage::Travelling { orphan: false }
        } else {
            Stage::Back(Answer::Unknown)
        };
        self.calls.push(Call {
            control: index,
            attempt,
            kind,
            stage,
            until: if may { until } else { 0 },
        });
        self.calls.sort_unstable();
    }

    /// A control hears the next message of a stream.
    pub(super) fn control_hears(&mut self, at: usize, step: &mut Step<'_>) {
        let Some((index, stream)) = self.links[at].control else {
            return;
        };
        let Some(up) = self.links[at].up.pop_front() else {
            return;
        };
        let gate = self.links[at].gate;
        step.note(|| {
            format!(
                "control {index} hears message {} of g{gate}",
                up.message.sequence
            )
        });
        let heard = &mut self.controls[index].heard[gate];
        // What an older stream says after a newer Hello proves nothing.
        if heard.is_none_or(|before| before.stream <= stream) {
            *heard = Some(Heard {
                stream,
                sequence: up.message.sequence,
                sent_at: up.sent_at,
                at: self.now,
            });
        }
        if let Some(event) = self.heard_event(index, at, &up, step.row) {
            self.control_step(index, event, step);
        }
    }

    /// A control accepts a stream, which begins with its Hello.
    pub(super) fn attach(&mut self, at: usize, index: usize, step: &mut Step<'_>) {
        let control = &mut self.controls[index];
        control.streams += 1;
        self.links[at].control = Some((index, StreamId(control.streams)));
        self.control_hears(at, step);
    }

    pub(super) fn control_loses(&mut self, at: usize, step: &mut Step<'_>) {
        self.links[at].control_open = false;
        let Some((index, stream)) = self.links[at].control else {
            return;
        };
        let gate = shell::gate_id(self.links[at].gate);
        step.note(|| format!("control {index} learns that the stream of {gate} is gone"));
        let forgets = step.row.is_sabotaged(Sabotage::ForgottenWhenClosed);
        let last = self.controls[index].heard[self.links[at].gate];
        let event = match last {
            Some(heard) if forgets => Event::Bye {
                gate,
                stream,
                sequence: heard.sequence + 1,
            },
            Some(_) | None => Event::StreamClosed { gate, stream },
        };
        self.control_step(index, event, step);
    }

    /// What the shell does when the clock has moved: first whether it leads still, then what the core wanted a tick for.
    pub(super) fn control_ticks(&mut self, index: usize, step: &mut Step<'_>) {
        let control = &self.controls[index];
        let over = control.leads_until.is_some_and(|end| self.now >= end);
        if over && !step.row.is_sabotaged(Sabotage::DeposedGoesOn) {
            step.note(|| format!("control {index} leads no longer and stops"));
            self.control_step(index, Event::Deposed, step);
            self.end_control(index);
        } else if control
            .core
            .value
            .next_deadline()
            .is_some_and(|at| at.0 <= self.now)
        {
            self.control_step(index, Event::Tick, step);
        }
    }

    /// A control is gone; its calls may still be carried out.
    pub(super) fn end_control(&mut self, index: usize) {
        self.controls[index].is = Life::Gone;
        self.calls
            .retain(|call| call.control != index || matches!(call.stage, Stage::Travelling { .. }));
        for call in self.calls.iter_mut().filter(|call| call.control == index) {
            call.stage = Stage::Travelling { orphan: true };
        }
        self.calls
            .retain(|call| call.control != index || call.kind != CallKind::Look);
        self.calls.sort_unstable();
    }

    /// A larger term is on the disk: every epoch from here on carries it.
    pub(super) fn take_term(&mut self, index: usize, at_least: u64, step: &mut Step<'_>) {
        self.term = self.term.max(at_least) + 1;
        let term = self.term;
        step.note(|| format!("control {index} takes term {term}"));
        let control = &mut self.controls[index];
        (control.term, control.since, control.met) = (term, self.now, None);
        self.control_step(index, Event::TermRaised(term), step);
    }

    /// Whether nobody leads, so that another control may begin.
    pub(super) fn may_succeed(&self) -> bool {
        let over = |control: &ControlSide| {
            control.is == Life::Gone || control.leads_until.is_some_and(|end| self.now >= end)
        };
        self.controls.len() == 1 && self.controls.iter().all(over)
    }

    /// When a leader lease that was renewed for the last time now ends.
    pub(super) fn last_renewal(&self) -> Option<u64> {
        Some(self.now + crate::row::LEADER_LEASE * TICK.0)
    }
}
