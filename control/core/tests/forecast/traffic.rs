//! Traffic with a known structure, from seeds.

/// Requests of each kind of traffic.
const REQUESTS: usize = 6_000;

/// Requests in order.
#[derive(Clone, Debug)]
pub(crate) struct Traffic {
    /// What to call it.
    pub(crate) name: String,
    /// Milliseconds, and the index of a model.
    pub(crate) requests: Vec<(u64, usize)>,
    /// Models that there are.
    pub(crate) models: usize,
}

impl Traffic {
    fn new(name: &str, models: usize, mut requests: Vec<(u64, usize)>) -> Self {
        requests.sort_by_key(|(at, _)| *at);
        requests.truncate(REQUESTS);
        Self {
            name: name.to_owned(),
            requests,
            models,
        }
    }

    /// Each request at a random distance from the one before, `mean` milliseconds on average.
    fn steady(
        name: &str,
        models: usize,
        mean: f64,
        mut model: impl FnMut(&mut Chance, usize, u64) -> usize,
    ) -> Self {
        let mut chance = Chance(models as u64);
        let mut now = 0;
        let requests = (0..REQUESTS).map(|at| {
            now += chance.pause(mean);
            (now, model(&mut chance, at, now))
        });
        Self::new(name, models, requests.collect())
    }
}

/// Seeded pseudorandom numbers (splitmix64).
struct Chance(u64);

impl Chance {
    /// From 0 to just below 1.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn below(&mut self, end: usize) -> usize {
        (self.unit() * end as f64) as usize
    }

    /// Milliseconds, exponentially distributed.
    fn pause(&mut self, mean: f64) -> u64 {
        (-(1.0 - self.unit()).ln() * mean) as u64
    }

    fn pick(&mut self, weights: &[f64]) -> usize {
        let mut rest = self.unit() * weights.iter().sum::<f64>();
        let found = weights.iter().position(|weight| {
            rest -= weight;
            rest < 0.0
        });
        found.unwrap_or(weights.len() - 1)
    }
}

/// Weights that fall with the rank.
fn ranks(count: usize, exponent: f64) -> Vec<f64> {
    (1..=count)
        .map(|rank| (rank as f64).powf(-exponent))
        .collect()
}

pub(crate) fn zipf(mean: f64) -> Traffic {
    let weights = ranks(40, 1.0);
    Traffic::steady(&format!("zipf/{mean}"), 40, mean, |chance, _, _| {
        chance.pick(&weights)
    })
}

/// Zipf, in which two models change places every 100 requests.
pub(crate) fn drifting() -> Traffic {
    let weights = ranks(40, 0.8);
    let mut order: Vec<usize> = (0..40).collect();
    Traffic::steady("drifting", 40, 20_000.0, |chance, at, _| {
        if at % 100 == 0 {
            let (a, b) = (chance.below(40), chance.below(40));
            order.swap(a, b);
        }
        order[chance.pick(&weights)]
    })
}

/// Each model has its hours of the day.
pub(crate) fn diurnal() -> Traffic {
    let (weights, day) = (ranks(40, 0.8), 86_400_000.0);
    Traffic::steady("diurnal", 40, 40_000.0, |chance, _, now| {
        let busy = |(model, weight): (usize, &f64)| {
            let hour = now as f64 / day + model as f64 * 0.382;
            weight * (3.0 * (hour * std::f64::consts::TAU).cos()).exp()
        };
        let busy: Vec<f64> = weights.iter().enumerate().map(busy).collect();
        chance.pick(&busy)
    })
}

/// Ten models every 5 to 60 minutes, among others.
pub(crate) fn clockwork() -> Traffic {
    let mut chance = Chance(4);
    let end = 400_000_000;
    let mut requests = Vec::new();
    for model in 0..10 {
        let period = [300_000, 600_000, 900_000, 1_800_000, 3_600_000][model % 5];
        let first = chance.below(period);
        requests.extend((first..end).step_by(period).map(|at| {
            let late = chance.pause(2_000.0);
            (at as u64 + late, model)
        }));
    }
    let weights = ranks(30, 0.8);
    let mut now = 0;
    while now < end as u64 {
        now += chance.pause(60_000.0);
        requests.push((now, 10 + chance.pick(&weights)));
    }
    Traffic::new("clockwork", 40, requests)
}

/// Zipf over twelve models, and now and then each of forty others once.
pub(crate) fn scanned() -> Traffic {
    let weights = ranks(12, 1.0);
    let mut scanned = 0;
    Traffic::steady("scanned", 52, 15_000.0, |chance, at, _| {
        if at % 110 < 90 {
            return chance.pick(&weights);
        }
        scanned += 1;
        12 + scanned % 40
    })
}

