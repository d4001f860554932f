//! The decisions as people read them: a bounded list per model, a line on stdout for each, and a feed for who listens.
//!
//! Never waits: a reader that is slow loses lines of stdout or of the feed, not decisions of the list.

use std::{
    collections::{BTreeMap, VecDeque},
    io::Write,
    sync::mpsc::{SyncSender, sync_channel},
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use greenthread_core::{decision::Decision, ids::ModelId};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

/// Decisions kept per model.
const KEPT: usize = 100;
/// Lines that wait for stdout, and entries that wait for a listener of the feed.
const WAITING: usize = 1_024;

/// One decision with the wall time at which it was recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Seconds since 1970.
    pub unix_seconds: u64,
    /// Name of the model.
    pub model: String,
    /// What was decided and why.
    pub sentence: String,
    /// Number of the choice behind it, if there is one: `greenthread explain --choice <number>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choice: Option<u64>,
}

impl Entry {
    /// "10:03:07" (UTC).
    pub fn clock(&self) -> String {
        clock(self.unix_seconds)
    }

    /// "put to sleep for qwen … (choice 17)".
    pub fn words(&self) -> String {
        match self.choice {
            Some(number) => format!("{} (choice {number})", self.sentence),
            None => self.sentence.clone(),
        }
    }

    /// "10:03:07 llama-3-8b  put to sleep …".
    pub fn line(&self) -> String {
        format!("{} {}  {}", self.clock(), self.model, self.words())
    }
}

/// All decisions that are kept.
#[derive(Debug)]
pub struct Journal {
    by_model: BTreeMap<ModelId, VecDeque<Entry>>,
    recorded: u64,
    feed: broadcast::Sender<Entry>,
    printer: SyncSender<String>,
}

impl Journal {
    /// An empty journal that prints to stdout from a thread of its own: a full pipe must not stop the driver.
    pub fn new() -> Self {
        let (printer, lines) = sync_channel::<String>(WAITING);
        thread::spawn(move || {
            for line in lines {
                // A closed stdout is no reason to stop: the list is kept all the same.
                let _ = writeln!(std::io::stdout().lock(), "{line}");
            }
        });
        Self {
            by_model: BTreeMap::new(),
            recorded: 0,
            feed: broadcast::Sender::new(WAITING),
            printer,
        }
    }

    /// Keeps a decision, prints it and tells the listeners.
    pub fn record(&mut self, decision: Decision) {
        let entry = Entry {
            unix_seconds: unix_seconds(),
            model: decision.model.name().to_owned(),
            sentence: decision.sentence,
            choice: decision.choice,
        };
        if self.printer.try_send(entry.line()).is_err() {
            tracing::warn!(
                line = entry.line(),
                "stdout does not keep up; a line was left out"
            );
        }
        // No listener is the ordinary case.
        let _ = self.feed.send(entry.clone());
        self.recorded += 1;
        let kept = self.by_model.entry(decision.model).or_default();
        kept.push_back(entry);
        if kept.len() > KEPT {
            kept.pop_front();
        }
    }

    /// The decisions about a model, oldest first.
    pub fn of(&self, model: &ModelId) -> Vec<Entry> {
        self.by_model
            .get(model)
            .map(|kept| kept.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// Decisions recorded since the start.
    pub fn recorded(&self) -> u64 {
        self.recorded
    }

    /// Forgets a model.
    pub fn forget(&mut self, model: &ModelId) {
        self.by_model.remove(model);
    }

    /// Where decisions can be listened to as they are made. It ends with the journal, and its listeners with it.
    pub fn feed(&self) -> broadcast::WeakSender<Entry> {
        self.feed.downgrade()
    }
}

impl Default for Journal {
    fn default() -> Self {
        Self::new()
    }
}

/// The wall clock, for people only; no decision depends on it.
pub fn unix_seconds() -> u64 {
    unix_millis() / 1_000
}

/// The same in milliseconds.
pub fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// The time of day of a moment in seconds since 1970: "10:03:07" (UTC).
pub fn clock(unix_seconds: u64) -> String {
    let seconds = unix_seconds % 86_400;
    format!(
        "{:02}:{:02}:{:02}",
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use greenthread_core::ids::Millis;

    use super::*;

    #[test]
    fn a_line_is_plain_words_with_the_time() {
        let entry = Entry {
            unix_seconds: 1_700_000_000,
            model: "llama-3-8b".into(),
            sentence: "woken: 1 request waits".into(),
            choice: None,
        };
        assert_eq!(entry.line(), "22:13:20 llama-3-8b  woken: 1 request waits");
        let chosen = Entry {
            choice: Some(17),
            ..entry
        };
        assert_eq!(
            chosen.line(),
            "22:13:20 llama-3-8b  woken: 1 request waits (choice 17)"
        );
    }

    #[test]
    fn the_list_is_bounded_and_keeps_the_newest() {
        let mut journal = Journal::new();
        let model = ModelId("m.1".into());
        for n in 0..150 {
            journal.record(Decision {
                at: Millis(n),
                model: model.clone(),
                sentence: n.to_string(),
                choice: None,
            });
        }
        let kept = journal.of(&model);
        assert_eq!(
            (
                kept.len(),
                kept[0].sentence.as_str(),
                kept[99].sentence.as_str()
            ),
            (100, "50", "149")
        );
        assert_eq!(journal.recorded(), 150);
    }
}
