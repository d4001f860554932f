//! The picture as text: whole, escaped, and no larger than its pixels.

use std::time::Duration;

use super::*;
use crate::simulate::{
    arguments::Assumptions,
    progress::Progress,
    replay::{Habits, replay},
    setting,
    trace::{Request, Trace},
};

/// A trace of two models in turn, a request a minute, drawn.
fn drawn(requests: u64) -> String {
    let trace = Trace {
        models: vec![
            "a<&>\"b".to_owned(),
            "m".repeat(60),
            "never asked for".to_owned(),
        ],
        requests: (0..requests)
            .map(|minute| Request {
                at: Millis::seconds(60 * minute),
                model: usize::from(minute % 2 == 1),
                service: Millis::seconds(1),
            })
            .collect(),
        ..Trace::default()
    };
    let second = Duration::from_secs(1);
    let assumptions = Assumptions {
        gpus: 1,
        places: 1,
        place_size: 1 << 30,
        wake: second,
        sleep: second,
        start: second,
    };
    let setting = setting::assumed(&trace, 1, &assumptions);
    let habits = Habits {
        policy: greenthread_core::policy::Policy::ALL[0],
        concurrency: 1,
        retries: 0,
        vary: 0.0,
        seed: 0,
    };
    let replayed = replay(&trace, &setting, habits, &mut Progress::to_stderr(), "test");
    draw("one <title>", &setting, &replayed)
}

/// Every element is closed, in order.
fn check_whole(svg: &str) {
    let mut open: Vec<&str> = Vec::new();
    for tag in svg.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').expect("an end of every tag");
        let name = tag
            .trim_start_matches('/')
            .split([' ', '/'])
            .next()
            .unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "closes what is open");
        } else if !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert_eq!(open, Vec::<&str>::new(), "nothing stays open");
}

#[test]
fn a_picture_is_whole_and_names_are_escaped() {
    let svg = drawn(6);
    check_whole(&svg);
    assert!(
        svg.contains("a&lt;&amp;&gt;&quot;b") && svg.contains("one &lt;title&gt;"),
        "{svg}"
    );
    assert!(
        svg.contains(&format!("{}…", "m".repeat(NAME - 1))),
        "long names are cut: {svg}"
    );
    assert!(svg.contains("1 model was never asked for"), "{svg}");
    for look in LOOKS.iter().filter(|look| look.doing != Doing::Draining) {
        assert!(
            svg.matches(look.colour).count() > 1,
            "{} is in the picture, not only in the legend",
            look.word
        );
    }
}

#[test]
fn its_size_is_bounded_by_its_pixels() {
    let (some, many) = (drawn(4_000).len(), drawn(8_000).len());
    assert!(
        many < some * 11 / 10,
        "{some} bytes for 4000 requests, {many} for 8000"
    );
}

#[test]
fn marks_are_round() {
    let said = [0, 45, 900, 3_600, 129_600].map(|seconds| clock(Millis::seconds(seconds)));
    assert_eq!(said, ["0", "45 s", "15 min", "1 h", "1 d 12 h"]);
}
