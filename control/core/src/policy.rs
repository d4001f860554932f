//! Which models make room: a function of values, without state.
//!
//! Least recently used (the default of the product), with the fewest evictions. Never a victim: pinned, inside `min_runtime`,
//! already leaving, busy before the waiter has waited `max_wait`.

use crate::ids::{Bytes, GpuId, Millis, ModelId};

/// The policies, by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum PolicyName {
    /// Least recently used (the default).
    #[default]
    Lru,
}

impl PolicyName {
    /// Every policy, the default first.
    pub const ALL: &[Self] = &[Self::Lru];

    /// As operators write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lru => "lru",
        }
    }

    /// The policy that operators call so.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|policy| policy.as_str() == text)
    }
}

/// A model that is awake, as the policy sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resident {
    /// Which.
    pub model: ModelId,
    /// GPUs it is on.
    pub gpus: Vec<GpuId>,
    /// Bytes per GPU that its sleep frees.
    pub frees: Bytes,
    /// Pinned by the operator.
    pub pinned: bool,
    /// Has requests in flight or held.
    pub busy: bool,
    /// Last use, or the start of service when later.
    pub last_used: Millis,
    /// It may not be chosen before.
    pub not_before: Millis,
}

/// What is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Bytes missing per GPU; only GPUs where something is missing.
    pub missing: Vec<(GpuId, Bytes)>,
    /// From when on busy models can be chosen.
    pub busy_from: Millis,
    /// Ignore `not_before`: frozen requests have waited too long.
    pub urgent: bool,
}

/// What the policy says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// These make room, least recently used first.
    Victims(Vec<ModelId>),
    /// Nobody can go now; ask again then (`None`: only an event can change it).
    Wait(Option<Millis>),
}

/// Chooses victims for `need` among `residents` at `now`.
pub fn choose(need: &Need, residents: &[Resident], now: Millis) -> Choice {
    let mut movable: Vec<&Resident> = residents
        .iter()
        .filter(|resident| !resident.pinned && helps(need, resident))
        .collect();
    movable.sort_by(|a, b| (a.busy, a.last_used, &a.model).cmp(&(b.busy, b.last_used, &b.model)));
    let allowed = |resident: &&&Resident| need.urgent || resident.not_before <= now;
    let idle: Vec<&Resident> = movable
        .iter()
        .filter(allowed)
        .filter(|resident| !resident.busy)
        .copied()
        .collect();
    if let Some(victims) = fewest(need, &idle) {
        return Choice::Victims(victims);
    }
    // An idle model inside its min_runtime goes sooner than a busy one drains.
    let resting: Vec<&Resident> = movable
        .iter()
        .filter(|resident| !resident.busy)
        .copied()
        .collect();
    if covers(need, &resting) {
        return Choice::Wait(next_change(&movable, need, now));
    }
    if need.urgent || now >= need.busy_from {
        let all: Vec<&Resident> = movable.iter().filter(allowed).copied().collect();
        if let Some(victims) = fewest(need, &all) {
            return Choice::Victims(victims);
        }
    }
    Choice::Wait(next_change(&movable, need, now))
}

/// The next moment at which time alone lets another model be chosen.
fn next_change(movable: &[&Resident], need: &Need, now: Millis) -> Option<Millis> {
    let from = |resident: &&Resident| {
        let busy_from = if resident.busy { need.busy_from } else { now };
        resident.not_before.max(busy_from)
    };
    movable.iter().map(from).filter(|at| *at > now).min()
}

fn helps(need: &Need, resident: &Resident) -> bool {
    resident.frees > Bytes(0)
        && need
            .missing
            .iter()
            .any(|(gpu, _)| resident.gpus.contains(gpu))
}

fn covers(need: &Need, victims: &[&Resident]) -> bool {
    need.missing.iter().all(|(gpu, missing)| {
        let freed: Bytes = victims
            .iter()
            .filter(|victim| victim.gpus.contains(gpu))
            .map(|victim| victim.frees)
            .sum();
        freed >= *missing
    })
}

