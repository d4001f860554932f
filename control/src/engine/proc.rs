//! What `/proc` says about processes and their groups. Std only: the supervisor's reaper uses it too.

use std::{
    collections::BTreeMap,
    fs,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};

/// How old [`Groups`] may be.
const FRESH: Duration = Duration::from_secs(1);

/// One living process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    /// Its group.
    pub(super) group: u32,
    /// Start in clock ticks since the machine booted: with the pid, it names a process for one boot.
    pub(crate) start: u64,
}

/// The process with this number; `None` when there is none or it is a zombie, which holds nothing any more.
pub(crate) fn look(pid: u32) -> Option<Process> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The machine's boot: start times of another boot mean nothing.
pub(super) fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

/// Living members of a process group.
pub(super) fn members(group: u32) -> Vec<u32> {
    pids()
        .filter(|pid| look(*pid).is_some_and(|process| process.group == group))
        .collect()
}

/// Host RAM that only this process or processes beside it can give back, in bytes; 0 when there is no such process.
///
/// A copy of weights is `RssShmem` where CUDA pins it (its driver maps shared anonymous memory) and `RssAnon` where it is merely
/// allocated; files that are mapped (`RssFile`: libraries, checkpoints) belong to the page cache and go by themselves. These two
/// counters cost nothing to read, unlike `smaps_rollup`, which walks the pages of a process: seconds for hundreds of gigabytes.
pub(super) fn own_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .filter_map(|line| {
            line.strip_prefix("RssAnon:")
                .or(line.strip_prefix("RssShmem:"))
        })
        .filter_map(|value| value.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .map(|kibibytes| kibibytes * 1_024)
        .sum()
}

type MembersByGroup = BTreeMap<u32, Vec<u32>>;

/// Which living processes form which group. All of `/proc` is read for that, so it is at most a second old, and not newer.
#[derive(Debug, Default)]
pub(super) struct Groups {
    read: Mutex<Option<(Instant, MembersByGroup)>>,
}

impl Groups {
    /// Members of a group.
    pub(super) fn members(&self, group: u32) -> Vec<u32> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.as_ref().is_none_or(|(at, _)| at.elapsed() >= FRESH) {
            let mut groups = MembersByGroup::new();
            for pid in pids() {
                if let Some(process) = look(pid) {
                    groups.entry(process.group).or_default().push(pid);
                }
            }
            *read = Some((Instant::now(), groups));
        }
        let groups = read.as_ref().map(|(_, groups)| groups);
        groups
            .and_then(|groups| groups.get(&group).cloned())
            .unwrap_or_default()
    }
}

/// Groups of living processes that carry a variable of their environment for which `is_ours` holds. A mark outlives
/// the process that was started with it: it is inherited by workers whose parent has died.
pub(crate) fn marked_groups(is_ours: impl Fn(&[u8]) -> bool) -> Vec<u32> {
    let mut groups: Vec<u32> = pids()
        .filter(|pid| variables(*pid).iter().any(|variable| is_ours(variable)))
        .filter_map(|pid| Some(look(pid)?.group))
        .collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// Whether a group has outlived its leader and may be ours: its members carry the variable, or show none, because vLLM's
/// workers write their title over their environment. While one lives, nobody else gets the leader's number.
pub(super) fn is_left_behind(group: u32, is_ours: impl Fn(&[u8]) -> bool) -> bool {
    let members = members(group);
    let may_be_ours = |pid: &u32| {
        let variables = variables(*pid);
        variables.is_empty() || variables.iter().any(|variable| is_ours(variable))
    };
    look(group).is_none() && !members.is_empty() && members.iter().all(may_be_ours)
}

/// What a process shows of its environment.
fn variables(pid: u32) -> Vec<Vec<u8>> {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let parts = environment.split(|byte| *byte == 0);
    parts
        .filter(|part| part.contains(&b'='))
        .map(<[u8]>::to_vec)
        .collect()
}

/// Sends a signal to every process of a group; whether anyone was there is not told.
pub(super) fn signal(group: u32, signal: Signal) {
    // 0 and 1 mean "my own group" and "everybody" in places; neither was ever started by control.
    if let Some(group) = i32::try_from(group)
        .ok()
        .filter(|group| *group > 1)
        .and_then(Pid::from_raw)
    {
        let _ = kill_process_group(group, signal);
    }
}

/// Ends groups: terminates, waits up to `patience` for all, kills what is left and waits for it as long again. Blocks.
pub(crate) fn end_groups(groups: &[u32], patience: Duration) {
    for step in [Signal::TERM, Signal::KILL] {
        for group in groups.iter().filter(|group| !members(**group).is_empty()) {
            signal(*group, step);
            // A stopped process does not take TERM before it goes on.
            signal(*group, Signal::CONT);
        }
        let start = Instant::now();
        while groups.iter().any(|group| !members(*group).is_empty()) {
            if start.elapsed() > patience {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Fields 3 (state), 5 (group) and 22 (start) of a stat line. The name in field 2 may contain spaces and parentheses.
fn parse(stat: &str) -> Option<Process> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let state = *fields.first()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    Some(Process {
        group: fields.get(2)?.parse().ok()?,
        start: fields.get(19)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines() {
        let line = |name: &str, state: &str| {
            format!("42 ({name}) {state} 1 40 40 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 98765 0 0")
        };
        assert_eq!(
            parse(&line("sh", "S")),
            Some(Process {
                group: 40,
                start: 98_765
            })
        );
        assert_eq!(
            parse(&line("a) R (b", "R")),
            Some(Process {
                group: 40,
                start: 98_765
            })
        );
        assert_eq!(parse(&line("sh", "Z")), None);
        assert_eq!(parse("42 (sh) S 1"), None);
    }

    #[test]
    fn this_process_is_there_and_in_its_group() {
        let me = look(std::process::id()).expect("this process lives");
        assert!(members(me.group).contains(&std::process::id()));
        assert!(
            Groups::default()
                .members(me.group)
                .contains(&std::process::id())
        );
        assert_eq!(look(u32::MAX), None);
    }

    #[test]
    fn memory_of_its_own_is_counted_and_mapped_files_are_not() {
        let me = std::process::id();
        let before = own_memory(me);
        let copy = vec![1_u8; 64 << 20];
        let grown = own_memory(me).saturating_sub(before);
        // Other tests of this process take and free memory meanwhile.
        assert!((56 << 20..128 << 20).contains(&grown), "{grown}");
        drop(copy);
        assert_eq!(own_memory(u32::MAX), 0);
    }
}
