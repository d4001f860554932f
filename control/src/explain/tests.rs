//! Choices in, text out.

use super::*;
use crate::choice::Followed;

/// 12:03:07 UTC.
const AT: u64 = 1_700_049_787_000;
const GIB: u64 = 1 << 30;

fn weighed(model: &str, verdict: Verdict, idle_ms: u64, price: f64) -> Weighed {
    Weighed {
        model: model.into(),
        verdict,
        frees_bytes: 16 * GIB,
        idle_ms,
        busy: false,
        price: Some(price),
    }
}

/// Room for qwen, made by llama.
fn eviction() -> Choice {
    let until_unix_ms = Some(AT + 6_000);
    Choice {
        number: 17,
        at_unix_ms: AT,
        age_ms: 100_000,
        target: "qwen".into(),
        trigger: Trigger::Demand {
            held: 2,
            inside: 0,
            refused: false,
        },
        policy: "cost".into(),
        need: vec![Need {
            gpu: 0,
            needs_bytes: 16 * GIB,
            free_bytes: 6 * GIB,
            coming_bytes: 0,
            missing_bytes: 10 * GIB,
        }],
        weighed: vec![
            weighed("llama", Verdict::Chosen, 41_000, 0.3),
            weighed("phi", Verdict::Kept, 3_000, 12.0),
            weighed("mistral", Verdict::MinRuntime { until_unix_ms }, 0, 0.1),
            weighed("whisper", Verdict::Pinned, 7_200_000, 0.0),
        ],
        taken: Taken::Evict {
            victims: vec!["llama".into()],
        },
        shadow: Some(Shadow {
            policy: "lru".into(),
            victims: vec!["phi".into(), "whisper".into()],
            differs: true,
        }),
        followed: vec![
            Followed {
                at_unix_ms: AT + 92,
                model: "llama".into(),
                what: "asleep after 92 ms".into(),
            },
            Followed {
                at_unix_ms: AT + 1_000,
                model: "qwen".into(),
                what: "awake after 610 ms".into(),
            },
        ],
        regrets: vec![Regret {
            victim: "llama".into(),
            after_ms: 400,
            wake_takes_ms: 600,
        }],
    }
}

/// A choice of which only the headline counts.
fn headline_of(taken: Taken, trigger: Trigger) -> String {
    let text = choice(&Choice {
        taken,
        trigger,
        need: Vec::new(),
        weighed: Vec::new(),
        shadow: None,
        followed: Vec::new(),
        regrets: Vec::new(),
        ..eviction()
    });
    let (line, rest) = text.split_once('\n').expect("a line");
    assert_eq!(rest, "", "nothing was weighed");
    line.to_owned()
}

/// The line about one model that was weighed for qwen.
fn line_of(verdict: Verdict, busy: bool, taken: Taken) -> String {
    let one = Weighed {
        busy,
        ..weighed("mistral", verdict, 3_000, 1.0)
    };
    let text = choice(&Choice {
        weighed: vec![one],
        taken,
        need: Vec::new(),
        ..eviction()
    });
    text.lines().nth(1).expect("a line").trim().to_owned()
}

#[test]
fn an_eviction_says_who_went_who_stayed_why_and_what_came_of_it() {
    let expected = "\
Choices about llama, oldest first, times in UTC:

12:03:07  room for qwen: 2 requests held  (choice 17, policy cost, 1 min 40 s ago)
  GPU 0      needs 16.0 GiB, 6.0 GiB free, 10.0 GiB missing
  llama      went: unused for 41.0 s (longest of 2), frees 16.0 GiB, price 0.30 (least of 2)
  phi        stayed, others went before it: unused for 3.0 s, frees 16.0 GiB, price 12.0
  mistral    stayed: woken too recently, not before 12:03:13
  whisper    stayed: pinned
  then       12:03:07 llama asleep after 92 ms
             12:03:08 qwen awake after 610 ms
  regretted  llama was wanted again after 400 ms, its wake takes 600 ms
  shadow     policy lru would have sent phi and whisper
";
    assert_eq!(choices("llama", &[eviction()]), expected);
}

#[test]
fn nothing_to_explain_says_where_to_look_instead() {
    let text = choices("qwen", &[]);
    assert!(
        text.starts_with("No choice about qwen is kept") && text.contains("why-not qwen"),
        "{text}"
    );
}

