//! Where foresight and recency would let different models go: whoever's victim is wanted back first was wrong.

/// Duels that are not over. The oldest is given up for a new one.
const DUELS_MOST: usize = 64;
/// What stays of the balance with each duel: it remembers about a hundred.
const BALANCE_STAYS: f64 = 0.99;
/// Foresight is believed until it has lost so many more duels than it won,
const LOST_MOST: f64 = 8.0;
/// and again once it has lost no more than so many. It starts there: nobody believes it before it has won one.
const LOST_LEAST: f64 = 4.0;

/// The duels of foresight and recency, and how they went.
#[derive(Clone, Debug)]
pub(super) struct Duels {
    open: Vec<Duel>,
    /// Won by foresight, less those that recency won; what is long past counts less.
    balance: f64,
    recency_is_better: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Duel {
    /// Whom foresight would let go.
    foresight: usize,
    /// Whom recency would let go.
    recency: usize,
}

impl Default for Duels {
    /// None so far.
    fn default() -> Self {
        Self {
            open: Vec::new(),
            balance: -LOST_LEAST,
            recency_is_better: true,
        }
    }
}

impl Duels {
    /// A choice: the indices of the models that either would let go. Known already, or of one mind: no new duel.
    pub(super) fn begin(&mut self, foresight: usize, recency: usize) {
        let duel = Duel { foresight, recency };
        if foresight == recency || self.open.contains(&duel) {
            return;
        }
        if self.open.len() >= DUELS_MOST {
            self.open.remove(0);
        }
        self.open.push(duel);
    }

    /// A model is wanted: that decides the duels about it.
    pub(super) fn used(&mut self, seat: usize) {
        let balance = &mut self.balance;
        self.open.retain(|duel| {
            let is_over = duel.foresight == seat || duel.recency == seat;
            if is_over {
                let point = if duel.recency == seat { 1.0 } else { -1.0 };
                *balance = *balance * BALANCE_STAYS + point;
            }
            !is_over
        });
        if *balance < -LOST_MOST {
            self.recency_is_better = true;
        } else if *balance > -LOST_LEAST {
            self.recency_is_better = false;
        }
    }

    /// A model is gone: nobody will know.
    pub(super) fn forget(&mut self, seat: usize) {
        self.open
            .retain(|duel| duel.foresight != seat && duel.recency != seat);
    }

    /// Whether recency has proved itself better.
    pub(super) fn recency_is_better(&self) -> bool {
        self.recency_is_better
    }
}
