//! What of a value distinguishes states: its `Debug` text, read once, with numbers told apart by what they mean.
//!
//! The core and the gates derive no `Hash`, and would be of little use if they did: two states that differ only in how often something
//! was counted behave alike. So their text is split into plain pieces, which are hashed, and into moments, sequence numbers, streams,
//! attempts and epochs, which [`crate::fingerprint`] compares by order or by age. [`rule`] lists what is left out; the checker's audit
//! (see [`crate::checker`]) looks for states that were taken for one and go on differently.

use std::sync::Arc;

use crate::BEGINNING;

/// A piece of a rendered value: its kind in the upper four bits, its value in the others.
pub(crate) type Token = u64;

/// Bits of a token's value.
const VALUE: u32 = 60;
/// Where the owner stands in the value of a number that means something only to its owner.
const OWNER: u32 = 44;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A hash of plain text.
    Text,
    /// A moment in milliseconds.
    Moment,
    /// A sequence number of a gate (the owner).
    Sequence,
    /// A stream of a control (the owner).
    Stream,
    /// An attempt of a control (the owner).
    Attempt,
    /// The counter of an epoch; the owner is its term.
    Counter,
}

impl Kind {
    /// The token of a value of this kind.
    pub(crate) const fn token(self, owner: u64, value: u64) -> Token {
        let owned = (owner << OWNER) | (value & ((1 << OWNER) - 1));
        match self {
            Self::Text => value >> (64 - VALUE),
            Self::Moment => (1 << VALUE) | value,
            Self::Sequence => (2 << VALUE) | owned,
            Self::Stream => (3 << VALUE) | owned,
            Self::Attempt => (4 << VALUE) | owned,
            Self::Counter => (5 << VALUE) | owned,
        }
    }

    /// Kind and value of a token; the value includes the owner.
    pub(crate) const fn of(token: Token) -> (Self, u64) {
        let value = token & ((1 << VALUE) - 1);
        let kind = match token >> VALUE {
            0 => Self::Text,
            1 => Self::Moment,
            2 => Self::Sequence,
            3 => Self::Stream,
            4 => Self::Attempt,
            _ => Self::Counter,
        };
        (kind, value)
    }
}

/// The owner in the value of a token.
pub(crate) const fn owner(value: u64) -> u64 {
    value >> OWNER
}

/// What happens to a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Keep,
    /// Nothing that follows depends on it in this world.
    Leave,
    /// Only whether there is anything.
    Presence,
}

/// Fields that nothing depends on in a world with one model whose memory always fits, whose actions always take the same time, whose
/// requests may be held for ever, and in which the clock stops before a refused request is forgotten (60 s).
const fn rule(structure: &[u8], field: &[u8]) -> Rule {
    match (structure, field) {
        // Settings, which never change; figures for people; what is counted only to be distinct; what is summed up from the rest.
        (b"Core", b"fleet" | b"counter" | b"attempts" | b"now" | b"turn_at" | b"places")
        | (b"Core", b"audits" | b"choices" | b"tally" | b"forecast")
        | (b"ModelState", b"spec" | b"declared" | b"settings")
        // Of what actions take only what is promised counts: more where less was measured.
        | (b"Learned", b"drain" | b"reload")
        | (b"Samples", b"guess" | b"kept" | b"next" | b"median")
        | (b"Engine", b"last_error" | b"failures")
        | (b"Asked", b"demand" | b"held_since")
        | (b"Room", b"wait" | b"making_room" | b"evicted" | b"asked_anew")
        | (b"Gates", b"live" | b"fenced" | b"sums")
        | (
            b"Gate",
            b"table_version" | b"config" | b"id" | b"created" | b"sharing" | b"elsewhere",
        )
        | (b"Gate", b"turn" | b"elsewhere_at")
        | (b"Reported", b"asked" | b"news")
        | (b"Hold", b"estimated_wait" | b"estimated_wait_ms" | b"bytes" | b"tickets")
        | (b"Refuse", b"retry_after" | b"retry_after_s")
        | (b"Held", b"since" | b"bytes" | b"waiting")
        | (b"Table", b"prefixes" | b"version" | b"times" | b"start_changed")
        | (b"Link", b"jitter" | b"streams")
        | (b"Open", b"stream")
        | (
            b"Row",
            b"model" | b"prefixes" | b"cluster" | b"flow" | b"on_lease_end" | b"documents",
        )
        | (b"Row", b"hold_budget" | b"hold_budget_ms" | b"hold_limit" | b"control_paths")
        | (b"Row", b"expose" | b"status_head" | b"status_tail" | b"models_document")
        | (b"Row", b"health_document" | b"health_status")
        | (b"RowFigures", b"oldest_age_ms" | b"wait_buckets")
        | (b"Figures", b"waits")
        | (b"Report", b"table_version")
        | (b"Delta" | b"Snapshot", b"version" | b"times")
        | (b"Hello", b"gate" | b"gateway" | b"module_sha256" | b"protocol_min" | b"protocol_max")
        | (b"Heartbeat", b"elsewhere") => Rule::Leave,
        (b"RowFigures" | b"Figures", b"outcomes") => Rule::Presence,
        _ => Rule::Keep,
    }
}

