//! From the core's values to the words and figures of the documents.

use greenthread_core::{
    decision,
    effect::Admission,
    ids::Bytes,
    learned,
    model::{self, ModelSpec, Source},
    phase::Tier,
};

use super::{EstimateScore, Expected, Size, Sizes, Takes, Tally, WaitCauses};

impl Sizes {
    /// The document of what a model takes.
    pub fn of(spec: &ModelSpec) -> Self {
        let model::Sizes {
            awake,
            asleep,
            waking,
            starting,
            sleeping,
            host,
            disk,
        } = spec.sizes;
        let size = |bytes: Bytes, source| Size {
            bytes: bytes.0,
            source: source_word(source).to_owned(),
        };
        let with_source = |both: model::Size| size(both.bytes, both.source);
        Self {
            awake: size(spec.awake, awake),
            asleep: size(spec.asleep, asleep),
            waking: with_source(waking),
            starting: with_source(starting),
            sleeping: with_source(sleeping),
            host: with_source(host),
            disk: with_source(disk),
        }
    }
}

impl Takes {
    /// The document of what actions take.
    pub fn of(takes: greenthread_core::Takes) -> Self {
        let greenthread_core::Takes {
            wake,
            reload,
            start,
            sleep,
        } = takes;
        let expected = |known: learned::Expected| Expected {
            ms: known.promised.0,
            measured: known.measured,
        };
        Self {
            ram: expected(wake),
            disk: reload.map(expected),
            stopped: start.map(expected),
            sleep: expected(sleep),
        }
    }
}

impl Tally {
    /// The document of the core's totals.
    pub fn of(tally: decision::Tally) -> Self {
        let decision::Tally {
            choices,
            evictions,
            regrets,
            thrash,
            shadow_differs,
            shadow_saves,
            waits,
            estimates,
        } = tally;
        let decision::WaitCauses {
            turn,
            drain,
            sleep,
            wake,
        } = waits;
        let decision::EstimateScore {
            scored,
            kept,
            estimated,
            waited,
            off,
        } = estimates;
        Self {
            choices,
            evictions,
            regrets,
            thrash,
            shadow_differs,
            shadow_saves,
            waits: WaitCauses {
                turn_ms: turn,
                drain_ms: drain,
                sleep_ms: sleep,
                wake_ms: wake,
            },
            estimates: EstimateScore {
                scored,
                kept,
                estimated_ms: estimated,
                waited_ms: waited,
                off_ms: off,
            },
        }
    }
}

/// An admission as two words.
pub fn admission_words(admission: Admission) -> (&'static str, Option<&'static str>) {
    match admission {
        Admission::Admit => ("admit", None),
        Admission::Hold { .. } => ("hold", None),
        Admission::Refuse { reason, .. } => ("refuse", Some(reason.as_str())),
    }
}

/// A tier as a word: "ram", "disk" or "stopped".
pub fn tier_word(tier: Tier) -> &'static str {
    match tier {
        Tier::Ram => "ram",
        Tier::Disk => "disk",
        Tier::Stopped => "stopped",
    }
}

fn source_word(source: Source) -> &'static str {
    match source {
        Source::Default => "default",
        Source::Declared => "declared",
        Source::Measured => "measured",
    }
}
