//! `/v1/chat/completions` and `/v1/completions`.

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::State,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{
    answer::{Answer, Finish, Framing, answer, total_tokens},
    error::ApiError,
    request::{Fields, Wish, conversation, texts},
};
use crate::engine::Engine;

/// What vLLM puts into every answer.
const FINGERPRINT: &str = "vllm-0.32.0-engine-sim";

/// `/v1/chat/completions`.
pub(crate) async fn chat(
    State(engine): State<Arc<Engine>>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let fields = Fields::parse(&body)?;
    let prompt = conversation(fields.required("messages")?);
    let wish = fields.wish(
        engine.args(),
        vec![prompt],
        &["max_completion_tokens", "max_tokens"],
    )?;
    Ok(compute(&engine, wish, |wish| Chat { wish }).await)
}

/// `/v1/completions`.
pub(crate) async fn completions(
    State(engine): State<Arc<Engine>>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let fields = Fields::parse(&body)?;
    let missing = || ApiError::Rejected {
        message: "Either prompt or prompt_embeds must be provided and non-empty.".into(),
        parameter: "prompt",
    };
    let prompts = fields
        .get("prompt")
        .map(texts)
        .filter(|prompts| !prompts.is_empty())
        .ok_or_else(missing)?;
    let wish = fields.wish(engine.args(), prompts, &["max_tokens"])?;
    Ok(compute(&engine, wish, |wish| Completion { wish }).await)
}

/// `/invocations`: whichever of the two the body looks like.
pub(crate) async fn invocations(engine: State<Arc<Engine>>, body: Bytes) -> Response {
    let is_chat = Fields::parse(&body).is_ok_and(|fields| fields.get("messages").is_some());
    if is_chat {
        chat(engine, body).await.into_response()
    } else {
        completions(engine, body).await.into_response()
    }
}

async fn compute<F: Framing>(
    engine: &Arc<Engine>,
    wish: Wish,
    framing: impl FnOnce(Wish) -> F,
) -> Response {
    let generations = wish
        .prompts
        .iter()
        .map(|prompt| engine.submit(prompt))
        .collect();
    answer(&wish, generations, framing(wish.clone())).await
}

struct Chat {
    wish: Wish,
}

struct Completion {
    wish: Wish,
}

impl Framing for Chat {
    const OPENS_AT_ONCE: bool = false;

    fn whole(&self, answers: &[Answer]) -> Value {
        let choice = |(index, answer): (usize, &Answer)| {
            json!({
                "index": index,
                "message": {
                    "role": "assistant", "content": answer.text, "refusal": null, "annotations": null, "audio": null,
                    "function_call": null, "reasoning": null,
                },
                "logprobs": null, "finish_reason": answer.finish.openai(), "stop_reason": null, "token_ids": null, "routed_experts": null,
            })
        };
        let choices: Vec<Value> = answers.iter().enumerate().map(choice).collect();
        json!({
            "id": format!("chatcmpl-{}", self.wish.id), "object": "chat.completion", "created": self.wish.created,
            "model": self.wish.model, "choices": choices, "service_tier": null, "system_fingerprint": FINGERPRINT,
            "usage": usage(&self.wish, answers, true), "prompt_logprobs": null, "prompt_token_ids": null, "prompt_text": null,
            "kv_transfer_params": null, "ec_transfer_params": null, "metrics": null,
        })
    }

    /// Part of the first token's event: vLLM says nothing before it has something to say.
    fn opening(&mut self) -> String {
        let choice = json!({"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": null, "finish_reason": null});
        let mut chunk = self.chunk(vec![choice]);
        chunk["prompt_token_ids"] = Value::Null;
        chunk["prompt_text"] = Value::Null;
        data(&chunk)
    }

    fn token(&mut self, index: usize, text: &str, finish: Option<Finish>) -> String {
        let mut choice = json!({
            "index": index, "delta": {"content": text}, "logprobs": null, "finish_reason": finish.map(Finish::openai), "token_ids": null,
        });
        if finish.is_some() {
            choice["stop_reason"] = Value::Null;
        }
        let mut chunk = self.chunk(vec![choice]);
        mark_last(&mut chunk, &self.wish, finish);
        data(&chunk)
    }

    fn closing(&mut self, answers: &[Answer]) -> String {
        closing(self.chunk(Vec::new()), &self.wish, answers)
    }
}

impl Chat {
    fn chunk(&self, choices: Vec<Value>) -> Value {
        json!({
            "id": format!("chatcmpl-{}", self.wish.id), "object": "chat.completion.chunk", "created": self.wish.created,
            "model": self.wish.model, "choices": choices,
        })
    }
}

impl Framing for Completion {
    const OPENS_AT_ONCE: bool = false;

    fn whole(&self, answers: &[Answer]) -> Value {
        let choice = |(index, answer): (usize, &Answer)| {
            json!({
                "index": index, "text": answer.text, "logprobs": null, "finish_reason": answer.finish.openai(), "stop_reason": null,
                "token_ids": null, "prompt_logprobs": null, "prompt_token_ids": null, "routed_experts": null,
            })
        };
        let choices: Vec<Value> = answers.iter().enumerate().map(choice).collect();
        let mut body = self.chunk(choices);
        let rest = json!({
            "service_tier": null, "system_fingerprint": FINGERPRINT, "usage": usage(&self.wish, answers, true),
            "kv_transfer_params": null, "ec_transfer_params": null, "metrics": null,
        });
        extend(&mut body, rest);
        body
    }

    fn opening(&mut self) -> String {
        String::new()
    }

    fn token(&mut self, index: usize, text: &str, finish: Option<Finish>) -> String {
        let choice = json!({
            "index": index, "text": text, "logprobs": null, "finish_reason": finish.map(Finish::openai), "stop_reason": null,
            "prompt_token_ids": null, "token_ids": null,
        });
        let mut chunk = self.chunk(vec![choice]);
        mark_last(&mut chunk, &self.wish, finish);
        data(&chunk)
    }

    fn closing(&mut self, answers: &[Answer]) -> String {
        closing(self.chunk(Vec::new()), &self.wish, answers)
    }
}

impl Completion {
    fn chunk(&self, choices: Vec<Value>) -> Value {
        json!({
            "id": format!("cmpl-{}", self.wish.id), "object": "text_completion", "created": self.wish.created,
            "model": self.wish.model, "choices": choices,
        })
    }
}

/// The fingerprint rides on a stream's last event with content: the usage, if there is one.
fn mark_last(chunk: &mut Value, wish: &Wish, finish: Option<Finish>) {
    if finish.is_some() && !wish.include_usage {
        chunk["system_fingerprint"] = FINGERPRINT.into();
    }
}

fn closing(mut chunk: Value, wish: &Wish, answers: &[Answer]) -> String {
    let mut text = String::new();
    if wish.include_usage {
        extend(
            &mut chunk,
            json!({"usage": usage(wish, answers, false), "system_fingerprint": FINGERPRINT}),
        );
        text = data(&chunk);
    }
    text + "data: [DONE]\n\n"
}

fn usage(wish: &Wish, answers: &[Answer], details: bool) -> Value {
    let tokens = total_tokens(answers);
    let mut usage = json!({
        "prompt_tokens": wish.prompt_tokens, "total_tokens": wish.prompt_tokens + tokens, "completion_tokens": tokens,
    });
    if details {
        extend(
            &mut usage,
            json!({"prompt_tokens_details": null, "completion_tokens_details": null}),
        );
    }
    usage
}

fn extend(object: &mut Value, more: Value) {
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
}

fn data(chunk: &Value) -> String {
    format!("data: {chunk}\n\n")
}
