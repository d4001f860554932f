//! One model's past, as each witness remembers it. Every witness is a number that grows with each use and fades, by time or by turns.

use std::f64::consts::LN_2;

use super::echo::{self, Echo};
use crate::ids::Millis;

/// Witnesses that count requests, and as many that count uses, by half-lives of time.
pub(super) const BY_TIME: usize = 8;
/// Witnesses that count turns, by half-lives of turns.
const BY_TURNS: usize = 6;
/// One witness only knows how many turns ago the last use was.
const RECENCY: usize = 2 * BY_TIME + BY_TURNS;
/// All of them: first requests, then uses, then turns, then recency, then echoes.
pub(super) const WITNESSES: usize = RECENCY + 1 + echo::HORIZONS.len();

/// The longest half-life of time: 3.8 days. Each shorter one is a quarter of the next, down to 20 s.
pub(super) const LONGEST_MILLIS: f64 = 20_000.0 * 16_384.0;
/// The longest half-life of turns, down to 1 turn.
const LONGEST_TURNS: f64 = 1_024.0;
/// Requests so close together are one use rather than several: half of one when so many milliseconds apart.
const ONE_USE: f64 = 40_000.0;
/// What a model's record weighs against none: promises after which half of its own record counts.
const PROMISES_TO_HEED: f64 = 2.0;
/// What stays of a record with each turn for which the model contends.
const RECORD_STAYS: f64 = 0.9999;

/// What each witness says in favour of a model.
pub(super) type Claims = [f64; WITNESSES];

/// Nobody says anything.
pub(super) const NO_CLAIMS: Claims = [0.0; WITNESSES];

/// What all witnesses remember of one model, as of its last use.
#[derive(Clone, Debug)]
pub(super) struct Past {
    /// Of those witnesses that have any: recency needs no more than `turn`, and echoes come of the uses.
    counts: [f64; RECENCY],
    last: Millis,
    /// The turn of the last use; 0 before the first.
    turn: u64,
    /// Turns of this model that each witness had foreseen.
    kept: Claims,
    /// Turns of this model that each witness had promised.
    promised: Claims,
}

impl Past {
    /// Of a model that was not used yet.
    pub(super) fn new(now: Millis) -> Self {
        Self {
            counts: [0.0; RECENCY],
            last: now,
            turn: 0,
            kept: NO_CLAIMS,
            promised: NO_CLAIMS,
        }
    }

    /// The turn of the last use.
    pub(super) fn turn(&self) -> u64 {
        self.turn
    }

    /// Requests came in at once, in this turn. Returns which part of a use they are of their own.
    pub(super) fn used(&mut self, now: Millis, requests: u64, turn: u64) -> f64 {
        let age = now.since(self.last).0 as f64;
        let use_of_its_own = match self.turn {
            0 => 1.0,
            _ => 1.0 - half_to_the(age / ONE_USE),
        };
        let begun = f64::from(u8::from(turn > self.turn));
        let fades = fades(age, turn.saturating_sub(self.turn));
        for (at, (count, fade)) in self.counts.iter_mut().zip(fades).enumerate() {
            let more = match at / BY_TIME {
                0 => requests as f64,
                1 => use_of_its_own,
                _ => begun,
            };
            *count = *count * fade + more;
        }
        self.turn = turn;
        self.last = self.last.max(now);
        use_of_its_own
    }

    /// Uses by half-lives of time, as faded at `now`.
    pub(super) fn uses(&self, now: Millis) -> [f64; BY_TIME] {
        let fades = fades(now.since(self.last).0 as f64, 0);
        let mut uses = [0.0; BY_TIME];
        for (at, uses) in uses.iter_mut().enumerate() {
            *uses = self.counts[BY_TIME + at] * fades[BY_TIME + at];
        }
        uses
    }

    /// What each witness claims at `now` and at this turn, corrected by the record of its promises about this model.
    pub(super) fn claims(&self, now: Millis, turn: u64, echo: &Echo) -> Claims {
        let turns_ago = turn.saturating_sub(self.turn);
        let fades = fades(now.since(self.last).0 as f64, turns_ago);
        let mut claims = NO_CLAIMS;
        for at in 0..RECENCY {
            claims[at] = self.counts[at] * fades[at];
        }
        claims[RECENCY] = 1.0 / turns_ago.max(1) as f64;
        let rates = echo.rates(&claims[BY_TIME..2 * BY_TIME]);
        claims[RECENCY + 1..].copy_from_slice(&rates);
        let records = self.kept.iter().zip(&self.promised);
        for (claim, (kept, promised)) in claims.iter_mut().zip(records) {
            *claim *= (kept + PROMISES_TO_HEED) / (promised + PROMISES_TO_HEED);
        }
        claims
    }

    /// A turn passed for which the model contended: what each witness had promised of it, and what of that it had foreseen.
    pub(super) fn contended(&mut self, promised: &Claims, foreseen: Option<&Claims>) {
        for at in 0..WITNESSES {
            let kept = foreseen.map_or(0.0, |foreseen| foreseen[at]);
            self.promised[at] = self.promised[at] * RECORD_STAYS + promised[at];
            self.kept[at] = self.kept[at] * RECORD_STAYS + kept;
        }
    }
}

/// Adds what is claimed for one model to what is claimed for all.
pub(super) fn add(totals: &mut Claims, claims: &Claims) {
    for (total, claim) in totals.iter_mut().zip(claims) {
        *total += claim;
    }
}

