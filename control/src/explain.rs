//! Choices and their absence as text for an operator who does not know the source: what was needed, who went, who stayed and why,
//! what came of it.
//!
//! Data in, text out: nothing here asks control or reads a clock. Times are UTC, as everywhere in the output.

#[cfg(test)]
mod tests;

use std::fmt::Display;

use greenthread_core::ids::{Bytes, Millis};

use crate::{
    choice::{Choice, Need, Regret, Shadow, Taken, Tier, Trigger, Verdict, Weighed, WhyNot},
    engine::LAST_LINES,
    journal,
};

/// The policy whose price is no figure for people.
const RECENCY: &str = "lru";

/// The choices about one model, oldest first.
pub fn choices(about: &str, choices: &[Choice]) -> String {
    if choices.is_empty() {
        return format!(
            "No choice about {about} is kept: since this control started, nobody was weighed for it and it made room for nobody. \
             `greenthread why-not {about}` says why it does not serve, `greenthread status {about}` what happened to it.\n"
        );
    }
    let mut text = format!("Choices about {about}, oldest first, times in UTC:\n");
    for one in choices {
        text.push('\n');
        text.push_str(&choice(one));
    }
    text
}

/// One choice: a headline, then a line for each thing that was weighed or happened.
pub fn choice(choice: &Choice) -> String {
    let mut rows: Vec<(String, String)> = choice.need.iter().map(need).collect();
    let (helping, helpless): (Vec<&Weighed>, Vec<&Weighed>) = choice
        .weighed
        .iter()
        .partition(|weighed| weighed.verdict != Verdict::NoHelp);
    rows.extend(
        helping
            .iter()
            .map(|one| (one.model.clone(), weighed(one, choice))),
    );
    if !helpless.is_empty() {
        let names = helpless.iter().map(|one| one.model.as_str());
        rows.push((
            "others".to_owned(),
            format!("free nothing where something is missing: {}", list(names)),
        ));
    }
    for (at, followed) in choice.followed.iter().enumerate() {
        let label = if at == 0 { "then" } else { "" };
        let time = clock(followed.at_unix_ms);
        rows.push((
            label.to_owned(),
            format!("{time} {} {}", followed.model, brief(&followed.what)),
        ));
    }
    rows.extend(choice.regrets.iter().map(regret));
    rows.extend(choice.shadow.as_ref().map(shadow));
    let width = rows
        .iter()
        .map(|(label, _)| label.chars().count())
        .max()
        .unwrap_or(0);
    let mut text = format!(
        "{}  {}  (choice {}, policy {}, {} ago)\n",
        clock(choice.at_unix_ms),
        headline(choice),
        choice.number,
        choice.policy,
        length(choice.age_ms)
    );
    for (label, what) in rows {
        text.push_str(&format!("  {label:<width$}  {what}\n"));
    }
    text
}

/// Why a model is not awake, or that it is.
pub fn why_not(why: &WhyNot) -> String {
    let WhyNot {
        model,
        serving,
        reasons,
        ahead,
        refused_because,
        retry_after_s,
        estimated_wait_ms,
        choice,
    } = why;
    let mut text = match (serving, reasons.is_empty()) {
        (true, true) => format!("{model} is awake and serves.\n"),
        (true, false) => format!("{model} is awake and serves:\n"),
        (false, false) => format!("{model} does not serve now:\n"),
        (false, true) => format!(
            "{model} does not serve now, and nothing is known to keep it: `greenthread status {model}` shows what it does.\n"
        ),
    };
    for (at, reason) in reasons.iter().enumerate() {
        text.push_str(&format!("  {}. {}\n", at + 1, brief(reason)));
    }
    if !ahead.is_empty() {
        text.push_str(&format!("before it in the queue: {}\n", ahead.join(", ")));
    }
    match (serving, estimated_wait_ms) {
        (true, _) => {}
        (false, _) if refused_because.is_some() => text.push_str(&format!(
            "a request that came now would be refused (503 `{}`) and told to come back in {} s\n",
            refused_because.as_deref().unwrap_or_default(),
            retry_after_s.unwrap_or_default()
        )),
        (false, Some(wait)) => text.push_str(&format!(
            "a request that came now would wait for about {}\n",
            length(*wait)
        )),
        (false, None) => {
            text.push_str("how long a request that came now would wait, nobody can tell\n");
        }
    }
    if let Some(number) = choice {
        text.push_str(&format!(
            "what was weighed last: `greenthread explain --choice {number}`\n"
        ));
    }
    text
}

