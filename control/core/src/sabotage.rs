//! One line of wrong logic at a time, so that the simulation can be seen to fail. Compiled only with the feature `sabotage`, which no
//! program of ours has; without it every `sabotage!` is its right side.

#[cfg(feature = "sabotage")]
mod chosen {
    use std::cell::Cell;

    /// What is done wrong.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Sabotage {
        /// A drain does not wait for one of the gates.
        OneGateForgotten,
        /// A drain does not wait for acknowledgements.
        NoAcknowledgement,
        /// A successor waits for nobody.
        SuccessorWaitsNothing,
        /// A successor waits one lease only.
        SuccessorWaitsOneLease,
        /// What an older stream of a gate says is counted.
        OlderStreamCounts,
        /// Acknowledgements of an older stream are counted.
        OlderAcknowledgementCounts,
        /// An acknowledgement of any epoch counts.
        AnyEpochAcknowledges,
        /// Nobody asks for the engine's count.
        CountIgnored,
        /// The count of the last periodic look is good enough.
        CachedCount,
        /// Zero in flight counts from a report before the acknowledgement.
        ZeroFromAnyReport,
        /// A deposed leader goes on.
        DeposedGoesOn,
        /// What is known of a gate is dropped when its stream closes.
        RecordDroppedOnClose,
        /// A heartbeat stands before the row changes of its step.
        HeartbeatOvertakes,
        /// A gate is fenced when its lease ends.
        FenceAtTheLease,
        /// The margin is a millisecond short.
        MarginShort,
        /// An engine found asleep in service stays asleep.
        FoundAsleepStays,
        /// A sleep that the engine only claims counts as done.
        TrustsTheReply,
        /// Memory counts as free before the oracle shows it.
        FreesBeforeTheOracle,
        /// A sleep of unknown outcome counts as done, so that a wake may follow.
        WakesDuringPendingSleep,
        /// Outcomes of old attempts count.
        OldAttemptCounts,
        /// A model opens again under the epoch of its barrier.
        OldEpochResumes,
        /// Demand that was withdrawn is kept.
        DemandIsKept,
        /// Two transitions on one GPU.
        TwoTransitions,
        /// Victims need not have had their min_runtime.
        MinRuntimeIgnored,
        /// Who waits longest comes last.
        NewestFirst,
        /// What a sleeping engine keeps is not counted.
        ResidualForgotten,
        /// What a wake or a sleep takes for a moment is not reserved.
        PeakForgotten,
        /// No room is kept for the moment at which somebody goes to sleep.
        SleepNeedsRoom,
        /// Host RAM is not counted.
        HostRamForgotten,
        /// Transitions go on where ledger and oracle differ.
        StoppedGpuMoves,
        /// A process is ended while a gate may still flow to it.
        StopsTooEarly,
        /// What a wake of unknown end may hold is free at the next look.
        LostWakeForgotten,
        /// What was measured is not believed.
        NothingLearned,
        /// The end of a former life counts as the end of the one that runs.
        OldEndCounts,
        /// The stream of a fenced gate stays open.
        FencedStreamStays,
        /// A gate that said Bye is waited for.
        ByeRemovesNobody,
        /// The end of an older stream closes the newer one.
        OlderCloses,
        /// Engines are looked at in the first moment of a life.
        LooksAtOnce,
        /// Gates get a table before every engine was looked at.
        OpensAtOnce,
        /// Any look answers the question of a drain.
        AnyLookCounts,
        /// An engine that loses what it has is counted once.
        CountedOnce,
        /// Ledger and oracle never differ.
        OracleIgnored,
        /// The queue goes by names.
        QueueByName,
        /// Who waited before control was restarted waits no longer than the others.
        WaitsBeginAnew,
        /// Busy models go at once.
        MaxWaitIgnored,
        /// Frozen requests never become urgent.
        MaxFreezeIgnored,
        /// Pinned models make room.
        PinnedGoes,
        /// A model that could not be woken is woken again at once.
        NoCoolDown,
        /// A model that is out of service is woken.
        DisabledWakes,
        /// A popular model never comes back.
        PopularStaysAway,
        /// An idle model never sleeps.
        NeverIdle,
        /// A model is idle after a tenth of its time.
        IdleTooEarly,
        /// Nobody obeys an operator who wants sleep.
        OperatorSleepIgnored,
        /// Every wake is told to be one from host RAM.
        WrongTier,
        /// A removed model goes without a look at its count.
        RemovedWithRequests,
        /// A drain that ran out is not longer the next time.
        DrainNotDoubled,
        /// A model whose drain ran out makes room again at once.
        GoesAgainAtOnce,
        /// An idle drain begins while requests run.
        IdleWhileBusy,
        /// Outcomes of old starts, and of old wakes of a first start, count.
        AnyStartCounts,
        /// Nobody waits behind the queue.
        OthersOvertake,
        /// A gate is told its own requests as those of others.
        OwnCountsAsElsewhere,
        /// A model counts as used whenever a gate tells of its last use.
        UsedWhenReported,
        /// Who gets room goes on being told that there is none.
        StuckThoughRoomComes,
        /// An engine that is not control's own is started.
        StrangerStarted,
        /// Who is too much makes room before a predecessor's leases have ended.
        RelievesTooEarly,
        /// An engine that did not answer one look is ended.
        UnansweredOnceIsDead,
        /// Only every other of the victims that it takes makes room.
        TooFewVictims,
    }

    impl Sabotage {
        /// All of them.
        pub const ALL: [Self; 67] = [
            Self::OneGateForgotten,
            Self::NoAcknowledgement,
            Self::SuccessorWaitsNothing,
            Self::SuccessorWaitsOneLease,
            Self::OlderStreamCounts,
            Self::OlderAcknowledgementCounts,
            Self::AnyEpochAcknowledges,
            Self::CountIgnored,
            Self::CachedCount,
            Self::ZeroFromAnyReport,
            Self::DeposedGoesOn,
            Self::RecordDroppedOnClose,
            Self::HeartbeatOvertakes,
            Self::FenceAtTheLease,
            Self::MarginShort,
            Self::FoundAsleepStays,
            Self::TrustsTheReply,
            Self::FreesBeforeTheOracle,
            Self::WakesDuringPendingSleep,
            Self::OldAttemptCounts,
            Self::OldEpochResumes,
            Self::DemandIsKept,
            Self::TwoTransitions,
            Self::MinRuntimeIgnored,
            Self::NewestFirst,
            Self::ResidualForgotten,
            Self::PeakForgotten,
            Self::SleepNeedsRoom,
            Self::HostRamForgotten,
            Self::StoppedGpuMoves,
            Self::StopsTooEarly,
            Self::LostWakeForgotten,
            Self::NothingLearned,
            Self::OldEndCounts,
            Self::FencedStreamStays,
            Self::ByeRemovesNobody,
            Self::OlderCloses,
            Self::LooksAtOnce,
            Self::OpensAtOnce,
            Self::AnyLookCounts,
            Self::CountedOnce,
            Self::OracleIgnored,
            Self::QueueByName,
            Self::WaitsBeginAnew,
            Self::MaxWaitIgnored,
            Self::MaxFreezeIgnored,
            Self::PinnedGoes,
            Self::NoCoolDown,
            Self::DisabledWakes,
            Self::PopularStaysAway,
            Self::NeverIdle,
            Self::IdleTooEarly,
            Self::OperatorSleepIgnored,
            Self::WrongTier,
            Self::RemovedWithRequests,
            Self::DrainNotDoubled,
            Self::GoesAgainAtOnce,
            Self::IdleWhileBusy,
            Self::AnyStartCounts,
            Self::OthersOvertake,
            Self::OwnCountsAsElsewhere,
            Self::UsedWhenReported,
            Self::StuckThoughRoomComes,
            Self::StrangerStarted,
            Self::RelievesTooEarly,
            Self::UnansweredOnceIsDead,
            Self::TooFewVictims,
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