/// Which part of what each witness claims for all is claimed for one. It may be more than all, for one that is not among
/// them; and where nothing is claimed for anyone else, any claim is all.
pub(super) fn shares(claims: &Claims, totals: &Claims) -> Claims {
    let mut shares = *claims;
    for (share, total) in shares.iter_mut().zip(totals) {
        *share = if *total > 0.0 {
            *share / total
        } else {
            share.min(1.0)
        };
    }
    shares
}

/// What part of its claim each witness still upholds, on average over `horizon` milliseconds and as many turns as `turns`: claims
/// that fade soon promise little beyond the next moment. Recency's fades more slowly the older it is, and
/// echoes are counted over horizons of their own; these count in full.
pub(super) fn lasting(horizon: f64, turns: f64) -> Claims {
    let by_time: [f64; BY_TIME] = lengths(LONGEST_MILLIS).map(|half| mean_left(horizon / half));
    let by_turns: [f64; BY_TURNS] = lengths(LONGEST_TURNS).map(|half| mean_left(turns / half));
    let parts = by_time.iter().chain(&by_time).chain(&by_turns);
    let mut lasting = [1.0; WITNESSES];
    for (lasting, part) in lasting.iter_mut().zip(parts) {
        *lasting = *part;
    }
    lasting
}

/// Half-lives up to the longest, the shortest first.
pub(super) fn lengths<const N: usize>(longest: f64) -> [f64; N] {
    let mut lengths = [longest; N];
    for at in (0..N.saturating_sub(1)).rev() {
        lengths[at] = lengths[at + 1] / 4.0;
    }
    lengths
}

/// The mean of what is left from now until so many halvings have passed, which are more than none.
fn mean_left(halvings: f64) -> f64 {
    (1.0 - half_to_the(halvings)) / (halvings * LN_2)
}

/// What a claim has to be multiplied by to become its share of all; of next to nothing there are no shares.
pub(super) fn wholes(totals: &Claims) -> Claims {
    totals.map(|total| if total > 1e-300 { 1.0 / total } else { 0.0 })
}

/// What is left of each count after `age` milliseconds and so many turns.
fn fades(age: f64, turns: u64) -> [f64; RECENCY] {
    let by_time: [f64; BY_TIME] = quarters(half_to_the(age / LONGEST_MILLIS));
    let by_turns: [f64; BY_TURNS] = quarters(half_to_the(turns as f64 / LONGEST_TURNS));
    let mut fades = [0.0; RECENCY];
    fades[..BY_TIME].copy_from_slice(&by_time);
    fades[BY_TIME..2 * BY_TIME].copy_from_slice(&by_time);
    fades[2 * BY_TIME..].copy_from_slice(&by_turns);
    fades
}

/// From what is left by the longest half-life, what is left by each that is a quarter of the next.
fn quarters<const N: usize>(longest: f64) -> [f64; N] {
    let mut left = [0.0; N];
    let mut next = longest;
    for left in left.iter_mut().rev() {
        *left = next;
        let square = next * next;
        next = square * square;
    }
    left
}

/// ½ to the power of `halvings`, which is not negative. Of multiplications and additions alone: the standard library's may differ
/// between machines in the last bit, and decisions would.
pub(crate) fn half_to_the(halvings: f64) -> f64 {
    /// −ln 2 to the power of n, over n!, from n = 10 down to 1.
    const TERMS: [f64; 10] = [
        7.054_911_620_801_12e-9,
        -1.017_808_600_923_97e-7,
        1.321_548_679_014_431e-6,
        -1.525_273_380_405_984e-5,
        1.540_353_039_338_161e-4,
        -1.333_355_814_642_844_3e-3,
        9.618_129_107_628_477e-3,
        -5.550_410_866_482_158e-2,
        2.402_265_069_591_007e-1,
        -LN_2,
    ];
    const HALVINGS_MOST: f64 = 1_000.0;
    if halvings >= HALVINGS_MOST {
        return 0.0;
    }
    let whole = halvings.floor();
    let rest = halvings - whole;
    let sum = TERMS.iter().fold(0.0, |sum, term| (sum + term) * rest) + 1.0;
    // An exponent of a float is stored from 1023 on.
    sum * f64::from_bits((1_023 - whole as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fades_by_half_lives() {
        for n in 0..4_000_u32 {
            let halvings = f64::from(n) / 4.0;
            let (got, want) = (half_to_the(halvings), (-halvings).exp2());
            let close = (got - want).abs() <= want * 1e-9;
            assert!(close, "{halvings} halvings leave {got}, not {want}");
        }
        assert_eq!(half_to_the(1e300), 0.0);
    }

    #[test]
    fn half_lives_are_quarters_of_each_other() {
        let check = |age: f64, turns: u64, at: usize, want: f64| {
            let left = fades(age, turns)[at];
            let close = (left - want).abs() < 1e-6;
            assert!(close, "{left} after {age} ms and {turns} turns at {at}");
        };
        check(20_000.0, 0, 0, 0.5);
        check(80_000.0, 0, 0, 0.0625);
        check(80_000.0, 0, BY_TIME + 1, 0.5);
        check(LONGEST_MILLIS, 0, BY_TIME - 1, 0.5);
        check(0.0, 1, 2 * BY_TIME, 0.5);
        check(0.0, 1_024, RECENCY - 1, 0.5);
    }

    #[test]
    fn a_past_is_small() {
        assert!(size_of::<Past>() <= 768, "{} bytes", size_of::<Past>());
    }

    #[test]
    fn requests_at_once_are_one_use() {
        let mut past = Past::new(Millis(0));
        past.used(Millis(0), 1, 1);
        past.used(Millis(0), 99, 1);
        let claims = past.claims(Millis(0), 2, &Echo::default());
        assert_eq!((claims[0], claims[BY_TIME]), (100.0, 1.0));
    }
}
