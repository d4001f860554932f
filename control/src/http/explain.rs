//! Why: the choices about a model, one choice by its number, and why a model is not awake.

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
    response::Response,
};

use super::{Api, answer, problem, unknown};
use crate::{
    choice::{Choice, WhyNot},
    input::Input,
};

/// Choices shown when nobody says how many.
pub(crate) const LAST: usize = 5;
/// Most choices in one answer; fewer are kept.
pub(crate) const LAST_MAX: usize = 1_000;

/// `GET /api/v1/models/{name}/explain?last=N`: the latest choices, oldest first.
pub(super) async fn explain(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Vec<Choice>>, Response> {
    let last = last(&query).map_err(bad_query)?;
    let input = |reply| Input::Explain { name, last, reply };
    let choices = answer(&api, input).await?;
    choices.map(Json).map_err(|error| unknown(&error))
}

/// `GET /api/v1/choices/{number}`: one choice.
pub(super) async fn choice(
    State(api): State<Api>,
    Path(number): Path<String>,
) -> Result<Json<Choice>, Response> {
    let Ok(parsed) = number.parse() else {
        return Err(problem(
            StatusCode::BAD_REQUEST,
            "bad_number",
            format!("{number:?} is not the number of a choice"),
            "use a whole number, as `greenthread status <model>` and `explain` show them"
                .to_owned(),
        ));
    };
    let input = |reply| Input::Choice {
        number: parsed,
        reply,
    };
    answer(&api, input).await?.map(Json).ok_or_else(|| {
        problem(
            StatusCode::NOT_FOUND,
            "unknown_choice",
            format!("choice {number} is not kept"),
            "only the latest choices are, and none from before this control started; \
             `greenthread explain <model>` shows those of a model"
                .to_owned(),
        )
    })
}

/// `GET /api/v1/models/{name}/why-not`: why it is not awake.
pub(super) async fn why_not(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<WhyNot>, Response> {
    let why = answer(&api, |reply| Input::WhyNot { name, reply }).await?;
    why.map(Json).map_err(|error| unknown(&error))
}

/// How many choices a query asks for; otherwise what is wrong with it. What nobody knows is wrong, so that a slip is not answered with
/// something else.
fn last(query: &[(String, String)]) -> Result<usize, String> {
    let mut last = LAST;
    for (name, value) in query {
        if name != "last" {
            return Err(format!("there is no parameter {name:?}"));
        }
        let count = value.parse().ok();
        last = count
            .filter(|count| (1..=LAST_MAX).contains(count))
            .ok_or_else(|| format!("last={value} is not how many choices to show"))?;
    }
    Ok(last)
}

fn bad_query(message: String) -> Response {
    let remedy = format!("use last=N with N from 1 to {LAST_MAX}; without it {LAST} are shown");
    problem(StatusCode::BAD_REQUEST, "bad_query", message, remedy)
}
