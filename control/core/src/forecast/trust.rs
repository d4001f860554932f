//! How far each witness is believed: by how well it foresaw who would have the next turn. Bayes' rule, forgetting at three speeds,
//! and the mean of the three: nobody knows how fast traffic changes.

use super::{
    past::{Claims, NO_CLAIMS, Past, WITNESSES},
    rhythm::Beat,
};

/// What one turn changes once enough were seen, at each speed: about 100, 25 and 6 turns are remembered.
const RATES: [f64; 3] = [0.01, 0.04, 0.16];
/// Turns that the equal trust at the start is worth.
const TURNS_AT_START: f64 = 30.0;
/// Nobody loses all trust: traffic changes.
const TRUST_LEAST: f64 = 1e-4;
/// A turn that nobody foresaw says little against anyone.
const DOUBT: f64 = 1e-5;
/// Everybody is believed alike.
const EQUAL: Claims = [1.0 / WITNESSES as f64; WITNESSES];

/// A model that may have the next turn, and which share of it each witness gives to it.
#[derive(Clone, Debug)]
pub(super) struct Contender {
    /// Index of the model.
    pub(super) seat: usize,
    /// Where it was in its rhythm.
    pub(super) beat: Beat,
    /// Of all contenders, these add up to 1 for each witness that says anything.
    pub(super) shares: Claims,
}

/// The weights of the witnesses.
#[derive(Clone, Debug)]
pub(super) struct Trust {
    /// By rate; each adds up to 1.
    learned: [Claims; RATES.len()],
    /// Their mean.
    weights: Claims,
    turns: f64,
}

impl Default for Trust {
    fn default() -> Self {
        Self {
            learned: [EQUAL; RATES.len()],
            weights: EQUAL,
            turns: 0.0,
        }
    }
}

impl Trust {
    /// What witnesses say together.
    pub(super) fn chance(&self, shares: &Claims) -> f64 {
        let parts = self.weights.iter().zip(shares);
        parts.map(|(weight, share)| weight * share).sum()
    }

    /// The turn of `seat` has come. One that did not contend teaches nothing: nobody could speak for it.
    pub(super) fn learn(&mut self, contenders: &[Contender], seat: usize, pasts: &mut [Past]) {
        let Some(winner) = contenders.iter().find(|one| one.seat == seat) else {
            return;
        };
        self.record(contenders, winner, pasts);
        self.turns += 1.0;
        self.weights = NO_CLAIMS;
        for (weights, rate) in self.learned.iter_mut().zip(RATES) {
            let rate = rate.max(1.0 / (self.turns + TURNS_AT_START));
            let foreseen = parts(weights, &winner.shares);
            for (weight, foreseen) in weights.iter_mut().zip(foreseen) {
                *weight = (*weight + rate * (foreseen - *weight)).max(TRUST_LEAST);
            }
            let sum: f64 = weights.iter().sum();
            for (mean, weight) in self.weights.iter_mut().zip(weights) {
                *weight /= sum;
                *mean += *weight / RATES.len() as f64;
            }
        }
    }

    /// Enters into each contender's record what was promised of it, and into the winner's what of that was foreseen.
    fn record(&self, contenders: &[Contender], winner: &Contender, pasts: &mut [Past]) {
        let foreseen = parts(&self.weights, &winner.shares);
        let chances = contenders.iter().map(|one| self.chance(&one.shares));
        let all = chances.sum::<f64>().max(f64::MIN_POSITIVE);
        for contender in contenders {
            let mut promised = contender.shares;
            for (promised, weight) in promised.iter_mut().zip(&self.weights) {
                *promised *= weight / all;
            }
            let kept = (contender.seat == winner.seat).then_some(&foreseen);
            if let Some(past) = pasts.get_mut(contender.seat) {
                past.contended(&promised, kept);
            }
        }
    }
}

/// Whose doing it is that a turn was foreseen as far as it was; the parts add up to 1.
fn parts(weights: &Claims, shares: &Claims) -> Claims {
    let mut parts = *weights;
    for (part, share) in parts.iter_mut().zip(shares) {
        *part *= share + DOUBT;
    }
    let sum: f64 = parts.iter().sum();
    parts.map(|part| part / sum)
}