#[test]
fn every_action_and_every_trigger_has_its_words() {
    let check = |taken, trigger, expected: &str| {
        let line = headline_of(taken, trigger);
        let expected = format!("12:03:07  {expected}  (choice 17, policy cost, 1 min 40 s ago)");
        assert_eq!(line, expected);
    };
    let demand = |held, inside, refused| Trigger::Demand {
        held,
        inside,
        refused,
    };
    let (ram, disk, stopped) = (Tier::Ram, Tier::Disk, Tier::Stopped);
    check(
        Taken::Wake { tier: ram },
        demand(1, 0, false),
        "qwen woken from host RAM, there was room: 1 request held",
    );
    check(
        Taken::Wake { tier: disk },
        demand(0, 3, true),
        "qwen woken from disk, there was room: 3 requests inside its engine, a refused request may come back",
    );
    check(
        Taken::Wake { tier: stopped },
        Trigger::Boot,
        "qwen started, there was room: its first start",
    );
    check(
        Taken::Wait {
            until_unix_ms: Some(AT + 3_000),
        },
        Trigger::Pinned,
        "qwen waits, nobody may make room before 12:03:10: it is pinned",
    );
    check(
        Taken::Wait {
            until_unix_ms: None,
        },
        Trigger::Popular,
        "qwen waits, nobody may make room until something changes: it is popular and was displaced",
    );
    check(
        Taken::WaitForRoom,
        demand(0, 0, false),
        "qwen waits, enough room is on its way already: it was asked for",
    );
    check(
        Taken::WaitForRoom,
        Trigger::Operator,
        "qwen waits, enough room is on its way already: an operator asked",
    );
    check(
        Taken::GiveUp,
        demand(2, 0, false),
        "no room for qwen, nobody can make any and requests are told so: 2 requests held",
    );
    check(
        Taken::Sleep { tier: ram },
        Trigger::Idle,
        "qwen goes to sleep, its weights in host RAM: nobody asked for it for its idle time-out",
    );
    check(
        Taken::Sleep { tier: stopped },
        Trigger::Withdrawn,
        "qwen goes to sleep, its engine stopped: it was taken out of service or removed",
    );
    check(
        Taken::Sleep { tier: ram },
        Trigger::Overcommit,
        "qwen goes to sleep, its weights in host RAM: more is awake on its GPU than fits",
    );
    check(
        Taken::Demote { tier: disk },
        Trigger::HostRam,
        "qwen leaves host RAM, its weights only on disk: sleeping copies take more host RAM than there is",
    );
    check(
        Taken::Demote { tier: stopped },
        Trigger::Residual,
        "qwen leaves its GPU, its engine stopped: what engines keep there while they sleep is needed",
    );
}

#[test]
fn every_verdict_has_its_words() {
    let evicts = || Taken::Evict {
        victims: vec!["mistral".into()],
    };
    let check = |verdict, busy, taken, expected: &str| {
        let line = line_of(verdict, busy, taken);
        assert_eq!(
            line.split_once("  ").map(|(_, what)| what.trim()),
            Some(expected)
        );
    };
    let until_unix_ms = Some(AT + 60_000);
    let merits = "unused for 3.0 s, frees 16.0 GiB";
    check(
        Verdict::Chosen,
        true,
        evicts(),
        &format!("went, though requests run in it: {merits}"),
    );
    check(
        Verdict::Kept,
        false,
        Taken::GiveUp,
        &format!("stayed, it may go but would not be enough: {merits}"),
    );
    check(
        Verdict::Busy { until_unix_ms },
        true,
        evicts(),
        "stayed: requests run in it and qwen has not waited long enough, not before 12:04:07",
    );
    check(
        Verdict::Spared {
            until_unix_ms: None,
        },
        false,
        evicts(),
        "stayed: its last drain was taken back, or requests frozen in it finish first, not before something changes",
    );
    check(
        Verdict::Expected { until_unix_ms },
        false,
        evicts(),
        "stayed: clients were told to come back to it, not before 12:04:07",
    );
    check(Verdict::Leaving, false, evicts(), "goes to sleep already");
    check(
        Verdict::Moving,
        false,
        evicts(),
        "stayed: it is on its way in, or its engine is being acted on",
    );
}

