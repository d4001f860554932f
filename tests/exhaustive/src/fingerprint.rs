//! What makes two states the same: 128 bits over everything that can still matter, told without the accidents of history.
//!
//! Moments count by their age in ticks, old ones (older than anything that is waited for) by their order; sequence numbers, streams,
//! attempts and epochs by their order among those that anybody still has. Code that compares such numbers, adds one to the largest, and
//! adds whole ticks to moments cannot tell the difference; the audit of [`crate::checker`] looks whether that is so.

use std::fmt::{self, Write};

use greenthread_core::ids::{Epoch, StreamId};

use crate::{
    TICK,
    rendering::{Kind, Token, owner},
    world::{Answer, Call, CallKind, Life, Stage, World},
};

/// Ages up to here count exactly: longer than lease, margin, calls and looks take.
const HORIZON: u64 = 5;
/// Deadlines beyond the end of every clock are alike.
const FAR: u64 = 60;

/// Parts of a state after each other, and where each begins: old moments are put in order within a part.
#[derive(Default)]
struct Parts {
    tokens: Vec<Token>,
    begins: Vec<usize>,
}

impl Parts {
    fn part(&mut self, tokens: &[Token]) {
        self.begins.push(self.tokens.len());
        self.tokens.extend_from_slice(tokens);
    }

    fn plain(&mut self, value: u64) {
        // Kept whole: what is put here is small.
        self.tokens.push(value);
    }

    fn moment(&mut self, at: u64) {
        self.tokens.push(Kind::Moment.token(0, at));
    }

    fn epoch(&mut self, epoch: Epoch) {
        self.tokens
            .push(Kind::Counter.token(epoch.term, epoch.counter));
    }

    fn stream(&mut self, control: usize, stream: StreamId) {
        self.tokens
            .push(Kind::Stream.token(control as u64, stream.0));
    }
}

/// The fingerprint of a state.
pub(crate) fn fingerprint(world: &World) -> u128 {
    let mut parts = Parts::default();
    for (index, gate) in world.gates.iter().enumerate() {
        parts.part(if gate.is == Life::Gone {
            &[]
        } else {
            &gate.gate.tokens
        });
        parts.plain(gate.is as u64);
        parts.plain(u64::from(gate.ready));
        parts.moment(gate.lease_until.max(world.now));
        parts.plain(gate.told.1 as u64);
        parts.epoch(gate.told.0);
        parts.plain(gate.term);
        for control in &world.controls {
            let heard = control.heard[index].map_or(0, |heard| heard.at);
            parts.moment(heard);
        }
    }
    for control in &world.controls {
        let gone = control.is == Life::Gone;
        parts.part(if gone { &[] } else { &control.core.tokens });
        parts.plain(control.is as u64);
        parts.plain(control.term);
        parts.plain(control.met.unwrap_or(0));
        if !gone {
            parts.moment(control.since);
        }
        parts.moment(control.leads_until.map_or(0, |until| until.max(world.now)));
    }
    links(world, &mut parts);
    rest(world, &mut parts);
    parts.normalised(world.now)
}

fn links(world: &World, parts: &mut Parts) {
    for link in &world.links {
        parts.part(&[]);
        parts.plain(link.gate as u64 * 2 + u64::from(link.broken));
        parts.plain(u64::from(link.gate_open) * 2 + u64::from(link.control_open));
        match link.control {
            Some((control, stream)) => parts.stream(control, stream),
            None => parts.plain(0),
        }
        parts.plain(u64::from(link.version > 0));
        for up in &link.up {
            parts.tokens.extend_from_slice(&up.tokens);
            parts.moment(up.sent_at);
        }
        parts.plain(7);
        for down in &link.down {
            parts.tokens.extend_from_slice(&down.tokens);
            parts.plain(down.message.term);
            parts.moment(down.renews);
        }
    }
}

fn rest(world: &World, parts: &mut Parts) {
    parts.part(&[]);
    parts.plain(u64::from(world.engine.asleep));
    parts.plain(world.engine.seen.map_or(0, |seen| u64::from(seen) + 1));
    for call in &world.calls {
        parts.plain(kind_of(call));
        let attempt = Kind::Attempt.token(call.control as u64, call.attempt);
        parts.tokens.push(attempt);
        parts.moment(call.until);
    }
    parts.plain(8);
    for request in &world.requests {
        parts.plain(hashed(&request.map(|request| {
            (request.gate, std::mem::discriminant(&request.place))
        })));
        if let Some(request) = request {
            parts.moment(request.left_by.unwrap_or(0));
            if let crate::world::Where::OnItsWay { by } = request.place {
                parts.moment(by);
            }
        }
    }
    parts.moment(world.vacant_since.unwrap_or(0));
    parts.plain(hashed(&world.left));
    parts.plain(world.term);
}

