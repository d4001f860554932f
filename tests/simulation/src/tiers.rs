//! Where weights go, and what must not go with them: tiers as they are told to engines, processes that end, models that are removed.

use greenthread_core::{
    ids::{Bytes, ModelId},
    phase::Tier,
};

use crate::{
    agenda::Order,
    engine::{Engine, Process},
    request::Stage,
    world::World,
};

/// An engine that hung, or could not be reached, is looked at for so long before it is ended.
const PATIENCE: u64 = 120_000;

impl World {
    /// An engine sleeps where its operator wants it, and no deeper than it can.
    pub(crate) fn check_tier(&mut self, engine: usize, told: Tier) {
        let spec = &self.engines[engine].spec;
        let able = told == Tier::Ram || (told == Tier::Disk && spec.caps.disk);
        let wanted = match spec.tier {
            Some(Tier::Ram) => told == Tier::Ram,
            Some(Tier::Disk) if spec.caps.disk => told == Tier::Disk,
            Some(Tier::Disk | Tier::Stopped) | None => true,
        };
        self.check(able && wanted, |world| {
            let spec = &world.engines[engine].spec;
            format!(
                "{} is told to sleep into {told:?}, not {:?}",
                spec.id.0, spec.tier
            )
        });
    }

    /// A wake says from where the weights come; and it is noted who comes.
    pub(crate) fn check_wake(&mut self, life: usize, engine: usize, order: Order) {
        let known = &self.engines[engine];
        let id = known.spec.id.clone();
        let sleeps = known.process == Process::Up && known.asleep && !known.is_busy();
        let said = !self.controls[life].doubtful.contains(&engine);
        let wrong = matches!(order, Order::Wake(tier) if sleeps && said && tier != known.copy);
        self.check(!wrong, |world| {
            format!(
                "{} is woken by {order:?} from {:?}",
                id.0, world.engines[engine].copy
            )
        });
        self.controls[life].fair.woken.push(id);
    }

    /// Whether nothing but a decision ends an engine now: it works, and it has not been out of reach.
    fn is_well(&self, engine: &Engine) -> bool {
        let process = engine.process == Process::Up && !engine.broken;
        process && (engine.hangs_until == 0 || engine.hangs_until + PATIENCE < self.now)
    }

    /// A gate that admits for this row, if any.
    fn admitting(&self, id: &ModelId) -> Option<usize> {
        let admits = |gate: &usize| {
            let node = &self.gates[*gate];
            node.alive && node.reference.admits(node.local(self.now), &id.0)
        };
        (0..self.gates.len()).find(admits)
    }

    /// A request that is in the engine, or on its way to it, admitted at least so long ago.
    fn within(&self, engine: usize, for_ms: u64) -> Option<u32> {
        let counts = self.engines[engine].spec.caps.counts;
        let there = |request: &u32| {
            let known = &self.requests[*request as usize];
            known.row == Some(engine)
                && matches!(known.stage, Stage::OnItsWay | Stage::Inside)
                && !known.abandoned
                && (counts || !self.is_silent(known.gate))
                && known.admitted + for_ms <= self.now
        };
        let mut open = self
            .gates
            .iter()
            .flat_map(|gate| gate.requests.iter().copied());
        open.find(there)
    }

    /// A sleeping engine that ends to leave room for others takes no request with it, and none follows (rule 14).
    pub(crate) fn check_leaves(&mut self, life: usize, engine: usize) {
        let known = &self.engines[engine];
        let phase = self.controls[life].phases.get(&engine);
        let rests = matches!(phase, Some(("Asleep" | "Queued", _)));
        if !rests || !known.asleep || !self.is_well(known) {
            return;
        }
        self.check_stands_still(life, engine);
        self.check_unasked(life, engine);
        let times = &self.plan.times;
        let known = &self.engines[engine];
        let seen = times.forward_bound.0 + times.observe.0 + 2_000;
        let frozen = self
            .within(engine, seen)
            .filter(|_| known.spec.caps.lossless);
        let admits = self.admitting(&known.spec.id);
        self.check(frozen.is_none(), |world| {
            format!(
                "S3: {} ends with request {frozen:?} frozen in it",
                world.engines[engine].spec.id.0
            )
        });
        self.check(admits.is_none(), |world| {
            format!(
                "rule 14: {} ends while {admits:?} flows",
                world.engines[engine].spec.id.0
            )
        });
    }

