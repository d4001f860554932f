//! When a model will be used next, learned from the uses so far: what an eviction policy would like to know.
//!
//! A number of witnesses each remember a model's past in their own way: requests or uses that fade over half a minute, … over days,
//! turns that fade over one turn, … over thousands, and how recent its last turn is. Two more know what all models together have shown:
//! how many uses follow from those before, and after how many of its usual pauses a model comes back. Whenever another model has its
//! turn, those witnesses that had expected it gain trust, at the cost of the others; and each model's own record of kept promises
//! corrects what is claimed for it. Nothing is tuned to a traffic beyond that, and nothing needs to know how many places there are.
//!
//! Foresight is held to account: where it and recency disagree about who should go, whoever's victim is wanted back first was wrong.
//! Until foresight has won one, and while recency wins them, the forecast is how long ago the last use was, and a policy that follows it
//! is least recently used.
//!
//! Pure, deterministic to the last bit on every machine, bounded: less than 1 KiB per model. The cost of `arrived` grows
//! with [`CONTENDERS_MOST`]; else only names are looked up.

mod duels;
mod echo;
mod past;
mod rhythm;
mod trust;

use std::collections::BTreeMap;

use crate::ids::{Millis, ModelId};
use duels::Duels;
use echo::Echo;
pub(crate) use past::half_to_the;
use past::{Claims, Past, RHYTHM};
use rhythm::Rhythm;
use trust::{Contender, Trust};

/// Models that are remembered; what more there are stay unknown.
pub const MODELS_MOST: usize = 65_536;
/// Models, the latest used, among which one is expected to have the next turn.
pub const CONTENDERS_MOST: usize = 32;
/// Milliseconds until the next use of a model that was never used: a month.
pub const NEVER_USED: f64 = 30.0 * 24.0 * 3_600_000.0;
/// No forecast is farther away, in milliseconds: so far that nobody gets there, and yet a number.
const FARTHEST: f64 = 1e15;
/// A longer pause between turns says no more than this, in milliseconds.
const PAUSE_MOST: f64 = 3_600_000.0;
/// What one turn changes of the mean time between turns.
const PACE_RATE: f64 = 0.02;
/// Turns over which a model's chances are looked at.
const HORIZON: f64 = 2.0;

/// What is known of all models' uses.
#[derive(Clone, Debug)]
pub struct Forecast {
    seats: BTreeMap<ModelId, usize>,
    pasts: Vec<Past>,
    free: Vec<usize>,
    /// Who was used last, then who before: the latest model and those that contend for the next turn.
    recent: Vec<usize>,
    /// Turns so far. A turn begins when another model than the last one is used.
    turn: u64,
    /// When the last turn began.
    turned: Millis,
    /// Mean milliseconds between turns.
    pace: f64,
    trust: Trust,
    echo: Echo,
    rhythm: Rhythm,
    contenders: Vec<Contender>,
    /// What each witness claims for all contenders together, at the last turn.
    totals: Claims,
    /// What part of its claim each witness upholds over [`HORIZON`].
    lasting: Claims,
    duels: Duels,
}

impl Default for Forecast {
    /// Nothing is known yet.
    fn default() -> Self {
        Self {
            seats: BTreeMap::new(),
            pasts: Vec::new(),
            free: Vec::new(),
            recent: Vec::new(),
            turn: 0,
            turned: Millis(0),
            pace: 1.0,
            trust: Trust::default(),
            echo: Echo::default(),
            rhythm: Rhythm::default(),
            contenders: Vec::new(),
            totals: past::NO_CLAIMS,
            lasting: past::NO_CLAIMS,
            duels: Duels::default(),
        }
    }
}

impl Forecast {
    /// `requests` for a model came in at `now`, together. Moments never go back by more than clocks are apart.
    pub fn arrived(&mut self, model: &ModelId, now: Millis, requests: u64) {
        if requests == 0 {
            return;
        }
        let Some(seat) = self.seat(model, now) else {
            return;
        };
        let is_turn = self.recent.first() != Some(&seat);
        self.echo.pass(now);
        if is_turn {
            self.trust.learn(&self.contenders, seat, &mut self.pasts);
            self.rhythm_learns(seat);
            self.duels.used(seat);
            if let Some(past) = self.pasts.get(seat) {
                self.echo.learn(&past.uses(now));
            }
            self.pass_turn(seat, now);
        }
        if let Some(past) = self.pasts.get_mut(seat) {
            let uses = past.used(now, requests, self.turn);
            self.echo.used(uses);
        }
        if is_turn {
            self.call_contenders();
        }
    }

    /// The model is gone; should it come back, it is a new one.
    pub fn forget(&mut self, model: &ModelId) {
        let Some(seat) = self.seats.remove(model) else {
            return;
        };
        self.free.push(seat);
        self.recent.retain(|recent| *recent != seat);
        self.contenders.retain(|contender| contender.seat != seat);
        self.duels.forget(seat);
    }

