//! What only the whole fleet shows: things that are given twice, memory that is not there, a margin that is too short.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use greenthread_core::{
    ids::{Bytes, GpuId, Millis},
    model::Times,
    phase::Tier,
};

use super::{
    model::Draft,
    reader::{Place, Read, Reader},
};

/// Share of lease + margin by which two monotonic clocks may differ: twenty times what a disciplined clock is slewed by at most (500 ppm).
const CLOCK_ERROR_PERCENT: u64 = 1;

/// How late vLLM's own request count may be. It is taken by the server that answers the requests, so it is never late.
const COUNT_LAG: Millis = Millis(0);

/// Rule 1 of the protocol: the smallest margin that is safe with these times.
pub(super) fn smallest_margin(times: &Times) -> Millis {
    // margin >= p (lease + margin) + bounds, solved for the margin.
    let bounds = times.forward_bound + COUNT_LAG;
    let numerator = times
        .lease
        .0
        .saturating_mul(CLOCK_ERROR_PERCENT)
        .saturating_add(bounds.0.saturating_mul(100));
    Millis(numerator.div_ceil(100 - CLOCK_ERROR_PERCENT))
}

/// Times that contradict each other or the protocol.
pub(super) fn times(times: &Times, place: impl Fn(&str) -> Place, reader: &Reader<'_>) {
    let smallest = smallest_margin(times);
    if times.margin < smallest {
        let cause = format!(
            "{} is too short: a gate may still deliver a request when its fence falls; with a lease of {} it must be at least {}",
            times.margin, times.lease, smallest
        );
        reader.wrong(&place("margin"), cause);
    }
    if times.heartbeat.0.saturating_mul(2) > times.lease.0 {
        reader.wrong(
            &place("heartbeat"),
            format!(
                "{} is too long for a lease of {}; at least two must fit into it",
                times.heartbeat, times.lease
            ),
        );
    }
}

/// The same name, the same prefix, the same engine twice.
pub(super) fn duplicates(drafts: &[Draft], reader: &Reader<'_>) {
    let mut names: BTreeMap<&str, &Place> = BTreeMap::new();
    let mut prefixes: BTreeMap<&str, &str> = BTreeMap::new();
    for draft in drafts {
        if names.insert(&draft.model.name, &draft.name_place).is_some() {
            reader.wrong(
                &draft.name_place,
                format!(
                    "there is another model {}; names must differ",
                    draft.model.name
                ),
            );
        }
        for Read { value, place } in &draft.prefixes {
            if let Some(other) = prefixes.insert(value, &draft.model.name) {
                reader.wrong(
                    place,
                    format!("the prefix {value} already leads to {other}; prefixes must differ"),
                );
            }
        }
    }
}

/// Two listeners on one port. `ours`: what we listen on; engines come on top.
pub(super) fn ports(ours: &[Read<SocketAddr>], drafts: &[Draft], reader: &Reader<'_>) {
    let engines = drafts.iter().map(|draft| Read {
        value: draft.model.engine.address,
        place: draft.engine_place.clone(),
    });
    let mut taken: Vec<Read<SocketAddr>> = Vec::new();
    for listener in ours.iter().cloned().chain(engines) {
        if let Some(other) = taken
            .iter()
            .find(|other| collide(other.value, listener.value))
        {
            let cause = format!(
                "{} is already used by {}; choose another port",
                listener.value, other.place.field
            );
            reader.wrong(&listener.place, cause);
        }
        taken.push(listener);
    }
}

fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let everywhere = |ip: IpAddr| ip.is_unspecified();
    a.port() == b.port() && (a.ip() == b.ip() || everywhere(a.ip()) || everywhere(b.ip()))
}

/// Models and GPUs.
pub(super) fn memory(drafts: &[Draft], gpus: &[u64], reader: &Reader<'_>) {
    for draft in drafts {
        for Read { value: gpu, place } in &draft.gpus {
            let Some(capacity) = gpus.get(gpu.0).copied().map(Bytes) else {
                reader.wrong(
                    place,
                    format!(
                        "there is no GPU {}; gpus has {} (numbers start at 0)",
                        gpu.0,
                        gpus.len()
                    ),
                );
                continue;
            };
            room(draft, *gpu, capacity, reader);
        }
        if draft.model.spec.asleep > draft.model.spec.awake {
            reader.wrong(
                &draft.memory_places.asleep,
                format!(
                    "{} is more than while awake ({})",
                    draft.model.spec.asleep, draft.model.spec.awake
                ),
            );
        }
    }
    for (index, capacity) in gpus.iter().enumerate() {
        pinned(drafts, GpuId(index), Bytes(*capacity), reader);
    }
}

/// One model alone on one of its GPUs, at the worst moments too.
fn room(draft: &Draft, gpu: GpuId, capacity: Bytes, reader: &Reader<'_>) {
    let spec = &draft.model.spec;
    if spec.awake > capacity {
        let cause = format!(
            "{} is more than GPU {} has ({capacity}); the model could never wake",
            spec.awake, gpu.0
        );
        reader.wrong(&draft.memory_places.awake, cause);
        return;
    }
    let places = &draft.memory_places;
    for (moment, size, place) in [
        ("wake", spec.sizes.waking, &places.waking),
        ("sleep", spec.sizes.sleeping, &places.sleeping),
    ] {
        if spec.awake + size.bytes > capacity {
            let cause = format!(
                "{} on top of {} is more than GPU {} has ({capacity}); the model could never {moment}",
                size.bytes, spec.awake, gpu.0
            );
            reader.wrong(place, cause);
        }
    }
}

