//! What the gates of one Envoy process tell each other through proxy-wasm shared data: the last table, and how much each
//! of them holds, so that hold limits count over all workers.
//!
//! Every gate writes only its own entries. The list of gates is written without compare-and-swap: each gate looks every
//! second whether it still stands there, however much else it writes, so that an update lost to another writer is repaired.

use std::collections::BTreeMap;

use crate::{gate::Effect, hold::Hold, row::RowId, time::Millis};

/// Where the rows for a gate that starts are kept.
pub const TABLE_KEY: &str = "greenthread.table";
const GATES_KEY: &str = "greenthread.gates";

/// An entry that is older than this is not counted: its gate is gone or stuck.
const FRESH: Millis = Millis(3_000);
/// A gate that wrote nothing for this long is taken off the list.
const FORGOTTEN: Millis = Millis(60_000);
/// How often the list is looked at and the own entry renewed.
const RENEWAL: Millis = Millis(1_000);
/// How soon a gate that did not stand on the list looks again: the gates of a process start, and write, at the same moment.
const JOINING: Millis = Millis(50);

/// What a decision can ask its host for. Implemented by the host in Envoy, by kept headers, and by tests.
pub trait Surroundings {
    /// Value of a request header, as the client's bytes.
    fn header(&self, name: &str) -> Option<Vec<u8>>;
    /// Value in the data that all gates of the process share.
    fn shared(&self, key: &str) -> Option<Vec<u8>>;
}

/// Held requests and their bytes, summed over gates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupied {
    /// Requests of all rows.
    pub requests: u64,
    /// Bytes of all rows.
    pub bytes: u64,
    /// Requests of the row that was asked for.
    pub of_row: u64,
}

/// The part of one gate.
#[derive(Clone, Debug)]
pub struct Sharing {
    gate: String,
    peers: Vec<String>,
    rows: BTreeMap<RowId, u64>,
    totals: (u64, u64),
    written: Option<Millis>,
    look_at: Millis,
}

impl Sharing {
    /// The part of the gate with this id.
    pub fn new(gate: String) -> Self {
        Self {
            gate,
            peers: Vec::new(),
            rows: BTreeMap::new(),
            totals: (0, 0),
            written: None,
            look_at: Millis(0),
        }
    }

    /// When the own entry has to be renewed, or the list looked at.
    pub fn due(&self) -> Millis {
        self.entry_due().min(self.look_at)
    }

    fn entry_due(&self) -> Millis {
        self.written
            .map_or(Millis(0), |written| written.plus(RENEWAL))
    }

    /// What the other gates hold now, with the requests of `row`.
    pub fn others(&self, now: Millis, row: Option<&RowId>, around: &dyn Surroundings) -> Occupied {
        let mut sum = Occupied::default();
        for peer in &self.peers {
            let Some([requests, bytes, at]) = around
                .shared(&totals_key(peer))
                .as_deref()
                .and_then(numbers)
            else {
                continue;
            };
            if now.since(Millis(at)) > FRESH {
                continue;
            }
            let of_row = row
                .and_then(|row| around.shared(&row_key(peer, row)))
                .as_deref()
                .and_then(numbers);
            sum.requests = sum.requests.saturating_add(requests);
            sum.bytes = sum.bytes.saturating_add(bytes);
            sum.of_row = sum
                .of_row
                .saturating_add(of_row.map_or(0, |[number]| number));
        }
        sum
    }

    /// Writes what changed since the last call for this row (after a hold) or for all of them.
    pub fn publish(
        &mut self,
        now: Millis,
        hold: &Hold,
        row: Option<&RowId>,
        effects: &mut Vec<Effect>,
    ) {
        let rows: Vec<RowId> = match row {
            Some(row) => vec![row.clone()],
            None => self.rows.keys().cloned().collect(),
        };
        for row in rows {
            let (held, _) = hold.of(&row);
            if self.rows.get(&row).copied().unwrap_or(0) != held {
                effects.push(Effect::Share {
                    key: row_key(&self.gate, &row),
                    value: bytes_of([held]),
                });
            }
            if held == 0 {
                self.rows.remove(&row);
            } else {
                self.rows.insert(row, held);
            }
        }
        let totals = (hold.len(), hold.bytes());
        if totals != self.totals || now >= self.entry_due() {
            let value = bytes_of([totals.0, totals.1, now.0]);
            effects.push(Effect::Share {
                key: totals_key(&self.gate),
                value,
            });
            self.totals = totals;
            self.written = Some(now);
        }
    }

    /// When it is time: reads the list of gates, takes silent ones off it and puts itself on it.
    pub fn renew(
        &mut self,
        now: Millis,
        hold: &Hold,
        around: &dyn Surroundings,
        effects: &mut Vec<Effect>,
    ) {
        if now >= self.look_at {
            let list = around.shared(GATES_KEY).unwrap_or_default();
            let listed: Vec<String> = String::from_utf8_lossy(&list)
                .lines()
                .map(str::to_owned)
                .collect();
            let is_there = listed.contains(&self.gate);
            self.look_at = now.plus(if is_there { RENEWAL } else { JOINING });
            self.peers = listed
                .iter()
                .filter(|gate| **gate != self.gate && speaks(gate, now, around))
                .cloned()
                .collect();
            if !is_there || self.peers.len().saturating_add(1) < listed.len() {
                let mut lines = self.peers.clone();
                lines.push(self.gate.clone());
                effects.push(Effect::Share {
                    key: GATES_KEY.to_owned(),
                    value: lines.join("\n").into_bytes(),
                });
            }
        }
        self.publish(now, hold, None, effects);
    }
}

fn speaks(gate: &str, now: Millis, around: &dyn Surroundings) -> bool {
    let totals = around.shared(&totals_key(gate));
    totals
        .as_deref()
        .and_then(numbers)
        .is_some_and(|[_, _, at]| now.since(Millis(at)) < FORGOTTEN)
}

fn totals_key(gate: &str) -> String {
    format!("greenthread.held.{gate}")
}

fn row_key(gate: &str, row: &RowId) -> String {
    format!("greenthread.held.{gate}.{row}")
}

fn bytes_of<const N: usize>(numbers: [u64; N]) -> Vec<u8> {
    numbers
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect()
}

fn numbers<const N: usize>(value: &[u8]) -> Option<[u64; N]> {
    let (chunks, rest) = value.as_chunks::<8>();
    let numbers: Vec<u64> = chunks
        .iter()
        .map(|chunk| u64::from_le_bytes(*chunk))
        .collect();
    rest.is_empty().then_some(())?;
    numbers.try_into().ok()
}
