//! What an inference request asks for, parsed once.

use axum::body::Bytes;
use serde_json::{Map, Value};

use super::error::ApiError;
use crate::{args::Args, text};

/// Tokens of an answer whose request names no limit.
const MAX_TOKENS_DEFAULT: u64 = 16;
/// All ids and times are derived from the request; times lie in the second before this one, in Unix seconds.
const EPOCH_S: u64 = 1_700_000_000;

/// A request's JSON object.
#[derive(Clone, Debug)]
pub(crate) struct Fields {
    fields: Map<String, Value>,
    hash: u64,
}

impl Fields {
    /// Parses a body.
    pub(crate) fn parse(body: &Bytes) -> Result<Self, ApiError> {
        let fields = serde_json::from_slice(body).map_err(|_no_object| ApiError::Invalid {
            place: "body".to_owned(),
            problem: "Input should be a valid dictionary",
        })?;
        Ok(Self {
            fields,
            hash: text::hash(&[body]),
        })
    }

    /// A field that is there and not null.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    /// A field without which the request is invalid.
    pub(crate) fn required(&self, name: &str) -> Result<&Value, ApiError> {
        self.get(name).ok_or_else(|| ApiError::Invalid {
            place: format!("body.{name}"),
            problem: "Field required",
        })
    }

    /// A switch, off when absent.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    /// The model that the answer names. None in the request means the one that is served.
    pub(crate) fn model(&self, args: &Args) -> Result<String, ApiError> {
        let asked = self
            .get("model")
            .and_then(Value::as_str)
            .unwrap_or(&args.model);
        if asked == args.model {
            Ok(asked.to_owned())
        } else {
            Err(ApiError::UnknownModel {
                asked: asked.to_owned(),
                known: args.model.clone(),
            })
        }
    }

    /// Sixteen hexadecimal digits that follow from the request.
    pub(crate) fn id(&self) -> String {
        format!("{:016x}", self.hash)
    }

    /// A time that follows from the request, in Unix seconds.
    pub(crate) fn created(&self) -> u64 {
        EPOCH_S + self.hash % 86_400
    }

    /// The wish for text: prompts and how much to answer. `limit` is the field that says how many tokens.
    pub(crate) fn wish(
        &self,
        args: &Args,
        prompts: Vec<String>,
        limits: &[&'static str],
    ) -> Result<Wish, ApiError> {
        let prompt_tokens: u64 = prompts.iter().map(|prompt| text::token_count(prompt)).sum();
        let limit = limits
            .iter()
            .find_map(|name| self.get(name).map(|value| (*name, value)));
        let max_tokens = match limit {
            Some((name, value)) => positive(name, value)?,
            None => MAX_TOKENS_DEFAULT,
        };
        if max_tokens > args.max_model_len {
            let message = format!(
                "max_tokens={max_tokens} cannot be greater than max_model_len={}.",
                args.max_model_len
            );
            return Err(ApiError::Rejected {
                message,
                parameter: "max_tokens",
            });
        }
        if prompt_tokens >= args.max_model_len {
            let message = format!(
                "This model's maximum context length is {} tokens. Your prompt is longer.",
                args.max_model_len
            );
            return Err(ApiError::Rejected {
                message,
                parameter: "input_tokens",
            });
        }
        let include_usage = self
            .get("stream_options")
            .and_then(|options| options.get("include_usage"))
            .and_then(Value::as_bool);
        Ok(Wish {
            model: self.model(args)?,
            id: self.id(),
            created: self.created(),
            prompts,
            prompt_tokens,
            max_tokens,
            limited: limit.is_some() || self.flag("ignore_eos"),
            stream: self.flag("stream"),
            include_usage: include_usage.unwrap_or(false),
        })
    }
}

/// What a request for text asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    /// Model id for the answer.
    pub model: String,
    /// Id without the prefix of its API.
    pub id: String,
    /// Unix seconds.
    pub created: u64,
    /// At least one.
    pub prompts: Vec<String>,
    /// Of all prompts.
    pub prompt_tokens: u64,
    /// Of each answer.
    pub max_tokens: u64,
    /// The answer ends because of the limit, not by itself.
    pub limited: bool,
    /// Send tokens as they are computed.
    pub stream: bool,
    /// Send the counts at the end of a stream.
    pub include_usage: bool,
}

fn positive(name: &'static str, value: &Value) -> Result<u64, ApiError> {
    match value.as_i64() {
        Some(number) if number >= 1 => Ok(number.unsigned_abs()),
        Some(number) => {
            let message = format!("{name} must be at least 1, got {number}.");
            Err(ApiError::Rejected {
                message,
                parameter: name,
            })
        }
        None => Err(ApiError::Invalid {
            place: format!("body.{name}"),
            problem: "Input should be a valid integer",
        }),
    }
}

/// The text of a conversation, role by role.
pub(crate) fn conversation(messages: &Value) -> String {
    let turns = messages.as_array().map_or(&[][..], Vec::as_slice);
    let role = |turn: &Value| {
        turn.get("role")
            .and_then(Value::as_str)
            .unwrap_or("user")
            .to_owned()
    };
    turns
        .iter()
        .map(|turn| {
            format!(
                "{}: {}\n",
                role(turn),
                content(turn.get("content").unwrap_or(&Value::Null))
            )
        })
        .collect()
}

/// The text of a message: a string, or the strings among its parts.
pub(crate) fn content(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(content).collect(),
        Value::Object(part) => part
            .get("text")
            .or_else(|| part.get("content"))
            .map(content)
            .unwrap_or_default(),
        Value::Null | Value::Bool(_) | Value::Number(_) => String::new(),
    }
}

/// A list of texts: a string is a list of one; a list of numbers is one text of tokens.
pub(crate) fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) if items.iter().all(Value::is_number) && !items.is_empty() => {
            vec![tokens_text(items)]
        }
        Value::Array(items) => items.iter().flat_map(texts).collect(),
        Value::String(_) | Value::Object(_) => vec![content(value)],
        Value::Null | Value::Bool(_) | Value::Number(_) => Vec::new(),
    }
}

fn tokens_text(items: &[Value]) -> String {
    let tokens: Vec<u32> = items
        .iter()
        .filter_map(|item| item.as_u64().and_then(|token| u32::try_from(token).ok()))
        .collect();
    text::detokenize(&tokens)
}
