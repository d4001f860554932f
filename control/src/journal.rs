//! The decisions as people read them: a bounded list per model, a line on stdout for each, and a feed for who listens.
//!
//! Never waits: a reader that is slow loses lines of stdout or of the feed, not decisions of the list.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    io::Write,
    sync::mpsc::{SyncSender, sync_channel},
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use greenthread_core::{
    decision::{Decision, Subject},
    ids::ModelId,
};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

/// Decisions kept per model.
const KEPT: usize = 100;
/// Lines that wait for stdout, and entries that wait for a listener of the feed.
const WAITING: usize = 1_024;

/// What a decision is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum About {
    /// A model, by its name.
    Model(String),
    /// A GPU, and so all models that are placed there.
    Gpu(usize),
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model(name) => name.fmt(f),
            Self::Gpu(gpu) => write!(f, "GPU {gpu}"),
        }
    }
}

/// One decision with the wall time at which it was recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Seconds since 1970.
    pub unix_seconds: u64,
    /// What about.
    #[serde(flatten)]
    pub about: About,
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
        format!("{} {}  {}", self.clock(), self.about, self.words())
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

    /// Keeps a decision with every model that it concerns; prints it and tells the listeners once.
    pub fn record(&mut self, decision: Decision) {
        let (about, models) = match decision.about {
            Subject::Model(model) => (About::Model(model.name().to_owned()), vec![model]),
            Subject::Gpu { gpu, models } => (About::Gpu(gpu.0), models),
        };
        let entry = Entry {
            unix_seconds: unix_seconds(),
            about,
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
        for model in models {
            let kept = self.by_model.entry(model).or_default();
            kept.push_back(entry.clone());
            if kept.len() > KEPT {
                kept.pop_front();
            }
        }
    }

    /// The decisions about a model and its GPUs, oldest first.
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
    use greenthread_core::ids::{GpuId, Millis};

    use super::*;

    #[test]
    fn a_line_is_plain_words_with_the_time() {
        let entry = Entry {
            unix_seconds: 1_700_000_000,
            about: About::Model("llama-3-8b".into()),
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
                about: Subject::Model(model.clone()),
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

    #[test]
    fn what_is_decided_about_a_gpu_is_told_once_and_kept_with_every_model_there() {
        let mut journal = Journal::new();
        let mut feed = journal.feed().upgrade().expect("a feed").subscribe();
        let models = ["a.1", "b.1"].map(|id| ModelId(id.into()));
        journal.record(Decision {
            at: Millis(1),
            about: Subject::Gpu {
                gpu: GpuId(1),
                models: models.to_vec(),
            },
            sentence: "stands still".into(),
            choice: None,
        });
        let told = feed.try_recv().expect("told");
        assert!(feed.try_recv().is_err() && journal.recorded() == 1);
        assert_eq!(told.line(), format!("{} GPU 1  stands still", told.clock()));
        let document = serde_json::json!({
            "unixSeconds": told.unix_seconds, "gpu": 1, "sentence": "stands still",
        });
        assert_eq!(serde_json::json!(told), document);
        for model in &models {
            assert_eq!(journal.of(model), std::slice::from_ref(&told));
        }
    }
}
