//! What one seed decides before anything happens: the size of the fleet, its settings, its load, and which faults there are.
//!
//! Swarm-style: each seed enables a random subset of the faults, so that those which hide each other also come alone.

use greenthread_core::{
    ids::{Bytes, GpuId, Millis, ModelId},
    model::{Caps, Durations, ModelSpec, OnDrainTimeout, OnLeaseEnd, Size, Sizes, Source, Times},
    phase::Tier,
    policy::Policy,
};

use crate::{fault::Fault, random::Random, sizes, sizes::Real};

/// Bytes that models may use on every GPU.
pub const CAPACITY: Bytes = Bytes::gib(40);
/// How far ledger and oracle may differ.
pub const TOLERANCE: Bytes = Bytes(512 << 20);

/// One model and its engine.
#[derive(Clone, Debug)]
pub struct ModelPlan {
    /// As the operator declares it.
    pub spec: ModelSpec,
    /// Name in the path.
    pub name: String,
    /// The engine is awake when the first control starts.
    pub begins_awake: bool,
    /// How long its actions take in ms: start, wake, sleep, reload.
    pub takes: (u64, u64, u64, u64),
    /// What it really takes.
    pub real: Real,
}

/// Everything that a seed decides.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// GPUs of the fleet.
    pub gpus: usize,
    /// Host RAM of each NUMA node; empty where nobody says.
    pub hosts: Vec<Bytes>,
    /// NUMA node of each GPU.
    pub host_of: Vec<usize>,
    /// How victims are chosen.
    pub policy: &'static Policy,
    /// A second policy, that only says what it would do.
    pub shadow: Option<&'static Policy>,
    /// Models.
    pub models: Vec<ModelPlan>,
    /// Gates of each gateway.
    pub gateways: Vec<usize>,
    /// Times of the protocol.
    pub times: Times,
    /// A gate's clock differs from control's by at most so many parts in a million.
    pub clock_error: u64,
    /// Longest hold in ms.
    pub hold_budget: u64,
    /// Most held requests per model and gateway.
    pub hold_limit: u64,
    /// Somebody measures GPU memory; otherwise declared figures stand in.
    pub measured: bool,
    /// Sizes were declared wrongly, engines grow, and what does not fit on a GPU fails.
    pub lies: bool,
    /// What is measured is so old, in ms.
    pub oracle_lag: u64,
    /// Some answers to looks at engines are long on their way, in which they may become untrue, and some say no count.
    pub poor_looks: bool,
    /// Engines keep the host RAM of their copy while they are awake, as vLLM does.
    pub keeps_host: bool,
    /// Leadership is a lease of this many ms, and a second control waits for it; 0: a lock that is held for life.
    pub leader_lease: u64,
    /// Longest ordinary way through the network in ms.
    pub way: u64,
    /// Messages that may wait for one gate.
    pub queue: usize,
    /// Rows of one part of a snapshot.
    pub rows_each: usize,
    /// Mean time between two requests, in ms.
    pub request_every: u64,
    /// Longest service in ms.
    pub service: u64,
    /// Mean time between two faults, in ms.
    pub fault_every: u64,
    /// Faults of this run; an entry that is there twice is twice as likely.
    pub faults: Vec<Fault>,
    /// How long faults go on, in ms.
    pub length: u64,
    /// How long traffic without faults goes on afterwards, in ms.
    pub calm: u64,
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let times_and_error = times(&mut random);
        let (times, clock_error) = times_and_error;
        let gpus = random.pick(&[1, 1, 1, 2, 2, 3]);
        let number = random.within(1, 6) as usize;
        let measured = !random.chance(1, 4);
        let style = Style {
            gpus,
            brisk: random.chance(1, 2),
            lossless: random.pick(&[4, 4, 2, 0]),
            counts: random.pick(&[4, 4, 2]),
            peaks: random.chance(1, 2),
            attached: random.pick(&[0, 0, 1, 4]),
        };
        let mut models: Vec<ModelPlan> = (0..number)
            .map(|at| model(&mut random, &style, at))
            .collect();
        // Of its own, so that the other seeds stay what they were.
        let mut others = Random::new(!seed);
        let lies = measured && others.chance(1, 3);
        for model in models.iter_mut().filter(|_| lies) {
            model.real = Real::other_than(&model.spec, &mut others);
        }
        if lies {
            sizes::begin_with_room(&mut models, gpus);
        }
        let poor_looks = others.chance(1, 3);
        let nodes = random.pick(&[0, 1, 1, gpus]);
        let host_of: Vec<usize> = (0..gpus).map(|gpu| gpu * nodes / gpus).collect();
        let hosts = hosts(&mut random, nodes, &host_of, &models);
        let mut any_policy = || random.pick(Policy::ALL);
        let (policy, shadow) = (any_policy(), any_policy());
        let gateways = (0..random.within(1, 2))
            .map(|_| random.within(1, 3) as usize)
            .collect();
        let faults = swarm(&mut random);
        Self {
            seed,
            gpus,
            hosts,
            host_of,
            policy,
            shadow: random.chance(1, 2).then_some(shadow),
            models,
            gateways,
            times,
            clock_error,
            hold_budget: random.pick(&[5_000, 30_000, 120_000, 600_000, 3_600_000]),
            hold_limit: random.pick(&[3, 20, 5_000, 5_000]),
            measured,
            lies,
            oracle_lag: if measured {
                random.pick(&[0, 0, 100, 900])
            } else {
                0
            },
            poor_looks,
            keeps_host: measured && random.chance(1, 2),
            leader_lease: if random.chance(1, 3) {
                times.command.0 * 2 + random.within(1_000, 10_000)
            } else {
                0
            },
            way: random.pick(&[0, 3, 3, 30]),
            queue: random.pick(&[24, 256, 256]),
            rows_each: random.pick(&[1, 2, 100]),
            request_every: random.pick(&[30, 150, 150, 500, 2_000]),
            service: random.pick(&[50, 1_000, 1_000, 8_000, 40_000]),
            fault_every: random.pick(&[150, 600, 1_500, 5_000]),
            faults,
            length: random.pick(&[20_000, 40_000, 40_000, 90_000]),
            calm: 30_000,
        }
    }

    /// NUMA node of a GPU.
    pub fn host_of(&self, gpu: GpuId) -> usize {
        self.host_of.get(gpu.0).copied().unwrap_or(0)
    }

    /// The smallest margin that rule 1 allows; the formula of `control/src/config/check.rs` with the clock error of this run.
    fn smallest_margin(lease: u64, forward_bound: u64, clock_error: u64) -> u64 {
        let million = 1_000_000;
        (lease * clock_error + forward_bound * million).div_ceil(million - clock_error)
    }
}

