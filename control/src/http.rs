//! The HTTP API of operators: health, metrics, the filter module, models and their verbs. Handlers ask the driver and render.

mod explain;
mod gpus;

use std::convert::Infallible;

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::StreamExt;
use greenthread_core::event::Operator;
use serde_json::json;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_stream::wrappers::BroadcastStream;

use crate::{
    auth::{Credentials, Guard, Refusal},
    input::{Input, UnknownModel},
    journal::Entry,
    metrics,
    modules::Modules,
    overview::{Overview, Problem},
};

pub(crate) use explain::{LAST, LAST_MAX};

/// What handlers need.
#[derive(Clone, Debug)]
pub struct Api {
    /// The driver.
    pub inputs: mpsc::Sender<Input>,
    /// Decisions as they are made.
    pub feed: broadcast::WeakSender<Entry>,
    /// Modules to serve.
    pub modules: Modules,
    /// Who may.
    pub guard: Guard,
}

/// The whole API.
pub fn router(api: Api) -> Router {
    let open = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/filter/{file}", get(filter))
        .layer(middleware::from_fn_with_state(
            (api.guard.clone(), true),
            admit,
        ));
    let protected = Router::new()
        .route("/metrics", get(metrics_page))
        .route("/api/v1/status", get(status))
        .route("/api/v1/models", get(models))
        .route("/api/v1/models/{name}", get(model))
        .route("/api/v1/models/{name}/explain", get(explain::explain))
        .route("/api/v1/models/{name}/why-not", get(explain::why_not))
        .route("/api/v1/models/{name}/{verb}", post(operate))
        .route("/api/v1/choices/{number}", get(explain::choice))
        .route("/api/v1/gpus", get(gpus::gpus))
        .route("/api/v1/gpus/{gpu}/accept", post(gpus::accept))
        .route("/api/v1/events", get(events))
        .fallback(unknown_path)
        .layer(middleware::from_fn_with_state(
            (api.guard.clone(), false),
            admit,
        ));
    open.merge(protected).with_state(api)
}

async fn admit(
    State((guard, open)): State<(Guard, bool)>,
    request: Request,
    next: Next,
) -> Response {
    match guard.check(open, credentials(request.headers())) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refused(refusal),
    }
}

fn credentials(headers: &HeaderMap) -> Credentials<'_> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    Credentials {
        authorization: text(header::AUTHORIZATION),
        origin: headers.contains_key(header::ORIGIN),
        host: text(header::HOST),
    }
}

fn refused(refusal: Refusal) -> Response {
    let (status, code, message, remedy) = match refusal {
        Refusal::NoToken => (
            StatusCode::UNAUTHORIZED,
            "no_token",
            "this control wants a token",
            "send `Authorization: Bearer <token>`; with the greenthread command: --token or GREENTHREAD_TOKEN",
        ),
        Refusal::WrongToken => (
            StatusCode::UNAUTHORIZED,
            "wrong_token",
            "this is not the token",
            "see `control.token` in the fleet file",
        ),
        Refusal::Origin => (
            StatusCode::FORBIDDEN,
            "origin",
            "the request has an Origin header, so it comes from a web page; local programs only",
            "call from a program, or put a proxy with its own login before this address",
        ),
        Refusal::Host => (
            StatusCode::FORBIDDEN,
            "host",
            "the Host header is not this machine's own loopback name",
            "call 127.0.0.1, localhost or [::1]",
        ),
    };
    problem(status, code, message.to_owned(), remedy.to_owned())
}

fn problem(status: StatusCode, code: &str, message: String, remedy: String) -> Response {
    (
        status,
        Json(json!({"error": Problem { code: code.to_owned(), message, remedy }})),
    )
        .into_response()
}

fn stopping() -> Response {
    problem(
        StatusCode::SERVICE_UNAVAILABLE,
        "stopping",
        "control is stopping".to_owned(),
        "try again when it runs".to_owned(),
    )
}

fn unknown(error: &UnknownModel) -> Response {
    let remedy = if error.known.is_empty() {
        "there is no model yet".to_owned()
    } else {
        format!("known models: {}", error.known.join(", "))
    };
    problem(
        StatusCode::NOT_FOUND,
        "unknown_model",
        format!("there is no model {:?}", error.name),
        remedy,
    )
}

