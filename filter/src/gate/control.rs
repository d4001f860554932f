//! Messages of control, and what the gate says (rules 2, 5, 9, 10, 12, 13, 16).
//!
//! A message only changes the table and the lease; held requests go on in ticks. What is sent here are acknowledgements:
//! from the moment of sending, this gate admits nothing for that row under that epoch, because it has a single thread.

use greenthread_proto::{
    PROTOCOL,
    gate::{
        BarrierAck, ControlMessage, Epoch, GateMessage, Heartbeat, Hello, Report, control_message,
        gate_message,
    },
};
use prost::Message;

use super::{Effect, Gate};
use crate::{row::RowId, shared::TABLE_KEY, table::Applied, time::Millis};

impl Gate {
    /// Bytes arrived on the stream with this number.
    pub fn on_stream_bytes(
        &mut self,
        now: Millis,
        stream: u64,
        bytes: &[u8],
        effects: &mut Vec<Effect>,
    ) {
        match ControlMessage::decode(bytes) {
            Ok(message) => self.on_message(now, stream, message, effects),
            Err(error) => self.break_off(now, stream, &error, effects),
        }
    }

    /// A message arrived on the stream with this number. Streams that are not open any more are not listened to.
    pub fn on_message(
        &mut self,
        now: Millis,
        stream: u64,
        message: ControlMessage,
        effects: &mut Vec<Effect>,
    ) {
        if !self.link.is(stream) {
            return;
        }
        if !self.link.obeys(message.term) {
            let error = format!(
                "term {} is older than {}",
                message.term,
                self.link.largest_term()
            );
            return self.break_off(now, stream, &error, effects);
        }
        match message.body {
            Some(control_message::Body::Snapshot(chunk)) => match self.table.snapshot(chunk) {
                Ok(Some(applied)) => {
                    self.complete = true;
                    self.started = true;
                    self.link.snapshot();
                    self.after_change(now, &applied, effects);
                }
                Ok(None) => {}
                Err(error) => self.break_off(now, stream, &error, effects),
            },
            Some(control_message::Body::Delta(_)) if !self.link.has_snapshot() => {
                self.break_off(now, stream, &"a delta came before the snapshot", effects);
            }
            Some(control_message::Body::Delta(delta)) => match self.table.delta(delta) {
                Ok(applied) => self.after_change(now, &applied, effects),
                Err(error) => self.break_off(now, stream, &error, effects),
            },
            Some(control_message::Body::Heartbeat(heartbeat)) => {
                self.on_heartbeat(now, stream, heartbeat, effects)
            }
            // A newer control may say more than this gate understands.
            None => {}
        }
    }

    /// The stream ended, or could not be opened. It is opened again by a later tick, never from here.
    pub fn on_stream_closed(&mut self, now: Millis, stream: u64) {
        if self.link.is(stream) {
            self.table.drop_chunks();
            self.link.close(now);
        }
    }

    fn on_heartbeat(
        &mut self,
        now: Millis,
        stream: u64,
        heartbeat: Heartbeat,
        effects: &mut Vec<Effect>,
    ) {
        let sent = match self.link.echo(now, heartbeat.echoed_sequence) {
            Ok(sent) => sent,
            Err(error) => return self.break_off(now, stream, &error, effects),
        };
        if !self.link.has_snapshot() {
            return;
        }
        if !heartbeat.elsewhere_stays {
            let others = heartbeat.elsewhere.into_iter();
            self.elsewhere = others
                .map(|row| (RowId::from(row.row.as_str()), row.in_flight))
                .collect();
        }
        if let Some(sent) = sent {
            self.figures.echoed(heartbeat.echoed_sequence);
            let lease = self.table.times().lease;
            self.lease
                .renew(sabotage!(LeaseFromArrival, now, sent), lease);
            self.unsettled = true;
        }
    }

    fn after_change(&mut self, now: Millis, applied: &Applied, effects: &mut Vec<Effect>) {
        let forgotten = sabotage!(BarrierNotAcknowledged, applied.len() > 1, false);
        let acknowledged = |row: &&std::sync::Arc<crate::row::Row>| row.is_draining() && !forgotten;
        for row in applied.iter().filter(acknowledged) {
            let epoch = Some(Epoch {
                term: row.epoch.term,
                counter: row.epoch.counter,
            });
            let in_flight = self.figures.in_flight(&row.id);
            let ack = BarrierAck {
                row: row.id.to_string(),
                epoch,
                in_flight,
            };
            self.send(now, gate_message::Body::BarrierAck(ack), effects);
        }
        if let Some(value) = self.table.changed_start() {
            effects.push(Effect::Share {
                key: TABLE_KEY.to_owned(),
                value,
            });
        }
        let (table, hold) = (&self.table, &self.hold);
        (self.figures).forget(|row| table.row(row).is_some() || hold.of(row).0 > 0);
        self.unsettled = true;
    }

    /// Closes a stream on which something came that must not come.
    fn break_off(
        &mut self,
        now: Millis,
        stream: u64,
        why: &dyn std::fmt::Display,
        effects: &mut Vec<Effect>,
    ) {
        if self.link.is(stream) {
            effects.push(Effect::Warn(format!("stream to control closed: {why}")));
            effects.push(Effect::Close);
            self.on_stream_closed(now, stream);
        }
    }

    /// Opens the stream when it is time, and closes one that has brought no valid heartbeat for a lease.
    pub(super) fn keep_stream(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        if now < self.link.due(self.table.times().lease) {
            return;
        }
        if self.link.is_open() {
            effects.push(Effect::Warn(
                "stream to control closed: no valid heartbeat for one lease".to_owned(),
            ));
            effects.push(Effect::Close);
            self.table.drop_chunks();
            self.link.close(now);
            return;
        }
        let stream = self.link.open(now);
        effects.push(Effect::Open { stream });
        let sequence = self.link.number(now);
        let hold = &self.hold;
        let hello = Hello {
            gate: self.id.clone(),
            gateway: self.config.gateway.clone(),
            module_sha256: self.config.module_sha256.clone(),
            protocol_min: PROTOCOL.0,
            protocol_max: PROTOCOL.1,
            largest_term: self.link.largest_term(),
            rows: self.figures.for_hello(sequence, now, &|row| hold.of(row)),
        };
        effects.push(Effect::Send(GateMessage {
            sequence,
            body: Some(gate_message::Body::Hello(hello)),
        }));
        self.last_report = now;
        self.next_report = now.plus(self.table.times().heartbeat);
    }

    /// Reports every heartbeat interval, also when nothing changed: the echo of it renews the lease.
    pub(super) fn report_when_due(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        if now < self.next_report || !self.link.is_open() {
            return;
        }
        let sequence = self.link.number(now);
        let hold = &self.hold;
        let rows = self.figures.for_report(sequence, now, &|row| hold.of(row));
        let report = Report {
            rows,
            table_version: self.table.version(),
        };
        effects.push(Effect::Send(GateMessage {
            sequence,
            body: Some(gate_message::Body::Report(report)),
        }));
        self.last_report = now;
        self.next_report = now.plus(self.table.times().heartbeat);
    }

    pub(super) fn send(
        &mut self,
        now: Millis,
        body: gate_message::Body,
        effects: &mut Vec<Effect>,
    ) {
        let sequence = self.link.number(now);
        effects.push(Effect::Send(GateMessage {
            sequence,
            body: Some(body),
        }));
    }
}
