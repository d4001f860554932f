//! Everything that can be done wrong on purpose: in the core, in the gates, and in the shell that the simulation puts around the core.

use std::cell::Cell;

use greenthread_core::sabotage as core;
use greenthread_filter::sabotage as gate;

/// What is done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// By the core.
    Core(core::Sabotage),
    /// By every gate.
    Gate(gate::Sabotage),
    /// By the shell: a leader stops exactly at the end of its lease.
    LeaderStopsAtTheEnd,
}

thread_local! {
    static LEADER_STOPS_AT_THE_END: Cell<bool> = const { Cell::new(false) };
}

impl Sabotage {
    /// All of them.
    pub fn all() -> Vec<Self> {
        let core = core::Sabotage::ALL.into_iter().map(Self::Core);
        let gate = gate::Sabotage::ALL.into_iter().map(Self::Gate);
        core.chain(gate)
            .chain([Self::LeaderStopsAtTheEnd])
            .collect()
    }

    /// Its name.
    pub fn name(self) -> String {
        match self {
            Self::Core(sabotage) => format!("{sabotage:?}"),
            Self::Gate(sabotage) => format!("{sabotage:?}"),
            Self::LeaderStopsAtTheEnd => "LeaderStopsAtTheEnd".to_owned(),
        }
    }

    /// Where it is done.
    pub fn place(self) -> &'static str {
        match self {
            Self::Core(_) => "core",
            Self::Gate(_) => "filter",
            Self::LeaderStopsAtTheEnd => "shell",
        }
    }
}

/// Chooses what this thread does wrong from now on.
pub fn choose(sabotage: Option<Sabotage>) {
    core::choose(match sabotage {
        Some(Sabotage::Core(sabotage)) => Some(sabotage),
        Some(Sabotage::Gate(_) | Sabotage::LeaderStopsAtTheEnd) | None => None,
    });
    gate::choose(match sabotage {
        Some(Sabotage::Gate(sabotage)) => Some(sabotage),
        Some(Sabotage::Core(_) | Sabotage::LeaderStopsAtTheEnd) | None => None,
    });
    LEADER_STOPS_AT_THE_END.set(sabotage == Some(Sabotage::LeaderStopsAtTheEnd));
}

/// Whether a leader stops at the end of its lease.
pub(crate) fn leader_stops_at_the_end() -> bool {
    LEADER_STOPS_AT_THE_END.get()
}
