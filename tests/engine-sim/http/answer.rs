//! Computes answers and sends them, whole or as a stream of server-sent events. The four text APIs differ in a [`Framing`] only.

use std::{collections::VecDeque, convert::Infallible};

use axum::{
    Json,
    body::Body,
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde_json::Value;

use super::request::Wish;
use crate::engine::{Generation, Step};

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    /// By itself.
    Stop,
    /// The limit on tokens.
    Length,
    /// The engine was paused with `mode=abort`.
    Abort,
}

impl Finish {
    /// The word of the OpenAI API.
    pub(crate) fn openai(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Abort => "abort",
        }
    }
}

/// One computed answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Its text.
    pub text: String,
    /// Its length.
    pub tokens: u64,
    /// Why it ended.
    pub finish: Finish,
}

/// How an API writes answers.
pub(crate) trait Framing: Send + 'static {
    /// Whether the opening is sent before the first token is there.
    const OPENS_AT_ONCE: bool;
    /// The body of a whole answer, one per prompt.
    fn whole(&self, answers: &[Answer]) -> Value;
    /// First events of a stream.
    fn opening(&mut self) -> String;
    /// Events for one token (empty for an abort) of the answer to prompt `index`, and for its end when it is the last.
    fn token(&mut self, index: usize, text: &str, finish: Option<Finish>) -> String;
    /// Last events of a stream.
    fn closing(&mut self, answers: &[Answer]) -> String;
}

/// Computes what is wished and answers in the API's shape.
pub(crate) async fn answer<F: Framing>(
    wish: &Wish,
    generations: Vec<Generation>,
    framing: F,
) -> Response {
    let mut work = Work {
        left: generations.into(),
        current: None,
        answers: Vec::new(),
        max_tokens: wish.max_tokens,
        limited: wish.limited,
    };
    if wish.stream {
        let events = Events {
            work,
            framing,
            place: Place::Start,
        };
        let headers = [(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")];
        return (
            headers,
            Body::from_stream(stream::unfold(events, Events::next)),
        )
            .into_response();
    }
    while work.step().await.is_some() {}
    Json(framing.whole(&work.answers)).into_response()
}

/// Answers in the order of their prompts.
struct Work {
    left: VecDeque<Generation>,
    /// Of the first of `left`: text and tokens so far.
    current: Option<(String, u64)>,
    answers: Vec<Answer>,
    max_tokens: u64,
    limited: bool,
}

/// One token of one answer.
struct Token {
    index: usize,
    text: String,
    finish: Option<Finish>,
}

impl Work {
    /// `None` when everything is computed.
    async fn step(&mut self) -> Option<Token> {
        let index = self.answers.len();
        let step = self.left.front_mut()?.step().await;
        let (mut whole, mut tokens) = self.current.take().unwrap_or_default();
        let (text, finish) = match step {
            Step::Aborted => (String::new(), Some(Finish::Abort)),
            Step::Token(text) => {
                tokens += 1;
                (text, self.finish_after(tokens))
            }
        };
        whole.push_str(&text);
        match finish {
            Some(finish) => self.finish(Answer {
                text: whole,
                tokens,
                finish,
            }),
            None => self.current = Some((whole, tokens)),
        }
        Some(Token {
            index,
            text,
            finish,
        })
    }

    fn finish_after(&self, tokens: u64) -> Option<Finish> {
        let own = if self.limited {
            Finish::Length
        } else {
            Finish::Stop
        };
        (tokens == self.max_tokens).then_some(own)
    }

    fn finish(&mut self, answer: Answer) {
        let aborted = answer.finish == Finish::Abort;
        self.answers.push(answer);
        if let Some(generation) = self.left.pop_front()
            && !aborted
        {
            generation.complete();
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Start,
    Tokens,
    End,
}

/// A stream under way. Dropping it, when the client is gone, ends its generations.
struct Events<F> {
    work: Work,
    framing: F,
    place: Place,
}

impl<F: Framing> Events<F> {
    async fn next(mut self) -> Option<(Result<String, Infallible>, Self)> {
        let mut text = String::new();
        match self.place {
            Place::End => return None,
            Place::Start => {
                text = self.framing.opening();
                self.place = Place::Tokens;
                if F::OPENS_AT_ONCE {
                    return Some((Ok(text), self));
                }
            }
            Place::Tokens => (),
        }
        match self.work.step().await {
            Some(token) => {
                text.push_str(&self.framing.token(token.index, &token.text, token.finish))
            }
            None => {
                text.push_str(&self.framing.closing(&self.work.answers));
                self.place = Place::End;
            }
        }
        Some((Ok(text), self))
    }
}

/// Tokens of all answers together.
pub(crate) fn total_tokens(answers: &[Answer]) -> u64 {
    answers.iter().map(|answer| answer.tokens).sum()
}
