//! One line of wrong logic at a time, so that the simulation can be seen to fail. Compiled only with the feature `sabotage`, which no
//! program of ours has; without it every `sabotage!` is its right side.

#[cfg(feature = "sabotage")]
mod chosen {
    use std::cell::Cell;

    /// What is done wrong.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Sabotage {
        /// The lease counts from the heartbeat's arrival.
        LeaseFromArrival,
        /// Held requests go on without a look at the lease.
        HeldWithoutLease,
        /// Messages of any term are obeyed.
        AnyTermObeyed,
        /// A released request is counted twice.
        CountedTwice,
        /// A row of an older epoch is applied.
        OlderEpochApplied,
        /// A barrier that comes with a snapshot is not acknowledged.
        BarrierNotAcknowledged,
        /// A heartbeat renews the lease before the snapshot of its stream.
        LeaseBeforeSnapshot,
        /// A row that flows never stops.
        FlowsForEver,
        /// The end of a request does not count down.
        EndIsForgotten,
        /// What a client says of its wait is ignored.
        PreferIgnored,
        /// No hold ends.
        HoldsForEver,
        /// As many are held as come.
        HoldLimitIgnored,
        /// The newest held request goes first.
        NewestGoesFirst,
        /// A barrier refuses who is held.
        BarrierRefusesHeld,
        /// Nothing is reported before the next heartbeat.
        NoEarlyReport,
        /// An echo of what was never sent renews the lease.
        FalseEchoRenews,
        /// Clocks that move apart mean nothing.
        ClocksIgnored,
        /// A gate admits after its Bye.
        AdmitsAfterBye,
    }

    impl Sabotage {
        /// All of them.
        pub const ALL: [Self; 18] = [
            Self::LeaseFromArrival,
            Self::HeldWithoutLease,
            Self::AnyTermObeyed,
            Self::CountedTwice,
            Self::OlderEpochApplied,
            Self::BarrierNotAcknowledged,
            Self::LeaseBeforeSnapshot,
            Self::FlowsForEver,
            Self::EndIsForgotten,
            Self::PreferIgnored,
            Self::HoldsForEver,
            Self::HoldLimitIgnored,
            Self::NewestGoesFirst,
            Self::BarrierRefusesHeld,
            Self::NoEarlyReport,
            Self::FalseEchoRenews,
            Self::ClocksIgnored,
            Self::AdmitsAfterBye,
        ];
    }

    thread_local! {
        static CHOSEN: Cell<Option<Sabotage>> = const { Cell::new(None) };
    }

    /// Chooses what this thread does wrong from now on.
    pub fn choose(sabotage: Option<Sabotage>) {
        CHOSEN.set(sabotage);
    }

    /// Whether this is what this thread does wrong.
    pub(crate) fn is_chosen(sabotage: Sabotage) -> bool {
        CHOSEN.get() == Some(sabotage)
    }
}

#[cfg(feature = "sabotage")]
pub(crate) use chosen::is_chosen;
#[cfg(feature = "sabotage")]
pub use chosen::{Sabotage, choose};

/// `sabotage!(Name, wrong, right)`: the right side, unless the feature is on and `Name` is chosen. `sabotage!(Name, wrong)`: nothing,
/// unless it is.
#[cfg(feature = "sabotage")]
macro_rules! sabotage {
    ($name:ident, $wrong:expr, $right:expr) => {
        if $crate::sabotage::is_chosen($crate::sabotage::Sabotage::$name) {
            $wrong
        } else {
            $right
        }
    };
    ($name:ident, $wrong:expr) => {
        if $crate::sabotage::is_chosen($crate::sabotage::Sabotage::$name) {
            $wrong;
        }
    };
}

/// The right side, or nothing.
#[cfg(not(feature = "sabotage"))]
macro_rules! sabotage {
    ($name:ident, $wrong:expr, $right:expr) => {
        $right
    };
    ($name:ident, $wrong:expr) => {};
}
