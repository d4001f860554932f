//! GPUs: what is known of their memory, and an operator's word on what is somebody else's.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::{Api, answer, ask, problem};
use crate::{
    input::{Input, NotAccepted},
    overview::Gpu,
};

/// `GET /api/v1/gpus`: every GPU, and the host RAM beside them.
pub(super) async fn gpus(State(api): State<Api>) -> Result<Response, Response> {
    let overview = ask(&api).await?;
    Ok(Json(json!({"gpus": overview.gpus, "hosts": overview.hosts})).into_response())
}

/// `POST /api/v1/gpus/{n}/accept`: what the oracle sees beyond the ledger is somebody else's. Answers with the GPU as it is then.
pub(super) async fn accept(
    State(api): State<Api>,
    Path(gpu): Path<String>,
) -> Result<Json<Gpu>, Response> {
    let Ok(number) = gpu.parse() else {
        return Err(problem(
            StatusCode::BAD_REQUEST,
            "bad_gpu",
            format!("{gpu:?} is not the number of a GPU"),
            "use the numbers that `greenthread status` shows; the first GPU is 0".to_owned(),
        ));
    };
    let input = |reply| Input::AcceptGpu { gpu: number, reply };
    answer(&api, input)
        .await?
        .map(Json)
        .map_err(|error| not_accepted(&error))
}

fn not_accepted(error: &NotAccepted) -> Response {
    match *error {
        NotAccepted::UnknownGpu { gpu, gpus } => problem(
            StatusCode::NOT_FOUND,
            "unknown_gpu",
            format!("there is no GPU {gpu}"),
            match gpus {
                0 => "the fleet has none".to_owned(),
                1 => "the fleet has one, number 0".to_owned(),
                _ => format!("the fleet has {gpus}, numbers 0 to {}", gpus - 1),
            },
        ),
        NotAccepted::Unmeasured { gpu } => problem(
            StatusCode::CONFLICT,
            "unmeasured",
            format!("nobody measures GPU {gpu}, or it was not looked at yet: there is nothing to accept"),
            "with `oracle: declared` the figures under `gpus` and `memory` are believed: correct them there".to_owned(),
        ),
    }
}
