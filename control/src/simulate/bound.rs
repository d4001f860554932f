//! How few loads the requests of a trace need, in their order, on GPUs with real sizes: what LRU, OPT and nobody can do.
//!
//! Durations do not count here, and every request needs its model on its GPUs at its turn (strict order, a miss must load). Where
//! every model of a GPU has the same size and one GPU, Belady per GPU is exact. Where sizes differ, finding the fewest loads is a
//! hard problem, and two figures stand around it: a heuristic that a clairvoyant could follow, and a bound that nobody can beat:
//!
//! * *size heuristic*: who leaves is the one with the largest product of bytes and distance to its next use, until there is room;
//! * *area bound*: a hit keeps a model's bytes from one of its uses to the next. That costs bytes × requests in between, there is
//!   only capacity × requests of it, and the cheapest hits are taken first. No order of sleeping and waking has more hits.
//!
//! In truth requests take time, and who works on one does not leave. *Idle* is somebody who knows the future, keeps the order, and lets
//! idle models go only, or waits for the one that will be idle first: with long requests on few places that is what OPT is worth.
//!
//! A gateway is not bound to the order: it may hold requests for a model until more have come. *Grouped* is what somebody who knows the
//! future gets from that: each request may be served up to its model's `maxWait` later, together with those that came meanwhile, and
//! then as above. It is what can be done, not the best that can be done.

use std::cmp::Reverse;

use greenthread_core::ids::Millis;

use super::{setting::Setting, slots::next_uses, trace::Trace};

/// Never again.
const NEVER: usize = usize::MAX;

/// Loads in strict order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StrictLoads {
    /// By LRU.
    pub(super) lru: u64,
    /// By somebody who knows the future.
    pub(super) opt: u64,
    /// Nobody needs fewer.
    pub(super) bound: u64,
    /// As `opt`, where who works on a request does not leave.
    pub(super) idle: u64,
    /// As `opt`, where each request may be held for `maxWait` to go with others.
    pub(super) grouped: u64,
    /// `opt` is exact: places are equal.
    pub(super) exact: bool,
    /// Requests that count; those for models that never fit do not.
    pub(super) requests: u64,
}

/// Room of each GPU for models that come and go, and what each model takes of it.
struct Room {
    /// Bytes per GPU.
    free: Vec<u64>,
    /// Bytes per model on each of its GPUs; zero: always there.
    size: Vec<u64>,
    gpus: Vec<Vec<usize>>,
    fits: Vec<bool>,
}

impl Room {
    fn of(setting: &Setting) -> Self {
        let mut free: Vec<u64> = setting.gpus.iter().map(|bytes| bytes.0).collect();
        let spec = |model: usize| &setting.models[model].spec;
        let all = 0..setting.models.len();
        for model in all.clone() {
            let keeps = if spec(model).pinned {
                spec(model).awake
            } else {
                spec(model).asleep
            };
            for gpu in &spec(model).gpus {
                if let Some(free) = free.get_mut(gpu.0) {
                    *free = free.saturating_sub(keeps.0);
                }
            }
        }
        let takes = |model: usize| match spec(model).pinned {
            true => 0,
            false => spec(model).awake.less(spec(model).asleep).0,
        };
        let size: Vec<u64> = all.clone().map(takes).collect();
        let gpus: Vec<Vec<usize>> = all
            .clone()
            .map(|model| spec(model).gpus.iter().map(|gpu| gpu.0).collect())
            .collect();
        let there =
            |model: usize, gpu: &usize| free.get(*gpu).is_some_and(|free| *free >= size[model]);
        let fits = all
            .map(|model| gpus[model].iter().all(|gpu| there(model, gpu)))
            .collect();
        Self {
            free,
            size,
            gpus,
            fits,
        }
    }

    /// Every model that comes and goes has one GPU, and all of a GPU have one size.
    fn is_equal(&self) -> bool {
        let mut of_gpu = vec![None; self.free.len()];
        let mut equal = true;
        for (size, gpus) in self
            .size
            .iter()
            .zip(&self.gpus)
            .filter(|(size, _)| **size > 0)
        {
            equal &= gpus.len() == 1;
            for gpu in gpus {
                if let Some(known) = of_gpu.get_mut(*gpu) {
                    equal &= known.is_none_or(|known| known == *size);
                    *known = Some(*size);
                }
            }
        }
        equal
    }
}

/// Counts the loads of a trace.
pub(super) fn strict_loads(trace: &Trace, setting: &Setting) -> StrictLoads {
    let room = Room::of(setting);
    let next = next_uses(trace);
    let exact = room.is_equal();
    let lru = loads(trace, &room, None, |model, _, used| {
        (u128::from(u64::MAX - used[model] as u64), model)
    });
    let opt = clairvoyant(trace, &room, exact, None);
    let idle = clairvoyant(trace, &room, exact, Some(setting));
    let grouped = clairvoyant(&grouped(trace, setting), &room, exact, None).min(opt);
    let counts = |request: &&super::trace::Request| room.fits[request.model];
    let requests = trace.requests.iter().filter(counts).count() as u64;
    let bound = if exact {
        opt
    } else {
        area_bound(trace, &room, &next)
    };
    StrictLoads {
        lru,
        opt,
        bound,
        idle,
        grouped,
        exact,
        requests,
    }
}

/// Loads of somebody who knows the future: Belady where sizes are equal, weighed by size where they are not.
fn clairvoyant(trace: &Trace, room: &Room, exact: bool, takes: Option<&Setting>) -> u64 {
    loads(trace, room, takes, |model, (position, next_of), _| {
        let distance = next_of[model].saturating_sub(position) as u128;
        let weight = if exact {
            1
        } else {
            u128::from(room.size[model])
        };
        (distance * weight, model)
    })
}

