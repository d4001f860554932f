//! `/v1/responses`: text in, text out.

use std::sync::Arc;

use axum::{body::Bytes, extract::State, response::Response};
use serde_json::{Value, json};

use super::{
    answer::{Answer, Finish, Framing, answer, total_tokens},
    error::ApiError,
    request::{Fields, Wish, content, conversation},
};
use crate::engine::Engine;

/// `/v1/responses`.
pub(crate) async fn responses(
    State(engine): State<Arc<Engine>>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let fields = Fields::parse(&body)?;
    let input = fields.required("input")?;
    let text = if input.is_array() {
        conversation(input)
    } else {
        content(input)
    };
    let instructions = fields.get("instructions").map(content);
    let prompt = instructions.clone().unwrap_or_default() + &text;
    let wish = fields.wish(engine.args(), vec![prompt], &["max_output_tokens"])?;
    let generations = wish
        .prompts
        .iter()
        .map(|prompt| engine.submit(prompt))
        .collect();
    let framing = Responses {
        wish: wish.clone(),
        instructions,
        sequence: 0,
    };
    Ok(answer(&wish, generations, framing).await)
}

struct Responses {
    wish: Wish,
    instructions: Option<String>,
    sequence: u64,
}

impl Framing for Responses {
    const OPENS_AT_ONCE: bool = true;

    fn whole(&self, answers: &[Answer]) -> Value {
        let limited = answers
            .last()
            .is_some_and(|answer| answer.finish == Finish::Length);
        let text: String = answers.iter().map(|answer| answer.text.as_str()).collect();
        let mut body = self.response(if limited { "incomplete" } else { "completed" });
        if limited {
            body["incomplete_details"] = json!({"reason": "max_output_tokens"});
        }
        body["output"] = json!([self.item("completed", &[part(&text, Value::Null)])]);
        body["usage"] = self.usage(total_tokens(answers));
        body
    }

    fn opening(&mut self) -> String {
        let response = self.response("in_progress");
        let item = self.item("in_progress", &[]);
        let item_id = self.item_id();
        self.event("response.created", json!({"response": response}))
            + &self.event("response.in_progress", json!({"response": response}))
            + &self.event("response.output_item.added", json!({"item": item, "output_index": 0}))
            + &self.event(
                "response.content_part.added",
                json!({"content_index": 0, "item_id": item_id, "output_index": 0, "part": part("", json!([]))}),
            )
    }

    fn token(&mut self, _index: usize, text: &str, _finish: Option<Finish>) -> String {
        if text.is_empty() {
            return String::new();
        }
        let item_id = self.item_id();
        let fields = json!({"content_index": 0, "delta": text, "item_id": item_id, "logprobs": [], "output_index": 0});
        self.event("response.output_text.delta", fields)
    }

    fn closing(&mut self, answers: &[Answer]) -> String {
        let text: String = answers.iter().map(|answer| answer.text.as_str()).collect();
        let item_id = self.item_id();
        let part = part(&text, Value::Null);
        let item = self.item("completed", std::slice::from_ref(&part));
        let response = self.whole(answers);
        self.event(
            "response.output_text.done",
            json!({"content_index": 0, "item_id": item_id, "logprobs": [], "output_index": 0, "text": text}),
        ) + &self.event(
            "response.content_part.done",
            json!({"content_index": 0, "item_id": item_id, "output_index": 0, "part": part}),
        ) + &self.event("response.output_item.done", json!({"item": item, "output_index": 0}))
            + &self.event("response.completed", json!({"response": response}))
    }
}

impl Responses {
    fn item_id(&self) -> String {
        format!("msg_{}", self.wish.id)
    }

    fn item(&self, status: &str, content: &[Value]) -> Value {
        json!({
            "id": self.item_id(), "content": content, "role": "assistant", "status": status, "type": "message", "phase": null,
        })
    }

    fn response(&self, status: &str) -> Value {
        json!({
            "id": format!("resp_{}", self.wish.id), "created_at": self.wish.created, "incomplete_details": null,
            "instructions": self.instructions, "metadata": null, "model": self.wish.model, "object": "response", "output": [],
            "parallel_tool_calls": true, "temperature": 1.0, "tool_choice": "none", "tools": [], "top_p": 1.0, "background": false,
            "max_output_tokens": self.wish.max_tokens, "max_tool_calls": null, "previous_response_id": null, "prompt": null,
            "reasoning": null, "service_tier": "auto", "status": status, "text": null, "top_logprobs": null, "truncation": "disabled",
            "usage": null, "user": null, "presence_penalty": 0.0, "frequency_penalty": 0.0, "kv_transfer_params": null,
            "ec_transfer_params": null, "input_messages": null, "output_messages": null,
        })
    }

    fn usage(&self, output_tokens: u64) -> Value {
        json!({
            "input_tokens": self.wish.prompt_tokens,
            "input_tokens_details": {
                "cached_tokens": 0, "cache_write_tokens": 0, "input_tokens_per_turn": [], "cached_tokens_per_turn": [],
            },
            "output_tokens": output_tokens,
            "output_tokens_details": {
                "reasoning_tokens": 0, "tool_output_tokens": 0, "output_tokens_per_turn": [], "tool_output_tokens_per_turn": [],
            },
            "total_tokens": self.wish.prompt_tokens + output_tokens,
        })
    }

    fn event(&mut self, name: &str, mut fields: Value) -> String {
        fields["type"] = name.into();
        fields["sequence_number"] = self.sequence.into();
        self.sequence += 1;
        format!("event: {name}\ndata: {fields}\n\n")
    }
}

fn part(text: &str, logprobs: Value) -> Value {
    json!({"annotations": [], "text": text, "type": "output_text", "logprobs": logprobs})
}