/// Moments of use: they count only where idle models go to sleep.
const fn is_use(structure: &[u8], field: &[u8]) -> bool {
    matches!(
        (structure, field),
        (b"ModelState", b"served_at")
            | (b"Asked", b"last_used")
            | (b"Reported", b"last_used")
            | (b"Figures", b"last_used")
            | (b"RowFigures", b"last_used_age_ms")
    )
}

/// Whose numbers a value names.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scope {
    /// Index of the control whose streams and attempts these are.
    pub(crate) control: u64,
    /// Index of the gate whose sequence numbers these are; a core's own text names the gate.
    pub(crate) gate: u64,
    /// Models go to sleep when they are idle, so moments of use count.
    pub(crate) idles: bool,
}

/// The tokens of a value's `Debug` text.
pub(crate) fn tokens(text: &str, scope: Scope) -> Arc<[Token]> {
    let mut reader = Reader {
        text: text.as_bytes(),
        at: 0,
        out: Vec::with_capacity(128),
        hash: SEED,
        plain: false,
        scope,
        term: 0,
        hello: None,
    };
    reader.value(b"", b"");
    reader.flush();
    reader.out.into()
}

const SEED: u64 = 0xcbf2_9ce4_8422_2325;

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    out: Vec<Token>,
    hash: u64,
    /// There is text since the last token.
    plain: bool,
    scope: Scope,
    /// Term of the epoch that is being read.
    term: u64,
    /// First sequence number of the open stream of a gate: older ones renew nothing any more.
    hello: Option<u64>,
}

impl<'a> Reader<'a> {
    fn value(&mut self, structure: &[u8], field: &[u8]) {
        match self.peek() {
            b'"' => {
                let text = self.string();
                if structure == b"GateId" {
                    self.scope.gate = number(&text[text.len().saturating_sub(1)..]);
                }
                self.add(text);
            }
            b'[' | b'(' | b'{' => self.list(structure, field),
            b'0'..=b'9' | b'-' => {
                let digits = self.word();
                self.number(structure, field, digits);
            }
            _ => self.named(field),
        }
    }

    /// `Name`, `Name(…)` or `Name { … }`. A field's name goes on through `Some(…)`.
    fn named(&mut self, field: &[u8]) {
        let name = self.word();
        self.add(name);
        if self.peek() == b'(' {
            let is_wait = matches!(name, b"Hold" | b"Draining" | b"Booting" | b"TooLong");
            if is_wait && self.text.get(self.at + 1) != Some(&b')') && field == b"admission" {
                self.skip();
            } else if matches!(name, b"Refuse") && field == b"admission" {
                self.list(name, field);
            } else {
                self.list(name, if name == b"Some" { field } else { b"" });
            }
        } else if self.text[self.at..].starts_with(b" {") {
            self.at += 1;
            self.structure(name);
        }
    }

    fn structure(&mut self, name: &[u8]) {
        self.at += 1;
        if name == b"Link" {
            self.hello = None;
        }
        loop {
            self.blanks();
            if self.peek() == b'}' {
                self.at += 1;
                return;
            }
            let field = self.word();
            self.at += 2;
            let use_ = is_use(name, field) && !self.scope.idles;
            match rule(name, field) {
                Rule::Keep if name == b"Link" && field == b"sent" => self.sent(),
                Rule::Keep if !use_ => {
                    self.add(field);
                    self.value(name, field);
                }
                Rule::Leave => self.skip(),
                Rule::Keep | Rule::Presence => {
                    let before = self.at;
                    self.skip();
                    let skipped = &self.text[before..self.at];
                    self.add(if matches!(skipped, b"None" | b"[]" | b"{}") {
                        b"-"
                    } else {
                        b"+"
                    });
                }
            }
        }
    }