#[test]
fn who_cannot_help_is_one_line_and_equal_prices_say_nothing() {
    let text = choice(&Choice {
        weighed: vec![
            weighed("llama", Verdict::Chosen, 5, 1.0),
            weighed("phi", Verdict::Kept, 4, 1.0),
            weighed("a", Verdict::NoHelp, 0, 1.0),
            weighed("b", Verdict::NoHelp, 0, 1.0),
        ],
        ..eviction()
    });
    assert!(
        text.contains("others     free nothing where something is missing: a and b\n"),
        "{text}"
    );
    assert!(!text.contains("price"), "{text}");
}

#[test]
fn the_price_of_recency_is_left_to_the_idle_time() {
    let text = choice(&Choice {
        policy: "lru".into(),
        ..eviction()
    });
    assert!(
        text.contains("unused for 41.0 s (longest of 2)") && !text.contains("price"),
        "{text}"
    );
}

#[test]
fn the_shadow_agrees_or_would_have_sent_nobody() {
    let with = |victims: &[&str], differs| {
        let shadow = Shadow {
            policy: "cost".into(),
            victims: victims.iter().map(|name| (*name).to_owned()).collect(),
            differs,
        };
        super::shadow(&shadow).1
    };
    assert_eq!(
        with(&["llama"], false),
        "policy cost would have done the same"
    );
    assert_eq!(with(&[], true), "policy cost would have sent nobody");
    assert_eq!(
        with(&["a", "b", "c"], true),
        "policy cost would have sent a, b and c"
    );
}

#[test]
fn needs_tell_what_is_free_coming_and_missing() {
    let text = |coming_bytes, missing_bytes| {
        let need = Need {
            gpu: 3,
            needs_bytes: 16 * GIB,
            free_bytes: GIB,
            coming_bytes,
            missing_bytes,
        };
        super::need(&need)
    };
    assert_eq!(
        text(15 * GIB, 0),
        (
            "GPU 3".to_owned(),
            "needs 16.0 GiB, 1.0 GiB free, 15.0 GiB on its way out, nothing missing".to_owned()
        )
    );
    assert_eq!(
        text(0, 15 * GIB).1,
        "needs 16.0 GiB, 1.0 GiB free, 15.0 GiB missing"
    );
}

#[test]
fn why_not_lists_reasons_the_queue_and_the_wait() {
    let why = WhyNot {
        model: "qwen".into(),
        serving: false,
        reasons: vec![
            "it waits for room on GPU 0".into(),
            "llama may go from 12:03:13 on".into(),
        ],
        ahead: vec!["phi".into(), "mistral".into()],
        refused_because: None,
        retry_after_s: None,
        estimated_wait_ms: Some(4_200),
        choice: Some(17),
    };
    let expected = "\
qwen does not serve now:
  1. it waits for room on GPU 0
  2. llama may go from 12:03:13 on
before it in the queue: phi, mistral
a request that came now would wait for about 4.2 s
what was weighed last: `greenthread explain --choice 17`
";
    assert_eq!(why_not(&why), expected);
    let unknown = WhyNot {
        reasons: Vec::new(),
        ahead: Vec::new(),
        estimated_wait_ms: None,
        choice: None,
        ..why.clone()
    };
    assert_eq!(
        why_not(&unknown),
        "\
qwen does not serve now, and nothing is known to keep it: `greenthread status qwen` shows what it does.
how long a request that came now would wait, nobody can tell
"
    );
    let refused = WhyNot {
        refused_because: Some("disabled".into()),
        retry_after_s: Some(60),
        ..unknown.clone()
    };
    let last =
        "a request that came now would be refused (503 `disabled`) and told to come back in 60 s";
    assert_eq!(why_not(&refused).lines().last(), Some(last));
    let serving = WhyNot {
        serving: true,
        ..unknown
    };
    assert_eq!(why_not(&serving), "qwen is awake and serves.\n");
}

#[test]
fn lengths_and_prices_have_as_many_digits_as_people_read() {
    let lengths = [92, 4_100, 59_999, 200_000, 7_500_000, 273_600_000].map(length);
    assert_eq!(
        lengths,
        [
            "92 ms",
            "4.1 s",
            "59.9 s",
            "3 min 20 s",
            "2 h 5 min",
            "3 d 4 h"
        ]
    );
    let figures = [0.0, 0.004, 0.3, 12.04, -1_234.5, 2e9].map(figure);
    assert_eq!(figures, ["0", "4.0e-3", "0.30", "12.0", "-1234", "2.0e9"]);
}
