//! What choices came to: evictions, regrets, what waits were spent on, how good estimates were, and the shadow policy.

use super::{Page, seconds};
use crate::overview::{EstimateScore, Tally, WaitCauses};

/// All totals since the start.
pub(super) fn tally(page: &mut Page, tally: &Tally) {
    let Tally {
        choices,
        evictions,
        regrets,
        thrash,
        shadow_differs,
        shadow_saves,
        waits,
        estimates,
    } = *tally;
    for (name, help, value) in [
        (
            "choices_total",
            "Choices made: room, waits for room, sleeps.",
            choices,
        ),
        (
            "evictions_total",
            "Models put to sleep for others.",
            evictions,
        ),
        (
            "regrets_total",
            "Models put to sleep for others and wanted back within the time that their wake takes.",
            regrets,
        ),
        (
            "thrash_total",
            "Models put to sleep for others and woken again within a minute.",
            thrash,
        ),
        (
            "shadow_differs_total",
            "Choices in which the shadow policy would have sent others away.",
            shadow_differs,
        ),
        (
            "shadow_saves_total",
            "Regrets that the shadow policy would have spared.",
            shadow_saves,
        ),
    ] {
        page.one(name, "counter", help, value);
    }
    wait_causes(page, waits);
    score(page, estimates);
}

fn wait_causes(page: &mut Page, waits: WaitCauses) {
    let WaitCauses {
        turn_ms,
        drain_ms,
        sleep_ms,
        wake_ms,
    } = waits;
    page.family(
        "wait_seconds_total",
        "counter",
        "What waits for wakes were spent on: turn (others first, or nobody could go yet), drain and sleep (of who made room), wake.",
    );
    for (cause, ms) in [
        ("turn", turn_ms),
        ("drain", drain_ms),
        ("sleep", sleep_ms),
        ("wake", wake_ms),
    ] {
        page.sample("wait_seconds_total", &[("cause", cause)], seconds(ms));
    }
}

/// First estimates of waits against the waits that followed. Sums over the same waits, so that quotients of rates mean something.
fn score(page: &mut Page, estimates: EstimateScore) {
    let EstimateScore {
        scored,
        kept,
        estimated_ms,
        waited_ms,
        off_ms,
    } = estimates;
    page.one(
        "estimates_scored_total",
        "counter",
        "Estimates of waits that were compared with the wait that followed.",
        scored,
    );
    page.one(
        "estimates_kept_total",
        "counter",
        "Estimates that the wait did not exceed; 90 % is the aim.",
        kept,
    );
    for (name, help, ms) in [
        (
            "estimates_estimated_seconds_total",
            "Sum of the estimates that were compared.",
            estimated_ms,
        ),
        (
            "estimates_waited_seconds_total",
            "Sum of the waits that they were compared with.",
            waited_ms,
        ),
        (
            "estimates_off_seconds_total",
            "Sum of the distances between estimate and wait.",
            off_ms,
        ),
    ] {
        page.one(name, "counter", help, seconds(ms));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_total_has_its_line() {
        let mut page = Page::default();
        tally(
            &mut page,
            &Tally {
                choices: 20,
                evictions: 9,
                regrets: 2,
                thrash: 1,
                shadow_differs: 4,
                shadow_saves: 3,
                waits: WaitCauses {
                    turn_ms: 1_500,
                    drain_ms: 20,
                    sleep_ms: 90,
                    wake_ms: 610_000,
                },
                estimates: EstimateScore {
                    scored: 10,
                    kept: 8,
                    estimated_ms: 6_000,
                    waited_ms: 5_500,
                    off_ms: 750,
                },
            },
        );
        let samples: Vec<&str> = page
            .text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .collect();
        let expected = [
            "greenthread_choices_total 20",
            "greenthread_evictions_total 9",
            "greenthread_regrets_total 2",
            "greenthread_thrash_total 1",
            "greenthread_shadow_differs_total 4",
            "greenthread_shadow_saves_total 3",
            "greenthread_wait_seconds_total{cause=\"turn\"} 1.5",
            "greenthread_wait_seconds_total{cause=\"drain\"} 0.02",
            "greenthread_wait_seconds_total{cause=\"sleep\"} 0.09",
            "greenthread_wait_seconds_total{cause=\"wake\"} 610",
            "greenthread_estimates_scored_total 10",
            "greenthread_estimates_kept_total 8",
            "greenthread_estimates_estimated_seconds_total 6",
            "greenthread_estimates_waited_seconds_total 5.5",
            "greenthread_estimates_off_seconds_total 0.75",
        ];
        assert_eq!(samples, expected);
    }
}