/// Requests run through one of ten sequences of models.
pub(crate) fn pipelines() -> Traffic {
    let weights = ranks(10, 0.7);
    let mut chance = Chance(12);
    let steps: Vec<Vec<usize>> = (0..10)
        .map(|_| {
            let length = 4 + chance.below(4);
            (0..length).map(|_| chance.below(30)).collect()
        })
        .collect();
    let mut left: Vec<usize> = Vec::new();
    Traffic::steady("pipelines", 30, 10_000.0, |chance, _, _| {
        if left.is_empty() {
            left = steps[chance.pick(&weights)].clone();
            left.reverse();
        }
        left.pop().unwrap_or_default()
    })
}

/// A set of models is in use for so many requests, then another one.
pub(crate) fn phases(every: usize, size: usize) -> Traffic {
    let mut set = Vec::new();
    Traffic::steady(&format!("phases/{every}"), 60, 15_000.0, |chance, at, _| {
        if at % every == 0 {
            set = (0..size).map(|_| chance.below(60)).collect();
        }
        set[chance.below(size)]
    })
}

/// Every model is as likely as any other.
pub(crate) fn uniform(models: usize) -> Traffic {
    let name = format!("uniform/{models}");
    Traffic::steady(&name, models, 20_000.0, |chance, _, _| chance.below(models))
}

/// How likely a model is depends on how many others were used since, and on nothing else.
pub(crate) fn recent(exponent: f64) -> Traffic {
    let weights = ranks(40, exponent);
    let mut stack: Vec<usize> = (0..40).collect();
    Traffic::steady(
        &format!("recent/{exponent}"),
        40,
        20_000.0,
        |chance, _, _| {
            let model = stack.remove(chance.pick(&weights));
            stack.insert(0, model);
            model
        },
    )
}

/// Each model in turn is used three times within minutes, then not for a long time.
pub(crate) fn thrice() -> Traffic {
    let mut chance = Chance(28);
    let (mut now, mut requests) = (0, Vec::new());
    for job in 0..REQUESTS {
        now += chance.pause(50_000.0);
        for again in 0..3 {
            let later = again as f64 * 60_000.0 * (1.0 + chance.unit());
            requests.push((now + later as u64, job % 100));
        }
    }
    Traffic::new("thrice", 100, requests)
}

/// Each model has sessions of a dozen requests, most of them within a minute of each other.
pub(crate) fn sessions() -> Traffic {
    let mut chance = Chance(3);
    let mut requests = Vec::new();
    for (model, weight) in ranks(40, 0.9).into_iter().enumerate() {
        let mut now = 0;
        while now < 1_200_000_000 {
            now += chance.pause(4_000_000.0 / weight);
            let mut then = now;
            loop {
                requests.push((then, model));
                let think = [15_000.0, 40_000.0, 150_000.0][chance.below(3)];
                then += chance.pause(think);
                if chance.unit() < 1.0 / 12.0 {
                    break;
                }
            }
        }
    }
    Traffic::new("sessions", 40, requests)
}

/// By day people work with one model each for a while, at their own pace; some models are liked more, and that drifts. Nothing tells when
/// somebody will stop.
pub(crate) fn people() -> Traffic {
    let mut chance = Chance(1);
    let (weights, day) = (ranks(60, 1.1), 86_400_000.0);
    let mut order: Vec<usize> = (0..60).collect();
    let (mut now, mut requests) = (0, Vec::new());
    while now < 864_000_000 {
        now += chance.pause(250_000.0);
        let sun = (now as f64 / day * std::f64::consts::TAU).cos();
        if chance.unit() > (1.0 + sun) / 2.0 {
            continue;
        }
        if chance.unit() < 0.02 {
            let (a, b) = (chance.below(60), chance.below(60));
            order.swap(a, b);
        }
        let model = order[chance.pick(&weights)];
        let pace = [30_000.0, 90_000.0, 400_000.0][chance.below(3)];
        let mut then = now;
        loop {
            requests.push((then, model));
            then += 15_000 + chance.pause(pace);
            if chance.unit() < 1.0 / 8.0 {
                break;
            }
        }
    }
    Traffic::new("people", 60, requests)
}

/// Two models alternate for a while, then two others.
pub(crate) fn pairs() -> Traffic {
    let weights = ranks(20, 0.5);
    let (mut pair, mut left) = (0, 0);
    Traffic::steady("pairs", 40, 12_000.0, |chance, _, _| {
        if left == 0 {
            (pair, left) = (chance.pick(&weights), 6 + 2 * chance.below(10));
        }
        left -= 1;
        2 * pair + left % 2
    })
}

/// One after the other, round and round.
pub(crate) fn cycle(models: usize) -> Traffic {
    Traffic::steady(&format!("cycle/{models}"), models, 1_000.0, |_, at, _| {
        at % models
    })
}
