//! Progress on stderr, for work that takes longer than a moment: one line that is written over on a terminal, a plain line every few
//! seconds elsewhere. Says nothing about work that is done sooner.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

/// Pause between two lines on a terminal.
const ON_TERMINAL: Duration = Duration::from_millis(200);
/// Pause between two lines elsewhere.
const ELSEWHERE: Duration = Duration::from_secs(5);
/// The clock is read once in so many calls.
const CALLS: u32 = 512;

/// What was last said, and when.
#[derive(Debug)]
pub(super) struct Progress {
    terminal: bool,
    pause: Duration,
    last: Instant,
    calls: u32,
    /// A line stands on the terminal that must be cleared.
    shown: bool,
}

impl Progress {
    /// Progress that is written to stderr.
    pub(super) fn to_stderr() -> Self {
        let terminal = io::stderr().is_terminal();
        Self {
            terminal,
            pause: if terminal { ON_TERMINAL } else { ELSEWHERE },
            last: Instant::now(),
            calls: 0,
            shown: false,
        }
    }

    /// Says where the work is, when it is time to. Cheap enough for every request.
    pub(super) fn tick(&mut self, line: impl FnOnce() -> String) {
        self.calls = self.calls.wrapping_add(1);
        if !self.calls.is_multiple_of(CALLS) || self.last.elapsed() < self.pause {
            return;
        }
        self.last = Instant::now();
        let line = line();
        // Progress that cannot be written is no reason to stop.
        let _ = if self.terminal {
            self.shown = true;
            write!(io::stderr(), "\r\x1b[K{line}").and_then(|()| io::stderr().flush())
        } else {
            writeln!(io::stderr(), "{line}")
        };
    }

    /// Takes the line off the terminal: results follow.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(io::stderr(), "\r\x1b[K").and_then(|()| io::stderr().flush());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