/// Times from a fraction of the defaults to the defaults, the margin often the smallest that is safe.
fn times(random: &mut Random) -> (Times, u64) {
    let clock_error = random.pick(&[0, 0, 500, 10_000]);
    let lease = random.pick(&[1_000, 2_000, 5_000]);
    let forward_bound = random.pick(&[200, 1_000, 3_000]);
    let smallest = Plan::smallest_margin(lease, forward_bound, clock_error);
    let margin = if random.chance(1, 2) {
        smallest
    } else {
        smallest + random.below(1_500)
    };
    let times = Times {
        lease: Millis(lease),
        margin: Millis(margin),
        heartbeat: Millis(lease / random.within(3, 6)),
        command: Millis(random.pick(&[300, 1_000, 2_000])),
        max_flow: Millis(random.pick(&[3_000, 20_000, 60_000])),
        forward_bound: Millis(forward_bound),
        observe: Millis(random.pick(&[1_000, 1_000, 1_000, 300])),
    };
    (times, clock_error)
}

/// Room for what cannot leave host RAM once it is there, and for a little of the rest.
fn hosts(random: &mut Random, nodes: usize, host_of: &[usize], models: &[ModelPlan]) -> Vec<Bytes> {
    let stays = |model: &&ModelPlan| {
        let spec = &model.spec;
        let frozen = spec.caps.lossless && spec.on_drain_timeout == OnDrainTimeout::Freeze;
        frozen || !spec.caps.restartable || spec.tier == Some(Tier::Ram)
    };
    let on = |model: &ModelPlan, node: usize| {
        let gpus = model.spec.gpus.iter();
        let shares = gpus.filter(|gpu| host_of.get(gpu.0) == Some(&node));
        let copy = model.spec.sizes.host.bytes.max(model.real.host);
        Bytes(copy.0 * shares.count() as u64)
    };
    let node = |node: usize| {
        let kept: Bytes = (models.iter().filter(stays))
            .map(|model| on(model, node))
            .sum();
        // Three more of them may come under other names.
        let largest = (models.iter().filter(stays))
            .map(|model| on(model, node))
            .max();
        let more = largest.unwrap_or_default().0 * 3;
        kept + Bytes(more) + Bytes::gib(random.pick(&[0, 10, 30]))
    };
    (0..nodes).map(node).collect()
}

