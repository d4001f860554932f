//! From the core's values to documents: ids become names, moments become wall-clock times.

use greenthread_core::{
    decision,
    ids::{Millis, ModelId},
    phase,
};

use super::{
    Choice, Followed, Need, Regret, Shadow, Taken, Tier, Trigger, Verdict, Weighed, WhyNot,
};

/// A moment that is further ahead is none: only an event can bring it (a year).
const NEVER: Millis = Millis(365 * 24 * 3_600 * 1_000);

/// One moment on two clocks: the core's, and the one on the wall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wall {
    /// The core's clock.
    pub now: Millis,
    /// Milliseconds since 1970 at the same moment.
    pub unix_ms: u64,
}

impl Wall {
    /// A moment of the core in milliseconds since 1970.
    pub fn at(&self, at: Millis) -> u64 {
        let ago = self.now.since(at).0;
        let ahead = at.since(self.now).0;
        self.unix_ms.saturating_sub(ago).saturating_add(ahead)
    }

    /// The same for a moment that may never come.
    fn until(&self, at: Millis) -> Option<u64> {
        (at.since(self.now) < NEVER).then(|| self.at(at))
    }
}

impl Choice {
    /// The document of a choice, seen now.
    pub fn of(choice: &decision::Choice, wall: Wall) -> Self {
        let decision::Choice {
            number,
            at,
            target,
            trigger,
            policy,
            need,
            weighed,
            taken,
            shadow,
            followed,
            regrets,
        } = choice;
        Self {
            number: *number,
            at_unix_ms: wall.at(*at),
            age_ms: wall.now.since(*at).0,
            target: name(target),
            trigger: Trigger::of(*trigger),
            policy: (*policy).to_owned(),
            need: need.iter().map(Need::of).collect(),
            weighed: weighed
                .iter()
                .map(|weighed| Weighed::of(weighed, wall))
                .collect(),
            taken: Taken::of(taken, wall),
            shadow: shadow.as_ref().map(Shadow::of),
            followed: followed
                .iter()
                .map(|followed| Followed::of(followed, wall))
                .collect(),
            regrets: regrets.iter().map(Regret::of).collect(),
        }
    }
}

impl Trigger {
    fn of(trigger: decision::Trigger) -> Self {
        match trigger {
            decision::Trigger::Demand {
                held,
                inside,
                refused,
            } => Self::Demand {
                held,
                inside,
                refused,
            },
            decision::Trigger::Operator => Self::Operator,
            decision::Trigger::Pinned => Self::Pinned,
            decision::Trigger::Popular => Self::Popular,
            decision::Trigger::Boot => Self::Boot,
            decision::Trigger::Idle => Self::Idle,
            decision::Trigger::Overcommit => Self::Overcommit,
            decision::Trigger::Withdrawn => Self::Withdrawn,
            decision::Trigger::HostRam => Self::HostRam,
        }
    }
}

impl Need {
    fn of(need: &decision::GpuNeed) -> Self {
        let decision::GpuNeed {
            gpu,
            needs,
            free,
            coming,
            missing,
        } = need;
        Self {
            gpu: gpu.0,
            needs_bytes: needs.0,
            free_bytes: free.0,
            coming_bytes: coming.0,
            missing_bytes: missing.0,
        }
    }
}

impl Weighed {
    fn of(weighed: &decision::Weighed, wall: Wall) -> Self {
        let decision::Weighed {
            model,
            verdict,
            frees,
            idle,
            busy,
            price,
        } = weighed;
        Self {
            model: name(model),
            verdict: Verdict::of(*verdict, wall),
            frees_bytes: frees.0,
            idle_ms: idle.0,
            busy: *busy,
            // JSON has no other figures.
            price: price.is_finite().then_some(*price),
        }
    }
}

