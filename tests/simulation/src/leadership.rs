//! Leadership: by a lease that the leader renews and a standby takes over when it has ended; terms; and the ends of a control.

use greenthread_core::event::Event;

use crate::{agenda::Item, control::MILLION, fault::Fault, world::World};

impl World {
    /// Rule 7: whether a leader has enough of its lease left to start anything, by its own clock.
    pub(crate) fn may_lead(&self, life: usize) -> bool {
        let control = &self.controls[life];
        if self.plan.leader_lease == 0 {
            return true;
        }
        let since = (self.now - control.renewed) * control.speed / MILLION;
        let left = self.plan.leader_lease.saturating_sub(since);
        let error = self.plan.leader_lease * self.plan.clock_error / MILLION + 1;
        #[cfg(feature = "sabotage")]
        if crate::sabotage::leader_stops_at_the_end() {
            return left > 0;
        }
        left > self.plan.times.command.0 + error
    }

    /// A leader that is none any more stops.
    pub(crate) fn depose(&mut self, life: usize) {
        self.note(|_| format!("control {life} is deposed"));
        self.controls[life].deposed = true;
        self.leaderless();
        self.step(life, Event::Deposed);
        let mut streams = self.controls[life].streams.values();
        let served = streams.any(|(_, version)| *version > 0);
        self.check(!served, |_| {
            "rule 10: a deposed leader keeps streams".to_owned()
        });
        let streams: Vec<usize> = (self.controls[life].streams.values())
            .map(|(stream, _)| *stream)
            .collect();
        for stream in streams {
            self.close_by_control(life, stream);
        }
        self.controls[life].drivers.clear();
    }

    /// Control writes a term that is larger than any it has met; one write at a time.
    pub(crate) fn raise_term(&mut self, life: usize, at_least: u64) {
        if std::mem::replace(&mut self.controls[life].raising, true) {
            return;
        }
        let above = at_least.max(self.controls[life].term);
        let above = above.max(self.persisted.largest);
        self.persisted.term = self.persisted.term.max(above).saturating_add(1);
        self.persisted.largest = self.persisted.term;
        let (term, after) = (self.persisted.term, self.random.below(50));
        self.agenda
            .push(self.now + after, Item::TermTaken { life, term });
    }

    /// The larger term is written: the core hears of it.
    pub(crate) fn term_taken(&mut self, life: usize, term: u64) {
        if self.waits_for_control(life, Item::TermTaken { life, term }) {
            return;
        }
        self.controls[life].raising = false;
        self.controls[life].term = term;
        self.step(life, Event::TermRaised(term));
    }

    /// The process of control ends; its engines go on.
    pub(crate) fn kill_control(&mut self, life: usize) {
        self.note(|_| format!("control {life} is killed"));
        self.controls[life].alive = false;
        self.leaderless();
        let told = self.random.chance(3, 4).then_some(1);
        for stream in 0..self.streams.len() {
            if self.streams[stream].life == life && self.streams[stream].up.open {
                self.control_closes(stream, told);
            }
        }
        self.controls[life].streams.clear();
        self.controls[life].drivers.clear();
    }

    /// A leader renews its lease, or stops to lead when it can no longer be sure of it.
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

    /// The answer to a renewal arrives.
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
