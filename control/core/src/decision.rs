//! One sentence per decision, kept by the shell and shown by `status`.

use crate::ids::{Millis, ModelId};

/// What was decided about a model, when, and why, in words for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// When, on the core's clock.
    pub at: Millis,
    /// About which model.
    pub model: ModelId,
    /// The sentence, e.g. "put to sleep for qwen-2-5-7b: idle for 41 s, the longest of 2".
    pub sentence: String,
}