impl Verdict {
    fn of(verdict: decision::Verdict, wall: Wall) -> Self {
        match verdict {
            decision::Verdict::Chosen => Self::Chosen,
            decision::Verdict::Kept => Self::Kept,
            decision::Verdict::Pinned => Self::Pinned,
            decision::Verdict::MinRuntime(at) => Self::MinRuntime {
                until_unix_ms: wall.until(at),
            },
            decision::Verdict::Spared(at) => Self::Spared {
                until_unix_ms: wall.until(at),
            },
            decision::Verdict::Busy(at) => Self::Busy {
                until_unix_ms: wall.until(at),
            },
            decision::Verdict::Leaving => Self::Leaving,
            decision::Verdict::Moving => Self::Moving,
            decision::Verdict::NoHelp => Self::NoHelp,
        }
    }
}

impl Tier {
    /// The document's word for a tier.
    pub fn of(tier: phase::Tier) -> Self {
        match tier {
            phase::Tier::Ram => Self::Ram,
            phase::Tier::Disk => Self::Disk,
            phase::Tier::Stopped => Self::Stopped,
        }
    }
}

impl Taken {
    fn of(taken: &decision::Taken, wall: Wall) -> Self {
        match taken {
            decision::Taken::Wake(tier) => Self::Wake {
                tier: Tier::of(*tier),
            },
            decision::Taken::Evict(victims) => Self::Evict {
                victims: victims.iter().map(name).collect(),
            },
            decision::Taken::Wait(until) => Self::Wait {
                until_unix_ms: until.and_then(|at| wall.until(at)),
            },
            decision::Taken::WaitForRoom => Self::WaitForRoom,
            decision::Taken::GiveUp => Self::GiveUp,
            decision::Taken::Sleep(tier) => Self::Sleep {
                tier: Tier::of(*tier),
            },
            decision::Taken::Demote(tier) => Self::Demote {
                tier: Tier::of(*tier),
            },
        }
    }
}

impl Shadow {
    fn of(shadow: &decision::Shadow) -> Self {
        let decision::Shadow {
            policy,
            victims,
            differs,
        } = shadow;
        Self {
            policy: (*policy).to_owned(),
            victims: victims.iter().map(name).collect(),
            differs: *differs,
        }
    }
}

impl Followed {
    fn of(followed: &decision::Followed, wall: Wall) -> Self {
        let decision::Followed { at, model, what } = followed;
        Self {
            at_unix_ms: wall.at(*at),
            model: name(model),
            what: what.clone(),
        }
    }
}

impl Regret {
    fn of(regret: &decision::Regret) -> Self {
        let decision::Regret {
            victim,
            after,
            wake_takes,
        } = regret;
        Self {
            victim: name(victim),
            after_ms: after.0,
            wake_takes_ms: wake_takes.0,
        }
    }
}

impl WhyNot {
    /// The document of an answer of the core.
    pub fn of(why: decision::WhyNot) -> Self {
        let decision::WhyNot {
            model,
            serving,
            reasons,
            ahead,
            refused,
            estimated_wait,
            choice,
        } = why;
        let wait = (estimated_wait.0 > 0 && refused.is_none()).then_some(estimated_wait.0);
        Self {
            model: name(&model),
            serving,
            reasons,
            ahead: ahead.iter().map(name).collect(),
            refused_because: refused.map(|(reason, _)| reason.as_str().to_owned()),
            retry_after_s: refused.map(|(_, retry_after)| retry_after),
            estimated_wait_ms: wait,
            choice,
        }
    }
}

fn name(model: &ModelId) -> String {
    model.name().to_owned()
}

#[cfg(test)]
mod tests {
    use greenthread_core::{
        effect::RefuseReason,
        ids::{Bytes, GpuId},
    };
    use serde_json::json;

    use super::*;

    const WALL: Wall = Wall {
        now: Millis(60_000),
        unix_ms: 1_700_000_060_000,
    };

    fn id(name: &str) -> ModelId {
        ModelId(format!("{name}.127-0-0-1-9001"))
    }

