//! What tests can switch on, and what they can count.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Faults that are switched on; the default is none. What each does is told by `--help`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Faults {
    /// Added to each wake, in ms.
    pub slow_wake_ms: u64,
    /// Added to each sleep, in ms.
    pub slow_sleep_ms: u64,
    /// A wake never returns.
    pub hang_wake: bool,
    /// A sleep never returns.
    pub hang_sleep: bool,
    /// A wake fails.
    pub wake_500: bool,
    /// A sleep fails and changes nothing.
    pub sleep_500: bool,
    /// A wake says awake and does nothing.
    pub lie_awake: bool,
    /// A sleep says asleep and does nothing.
    pub lie_asleep: bool,
    /// A sleep frees nothing.
    pub keep_memory: bool,
    /// The weights cannot be loaded again.
    pub reload_500: bool,
    /// A wake ends the process.
    pub crash_on_wake: bool,
    /// Every request gets 500.
    pub refuse: bool,
    /// Requests are never answered.
    pub silent: bool,
    /// The process ends.
    pub crash: bool,
}

impl Faults {
    /// These faults with the fields of `change` replaced. An unknown field or a wrong type is an error.
    pub(crate) fn changed(&self, change: Map<String, Value>) -> Result<Self, serde_json::Error> {
        let mut fields = match serde_json::to_value(self)? {
            Value::Object(fields) => fields,
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => Map::new(),
        };
        fields.extend(change);
        serde_json::from_value(Value::Object(fields))
    }
}

/// Most operations that are remembered.
const OPERATIONS_MAX: usize = 256;

/// One call to `/sleep` or `/wake_up` that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Operation {
    /// `sleep` or `wake`.
    pub kind: &'static str,
    /// What was asked, as the query said it.
    pub asked: String,
    /// Since the start of the process, in ms.
    pub began_ms: u64,
    /// As `began_ms`.
    pub ended_ms: u64,
    /// Whether it succeeded.
    pub ok: bool,
}

/// What happened since the start or the last reset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Stats {
    /// Sleeps that freed memory.
    pub sleeps: u64,
    /// Wakes that brought memory back in full.
    pub wakes: u64,
    /// Wakes that failed.
    pub wake_failures: u64,
    /// Inference requests that arrived.
    pub requests: u64,
    /// Those that arrived while the engine was not serving.
    pub requests_asleep: u64,
    /// Tokens computed without memory: on a GPU an illegal access.
    pub tokens_asleep: u64,
    /// Tokens computed.
    pub tokens: u64,
    /// Most inference requests at one time.
    pub max_concurrent: u64,
    /// Answers that were computed to their end.
    pub completed: u64,
    /// Answers truncated by a pause with `mode=abort`.
    pub aborted: u64,
    /// Clients that left before the end.
    pub disconnected: u64,
    /// Bytes of request bodies.
    pub body_bytes: u64,
    /// The last sleeps and wakes.
    pub operations: Vec<Operation>,
}

impl Stats {
    /// Remembers an operation, and forgets the oldest when there are too many.
    pub(crate) fn record(&mut self, operation: Operation) {
        if self.operations.len() == OPERATIONS_MAX {
            self.operations.remove(0);
        }
        self.operations.push(operation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn only_the_named_fields_change() {
        let slow = Faults::default()
            .changed(change(r#"{"slow_wake_ms":7}"#))
            .unwrap();
        let both = slow.changed(change(r#"{"silent":true}"#)).unwrap();
        assert_eq!(
            both,
            Faults {
                slow_wake_ms: 7,
                silent: true,
                ..Faults::default()
            }
        );
        assert!(both.changed(change(r#"{"slow_wake":7}"#)).is_err());
        assert!(both.changed(change(r#"{"silent":"yes"}"#)).is_err());
    }
}