/// A small number for what a call is and how far it is.
fn kind_of(call: &Call) -> u64 {
    let kind = match call.kind {
        CallKind::Sleep => 0,
        CallKind::Wake => 1,
        CallKind::Look => 2,
    };
    let stage = match call.stage {
        Stage::Travelling { orphan } => u64::from(orphan),
        Stage::Back(Answer::Done) => 2,
        Stage::Back(Answer::Unknown) => 3,
        Stage::Back(Answer::Seen { asleep, count }) => 4 + u64::from(asleep) + 2 * u64::from(count),
    };
    (stage << 4) | (kind << 2) | ((call.control as u64) & 3)
}

fn hashed(value: &impl std::hash::Hash) -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish() >> 4
}

impl Parts {
    fn normalised(&self, now: u64) -> u128 {
        let mut ranked: Vec<Token> = self
            .tokens
            .iter()
            .copied()
            .filter(|token| !matches!(Kind::of(*token).0, Kind::Text | Kind::Moment))
            .collect();
        ranked.sort_unstable();
        ranked.dedup();
        let mut hash = Hash::default();
        let end = self.tokens.len();
        let ends = self.begins.iter().skip(1).chain([&end]);
        for (begin, end) in self.begins.iter().zip(ends) {
            let part = &self.tokens[*begin..*end];
            let mut old: Vec<u64> = part
                .iter()
                .filter_map(|token| is_old(*token, now))
                .collect();
            old.sort_unstable();
            old.dedup();
            hash.add(part.len() as u64);
            for token in part {
                hash.add(self.token(*token, now, &ranked, &old));
            }
        }
        hash.end()
    }

    fn token(&self, token: Token, now: u64, ranked: &[Token], old: &[u64]) -> u64 {
        let (kind, value) = Kind::of(token);
        match kind {
            Kind::Text => token,
            Kind::Moment if is_old(token, now).is_some() => {
                let rank = old.binary_search(&value).unwrap_or(old.len());
                Kind::Moment.token(0, 1_000 + rank as u64)
            }
            Kind::Moment if value >= now => {
                let ahead = (value - now).div_ceil(TICK.0).min(FAR);
                Kind::Moment.token(0, 500 + ahead)
            }
            Kind::Moment => Kind::Moment.token(0, 500 - (now - value) / TICK.0),
            Kind::Sequence | Kind::Stream | Kind::Attempt | Kind::Counter => {
                let of_owner = Kind::of(token).0.token(owner(value), 0);
                let first = ranked.partition_point(|other| *other < of_owner);
                let rank = ranked.partition_point(|other| *other < token);
                kind.token(owner(value), (rank - first) as u64)
            }
        }
    }
}

/// The moment of a token that is older than everything that counts by its age.
fn is_old(token: Token, now: u64) -> Option<u64> {
    let (kind, value) = Kind::of(token);
    (kind == Kind::Moment && value + HORIZON * TICK.0 < now).then_some(value)
}

impl Write for Hash {
    /// The hash depends on where the text was cut, which is the same for the same value.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let (words, rest) = text.as_bytes().as_chunks();
        for word in words {
            self.add(u64::from_le_bytes(*word));
        }
        let last = rest.iter().fold(rest.len() as u64, |word, byte| {
            (word << 8) | u64::from(*byte)
        });
        self.add(last);
        Ok(())
    }
}

/// Two multiplications per word; not against an adversary, only against chance.
#[derive(Debug)]
pub(crate) struct Hash(u128);

impl Default for Hash {
    fn default() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }
}

impl Hash {
    /// The hash of a text.
    pub(crate) fn of(text: &str) -> u128 {
        let mut hash = Self::default();
        // A hash takes everything.
        let _ = hash.write_str(text);
        hash.end()
    }

    /// Takes one word more.
    pub(crate) fn add(&mut self, word: u64) {
        let mixed =
            (self.0 ^ u128::from(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        self.0 = mixed ^ (mixed >> 67);
    }

    /// The hash of all words.
    pub(crate) fn end(mut self) -> u128 {
        self.add(0);
        self.add(1);
        self.0
    }
}