    fn list(&mut self, structure: &[u8], field: &[u8]) {
        self.add(b"[");
        self.at += 1;
        loop {
            self.blanks();
            match self.peek() {
                b']' | b')' | b'}' => {
                    self.at += 1;
                    self.add(b"]");
                    return;
                }
                _ => self.value(structure, field),
            }
        }
    }

    /// Send times of messages, of which only those of the open stream can still renew the lease.
    fn sent(&mut self) {
        self.at += 1;
        loop {
            self.blanks();
            if self.peek() == b']' {
                self.at += 1;
                return;
            }
            let before = self.at;
            self.at += 1;
            let sequence = number(self.word());
            let counts = self.hello.is_some_and(|hello| sequence >= hello);
            self.at = before;
            if counts {
                self.list(b"", b"sequence");
            } else {
                self.skip();
            }
        }
    }

    fn number(&mut self, structure: &[u8], field: &[u8], digits: &[u8]) {
        let value = number(digits);
        match (structure, field) {
            (b"Millis", _) if value >= BEGINNING / 2 => self.put(Kind::Moment.token(0, value)),
            (b"Attempt", _) if value > 0 => {
                self.put(Kind::Attempt.token(self.scope.control, value))
            }
            (b"StreamId", _) => self.put(Kind::Stream.token(self.scope.control, value)),
            (b"Epoch", b"term") => {
                self.term = value;
                self.add(digits);
            }
            (b"Epoch", b"counter") => self.put(Kind::Counter.token(self.term, value)),
            (_, b"sequence" | b"hello" | b"last_sequence" | b"echoed_sequence" | b"carried_by") => {
                if field == b"hello" {
                    self.hello = Some(value);
                }
                self.put(Kind::Sequence.token(self.scope.gate, value));
            }
            (_, _) => self.add(digits),
        }
    }

    fn put(&mut self, token: Token) {
        self.flush();
        self.out.push(token);
    }

    fn add(&mut self, text: &[u8]) {
        self.plain = true;
        for byte in text.iter().chain(b";") {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn flush(&mut self) {
        if std::mem::take(&mut self.plain) {
            // The upper bits are kept; folding brings the lower ones in.
            let hash = self.hash ^ self.hash.rotate_left(32);
            self.out
                .push(Kind::Text.token(0, hash.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            self.hash = SEED;
        }
    }

    fn peek(&self) -> u8 {
        self.text.get(self.at).copied().unwrap_or(b']')
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), b' ' | b',' | b':') {
            self.at += 1;
        }
    }

    fn word(&mut self) -> &'a [u8] {
        let rest = &self.text[self.at..];
        let ends = |byte: &u8| {
            !(byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'#'))
        };
        let length = rest.iter().position(ends).unwrap_or(rest.len()).max(1);
        self.at += length;
        &rest[..length]
    }

    fn string(&mut self) -> &'a [u8] {
        let from = self.at + 1;
        self.at = from;
        while self.peek() != b'"' {
            self.at += if self.peek() == b'\\' { 2 } else { 1 };
        }
        self.at += 1;
        &self.text[from..self.at - 1]
    }

    /// Passes over one value.
    fn skip(&mut self) {
        let mut depth = 0_u32;
        loop {
            match self.peek() {
                b'"' => drop(self.string()),
                b'[' | b'(' | b'{' => {
                    depth += 1;
                    self.at += 1;
                }
                b']' | b')' | b'}' if depth == 0 => return,
                b']' | b')' | b'}' => {
                    depth -= 1;
                    self.at += 1;
                }
                b',' if depth == 0 => return,
                _ => self.at += 1,
            }
        }
    }
}

fn number(digits: &[u8]) -> u64 {
    let digit = |sum: u64, byte: &u8| {
        if byte.is_ascii_digit() {
            sum.wrapping_mul(10).wrapping_add(u64::from(byte - b'0'))
        } else {
            sum
        }
    };
    digits.iter().fold(0, digit)
}
