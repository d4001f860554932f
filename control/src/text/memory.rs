//! Memory as text: what each GPU holds and why nothing moves on it, host RAM, and what a model takes by whose word.

use greenthread_core::ids::Bytes;

use super::length;
use crate::overview::{Expected, Gpu, Host, Model, Overview, Size, Sizes, Takes};

/// One GPU: what models have, what is seen, who of `models` is too large for it, and, where nothing moves, why; the core's words say
/// what to do as well.
pub fn gpu(gpu: &Gpu, models: &[Model]) -> String {
    let Gpu {
        gpu: number,
        reserved_bytes,
        capacity_bytes,
        used_bytes,
        foreign_bytes,
        accepting,
        stopped,
        source,
    } = gpu;
    let (reserved, capacity) = (Bytes(*reserved_bytes), Bytes(*capacity_bytes));
    let mut text = format!("GPU {number}: {reserved} of {capacity} reserved");
    // What is declared must not look like what was measured.
    match used_bytes {
        Some(used) => text.push_str(&format!(", {} in use ({source})", Bytes(*used))),
        None if source == "declared" => text.push_str(", as declared: nobody measures"),
        None => {}
    }
    if *foreign_bytes > 0 {
        text.push_str(&format!(", {} somebody else's", Bytes(*foreign_bytes)));
    }
    text.push('\n');
    if *accepting {
        text.push_str(
            "  accepted: what is in use there once nothing moves any more; whatever models do not hold then is somebody else's\n",
        );
    }
    let large: Vec<&str> = models
        .iter()
        .filter(|model| model.current && model.gpus.contains(number))
        .filter(|model| model.sizes.awake.bytes > *capacity_bytes)
        .map(|model| model.name.as_str())
        .collect();
    if !large.is_empty() {
        text.push_str(&format!(
            "  too large for {capacity}, their requests get 503 `never_fits`: {}\n",
            large.join(", ")
        ));
    }
    if let Some(reason) = stopped {
        text.push_str(&format!("  STOPPED: {}.\n", reason.trim_end_matches('.')));
    }
    text
}

/// Host RAM that sleeping copies take; nothing where none sleeps there.
pub(super) fn hosts(overview: &Overview) -> String {
    if overview.hosts.is_empty() {
        let taken: u64 = overview.models.iter().map(Model::host_bytes).sum();
        return match taken {
            0 => String::new(),
            taken => format!(
                "host RAM: {} taken by sleeping copies, no limit is set\n",
                Bytes(taken)
            ),
        };
    }
    let one = overview.hosts.len() == 1;
    let line = |host: &Host| {
        let node = if one {
            String::new()
        } else {
            format!(" of node {}", host.node)
        };
        let (reserved, capacity) = (Bytes(host.reserved_bytes), Bytes(host.capacity_bytes));
        format!("host RAM{node}: {reserved} of {capacity} taken by sleeping copies\n")
    };
    overview.hosts.iter().map(line).collect()
}

/// What a model takes and who says so: "17.0 GiB awake (measured), 1.0 GiB asleep (declared)".
pub(super) fn sizes(sizes: &Sizes) -> String {
    let Sizes {
        awake,
        asleep,
        waking,
        starting,
        sleeping,
        host,
        disk,
    } = sizes;
    let said = |size: &Size, what: &str| format!("{} {what} ({})", Bytes(size.bytes), size.source);
    let mut parts = vec![said(awake, "awake"), said(asleep, "asleep")];
    let more = [
        (waking, "more while it wakes"),
        (starting, "more while it starts"),
        (sleeping, "more while it goes to sleep"),
        (host, "of host RAM for its copy"),
        (disk, "on disk"),
    ];
    let known = more.iter().filter(|(size, _)| size.bytes > 0);
    parts.extend(known.map(|(size, what)| said(size, what)));
    parts.join(", ")
}

/// How long a model's wakes take, by where its weights are.
pub(super) fn wakes(takes: &Takes) -> String {
    let from = |expected: &Expected, place: &str| {
        let Expected { ms, measured } = expected;
        format!("{} {place} ({})", length(*ms), stands_on(*measured))
    };
    let mut parts = vec![from(&takes.ram, "from host RAM")];
    parts.extend(takes.disk.as_ref().map(|disk| from(disk, "from disk")));
    parts.extend(
        takes
            .stopped
            .as_ref()
            .map(|start| from(start, "by a start")),
    );
    parts.join(", ")
}

/// How long its sleeps take.
pub(super) fn sleeps(takes: &Takes) -> String {
    let Expected { ms, measured } = takes.sleep;
    format!("{} ({})", length(ms), stands_on(measured))
}

