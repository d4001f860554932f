//! What a client is told when its request does not go on: one variant per refusal, with status, reason and Retry-After.

use serde_json::json;

/// Shape of the bodies of an API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// `{"error":{"message","type","param","code"}}`
    OpenAi,
    /// `{"type":"error","error":{"type","message"}}`
    Anthropic,
    /// One line of text.
    Plain,
}

impl Api {
    /// The API that a normalised path (prefix stripped) belongs to.
    pub fn of(path: &[u8]) -> Self {
        const ENGINE_ENDPOINTS: [&[u8]; 6] = [
            b"/score",
            b"/rerank",
            b"/tokenize",
            b"/detokenize",
            b"/classify",
            b"/invocations",
        ];
        if path == b"/v1/messages" || path.starts_with(b"/v1/messages/") {
            Self::Anthropic
        } else if path.starts_with(b"/v1/")
            || path.starts_with(b"/v2/")
            || ENGINE_ENDPOINTS.contains(&path)
        {
            Self::OpenAi
        } else {
            Self::Plain
        }
    }
}

/// A refusal. Seconds are those of Retry-After, 1 to 60.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The model drains; in a moment it can be asked for again.
    Draining(u32),
    /// First start, or conditioning.
    Booting(u32),
    /// The wait would be longer than the request may be held.
    TooLong(u32),
    /// The request was held as long as it may be.
    HoldExpired(u32),
    /// The last wake failed and the model cools down.
    WakeFailed(u32),
    /// Taken out of service by an operator.
    Disabled(u32),
    /// Needs more memory than there is.
    NeverFits,
    /// The engine is gone and is not restarted.
    EngineFailed(u32),
    /// Too many requests are held.
    HoldFull(u32),
    /// A request that does not wake, to a model that does not serve.
    Asleep(u32),
    /// A path by which engines are controlled.
    ControlPath,
    /// One of the engine's own documents, which the operator does not expose.
    NotExposed,
    /// The model was removed.
    Removed,
    /// A local document, asked for with another method than GET and HEAD.
    MethodNotAllowed,
}

impl Answer {
    /// HTTP status.
    pub const fn status(self) -> u32 {
        match self {
            Self::Draining(_)
            | Self::Booting(_)
            | Self::TooLong(_)
            | Self::HoldExpired(_)
            | Self::WakeFailed(_)
            | Self::Disabled(_)
            | Self::NeverFits
            | Self::Asleep(_) => 503,
            Self::EngineFailed(_) => 502,
            Self::HoldFull(_) => 429,
            Self::ControlPath | Self::NotExposed => 403,
            Self::Removed => 404,
            Self::MethodNotAllowed => 405,
        }
    }

    /// The word in `x-greenthread-reason`, in error codes and in outcome counters.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Draining(_) => "draining",
            Self::Booting(_) => "booting",
            Self::TooLong(_) => "too_long",
            Self::HoldExpired(_) => "hold_expired",
            Self::WakeFailed(_) => "wake_failed",
            Self::Disabled(_) => "disabled",
            Self::NeverFits => "never_fits",
            Self::EngineFailed(_) => "engine_failed",
            Self::HoldFull(_) => "hold_full",
            Self::Asleep(_) => "asleep",
            Self::ControlPath => "control_path",
            Self::NotExposed => "not_exposed",
            Self::Removed => "removed",
            Self::MethodNotAllowed => "method_not_allowed",
        }
    }

    /// Seconds until it is worth trying again.
    pub const fn retry_after(self) -> Option<u32> {
        match self {
            Self::Draining(seconds)
            | Self::Booting(seconds)
            | Self::TooLong(seconds)
            | Self::HoldExpired(seconds)
            | Self::WakeFailed(seconds)
            | Self::Disabled(seconds)
            | Self::EngineFailed(seconds)
            | Self::HoldFull(seconds)
            | Self::Asleep(seconds) => Some(seconds),
            Self::NeverFits
            | Self::ControlPath
            | Self::NotExposed
            | Self::Removed
            | Self::MethodNotAllowed => None,
        }
    }

    /// Whether the refused request wanted the model: control treats it as demand.
    pub const fn is_demand(self) -> bool {
        match self {
            Self::Draining(_)
            | Self::Booting(_)
            | Self::TooLong(_)
            | Self::HoldExpired(_)
            | Self::WakeFailed(_)
            | Self::HoldFull(_) => true,
            Self::Disabled(_)
            | Self::NeverFits
            | Self::EngineFailed(_)
            | Self::Asleep(_)
            | Self::ControlPath
            | Self::NotExposed
            | Self::Removed
            | Self::MethodNotAllowed => false,
        }
    }

    const fn sentence(self) -> &'static str {
        match self {
            Self::Draining(_) => "is making room for another model; try again shortly",
            Self::Booting(_) => "is starting for the first time; try again shortly",
            Self::TooLong(_) => "cannot be ready within the time this request may wait",
            Self::HoldExpired(_) => "was not ready within the time this request may wait",
            Self::WakeFailed(_) => "could not be started; it will be tried again",
            Self::Disabled(_) => "was taken out of service by an operator",
            Self::NeverFits => "needs more memory than its GPUs have",
            Self::EngineFailed(_) => "has no running engine",
            Self::HoldFull(_) => "has too many waiting requests",
            Self::Asleep(_) => "is not serving, and this request does not wake it",
            Self::ControlPath => "cannot be controlled through the gateway",
            Self::NotExposed => "does not expose this path",
            Self::Removed => "does not exist any more",
            Self::MethodNotAllowed => "answers this path to GET and HEAD only",
        }
    }

    /// The whole reply, in the shape of the API that was called.
    pub fn reply(self, api: Api, model: &str) -> Reply {
        let message = format!("The model `{model}` {}.", self.sentence());
        let (content_type, body) = match api {
            Api::OpenAi => (JSON, openai_error(self, &message)),
            Api::Anthropic => (JSON, anthropic_error(self, &message)),
            Api::Plain => ("text/plain; charset=utf-8", format!("{message}\n")),
        };
        let mut headers = vec![
            ("content-type", content_type.to_owned()),
            (REASON_HEADER, self.reason().to_owned()),
        ];
        if let Some(seconds) = self.retry_after() {
            headers.push(("retry-after", seconds.clamp(1, 60).to_string()));
        }
        if self == Self::NeverFits {
            headers.push(("x-should-retry", "false".to_owned()));
        }
        if self == Self::MethodNotAllowed {
            headers.push(("allow", "GET, HEAD".to_owned()));
        }
        Reply {
            status: self.status(),
            headers,
            body: body.into_bytes(),
        }
    }
}

