//! The trace of a run: one line for everything that happens. Kept only when it is wanted, since a seed gives it again at any time.

use std::collections::VecDeque;

/// Lines, or none.
#[derive(Debug)]
pub struct Trace {
    lines: VecDeque<String>,
    most: usize,
    digest: u64,
}

impl Trace {
    /// Nothing is kept: the fast way.
    pub fn none() -> Self {
        Self::tail(0)
    }

    /// The last so many lines, and the digest of all.
    pub fn tail(most: usize) -> Self {
        Self {
            lines: VecDeque::new(),
            most,
            digest: 0xcbf2_9ce4_8422_2325,
        }
    }

    /// Whether lines are wanted.
    pub fn is_kept(&self) -> bool {
        self.most > 0
    }

    /// Adds a line.
    pub fn note(&mut self, now: u64, line: &str) {
        let line = format!("{now:>8} {line}");
        for byte in line.bytes().chain([b'\n']) {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.lines.len() >= self.most {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// FNV-1a of every line so far, the same in every process.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The lines that were kept.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }
}