/// A length as people say it: "92 ms", "4.1 s", "3 min 20 s", "2 h 5 min", "3 d 4 h".
pub fn length(ms: u64) -> String {
    let seconds = ms / 1_000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => Millis(ms).to_string(),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        (_, _, _) => format!("{days} d {} h", hours % 24),
    }
}

/// "1 request", "2 requests".
pub fn counted<N: Display + PartialEq + From<u8>>(number: N, noun: &str) -> String {
    let many = if number == N::from(1) { "" } else { "s" };
    format!("{number} {noun}{many}")
}

/// Words of the core without an engine's own last lines: they are told once, where one model is looked at.
pub fn brief(words: &str) -> &str {
    words
        .split_once(LAST_LINES)
        .map_or(words, |(before, _)| before)
}

fn clock(unix_ms: u64) -> String {
    journal::clock(unix_ms / 1_000)
}

fn headline(choice: &Choice) -> String {
    let (target, why) = (&choice.target, trigger(&choice.trigger));
    match &choice.taken {
        Taken::Wake { tier: Tier::Ram } => {
            format!("{target} woken from host RAM, there was room: {why}")
        }
        Taken::Wake { tier: Tier::Disk } => {
            format!("{target} woken from disk, there was room: {why}")
        }
        Taken::Wake {
            tier: Tier::Stopped,
        } => format!("{target} started, there was room: {why}"),
        Taken::Evict { .. } => format!("room for {target}: {why}"),
        Taken::Wait {
            until_unix_ms: Some(until),
        } => format!(
            "{target} waits, nobody may make room before {}: {why}",
            clock(*until)
        ),
        Taken::Wait {
            until_unix_ms: None,
        } => format!("{target} waits, nobody may make room until something changes: {why}"),
        Taken::WaitForRoom => format!("{target} waits, enough room is on its way already: {why}"),
        Taken::GiveUp => {
            format!("no room for {target}, nobody can make any and requests are told so: {why}")
        }
        Taken::Sleep { tier } => format!("{target} goes to sleep, {}: {why}", lies(*tier)),
        Taken::Demote { tier } => {
            let left = if choice.trigger == Trigger::Residual {
                "its GPU"
            } else {
                "host RAM"
            };
            format!("{target} leaves {left}, {}: {why}", lies(*tier))
        }
    }
}

/// Where the weights of a model are that went.
fn lies(tier: Tier) -> &'static str {
    match tier {
        Tier::Ram => "its weights in host RAM",
        Tier::Disk => "its weights only on disk",
        Tier::Stopped => "its engine stopped",
    }
}

fn trigger(trigger: &Trigger) -> String {
    match trigger {
        Trigger::Demand {
            held,
            inside,
            refused,
        } => demand(*held, *inside, *refused),
        Trigger::Operator => "an operator asked".to_owned(),
        Trigger::Pinned => "it is pinned".to_owned(),
        Trigger::Popular => "it is popular and was displaced".to_owned(),
        Trigger::Boot => "its first start".to_owned(),
        Trigger::Idle => "nobody asked for it for its idle time-out".to_owned(),
        Trigger::Overcommit => "more is awake on its GPU than fits".to_owned(),
        Trigger::Withdrawn => "it was taken out of service or removed".to_owned(),
        Trigger::HostRam => "sleeping copies take more host RAM than there is".to_owned(),
        Trigger::Residual => "what engines keep there while they sleep is needed".to_owned(),
    }
}

fn demand(held: u64, inside: u64, refused: bool) -> String {
    let mut parts = Vec::new();
    if held > 0 {
        parts.push(format!("{} held", counted(held, "request")));
    }
    if inside > 0 {
        parts.push(format!("{} inside its engine", counted(inside, "request")));
    }
    if refused {
        parts.push("a refused request may come back".to_owned());
    }
    if parts.is_empty() {
        "it was asked for".to_owned()
    } else {
        parts.join(", ")
    }
}

fn need(need: &Need) -> (String, String) {
    let coming = match need.coming_bytes {
        0 => String::new(),
        coming => format!(", {} on its way out", Bytes(coming)),
    };
    let missing = match need.missing_bytes {
        0 => "nothing missing".to_owned(),
        missing => format!("{} missing", Bytes(missing)),
    };
    let (needs, free) = (Bytes(need.needs_bytes), Bytes(need.free_bytes));
    (
        format!("GPU {}", need.gpu),
        format!("needs {needs}, {free} free{coming}, {missing}"),
    )
}

