//! Errors in the shapes that vLLM gives them.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;

/// What a client is told instead of an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ApiError {
    /// The body is no JSON object, or lacks a field, or a query value is wrong.
    #[error("1 validation error:\n  {{'loc': '{place}', 'msg': '{problem}'}}")]
    Invalid {
        /// `body.messages`, `query.level`.
        place: String,
        /// What is wrong there.
        problem: &'static str,
    },
    /// A value that makes no sense to the engine.
    #[error("{message} (parameter={parameter})")]
    Rejected {
        /// What is wrong.
        message: String,
        /// With what.
        parameter: &'static str,
    },
    /// Another model.
    #[error("The model `{asked}` does not exist. Valid aliases: {known}.")]
    UnknownModel {
        /// What the request named.
        asked: String,
        /// What it could have named.
        known: String,
    },
    /// The engine failed.
    #[error("{message}")]
    Engine {
        /// Its words.
        message: String,
    },
}

impl ApiError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Invalid { .. } | Self::Rejected { .. } => StatusCode::BAD_REQUEST,
            Self::UnknownModel { .. } => StatusCode::NOT_FOUND,
            Self::Engine { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "Bad Request",
            Self::Rejected { .. } => "BadRequestError",
            Self::UnknownModel { .. } => "NotFoundError",
            Self::Engine { .. } => "InternalServerError",
        }
    }

    fn parameter(&self) -> Option<&str> {
        match self {
            Self::Invalid { place, .. } => Some(place),
            Self::Rejected { parameter, .. } => Some(parameter),
            Self::UnknownModel { .. } => Some("model"),
            Self::Engine { .. } => None,
        }
    }

    /// In the shape of the Anthropic API. vLLM uses it for what its handler finds, not for what its validation finds.
    pub(crate) fn into_anthropic(self) -> Response {
        if matches!(self, Self::Invalid { .. }) {
            return self.into_response();
        }
        let body =
            json!({"type": "error", "error": {"type": self.kind(), "message": self.to_string()}});
        (self.status(), Json(body)).into_response()
    }
}

impl IntoResponse for ApiError {
    /// In the shape of the OpenAI API.
    fn into_response(self) -> Response {
        let status = self.status();
        let body = json!({"error": {
            "message": self.to_string(), "type": self.kind(), "param": self.parameter(), "code": status.as_u16(),
        }});
        (status, Json(body)).into_response()
    }
}
