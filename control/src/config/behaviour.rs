//! `sleep` and `fairness`: how a model leaves the GPU and when it may be made to.

use std::time::Duration;

use greenthread_core::{model::OnDrainTimeout, phase::Tier};

use super::{reader::Section, units};

/// `sleep` and `fairness`: of the file's `defaults`, or of one model.
#[derive(Clone, Copy)]
pub(super) struct Behaviour {
    pub(super) idle_timeout: Option<Duration>,
    pub(super) drain_timeout: Duration,
    pub(super) on_drain_timeout: OnDrainTimeout,
    pub(super) max_freeze: Duration,
    pub(super) min_runtime: Duration,
    pub(super) max_wait: Duration,
    pub(super) pinned: bool,
    pub(super) popular: bool,
    pub(super) tier: Option<Tier>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            idle_timeout: Some(Duration::from_secs(300)),
            drain_timeout: Duration::from_secs(30),
            on_drain_timeout: OnDrainTimeout::Freeze,
            max_freeze: Duration::from_secs(120),
            min_runtime: Duration::from_secs(10),
            max_wait: Duration::from_secs(5),
            pinned: false,
            popular: false,
            tier: None,
        }
    }
}

/// Reads `sleep` and `fairness` of a section; what it does not set stays as in `base`.
pub(super) fn read(section: &Section<'_>, base: Behaviour) -> Behaviour {
    let sleep = section.section("sleep");
    let fairness = section.section("fairness");
    let read = Behaviour {
        idle_timeout: sleep
            .read_or("idleTimeout", base.idle_timeout, units::duration_or_never)
            .value,
        drain_timeout: sleep
            .read_or("drainTimeout", base.drain_timeout, units::duration)
            .value,
        on_drain_timeout: sleep
            .read_or("onDrainTimeout", base.on_drain_timeout, on_drain_timeout)
            .value,
        max_freeze: sleep
            .read_or("maxFreeze", base.max_freeze, units::positive_duration)
            .value,
        min_runtime: fairness
            .read_or("minRuntime", base.min_runtime, units::duration)
            .value,
        max_wait: fairness
            .read_or("maxWait", base.max_wait, units::duration)
            .value,
        pinned: fairness.read_or("pinned", base.pinned, units::switch).value,
        popular: fairness
            .read_or("popular", base.popular, units::switch)
            .value,
        tier: sleep.read_or("tier", base.tier, tier).value,
    };
    sleep.finish();
    fairness.finish();
    read
}

fn on_drain_timeout(text: &str) -> Result<OnDrainTimeout, String> {
    match text {
        "freeze" => Ok(OnDrainTimeout::Freeze),
        "cancel" => Ok(OnDrainTimeout::Cancel),
        "abort" => Ok(OnDrainTimeout::Abort),
        other => Err(format!("{other} is none of freeze, cancel, abort")),
    }
}

fn tier(text: &str) -> Result<Option<Tier>, String> {
    match text {
        "auto" => Ok(None),
        "ram" => Ok(Some(Tier::Ram)),
        "disk" => Ok(Some(Tier::Disk)),
        "stopped" => Ok(Some(Tier::Stopped)),
        other => Err(format!(
            "{other} is no place to sleep in; write ram, disk, stopped, or auto for as deep as host RAM needs"
        )),
    }
}