    /// One of these had to make room, or will have to: whom foresight and recency would have chosen is remembered, and whoever was
    /// right about it is believed. Tell it at each choice; the same choice may be told twice.
    pub fn chosen_among<'a>(&mut self, candidates: impl IntoIterator<Item = &'a ModelId>) {
        let mut unlikely: Option<(f64, u64, usize)> = None;
        let mut oldest: Option<(u64, usize)> = None;
        for seat in candidates.into_iter().filter_map(|id| self.seats.get(id)) {
            let Some(past) = self.pasts.get(*seat) else {
                continue;
            };
            let (chance, turn) = (self.chance(past), past.turn());
            let is_less = |(least, older, _): (f64, u64, usize)| {
                chance.total_cmp(&least).then(turn.cmp(&older)).is_lt()
            };
            if unlikely.is_none_or(is_less) {
                unlikely = Some((chance, turn, *seat));
            }
            if oldest.is_none_or(|(older, _)| turn < older) {
                oldest = Some((turn, *seat));
            }
        }
        if let (Some((_, _, foresight)), Some((_, recency))) = (unlikely, oldest) {
            self.duels.begin(foresight, recency);
        }
    }

    /// Milliseconds until the next use of a model, as far as anyone can tell after what has arrived: finite, at least 1. The order is
    /// what counts: who is farther away is missed less. [`NEVER_USED`] for a model that was never used. It needs no clock: while
    /// nobody is used, all chances fade alike.
    pub fn next_use(&self, model: &ModelId) -> f64 {
        let seat = self.seats.get(model);
        let Some(past) = seat.and_then(|seat| self.pasts.get(*seat)) else {
            return NEVER_USED;
        };
        let turns = if self.duels.recency_is_better() {
            self.turn.saturating_sub(past.turn()) as f64
        } else {
            1.0 / self.chance(past).max(f64::MIN_POSITIVE)
        };
        let far = turns * self.pace;
        far.clamp(1.0, FARTHEST)
    }

    /// Whether recency foresees better at present than foresight does.
    pub fn follows_recency(&self) -> bool {
        self.duels.recency_is_better()
    }

    /// The expected number of turns of a model, per turn of anyone.
    fn chance(&self, past: &Past) -> f64 {
        let claims = past.claims(self.turned, self.turn, &self.echo, &self.rhythm);
        let mut shares = past::shares(&claims, &self.totals);
        for (share, lasting) in shares.iter_mut().zip(&self.lasting) {
            *share *= lasting;
        }
        shares[RHYTHM] *= self.rhythm_lasts(past);
        self.trust.chance(&shares)
    }

    /// What the rhythm claims for a model on average over [`HORIZON`], as a multiple of what it claims for the next moment: who is due
    /// soon is not due yet.
    fn rhythm_lasts(&self, past: &Past) -> f64 {
        let claim = |turns: f64| {
            let then = self.turned + Millis((turns * self.pace) as u64);
            self.rhythm.claim(&past.beat(then))
        };
        let now = claim(0.0);
        (now + claim(HORIZON / 2.0) + claim(HORIZON)) / (3.0 * now).max(f64::MIN_POSITIVE)
    }

    fn seat(&mut self, model: &ModelId, now: Millis) -> Option<usize> {
        if let Some(seat) = self.seats.get(model) {
            return Some(*seat);
        }
        let seat = match self.free.pop() {
            Some(seat) => seat,
            None if self.pasts.len() < MODELS_MOST => {
                self.pasts.push(Past::new(now));
                self.pasts.len() - 1
            }
            None => return None,
        };
        if let Some(past) = self.pasts.get_mut(seat) {
            *past = Past::new(now);
        }
        self.seats.insert(model.clone(), seat);
        Some(seat)
    }

    /// The turn of `seat` has come; one that did not contend was last used too long ago to tell.
    fn rhythm_learns(&mut self, seat: usize) {
        let contenders = self.contenders.iter();
        let beats = contenders.map(|one| (one.beat, one.seat == seat));
        if beats.clone().any(|(_, has_won)| has_won) {
            self.rhythm.learn(beats, self.totals[RHYTHM]);
        }
    }

    fn pass_turn(&mut self, seat: usize, now: Millis) {
        let pause = (now.since(self.turned).0 as f64).clamp(1.0, PAUSE_MOST);
        self.pace = match self.turn {
            0 | 1 => pause,
            _ => self.pace + PACE_RATE * (pause - self.pace),
        };
        self.turn += 1;
        self.turned = self.turned.max(now);
        self.recent.retain(|recent| *recent != seat);
        self.recent.insert(0, seat);
        self.recent.truncate(CONTENDERS_MOST + 1);
    }

    /// Takes down what is claimed for whom until the next turn. All claims that fade with time fade alike, so that their shares hold
    /// until then.
    fn call_contenders(&mut self) {
        self.lasting = past::lasting(HORIZON * self.pace, HORIZON);
        self.totals = past::NO_CLAIMS;
        self.contenders.clear();
        for seat in self.recent.iter().skip(1) {
            let Some(past) = self.pasts.get(*seat) else {
                continue;
            };
            let claims = past.claims(self.turned, self.turn, &self.echo, &self.rhythm);
            past::add(&mut self.totals, &claims);
            self.contenders.push(Contender {
                seat: *seat,
                beat: past.beat(self.turned),
                shares: claims,
            });
        }
        let wholes = past::wholes(&self.totals);
        for contender in &mut self.contenders {
            for (share, whole) in contender.shares.iter_mut().zip(&wholes) {
                *share *= whole;
            }
        }
    }
}