    /// S3: what an engine cannot say gates have said: it does not end while one had requests in it when it was last heard.
    pub(crate) fn check_unasked(&mut self, life: usize, engine: usize) {
        let spec = &self.engines[engine].spec;
        let account = &self.controls[life].account;
        let had = (!spec.caps.counts).then(|| account.had_some(&spec.id));
        let had = had.flatten().cloned();
        self.check(had.is_none(), |world| {
            let id = &world.engines[engine].spec.id.0;
            format!("S3: {id} ends, and {had:?} had requests in it")
        });
    }

    /// Rule 13: removing a model is a drain.
    pub(crate) fn check_removed(&mut self, life: usize, engine: usize) {
        let known = &self.engines[engine];
        if !self.is_well(known) {
            return;
        }
        self.check_unasked(life, engine);
        let known = &self.engines[engine];
        let inside = self.within(engine, 0);
        let admits = self.admitting(&known.spec.id);
        self.check(inside.is_none(), |world| {
            format!(
                "rule 13: {} is removed with request {inside:?}",
                world.engines[engine].spec.id.0
            )
        });
        self.check(admits.is_none(), |world| {
            format!(
                "rule 14: {} is removed while {admits:?} admits",
                world.engines[engine].spec.id.0
            )
        });
    }

    /// Host RAM: a copy goes into it only where there is room for it.
    pub(crate) fn check_hosts(&mut self, life: usize) {
        let filled = std::mem::take(&mut self.controls[life].filled);
        let hosts = self.controls[life].core.hosts();
        for engine in filled {
            let known = &self.engines[engine];
            let nodes = (known.spec.gpus.iter()).map(|gpu| self.plan.host_of(*gpu));
            let beyond = |node: &usize| {
                hosts
                    .get(*node)
                    .is_some_and(|host| host.reserved > host.capacity)
            };
            let takes = known.spec.sizes.host.bytes > known.host && !known.asleep;
            let full = nodes.filter(beyond).count() > 0;
            self.check(!takes || !full, |world| {
                format!(
                    "a copy of {} goes into host RAM where no room is: {hosts:?}",
                    world.engines[engine].spec.id.0
                )
            });
        }
        if !self.controls[life].core.is_open() {
            return;
        }
        let mut fits = true;
        for (node, host) in hosts.iter().enumerate() {
            let there = |engine: &usize| {
                let known = &self.engines[*engine];
                let shares =
                    (known.spec.gpus.iter()).filter(|gpu| self.plan.host_of(**gpu) == node);
                Bytes(known.host.0 * shares.count() as u64)
            };
            let counts = |engine: &&usize| {
                let phase = self.controls[life].phases.get(engine);
                phase.is_some_and(|(phase, _)| !matches!(*phase, "Removed" | "Booting"))
            };
            let rows: Vec<usize> = (0..self.engines.len()).collect();
            let held: Bytes = rows.iter().filter(counts).map(there).sum();
            let explained = (rows.iter())
                .any(|engine| self.engines[*engine].host_surprise && there(engine) > Bytes(0));
            fits &= held <= host.reserved;
            self.check(explained || held <= host.reserved, |_| {
                format!(
                    "copies take {held} of node {node}, and the ledger says {}",
                    host.reserved
                )
            });
        }
        // A copy that a stranger made is known from the moment at which control takes it for one.
        let seen = self.controls[life].seen_asleep.take();
        // What is counted for another that refused to sleep must not make it look as if this one was known.
        let fits = fits && self.controls[life].fair.is_settled();
        let phases = &self.controls[life].phases;
        for (at, engine) in self.engines.iter_mut().enumerate() {
            let taken = matches!(phases.get(&at), Some(("Asleep" | "Queued", _)));
            engine.host_surprise &= engine.host > Bytes(0) && !(fits && taken && seen == Some(at));
        }
    }
}