/// What the driver answers to an input; an answer for the client when it has ended.
async fn answer<T>(
    api: &Api,
    input: impl FnOnce(oneshot::Sender<T>) -> Input,
) -> Result<T, Response> {
    let (reply, answer) = oneshot::channel();
    api.inputs
        .send(input(reply))
        .await
        .map_err(|_| stopping())?;
    answer.await.map_err(|_| stopping())
}

/// Everything.
async fn ask(api: &Api) -> Result<Overview, Response> {
    answer(api, Input::Ask).await
}

async fn readyz(State(api): State<Api>) -> Result<Response, Response> {
    let readiness = ask(&api).await?.readiness;
    let status = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    Ok((status, Json(readiness)).into_response())
}

async fn filter(State(api): State<Api>, Path(file): Path<String>) -> Response {
    match file
        .strip_suffix(".wasm")
        .and_then(|digest| api.modules.get(digest))
    {
        Some(module) => ([(header::CONTENT_TYPE, "application/wasm")], module).into_response(),
        None => {
            let remedy = match api.modules.current() {
                Some(current) => format!("the current one is /filter/{current}.wasm"),
                None => "build it with `make filter`, name it in GREENTHREAD_MODULE, and start control again".to_owned(),
            };
            problem(
                StatusCode::NOT_FOUND,
                "unknown_module",
                format!("there is no module {file:?}"),
                remedy,
            )
        }
    }
}

async fn metrics_page(State(api): State<Api>) -> Result<Response, Response> {
    let page = metrics::render(&ask(&api).await?);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], page).into_response())
}

async fn status(State(api): State<Api>) -> Result<Json<Overview>, Response> {
    Ok(Json(ask(&api).await?))
}

async fn models(State(api): State<Api>) -> Result<Response, Response> {
    Ok(Json(json!({"models": ask(&api).await?.models})).into_response())
}

async fn model(State(api): State<Api>, Path(name): Path<String>) -> Result<Response, Response> {
    let overview = ask(&api).await?;
    let known = overview
        .models
        .iter()
        .map(|model| model.name.clone())
        .collect();
    match overview
        .models
        .into_iter()
        .find(|model| model.name == name && model.current)
    {
        Some(model) => Ok(Json(model).into_response()),
        None => Err(unknown(&UnknownModel { name, known })),
    }
}

async fn operate(
    State(api): State<Api>,
    Path((name, verb)): Path<(String, String)>,
) -> Result<Response, Response> {
    let operator = match verb.as_str() {
        "wake" => Operator::Wake,
        "sleep" => Operator::Sleep,
        "disable" => Operator::Disable,
        "enable" => Operator::Enable,
        _ => {
            let message = format!("there is no verb {verb:?}");
            return Err(problem(
                StatusCode::NOT_FOUND,
                "unknown_verb",
                message,
                "use wake, sleep, disable or enable".to_owned(),
            ));
        }
    };
    let input = |reply| Input::Operate {
        name: name.clone(),
        verb: operator,
        reply,
    };
    answer(&api, input)
        .await?
        .map_err(|error| unknown(&error))?;
    Ok((
        StatusCode::ACCEPTED,
        Json(json!({"model": name, "accepted": verb, "watch": format!("/api/v1/models/{name}")})),
    )
        .into_response())
}

/// Decisions as lines of JSON, from now on; a listener that is too slow is told how many it missed.
async fn events(State(api): State<Api>) -> Response {
    let Some(feed) = api.feed.upgrade() else {
        return stopping();
    };
    let lines = BroadcastStream::new(feed.subscribe()).map(|entry| {
        let line = match entry {
            Ok(entry) => json!(entry),
            Err(tokio_stream::wrappers::errors::BroadcastStreamRecvError::Lagged(missed)) => {
                json!({"missed": missed})
            }
        };
        Ok::<_, Infallible>(format!("{line}\n"))
    });
    (
        [(header::CONTENT_TYPE, "application/x-ndjson")],
        Body::from_stream(lines),
    )
        .into_response()
}

async fn unknown_path(request: Request) -> Response {
    let remedy =
        "try /healthz, /readyz, /metrics, /api/v1/status, /api/v1/models/<model>, /api/v1/models/<model>/explain, \
         /api/v1/models/<model>/why-not, /api/v1/gpus, /api/v1/events"
            .to_owned();
    problem(
        StatusCode::NOT_FOUND,
        "unknown_path",
        format!("there is nothing at {}", request.uri().path()),
        remedy,
    )
}