fn weighed(weighed: &Weighed, choice: &Choice) -> String {
    let merits = merits(weighed, choice);
    let not_before = |until: &Option<u64>| match until {
        Some(until) => format!("not before {}", clock(*until)),
        None => "not before something changes".to_owned(),
    };
    let evicts = matches!(choice.taken, Taken::Evict { .. });
    match &weighed.verdict {
        Verdict::Chosen if weighed.busy => format!("went, though requests run in it: {merits}"),
        Verdict::Chosen => format!("went: {merits}"),
        Verdict::Kept if evicts => format!("stayed, others went before it: {merits}"),
        Verdict::Kept => format!("stayed, it may go but would not be enough: {merits}"),
        Verdict::Pinned => "stayed: pinned".to_owned(),
        Verdict::MinRuntime { until_unix_ms } => {
            format!("stayed: woken too recently, {}", not_before(until_unix_ms))
        }
        Verdict::Spared { until_unix_ms } => format!(
            "stayed: its last drain was taken back, or requests frozen in it finish first, {}",
            not_before(until_unix_ms)
        ),
        Verdict::Expected { until_unix_ms } => format!(
            "stayed: clients were told to come back to it, {}",
            not_before(until_unix_ms)
        ),
        Verdict::Busy { until_unix_ms } => format!(
            "stayed: requests run in it and {} has not waited long enough, {}",
            choice.target,
            not_before(until_unix_ms)
        ),
        Verdict::Leaving => "goes to sleep already".to_owned(),
        Verdict::Moving => {
            "stayed: it is on its way in, or its engine is being acted on".to_owned()
        }
        Verdict::NoHelp => "stayed: frees nothing where something is missing".to_owned(),
    }
}

/// Figures of a model that could go, and how they compare with those of the others that could.
fn merits(weighed: &Weighed, choice: &Choice) -> String {
    let rivals: Vec<&Weighed> = choice
        .weighed
        .iter()
        .filter(|one| matches!(one.verdict, Verdict::Chosen | Verdict::Kept))
        .collect();
    let alone = rivals.len() < 2;
    let of = format!("of {}", rivals.len());
    let longest = !alone && rivals.iter().all(|rival| rival.idle_ms <= weighed.idle_ms);
    let idle = length(weighed.idle_ms);
    let mut parts = vec![if longest {
        format!("unused for {idle} (longest {of})")
    } else {
        format!("unused for {idle}")
    }];
    parts.push(format!("frees {}", Bytes(weighed.frees_bytes)));
    // A price says something only beside another one; the one of `lru` is a moment, which "unused for" says better.
    let differ = rivals.iter().any(|rival| rival.price != weighed.price);
    if let Some(price) = weighed.price.filter(|_| differ && choice.policy != RECENCY) {
        let least = rivals
            .iter()
            .all(|rival| rival.price.is_none_or(|other| price <= other));
        parts.push(if least {
            format!("price {} (least {of})", figure(price))
        } else {
            format!("price {}", figure(price))
        });
    }
    parts.join(", ")
}

fn regret(regret: &Regret) -> (String, String) {
    let Regret {
        victim,
        after_ms,
        wake_takes_ms,
    } = regret;
    let (after, takes) = (length(*after_ms), length(*wake_takes_ms));
    (
        "regretted".to_owned(),
        format!("{victim} was wanted again after {after}, its wake takes {takes}"),
    )
}

fn shadow(shadow: &Shadow) -> (String, String) {
    let Shadow {
        policy,
        victims,
        differs,
    } = shadow;
    let what = if !differs {
        format!("policy {policy} would have done the same")
    } else if victims.is_empty() {
        format!("policy {policy} would have sent nobody")
    } else {
        let names = list(victims.iter().map(String::as_str));
        format!("policy {policy} would have sent {names}")
    };
    ("shadow".to_owned(), what)
}

/// "a", "a and b", "a, b and c".
fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    match names.split_last() {
        None => String::new(),
        Some((last, [])) => (*last).to_owned(),
        Some((last, before)) => format!("{} and {last}", before.join(", ")),
    }
}

/// A price in as many digits as tell it apart.
fn figure(price: f64) -> String {
    let size = price.abs();
    if size == 0.0 {
        "0".to_owned()
    } else if !(0.01..1e7).contains(&size) {
        format!("{price:.1e}")
    } else if size < 1.0 {
        format!("{price:.2}")
    } else if size < 100.0 {
        format!("{price:.1}")
    } else {
        format!("{price:.0}")
    }
}