    fn choice() -> decision::Choice {
        let weighed = |name, verdict, price| decision::Weighed {
            model: id(name),
            verdict,
            frees: Bytes(16),
            idle: Millis(41_000),
            busy: false,
            price,
        };
        decision::Choice {
            number: 17,
            at: Millis(20_000),
            target: id("qwen"),
            trigger: decision::Trigger::Demand {
                held: 2,
                inside: 0,
                refused: true,
            },
            policy: "cost",
            need: vec![decision::GpuNeed {
                gpu: GpuId(1),
                needs: Bytes(16),
                free: Bytes(5),
                coming: Bytes(1),
                missing: Bytes(10),
            }],
            weighed: vec![
                weighed("llama", decision::Verdict::Chosen, 0.25),
                weighed(
                    "mistral",
                    decision::Verdict::MinRuntime(Millis(26_000)),
                    2.0,
                ),
                weighed(
                    "whisper",
                    decision::Verdict::Busy(Millis(u64::MAX)),
                    f64::INFINITY,
                ),
            ],
            taken: decision::Taken::Evict(vec![id("llama")]),
            shadow: Some(decision::Shadow {
                policy: "lru",
                victims: vec![id("mistral")],
                differs: true,
            }),
            followed: vec![decision::Followed {
                at: Millis(20_092),
                model: id("llama"),
                what: "asleep after 92 ms".into(),
            }],
            regrets: vec![decision::Regret {
                victim: id("llama"),
                after: Millis(400),
                wake_takes: Millis(600),
            }],
        }
    }

    #[test]
    fn a_choice_is_a_document_with_names_and_times_of_the_wall() {
        let expected = json!({
            "number": 17, "atUnixMs": 1_700_000_020_000_u64, "ageMs": 40_000, "target": "qwen",
            "trigger": {"cause": "demand", "held": 2, "inside": 0, "refused": true},
            "policy": "cost",
            "need": [{"gpu": 1, "needsBytes": 16, "freeBytes": 5, "comingBytes": 1, "missingBytes": 10}],
            "weighed": [
                {"model": "llama", "verdict": "chosen", "freesBytes": 16, "idleMs": 41_000, "busy": false, "price": 0.25},
                {"model": "mistral", "verdict": "min_runtime", "untilUnixMs": 1_700_000_026_000_u64, "freesBytes": 16, "idleMs": 41_000,
                 "busy": false, "price": 2.0},
                {"model": "whisper", "verdict": "busy", "untilUnixMs": null, "freesBytes": 16, "idleMs": 41_000, "busy": false, "price": null},
            ],
            "taken": {"action": "evict", "victims": ["llama"]},
            "shadow": {"policy": "lru", "victims": ["mistral"], "differs": true},
            "followed": [{"atUnixMs": 1_700_000_020_092_u64, "model": "llama", "what": "asleep after 92 ms"}],
            "regrets": [{"victim": "llama", "afterMs": 400, "wakeTakesMs": 600}],
        });
        let document = Choice::of(&choice(), WALL);
        assert_eq!(serde_json::to_value(&document).unwrap(), expected);
        let back: Choice = serde_json::from_value(expected).unwrap();
        assert_eq!(back, document);
    }

    #[test]
    fn moments_before_and_after_now_keep_their_distance() {
        assert_eq!(WALL.at(Millis(0)), 1_700_000_000_000);
        assert_eq!(WALL.at(Millis(60_000)), WALL.unix_ms);
        assert_eq!(WALL.until(Millis(61_000)), Some(1_700_000_061_000));
        assert_eq!(WALL.until(Millis(u64::MAX)), None);
    }

    #[test]
    fn an_unknown_wait_is_left_out() {
        let why = |refused, estimate| {
            WhyNot::of(decision::WhyNot {
                model: id("qwen"),
                serving: false,
                refused,
                reasons: vec!["nobody asks for it".into()],
                ahead: vec![id("llama")],
                estimated_wait: Millis(estimate),
                choice: Some(17),
            })
        };
        let wait = |estimate| why(None, estimate).estimated_wait_ms;
        assert_eq!((wait(0), wait(600)), (None, Some(600)));
        assert_eq!(why(None, 0).ahead, ["llama"]);
        // Who would be refused does not wait.
        let refused = why(Some((RefuseReason::Booting, 7)), 600);
        assert_eq!(refused.refused_because.as_deref(), Some("booting"));
        assert_eq!(
            (refused.retry_after_s, refused.estimated_wait_ms),
            (Some(7), None)
        );
    }
}
