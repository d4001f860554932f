//! What the forecast promises to who asks it, whatever the traffic.

use greenthread_core::{
    forecast::{Forecast, NEVER_USED},
    ids::{Millis, ModelId},
};

use crate::traffic;

fn id(name: &str) -> ModelId {
    ModelId(format!("{name}.0"))
}

/// A forecast that has seen some traffic, of `model-<n>`.
fn seen(traffic: &traffic::Traffic) -> Forecast {
    let mut forecast = Forecast::default();
    for (at, model) in &traffic.requests {
        forecast.arrived(&id(&format!("model-{model}")), Millis(*at), 1);
    }
    forecast
}

#[test]
fn a_model_that_was_never_used_is_used_in_a_month() {
    let mut forecast = Forecast::default();
    assert_eq!(forecast.next_use(&id("a")), NEVER_USED);
    forecast.arrived(&id("a"), Millis(5), 0);
    assert_eq!(
        forecast.next_use(&id("a")),
        NEVER_USED,
        "no request is no use"
    );
    forecast.arrived(&id("a"), Millis(5), 1);
    assert!(forecast.next_use(&id("a")) < NEVER_USED);
    forecast.forget(&id("a"));
    assert_eq!(forecast.next_use(&id("a")), NEVER_USED, "it is a new one");
}

#[test]
fn every_answer_is_a_finite_length() {
    let traffic = traffic::drifting();
    let forecast = seen(&traffic);
    for model in 0..traffic.models {
        let next = forecast.next_use(&id(&format!("model-{model}")));
        assert!(next.is_finite() && next >= 1.0, "{next} ms");
    }
}

#[test]
fn popular_models_are_expected_sooner() {
    let forecast = seen(&traffic::zipf(20_000.0));
    let next = |model: usize| forecast.next_use(&id(&format!("model-{model}")));
    // Of 40 models by popularity; each asked for once in 20 s × 4.3 × its rank.
    assert!(next(0) < next(8) && next(8) < next(39));
    let asked_every = 20_000.0 * 4.28 * 9.0;
    assert!((asked_every / 4.0..asked_every * 4.0).contains(&next(8)));
}

#[test]
fn the_same_traffic_gives_the_same_forecast() {
    let traffic = traffic::diurnal();
    let (a, b) = (seen(&traffic), seen(&traffic));
    for model in 0..traffic.models {
        let id = id(&format!("model-{model}"));
        assert_eq!(a.next_use(&id).to_bits(), b.next_use(&id).to_bits());
    }
}

#[test]
fn strange_moments_do_no_harm() {
    let mut forecast = Forecast::default();
    for (at, model) in [(1_000, "a"), (0, "b"), (u64::MAX, "a"), (7, "b"), (7, "a")] {
        forecast.arrived(&id(model), Millis(at), u64::MAX);
        forecast.chosen_among([&id("a"), &id("b"), &id("nobody")]);
    }
    for model in ["a", "b"] {
        let next = forecast.next_use(&id(model));
        assert!(next.is_finite() && next >= 1.0, "{next} ms");
    }
}

#[test]
fn who_is_forgotten_leaves_room() {
    let mut forecast = Forecast::default();
    for n in 0..200_000_u64 {
        let id = id(&format!("model-{n}"));
        forecast.arrived(&id, Millis(n), 1);
        forecast.chosen_among([&id]);
        assert!(forecast.next_use(&id) < NEVER_USED, "model {n} has no room");
        forecast.forget(&id);
    }
}

#[test]
fn recency_is_followed_where_it_is_right_and_left_where_it_is_wrong() {
    let mut forecast = Forecast::default();
    assert!(forecast.follows_recency(), "nothing has proved itself yet");
    // One is asked for again and again, the others once: whoever was used last is not wanted back.
    let (popular, mut now) = (id("popular"), Millis(0));
    for n in 0..6 {
        let once = id(&format!("once-{n}"));
        for model in [&popular, &once] {
            now = now + Millis(60_000);
            forecast.arrived(model, now, 1);
        }
        forecast.chosen_among([&popular, &once]);
    }
    assert!(!forecast.follows_recency());
    // How likely a model is depends on how many others were used since: what was popular before says nothing, and recency everything.
    let traffic = traffic::recent(1.6);
    let mut latest: Vec<ModelId> = Vec::new();
    for (at, model) in &traffic.requests {
        let id = id(&format!("model-{model}"));
        forecast.arrived(&id, Millis(*at), 1);
        latest.retain(|other| *other != id);
        forecast.chosen_among(latest.iter().take(4));
        latest.insert(0, id);
    }
    assert!(forecast.follows_recency());
}