/// What the models of one run have in common.
struct Style {
    gpus: usize,
    /// Short times of fairness, so that models change often.
    brisk: bool,
    /// Engines out of four that sleep without loss.
    lossless: u64,
    /// Engines out of four with a count.
    counts: u64,
    /// Wakes and sleeps take more memory for a moment.
    peaks: bool,
    /// Engines out of four that control did not start.
    attached: u64,
}

fn model(random: &mut Random, style: &Style, at: usize) -> ModelPlan {
    let tensor_parallel = style.gpus > 1 && random.chance(1, 4);
    let first = random.index(style.gpus);
    let gpus = if tensor_parallel {
        vec![GpuId(first), GpuId((first + 1) % style.gpus)]
    } else {
        vec![GpuId(first)]
    };
    let lossless = random.chance(style.lossless, 4);
    let counts = random.chance(style.counts, 4);
    let flows = if lossless && counts {
        random.chance(2, 3)
    } else {
        random.chance(1, 12)
    };
    let (start, wake, sleep, reload) = (
        random.within(300, 5_000),
        random.within(20, 1_500),
        random.within(10, 800),
        random.within(200, 3_000),
    );
    let fairness = if style.brisk {
        random.pick(&[200, 500, 1_000])
    } else {
        random.pick(&[1_000, 5_000, 10_000])
    };
    let spec = ModelSpec {
        id: ModelId(format!("m{at}.0")),
        gpus,
        awake: Bytes::gib(random.pick(&[6, 12, 17, 17, 25, 33])),
        asleep: Bytes::gib(random.pick(&[0, 1, 1, 2])),
        sizes: sizes(random, style),
        tier: random.pick(&[
            None,
            None,
            None,
            Some(Tier::Ram),
            Some(Tier::Disk),
            Some(Tier::Stopped),
        ]),
        popular: random.chance(1, 4),
        conditioned: !random.chance(1, 8),
        pinned: random.chance(1, 25),
        idle_timeout: random
            .pick(&[None, None, Some(800), Some(5_000), Some(20_000)])
            .map(Millis),
        drain_timeout: Millis(random.pick(&[300, 2_000, 2_000, 10_000])),
        on_drain_timeout: random.pick(&[
            OnDrainTimeout::Freeze,
            OnDrainTimeout::Freeze,
            OnDrainTimeout::Freeze,
            OnDrainTimeout::Cancel,
            OnDrainTimeout::Cancel,
            OnDrainTimeout::Abort,
        ]),
        max_freeze: Millis(random.pick(&[2_000, 20_000, 120_000])),
        min_runtime: Millis(fairness),
        max_wait: Millis(fairness / 2),
        on_lease_end: if flows {
            OnLeaseEnd::Flow
        } else {
            OnLeaseEnd::Hold
        },
        caps: Caps {
            counts,
            lossless,
            restartable: !random.chance(style.attached, 4),
            disk: random.chance(1, 3),
        },
        guess: Durations {
            start: Millis(start),
            wake: Millis(wake),
            reload: Millis(reload),
            sleep: Millis(sleep),
        },
    };
    ModelPlan {
        name: format!("m{at}"),
        real: Real::as_declared(&spec),
        spec,
        begins_awake: random.chance(1, 4),
        takes: (start, wake, sleep, reload),
    }
}

fn sizes(random: &mut Random, style: &Style) -> Sizes {
    let declared = |bytes| Size {
        bytes,
        source: Source::Declared,
    };
    let mut peak = || {
        let most = if style.peaks { 2 } else { 0 };
        declared(Bytes::gib(random.within(0, most)))
    };
    let waking = peak();
    Sizes {
        awake: Source::Declared,
        asleep: Source::Declared,
        waking,
        starting: waking,
        sleeping: peak(),
        host: declared(Bytes::gib(random.pick(&[4, 10, 16]))),
        disk: Size::default(),
    }
}

/// Mostly a few kinds of faults, sometimes all, sometimes none.
fn swarm(random: &mut Random) -> Vec<Fault> {
    let share = random.pick(&[0, 1, 2, 3, 3, 4, 6, 8]);
    Fault::ALL
        .into_iter()
        .filter(|_| random.chance(share, 8))
        .collect()
}
