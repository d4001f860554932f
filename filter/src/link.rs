//! The stream to control: when to open and close it, numbering, and what an echo means (rules 2, 10, 12, 16).

use std::collections::VecDeque;

use crate::time::Millis;

/// First pause before the stream is opened again; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Millis = Millis(100);
const LONGEST_PAUSE: Millis = Millis(5_000);
/// Most send times that are remembered. Beyond it the oldest are dropped: an echo then counts from an older message.
const MOST_SENT: usize = 4_096;

/// An echo of a number that was never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("control echoed {echoed}, but the last message was {last}")]
pub struct NeverSent {
    /// What it echoed.
    pub echoed: u64,
    /// What was sent last.
    pub last: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed {
        retry_at: Millis,
    },
    Open {
        stream: u64,
        hello: u64,
        alive: Millis,
        has_snapshot: bool,
    },
}

/// The one stream of a gate.
#[derive(Clone, Debug)]
pub struct Link {
    state: State,
    jitter: u64,
    attempts: u32,
    streams: u64,
    sequence: u64,
    sent: VecDeque<(u64, Millis)>,
    largest_term: u64,
}

impl Link {
    /// A stream that is opened with the first tick. `jitter` differs from gate to gate.
    pub const fn new(jitter: u64) -> Self {
        let state = State::Closed {
            retry_at: Millis(0),
        };
        Self {
            state,
            jitter,
            attempts: 0,
            streams: 0,
            sequence: 0,
            sent: VecDeque::new(),
            largest_term: 0,
        }
    }

    /// Whether messages can be sent.
    pub const fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// Whether this is the open stream.
    pub fn is(&self, number: u64) -> bool {
        matches!(self.state, State::Open { stream, .. } if stream == number)
    }

    /// Whether the open stream has brought its snapshot.
    pub const fn has_snapshot(&self) -> bool {
        matches!(
            self.state,
            State::Open {
                has_snapshot: true,
                ..
            }
        )
    }

    /// Largest term that was obeyed.
    pub const fn largest_term(&self) -> u64 {
        self.largest_term
    }

    /// Whether a message of this term is obeyed; if so no smaller one will be.
    pub fn obeys(&mut self, term: u64) -> bool {
        if sabotage!(AnyTermObeyed, false, term < self.largest_term) {
            return false;
        }
        self.largest_term = term;
        true
    }

    /// When the link wants to be looked at: to be opened, or to be found dead after `lease` without a valid heartbeat.
    pub const fn due(&self, lease: Millis) -> Millis {
        match self.state {
            State::Closed { retry_at } => retry_at,
            State::Open { alive, .. } => alive.plus(lease),
        }
    }

    /// Opens the stream; returns its number. The next message is its Hello.
    pub fn open(&mut self, now: Millis) -> u64 {
        self.streams = self.streams.saturating_add(1);
        let hello = self.sequence.saturating_add(1);
        self.state = State::Open {
            stream: self.streams,
            hello,
            alive: now,
            has_snapshot: false,
        };
        self.streams
    }

    /// The stream is gone; it is opened again after a pause that grows with each attempt.
    pub fn close(&mut self, now: Millis) {
        let doubled = FIRST_PAUSE
            .0
            .saturating_mul(1_u64.checked_shl(self.attempts.min(10)).unwrap_or(1))
            .min(LONGEST_PAUSE.0);
        let half = doubled.checked_div(2).unwrap_or(0).max(1);
        let spread = self
            .jitter
            .rotate_left(self.attempts)
            .checked_rem(half)
            .unwrap_or(0);
        self.attempts = self.attempts.saturating_add(1);
        self.state = State::Closed {
            retry_at: now.plus(Millis(half.saturating_add(spread))),
        };
    }

    /// The number of a message that is sent now.
    pub fn number(&mut self, now: Millis) -> u64 {
        self.sequence = self.sequence.saturating_add(1);
        if self.sent.len() >= MOST_SENT {
            self.sent.pop_front();
        }
        self.sent.push_back((self.sequence, now));
        self.sequence
    }

    /// A snapshot took effect.
    pub const fn snapshot(&mut self) {
        self.attempts = 0;
        if let State::Open { has_snapshot, .. } = &mut self.state {
            *has_snapshot = true;
        }
    }

    /// A heartbeat echoed this number. Returns when that message was sent, if this is news of this stream: then the
    /// heartbeat is valid and keeps the stream alive.
    pub fn echo(&mut self, now: Millis, echoed: u64) -> Result<Option<Millis>, NeverSent> {
        if sabotage!(FalseEchoRenews, false, echoed > self.sequence) {
            return Err(NeverSent {
                echoed,
                last: self.sequence,
            });
        }
        sabotage!(LeaseBeforeSnapshot, self.snapshot());
        let State::Open {
            hello,
            alive,
            has_snapshot: true,
            ..
        } = &mut self.state
        else {
            return Ok(None);
        };
        if echoed < *hello {
            return Ok(None);
        }
        let mut sent = None;
        while let Some((_, at)) = self
            .sent
            .front()
            .copied()
            .filter(|(sequence, _)| *sequence <= echoed)
        {
            sent = Some(at);
            self.sent.pop_front();
        }
        if sent.is_some() {
            *alive = now;
        }
        Ok(sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_start_again_after_a_snapshot() {
        let mut link = Link::new(0x0123_4567_89ab_cdef);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            link.open(Millis(1_000));
            link.close(Millis(1_000));
            pauses.push(link.due(Millis(0)).since(Millis(1_000)).0);
        }
        for (pause, full) in pauses
            .iter()
            .zip([100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000])
        {
            assert!((full / 2..=full).contains(pause), "{pauses:?}");
        }
        link.open(Millis(0));
        link.snapshot();
        link.close(Millis(1_000));
        assert!(link.due(Millis(0)) <= Millis(1_100));
    }

    #[test]
    fn an_echo_counts_once_and_only_for_its_stream() {
        let mut link = Link::new(0);
        link.open(Millis(0));
        assert_eq!(link.number(Millis(1)), 1);
        assert_eq!(link.echo(Millis(2), 1), Ok(None), "no snapshot yet");
        link.snapshot();
        assert_eq!(link.echo(Millis(2), 1), Ok(Some(Millis(1))));
        assert_eq!(link.echo(Millis(3), 1), Ok(None), "again");
        assert_eq!(
            link.echo(Millis(3), 2),
            Err(NeverSent { echoed: 2, last: 1 })
        );
        link.number(Millis(4));
        link.close(Millis(5));
        link.open(Millis(6));
        link.snapshot();
        assert_eq!(link.number(Millis(6)), 3);
        assert_eq!(link.echo(Millis(7), 2), Ok(None), "sent on an older stream");
        assert_eq!(link.echo(Millis(7), 3), Ok(Some(Millis(6))));
        assert_eq!(link.due(Millis(5_000)), Millis(5_007));
    }
}