/// Where models are to sleep, and whether they can.
pub(super) fn tiers(drafts: &[Draft], hosts: &[u64], host_of: &[usize], reader: &Reader<'_>) {
    for draft in drafts {
        let spec = &draft.model.spec;
        match spec.tier {
            Some(Tier::Stopped) if !spec.caps.restartable => {
                let cause = "control attaches to this engine and could not start it again; give it a command, or let it sleep in ram, disk or auto";
                reader.wrong(&draft.tier_place, cause);
            }
            Some(Tier::Ram) => stays_in_ram(draft, hosts, host_of, reader),
            Some(Tier::Stopped | Tier::Disk) | None => {}
        }
    }
    for (host, capacity) in hosts.iter().enumerate() {
        copies_that_stay(drafts, host, Bytes(*capacity), host_of, reader);
    }
}

/// Copies that cannot leave RAM for anybody need it together, sooner or later: who then has no room cannot go to sleep.
fn copies_that_stay(
    drafts: &[Draft],
    host: usize,
    capacity: Bytes,
    host_of: &[usize],
    reader: &Reader<'_>,
) {
    let copy = |draft: &Draft| -> Bytes {
        let gpus = draft.model.spec.gpus.iter();
        let here = gpus.filter(|gpu| host_of.get(gpu.0) == Some(&host));
        here.map(|_| draft.model.spec.sizes.host.bytes).sum()
    };
    let stays = |draft: &&Draft| {
        let spec = &draft.model.spec;
        let only_ram = spec.tier == Some(Tier::Ram) || !spec.caps.disk && !spec.caps.restartable;
        only_ram && !spec.pinned && copy(draft) > Bytes(0)
    };
    let staying: Vec<&Draft> = drafts.iter().filter(stays).collect();
    let together: Bytes = staying.iter().map(|draft| copy(draft)).sum();
    let Some(last) = staying.last().filter(|_| together > capacity) else {
        return;
    };
    let names: Vec<&str> = staying
        .iter()
        .map(|draft| draft.model.name.as_str())
        .collect();
    let cause = format!(
        "copies that can sleep nowhere but in RAM ({}) take {together} of host {host}, which has {capacity}: when it is full, whoever of \
         them is still awake cannot go to sleep and makes room for nobody. Give hosts[{host}].memory more, let some of them sleep in `disk` \
         (sleep.tier), or correct memory.host",
        names.join(", ")
    );
    reader.warn(&last.memory_places.host, cause);
}

/// A model that may only sleep in RAM needs a host with so much of it.
fn stays_in_ram(draft: &Draft, hosts: &[u64], host_of: &[usize], reader: &Reader<'_>) {
    let spec = &draft.model.spec;
    for (host, capacity) in hosts.iter().enumerate() {
        let here = spec
            .gpus
            .iter()
            .filter(|gpu| host_of.get(gpu.0) == Some(&host));
        let copy: Bytes = here.map(|_| spec.sizes.host.bytes).sum();
        let capacity = Bytes(*capacity);
        if copy > capacity {
            let cause = format!(
                "its copy takes {copy} of host {host}, which has {capacity}; the model could never sleep in RAM: let it sleep in disk, stopped or auto, or correct this figure"
            );
            reader.wrong(&draft.memory_places.host, cause);
        }
    }
}

/// Pinned models are awake together, beside what the sleeping others leave behind.
fn pinned(drafts: &[Draft], gpu: GpuId, capacity: Bytes, reader: &Reader<'_>) {
    let here = || {
        drafts
            .iter()
            .filter(|draft| draft.model.spec.gpus.contains(&gpu))
    };
    let awake: Bytes = here()
        .filter(|draft| draft.model.spec.pinned)
        .map(|draft| draft.model.spec.awake)
        .sum();
    let asleep: Bytes = here()
        .filter(|draft| !draft.model.spec.pinned)
        .map(|draft| draft.model.spec.asleep)
        .sum();
    let Some(last) = here().rfind(|draft| draft.model.spec.pinned) else {
        return;
    };
    if awake + asleep > capacity && last.model.spec.awake <= capacity {
        let cause = format!(
            "the pinned models of GPU {} need {awake}, and {asleep} stay for the sleeping others, but it has {capacity}; unpin one",
            gpu.0
        );
        reader.wrong(&last.pinned_place, cause);
    }
}

/// Addresses beyond loopback need a token: whoever can reach control could forge a gate and block every sleep.
pub(super) fn token(listeners: &[&Read<SocketAddr>], token: Option<&str>, reader: &Reader<'_>) {
    for listener in listeners
        .iter()
        .filter(|listener| !listener.value.ip().is_loopback() && token.is_none())
    {
        let cause = format!(
            "{} is reachable from other machines; set control.token (or GREENTHREAD_TOKEN), or use 127.0.0.1",
            listener.value
        );
        reader.wrong(&listener.place, cause);
    }
}

/// A duration of the file as the core counts it.
pub(super) fn millis(duration: Duration) -> Millis {
    Millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}