/// Response header that names the reason of a refusal.
pub const REASON_HEADER: &str = "x-greenthread-reason";

/// Content type of documents.
pub const JSON: &str = "application/json";

fn openai_error(answer: Answer, message: &str) -> String {
    let kind = match answer.status() {
        429 => "rate_limit_error",
        403..=405 => "invalid_request_error",
        _ => "server_error",
    };
    json!({"error": {"message": message, "type": kind, "param": null, "code": answer.reason()}})
        .to_string()
}

fn anthropic_error(answer: Answer, message: &str) -> String {
    let kind = match answer.status() {
        429 => "rate_limit_error",
        403 => "permission_error",
        404 => "not_found_error",
        405 => "invalid_request_error",
        503 => "overloaded_error",
        _ => "api_error",
    };
    json!({"type": "error", "error": {"type": kind, "message": message}}).to_string()
}

/// A complete response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: u32,
    /// Headers beside those that Envoy adds.
    pub headers: Vec<(&'static str, String)>,
    /// Body; Envoy leaves it out for HEAD.
    pub body: Vec<u8>,
}

impl Reply {
    /// A JSON document.
    pub fn document(status: u32, body: Vec<u8>) -> Self {
        Self {
            status,
            headers: vec![("content-type", JSON.to_owned())],
            body,
        }
    }

    /// An empty 204, for OPTIONS of a model that does not serve.
    pub fn no_content() -> Self {
        Self {
            status: 204,
            headers: vec![("allow", "GET, HEAD, POST, OPTIONS".to_owned())],
            body: Vec::new(),
        }
    }

    /// The value of a header, for tests and logs.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(answer: Answer, status: u32, reason: &str, retry_after: Option<&str>) {
        let reply = answer.reply(Api::OpenAi, "llama");
        assert_eq!(
            (
                reply.status,
                reply.header(REASON_HEADER),
                reply.header("retry-after")
            ),
            (status, Some(reason), retry_after)
        );
        let should_retry = reply.header("x-should-retry");
        assert_eq!(
            should_retry,
            (answer == Answer::NeverFits).then_some("false")
        );
    }

    #[test]
    fn every_refusal() {
        check(Answer::Draining(3), 503, "draining", Some("3"));
        check(Answer::Booting(90), 503, "booting", Some("60"));
        check(Answer::TooLong(0), 503, "too_long", Some("1"));
        check(Answer::HoldExpired(5), 503, "hold_expired", Some("5"));
        check(Answer::WakeFailed(5), 503, "wake_failed", Some("5"));
        check(Answer::Disabled(5), 503, "disabled", Some("5"));
        check(Answer::NeverFits, 503, "never_fits", None);
        check(Answer::EngineFailed(5), 502, "engine_failed", Some("5"));
        check(Answer::HoldFull(5), 429, "hold_full", Some("5"));
        check(Answer::Asleep(5), 503, "asleep", Some("5"));
        check(Answer::ControlPath, 403, "control_path", None);
        check(Answer::NotExposed, 403, "not_exposed", None);
        check(Answer::Removed, 404, "removed", None);
        check(Answer::MethodNotAllowed, 405, "method_not_allowed", None);
    }

    fn check_body(path: &str, expected: &str) {
        let reply = Answer::Draining(3).reply(Api::of(path.as_bytes()), "a\"b");
        assert_eq!(String::from_utf8(reply.body).unwrap(), expected, "{path}");
    }

    #[test]
    fn bodies_have_the_shape_of_the_api() {
        let openai = r#"{"error":{"code":"draining","message":"The model `a\"b` is making room for another model; try again shortly.","param":null,"type":"server_error"}}"#;
        let anthropic = r#"{"error":{"message":"The model `a\"b` is making room for another model; try again shortly.","type":"overloaded_error"},"type":"error"}"#;
        check_body("/v1/chat/completions", openai);
        check_body("/rerank", openai);
        check_body("/v2/rerank", openai);
        check_body("/v1/messages", anthropic);
        check_body("/v1/messages/count_tokens", anthropic);
        check_body("/v1/messagesx", openai);
        check_body(
            "/",
            "The model `a\"b` is making room for another model; try again shortly.\n",
        );
    }
}
