//! Leadership by a lease: the leader renews it, a standby takes over when it has ended.

use crate::{agenda::Item, fault::Fault, world::World};

impl World {
    pub(crate) fn renew(&mut self, life: usize) {
        if self.waits_for_control(life, Item::Renew { life }) || self.controls[life].deposed {
            return;
        }
        let every = (self.plan.leader_lease / 4).max(1);
        self.agenda.push(self.now + every, Item::Renew { life });
        let holds = self.leadership.holder == Some(life) && self.now < self.leadership.until;
        if holds && self.now >= self.leadership.away_until {
            self.leadership.until = self.now + self.plan.leader_lease;
            self.agenda.push(self.leadership.until, Item::Elect);
            let (sent, after) = (self.now, self.random.below(30));
            self.agenda
                .push(self.now + after, Item::Renewed { life, sent });
        }
        if !self.may_lead(life) {
            self.depose(life);
        }
    }

    pub(crate) fn renewed(&mut self, life: usize, sent: u64) {
        if !self.waits_for_control(life, Item::Renewed { life, sent }) {
            self.controls[life].renewed = self.controls[life].renewed.max(sent);
        }
    }

    /// The standby takes over when the lease has ended.
    pub(crate) fn elect(&mut self) {
        if self.plan.leader_lease == 0 || self.now < self.leadership.until {
            return;
        }
        if self.now < self.leadership.away_until {
            return self.agenda.push(self.leadership.away_until, Item::Elect);
        }
        let before = self.leadership.holder;
        if before.is_some_and(|life| self.controls[life].alive) {
            self.faulted(Fault::Succession);
        }
        self.begin_life();
    }
}