/// The smallest set that covers the need; among sets of one size the one whose members come first in `order`. Exact up to
/// three victims; beyond that, the first in order that cover it, without those that turn out not to be needed.
fn fewest(need: &Need, order: &[&Resident]) -> Option<Vec<ModelId>> {
    if !covers(need, order) {
        return None;
    }
    let names = |set: &[&Resident]| set.iter().map(|resident| resident.model.clone()).collect();
    for (i, first) in order.iter().enumerate() {
        if covers(need, &[first]) {
            return Some(names(&order[i..=i]));
        }
    }
    for (i, first) in order.iter().enumerate() {
        for second in &order[i + 1..] {
            if covers(need, &[first, second]) {
                return Some(names(&[first, second]));
            }
        }
    }
    for (i, first) in order.iter().enumerate() {
        for (j, second) in order.iter().enumerate().skip(i + 1) {
            for third in &order[j + 1..] {
                if covers(need, &[first, second, third]) {
                    return Some(names(&[first, second, third]));
                }
            }
        }
    }
    let mut set: Vec<&Resident> = Vec::new();
    for resident in order {
        set.push(resident);
        if covers(need, &set) {
            break;
        }
    }
    for candidate in order {
        let without: Vec<&Resident> = set
            .iter()
            .copied()
            .filter(|resident| resident.model != candidate.model)
            .collect();
        if covers(need, &without) {
            set = without;
        }
    }
    Some(names(&set))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resident(name: &str, frees: u64, busy: bool, last_used: u64) -> Resident {
        Resident {
            model: ModelId(name.into()),
            gpus: vec![GpuId(0)],
            frees: Bytes(frees),
            pinned: false,
            busy,
            last_used: Millis(last_used),
            not_before: Millis(0),
        }
    }

    fn check(missing: u64, residents: &[Resident], now: u64, expected: &[&str]) {
        let need = Need {
            missing: vec![(GpuId(0), Bytes(missing))],
            busy_from: Millis(5_000),
            urgent: false,
        };
        let expected = Choice::Victims(
            expected
                .iter()
                .map(|name| ModelId((*name).into()))
                .collect(),
        );
        assert_eq!(choose(&need, residents, Millis(now)), expected);
    }

    #[test]
    fn least_recently_used_goes_first() {
        check(
            10,
            &[resident("a", 10, false, 30), resident("b", 10, false, 20)],
            100,
            &["b"],
        );
        check(
            10,
            &[resident("b", 10, false, 20), resident("a", 10, false, 20)],
            100,
            &["a"],
        );
    }

    #[test]
    fn fewest_evictions() {
        // 17 + 8 + 1.7 GB idle and 20 needed with 1 free: never all three.
        let residents = [
            resident("small", 17, false, 1),
            resident("large", 170, false, 3),
            resident("middle", 80, false, 2),
        ];
        check(190, &residents, 100, &["middle", "large"]);
        check(100, &residents, 100, &["large"]);
    }

    #[test]
    fn busy_only_after_max_wait_and_only_without_idle() {
        let residents = [
            resident("busy", 10, true, 1),
            resident("idle", 10, false, 2),
        ];
        check(10, &residents, 9_000, &["idle"]);
        check(20, &residents, 9_000, &["idle", "busy"]);
        let need = Need {
            missing: vec![(GpuId(0), Bytes(20))],
            busy_from: Millis(5_000),
            urgent: false,
        };
        assert_eq!(
            choose(&need, &residents, Millis(100)),
            Choice::Wait(Some(Millis(5_000)))
        );
    }

    #[test]
    fn pinned_and_min_runtime() {
        let mut residents = [
            resident("pinned", 10, false, 1),
            resident("young", 10, false, 2),
        ];
        residents[0].pinned = true;
        residents[1].not_before = Millis(700);
        let mut need = Need {
            missing: vec![(GpuId(0), Bytes(10))],
            busy_from: Millis(0),
            urgent: false,
        };
        assert_eq!(
            choose(&need, &residents, Millis(100)),
            Choice::Wait(Some(Millis(700)))
        );
        need.urgent = true;
        assert_eq!(
            choose(&need, &residents, Millis(100)),
            Choice::Victims(vec![ModelId("young".into())])
        );
    }

    #[test]
    fn other_gpus_do_not_help() {
        let mut elsewhere = resident("elsewhere", 100, false, 1);
        elsewhere.gpus = vec![GpuId(1)];
        check(
            10,
            &[elsewhere, resident("here", 10, false, 9)],
            100,
            &["here"],
        );
    }
}