/// The requests in the order in which they are served when the first one of a model waits for `maxWait` and takes those with it that
/// came meanwhile.
fn grouped(trace: &Trace, setting: &Setting) -> Trace {
    let mut ends: Vec<Option<Millis>> = vec![None; trace.models.len()];
    let mut served: Vec<_> = trace
        .requests
        .iter()
        .map(|request| {
            let open = ends[request.model].filter(|end| *end >= request.at);
            let end = open.unwrap_or(request.at + setting.models[request.model].spec.max_wait);
            ends[request.model] = Some(end);
            (end, request.model, *request)
        })
        .collect();
    served.sort_by_key(|(end, model, _)| (*end, *model));
    Trace {
        requests: served.into_iter().map(|(_, _, request)| request).collect(),
        models: trace.models.clone(),
        ..Trace::default()
    }
}

/// Loads when the resident with the largest `order` leaves first. It sees the position and every model's next use, and every model's
/// last one. With a setting requests and moves take the time that they take, and who works on a request leaves after who does not.
fn loads(
    trace: &Trace,
    room: &Room,
    takes: Option<&Setting>,
    order: impl Fn(usize, (usize, &[usize]), &[usize]) -> (u128, usize),
) -> u64 {
    let next = next_uses(trace);
    let models = trace.models.len();
    let (mut next_of, mut used) = (vec![NEVER; models], vec![0; models]);
    let mut free = room.free.clone();
    let mut resident = vec![false; models];
    let mut here: Vec<usize> = Vec::new();
    // When each is awake, and until when it works.
    let (mut ready, mut until) = (vec![Millis(0); models], vec![Millis(0); models]);
    let mut loads = 0;
    for (position, request) in trace.requests.iter().enumerate() {
        let model = request.model;
        (next_of[model], used[model]) = (next[position], position + 1);
        if resident[model] || !room.fits[model] {
            if takes.is_some() {
                let ends = ready[model].max(request.at) + request.service;
                until[model] = until[model].max(ends);
            }
            continue;
        }
        loads += 1;
        let mut begins = request.at;
        let size = room.size[model];
        let lacks = |free: &[u64]| {
            room.gpus[model]
                .iter()
                .copied()
                .find(|gpu| free[*gpu] < size)
        };
        while let Some(gpu) = lacks(&free) {
            let candidates = here
                .iter()
                .enumerate()
                .filter(|(_, other)| room.size[**other] > 0 && room.gpus[**other].contains(&gpu));
            let first = candidates.max_by_key(|(_, other)| {
                let works = Reverse(until[**other].max(request.at));
                (works, order(**other, (position, &next_of), &used))
            });
            let Some((at, _)) = first else { break };
            let leaver = here.swap_remove(at);
            if let Some(setting) = takes {
                begins = begins.max(until[leaver]) + setting.models[leaver].takes.sleep;
            }
            resident[leaver] = false;
            for gpu in &room.gpus[leaver] {
                free[*gpu] += room.size[leaver];
            }
        }
        for gpu in &room.gpus[model] {
            free[*gpu] = free[*gpu].saturating_sub(size);
        }
        resident[model] = true;
        here.push(model);
        if let Some(setting) = takes {
            ready[model] = begins + setting.models[model].takes.wake;
            until[model] = ready[model] + request.service;
        }
    }
    loads
}

/// A number of loads that nobody can go below. Per GPU where every model has one, over all GPUs together otherwise.
fn area_bound(trace: &Trace, room: &Room, next: &[usize]) -> u64 {
    let alone = room
        .gpus
        .iter()
        .zip(&room.size)
        .all(|(gpus, size)| gpus.len() == 1 || *size == 0);
    let groups = if alone { room.free.len() } else { 1 };
    let group = |model: usize| {
        if alone {
            room.gpus[model].first().copied().unwrap_or(0)
        } else {
            0
        }
    };
    let mut bound = 0;
    for index in 0..groups {
        let capacity: u128 = if alone {
            u128::from(room.free[index])
        } else {
            room.free.iter().map(|bytes| u128::from(*bytes)).sum()
        };
        // Time is counted in the requests of this group only: nothing else happens on its GPUs.
        let mut turn = vec![0_u128; trace.requests.len()];
        let (mut turns, mut area) = (0_u128, 0_u128);
        for (position, request) in trace.requests.iter().enumerate() {
            let model = request.model;
            if room.fits[model] && group(model) == index {
                turn[position] = turns;
                turns += 1;
                area += capacity.saturating_sub(weight(room, model));
            }
        }
        let mut costs = Vec::new();
        let mut requests = 0_u64;
        for (position, request) in trace.requests.iter().enumerate() {
            let model = request.model;
            if !room.fits[model] || group(model) != index {
                continue;
            }
            requests += 1;
            if next[position] != NEVER {
                costs.push(weight(room, model) * (turn[next[position]] - turn[position] - 1));
            }
        }
        costs.sort_unstable();
        let mut hits = 0;
        for cost in costs {
            if cost > area {
                break;
            }
            area -= cost;
            hits += 1;
        }
        bound += requests - hits;
    }
    bound
}

/// Bytes of a model over all its GPUs.
fn weight(room: &Room, model: usize) -> u128 {
    u128::from(room.size[model]) * room.gpus[model].len() as u128
}

#[cfg(test)]
mod tests;
