//! `/v1/messages`, the Anthropic API.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::State,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{
    answer::{Answer, Finish, Framing, answer, total_tokens},
    error::ApiError,
    request::{Fields, Wish, content, conversation},
};
use crate::{engine::Engine, text};

/// `/v1/messages`.
pub(crate) async fn messages(State(engine): State<Arc<Engine>>, body: Bytes) -> Response {
    let wish = match parse(&engine, &body) {
        Ok(wish) => wish,
        Err(error) => return error.into_anthropic(),
    };
    let generations = wish
        .prompts
        .iter()
        .map(|prompt| engine.submit(prompt))
        .collect();
    answer(&wish, generations, Messages { wish: wish.clone() }).await
}

/// `/v1/messages/count_tokens`.
pub(crate) async fn count_tokens(State(engine): State<Arc<Engine>>, body: Bytes) -> Response {
    let count = || -> Result<u64, ApiError> {
        let fields = Fields::parse(&body)?;
        fields.model(engine.args())?;
        Ok(text::token_count(&prompt(&fields)?))
    };
    match count() {
        Ok(tokens) => {
            Json(json!({"input_tokens": tokens, "context_management": {"original_input_tokens": tokens}})).into_response()
        }
        Err(error) => error.into_anthropic(),
    }
}

fn parse(engine: &Engine, body: &Bytes) -> Result<Wish, ApiError> {
    let fields = Fields::parse(body)?;
    let prompt = prompt(&fields)?;
    fields.required("max_tokens")?;
    fields.wish(engine.args(), vec![prompt], &["max_tokens"])
}

fn prompt(fields: &Fields) -> Result<String, ApiError> {
    let messages = conversation(fields.required("messages")?);
    Ok(fields.get("system").map(content).unwrap_or_default() + &messages)
}

struct Messages {
    wish: Wish,
}

impl Framing for Messages {
    const OPENS_AT_ONCE: bool = false;

    fn whole(&self, answers: &[Answer]) -> Value {
        let text: String = answers.iter().map(|answer| answer.text.as_str()).collect();
        let mut body = json!({
            "id": format!("chatcmpl-{}", self.wish.id), "type": "message", "role": "assistant",
            "content": [{"type": "text", "text": text}], "model": self.wish.model, "usage": self.usage(total_tokens(answers)),
        });
        // vLLM leaves the reason out when there is no word for it: a truncated answer looks almost whole.
        if let Some(reason) = finish(answers).and_then(stop_reason) {
            body["stop_reason"] = reason.into();
        }
        body
    }

    fn opening(&mut self) -> String {
        let message = json!({
            "id": format!("chatcmpl-{}", self.wish.id), "type": "message", "role": "assistant", "content": [], "model": self.wish.model,
            "stop_reason": null, "stop_sequence": null, "usage": self.usage(0),
        });
        event(&json!({"type": "message_start", "message": message}))
            + &event(
                &json!({"type": "content_block_start", "content_block": {"type": "text", "text": ""}, "index": 0}),
            )
    }

    fn token(&mut self, _index: usize, text: &str, _finish: Option<Finish>) -> String {
        if text.is_empty() {
            return String::new();
        }
        event(
            &json!({"type": "content_block_delta", "delta": {"type": "text_delta", "text": text}, "index": 0}),
        )
    }

    fn closing(&mut self, answers: &[Answer]) -> String {
        let delta =
            json!({"stop_reason": finish(answers).and_then(stop_reason), "stop_sequence": null});
        event(&json!({"type": "content_block_stop", "index": 0}))
            + &event(
                &json!({"type": "message_delta", "delta": delta, "usage": self.usage(total_tokens(answers))}),
            )
            + &event(&json!({"type": "message_stop"}))
    }
}

impl Messages {
    fn usage(&self, output_tokens: u64) -> Value {
        json!({"input_tokens": self.wish.prompt_tokens, "output_tokens": output_tokens})
    }
}

fn finish(answers: &[Answer]) -> Option<Finish> {
    answers.last().map(|answer| answer.finish)
}

fn stop_reason(finish: Finish) -> Option<&'static str> {
    match finish {
        Finish::Stop => Some("end_turn"),
        Finish::Length => Some("max_tokens"),
        Finish::Abort => None,
    }
}

fn event(value: &Value) -> String {
    let name = value
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default();
    format!("event: {name}\ndata: {value}\n\n")
}