fn stands_on(measured: usize) -> String {
    match measured {
        0 => "not measured since control started".to_owned(),
        measured => format!("of {measured} measured"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    const GIB: u64 = 1 << 30;

    fn zero() -> Gpu {
        Gpu {
            reserved_bytes: 17 * GIB,
            capacity_bytes: 40 * GIB,
            source: "simulated".into(),
            ..Gpu::default()
        }
    }

    #[test]
    fn a_gpu_shows_what_is_reserved_seen_and_somebody_elses() {
        let declared = Gpu {
            source: "declared".into(),
            ..zero()
        };
        assert_eq!(
            gpu(&declared, &[]),
            "GPU 0: 17.0 GiB of 40.0 GiB reserved, as declared: nobody measures\n"
        );
        assert_eq!(gpu(&zero(), &[]), "GPU 0: 17.0 GiB of 40.0 GiB reserved\n");
        let shared = Gpu {
            gpu: 3,
            used_bytes: Some(20 * GIB),
            foreign_bytes: 3 * GIB,
            ..zero()
        };
        assert_eq!(
            gpu(&shared, &[]),
            "GPU 3: 17.0 GiB of 40.0 GiB reserved, 20.0 GiB in use (simulated), 3.0 GiB somebody else's\n"
        );
    }

    #[test]
    fn a_gpu_names_who_is_too_large_for_it() {
        let sized = |name: &str, gib: u64, gpu: usize| {
            let mut model = testing::model_overview(name);
            (model.gpus, model.sizes.awake.bytes) = (vec![gpu], gib * GIB);
            model
        };
        let models = [sized("a", 41, 0), sized("b", 40, 0), sized("c", 41, 1)];
        let expected = "GPU 0: 17.0 GiB of 40.0 GiB reserved\n  \
            too large for 40.0 GiB, their requests get 503 `never_fits`: a\n";
        assert_eq!(gpu(&zero(), &models), expected);
    }

    #[test]
    fn a_stopped_gpu_says_why() {
        let stopped = Gpu {
            gpu: 1,
            used_bytes: Some(30 * GIB),
            stopped: Some(
                "30.0 GiB are in use, models should take 17.0 GiB (greenthread accept-gpu 1)"
                    .into(),
            ),
            ..zero()
        };
        let text = gpu(&stopped, &[]);
        let expected = "  STOPPED: 30.0 GiB are in use, models should take 17.0 GiB (greenthread accept-gpu 1).\n";
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn what_is_accepted_later_says_so() {
        let pending = Gpu {
            accepting: true,
            ..zero()
        };
        let text = gpu(&pending, &[]);
        assert!(
            text.contains("\n  accepted: what is in use there once nothing moves"),
            "{text}"
        );
    }

    #[test]
    fn wakes_are_told_by_tier_and_what_cannot_be_is_left_out() {
        let expected = |ms, measured| Expected { ms, measured };
        let mut all = Takes {
            ram: expected(642, 4),
            disk: Some(expected(10_000, 0)),
            stopped: Some(expected(60_000, 1)),
            sleep: expected(90, 5),
        };
        assert_eq!(
            wakes(&all),
            "642 ms from host RAM (of 4 measured), 10.0 s from disk (not measured since control started), \
             1 min 0 s by a start (of 1 measured)"
        );
        (all.disk, all.stopped) = (None, None);
        assert_eq!(wakes(&all), "642 ms from host RAM (of 4 measured)");
        assert_eq!(sleeps(&all), "90 ms (of 5 measured)");
    }

    #[test]
    fn host_ram_is_by_node_and_without_a_limit_a_sum() {
        let asleep = |name| Model {
            state: "sleeping".into(),
            on_gpu: false,
            gpus: vec![0, 1],
            sizes: Sizes {
                host: Size {
                    bytes: 8 * GIB,
                    source: "measured".into(),
                },
                ..Sizes::default()
            },
            ..testing::model_overview(name)
        };
        let on_disk = Model {
            tier: "disk".into(),
            ..asleep("c")
        };
        let mut overview = Overview {
            models: vec![
                asleep("a"),
                asleep("b"),
                on_disk,
                testing::model_overview("d"),
            ],
            ..Overview::default()
        };
        assert_eq!(
            hosts(&overview),
            "host RAM: 32.0 GiB taken by sleeping copies, no limit is set\n"
        );
        let host = |node| Host {
            node,
            reserved_bytes: 16 * GIB,
            capacity_bytes: 64 * GIB,
        };
        overview.hosts = vec![host(0)];
        assert_eq!(
            hosts(&overview),
            "host RAM: 16.0 GiB of 64.0 GiB taken by sleeping copies\n"
        );
        overview.hosts.push(host(1));
        assert!(
            hosts(&overview)
                .ends_with("\nhost RAM of node 1: 16.0 GiB of 64.0 GiB taken by sleeping copies\n")
        );
        assert_eq!(hosts(&Overview::default()), "");
    }

    #[test]
    fn sizes_say_who_said_so_and_leave_out_what_is_not_known() {
        let size = |gib: u64, source: &str| Size {
            bytes: gib * GIB,
            source: source.into(),
        };
        let all = Sizes {
            awake: size(17, "measured"),
            asleep: size(1, "declared"),
            waking: size(2, "measured"),
            starting: size(3, "declared"),
            host: size(16, "default"),
            ..Sizes::default()
        };
        assert_eq!(
            sizes(&all),
            "17.0 GiB awake (measured), 1.0 GiB asleep (declared), 2.0 GiB more while it wakes (measured), \
             3.0 GiB more while it starts (declared), 16.0 GiB of host RAM for its copy (default)"
        );
    }
}
