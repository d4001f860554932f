//! The kinds of faults, by the names under which they are counted.

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Something that goes wrong, or that somebody does at the wrong moment.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Fault { $($(#[$doc])* $name,)* }

        impl Fault {
            /// All of them.
            pub const ALL: [Self; [$(stringify!($name)),*].len()] = [$(Self::$name),*];

            /// Its name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }
        }
    };
}

faults! {
    /// Control is killed, and starts again after a while among what it left.
    ControlCrash,
    /// Control stands still for a while; what comes waits.
    ControlFreeze,
    /// The leader cannot renew its lease.
    ApiAway,
    /// Leadership passes on while the deposed leader still runs.
    Succession,
    /// An old copy of the state directory: terms go on where they were before they jumped.
    StateLost,
    /// The term jumps, to 10^12 or near the largest number.
    TermJump,
    /// A gate's thread stands still, with messages in its buffer.
    GateFreeze,
    /// An Envoy is killed; another takes its place.
    GatewayCrash,
    /// A gate is replaced by a new configuration; it lives on until its requests have ended.
    GateReplaced,
    /// A stream breaks; each end learns of it in its own time.
    StreamLost,
    /// What goes between a gate and control is stuck for a while.
    NetworkStalls,
    /// What goes up on one stream is stuck, while another stream may be opened.
    StreamStalls,
    /// Something of an older term arrives on a gate's stream.
    OldTermSpeaks,
    /// A row of an older epoch arrives on a gate's stream.
    OldRowSpeaks,
    /// A heartbeat arrives on a gate's stream before its snapshot.
    EarlyHeartbeat,
    /// The way from Envoy to the engine takes as long as it may.
    SlowForward,
    /// A request arrives in the last millisecond of a gate's lease and takes the longest way.
    LastMoment,
    /// Many requests at once.
    Burst,
    /// A client leaves.
    ClientLeaves,
    /// An engine's process dies.
    EngineCrash,
    /// An engine dies inside its server, which goes on and says so.
    EngineBreaks,
    /// An engine takes much longer for its next action.
    EngineSlow,
    /// An engine does not answer for a while.
    EngineHang,
    /// An engine refuses its next action.
    EngineRefuses,
    /// An engine says that it sleeps and goes on.
    LiesAsleep,
    /// An engine says that it is awake and sleeps on.
    LiesAwake,
    /// An engine sleeps and keeps its memory.
    KeepsMemory,
    /// An engine does what it was told, and nobody hears of it.
    OutcomeLost,
    /// What an action led to is told again, or once more with another result.
    OldOutcome,
    /// Somebody else puts an engine to sleep.
    StrangerSleeps,
    /// Somebody else wakes an engine.
    StrangerWakes,
    /// An operator wakes, puts to sleep, disables or enables a model.
    OperatorVerb,
    /// A model's settings change.
    ModelChanged,
    /// A model is removed, or comes back.
    ModelRemoved,
    /// A model gets another engine under the same name.
    ModelReplaced,
    /// Somebody else takes memory on a GPU, and gives it back after a while.
    ForeignMemory,
    /// The oracle's readings of whole GPUs stand still for a while.
    StaleReadings,
    /// A heartbeat echoes a number that its gate never sent.
    FalseEcho,
    /// The wall clock of a gate's machine is set.
    ClockSet,
}
