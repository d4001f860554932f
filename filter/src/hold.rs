//! Held requests of one gate: first in, first out per row, with a deadline each, and what they cost.

use std::collections::{BTreeMap, BTreeSet};

use crate::{answers::Api, row::RowId, time::Millis};

/// Id of a request within its gate: the id of its stream context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u32);

/// Headers that are read when a request does not go on at once; kept while it waits for the first table.
pub const KEPT_HEADERS: [&str; 5] = [":method", "upgrade", "prefer", "content-length", ":path"];

/// For whom a request waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// For a row to admit it.
    Row {
        /// Which.
        row: RowId,
        /// What the engine will get as its path.
        forwarded: Vec<u8>,
        /// Shape of a refusal.
        api: Api,
    },
    /// For the first table: its headers, to decide again.
    Table(Vec<(&'static str, Vec<u8>)>),
}

/// One held request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// For whom it waits.
    pub waiting: Waiting,
    /// When it arrived.
    pub since: Millis,
    /// When it is answered at the latest.
    pub deadline: Millis,
    /// What it may occupy in Envoy's buffers.
    pub bytes: u64,
}

impl Held {
    const fn row(&self) -> Option<&RowId> {
        match &self.waiting {
            Waiting::Row { row, .. } => Some(row),
            Waiting::Table(_) => None,
        }
    }
}

/// All held requests of a gate.
#[derive(Clone, Debug, Default)]
pub struct Hold {
    requests: BTreeMap<RequestId, (Held, u64)>,
    /// `None` is the queue of those that wait for the first table.
    queues: BTreeMap<Option<RowId>, BTreeMap<u64, RequestId>>,
    deadlines: BTreeSet<(Millis, RequestId)>,
    bytes: u64,
    tickets: u64,
}

impl Hold {
    /// Puts a request at the end of its queue.
    pub fn push(&mut self, id: RequestId, held: Held) {
        self.remove(id);
        self.tickets = self.tickets.saturating_add(1);
        self.queues
            .entry(held.row().cloned())
            .or_default()
            .insert(self.tickets, id);
        self.deadlines.insert((held.deadline, id));
        self.bytes = self.bytes.saturating_add(held.bytes);
        self.requests.insert(id, (held, self.tickets));
    }

    /// Takes a request out, wherever it stands.
    pub fn remove(&mut self, id: RequestId) -> Option<Held> {
        let (held, ticket) = self.requests.remove(&id)?;
        let key = held.row().cloned();
        if let Some(queue) = self.queues.get_mut(&key) {
            queue.remove(&ticket);
            if queue.is_empty() {
                self.queues.remove(&key);
            }
        }
        self.deadlines.remove(&(held.deadline, id));
        self.bytes = self.bytes.saturating_sub(held.bytes);
        Some(held)
    }

    /// Whether this request is held.
    pub fn contains(&self, id: RequestId) -> bool {
        self.requests.contains_key(&id)
    }

    /// The request that stands first in the queue of a row (`None`: of those that wait for the first table).
    pub fn first(&self, row: Option<&RowId>) -> Option<RequestId> {
        let mut queue = self.queues.get(&row.cloned())?.values();
        sabotage!(NewestGoesFirst, queue.next_back(), queue.next()).copied()
    }

    /// The row that a held request waits for.
    pub fn row_of(&self, id: RequestId) -> Option<&RowId> {
        self.requests.get(&id).and_then(|(held, _)| held.row())
    }

    /// Rows with held requests, beginning behind `after`, so that each gets its turn.
    pub fn rows_in_turn(&self, after: Option<&RowId>) -> Vec<RowId> {
        let rows: Vec<RowId> = self.queues.keys().flatten().cloned().collect();
        let behind = rows.partition_point(|row| after.is_some_and(|after| row <= after));
        let (first, then) = rows.split_at(behind);
        then.iter().chain(first).cloned().collect()
    }

    /// The request with the earliest deadline at or before `now` for which `wanted` holds.
    pub fn expired(
        &self,
        now: Millis,
        wanted: impl Fn(Option<&RowId>) -> bool,
    ) -> Option<RequestId> {
        let late = self
            .deadlines
            .iter()
            .take_while(|(deadline, _)| *deadline <= now);
        late.map(|(_, id)| *id).find(|id| {
            self.requests
                .get(id)
                .is_some_and(|(held, _)| wanted(held.row()))
        })
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Number of held requests of a row, and since when the oldest is held.
    pub fn of(&self, row: &RowId) -> (u64, Option<Millis>) {
        let Some(queue) = self.queues.get(&Some(row.clone())) else {
            return (0, None);
        };
        let oldest = queue
            .values()
            .next()
            .and_then(|id| self.requests.get(id))
            .map(|(held, _)| held.since);
        (queue.len() as u64, oldest)
    }

    /// Number of all held requests.
    pub fn len(&self) -> u64 {
        self.requests.len() as u64
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Bytes of all held requests.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(row: &str, since: u64, deadline: u64) -> Held {
        let waiting = Waiting::Row {
            row: RowId::from(row),
            forwarded: Vec::new(),
            api: Api::Plain,
        };
        Held {
            waiting,
            since: Millis(since),
            deadline: Millis(deadline),
            bytes: 10,
        }
    }

    #[test]
    fn queues_deadlines_and_sums() {
        let (a, b) = (RowId::from("a"), RowId::from("b"));
        let mut hold = Hold::default();
        hold.push(RequestId(1), held("a", 5, 100));
        hold.push(RequestId(2), held("a", 6, 50));
        hold.push(RequestId(3), held("b", 7, 70));
        assert_eq!(
            (hold.first(Some(&a)), hold.of(&a), hold.bytes()),
            (Some(RequestId(1)), (2, Some(Millis(5))), 30)
        );
        assert_eq!(hold.rows_in_turn(Some(&a)), [b.clone(), a.clone()]);
        assert_eq!(hold.expired(Millis(69), |_| true), Some(RequestId(2)));
        assert_eq!(
            hold.expired(Millis(70), |row| row != Some(&a)),
            Some(RequestId(3))
        );
        assert!(hold.remove(RequestId(1)).is_some() && hold.remove(RequestId(1)).is_none());
        assert_eq!(
            (hold.first(Some(&a)), hold.next_deadline()),
            (Some(RequestId(2)), Some(Millis(50)))
        );
        hold.remove(RequestId(2));
        hold.remove(RequestId(3));
        assert!(
            hold.is_empty()
                && hold.queues.is_empty()
                && hold.deadlines.is_empty()
                && hold.bytes() == 0
        );
    }
}
