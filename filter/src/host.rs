//! The gate inside Envoy: callbacks of proxy-wasm become calls of [`Gate`], its effects become host calls.
//!
//! The only file that names `proxy_wasm`. Rules that each cost somebody a dead worker: header values are bytes; host calls
//! return `Result`s that are looked at; a held request goes on only from a tick, never from a callback of another request;
//! the gate is borrowed for the length of a call and never while the host is called.
#![allow(
    unsafe_code,
    reason = "the module's entry point and a few host calls: the SDK panics on every status it does not expect"
)]

mod raw;

use std::{
    cell::{Cell, RefCell},
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    rc::Rc,
    time::{Duration, UNIX_EPOCH},
};

use prost::Message;
use proxy_wasm::{
    hostcalls,
    traits::{Context, HttpContext, RootContext},
    types::{Action, BufferType, ContextType, LogLevel, MapType},
};

use crate::{
    answers::{Answer, Api, Reply},
    config::Config,
    gate::{Effect, Forward, Gate, Verdict},
    hold::RequestId,
    shared::{Surroundings, TABLE_KEY},
    time::Millis,
};

const SERVICE: &str = "greenthread.gate.v1.GateControl";
const METHOD: &str = "Attach";
/// From the root's creation to its first tick, and the shortest period that is ever set.
const FIRST_TICK: Millis = Millis(5);
const SHORTEST_PERIOD: Millis = Millis(2);

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|id| Box::new(Root { id, gate: None }));
}}

fn log(level: LogLevel, text: &str) {
    // A line that cannot be logged is lost; there is nobody to tell.
    let _ = hostcalls::log(level, text);
}

/// Request headers and shared data as Envoy has them now.
struct Envoy;

impl Surroundings for Envoy {
    fn header(&self, name: &str) -> Option<Vec<u8>> {
        hostcalls::get_map_value_bytes(MapType::HttpRequestHeaders, name)
            .ok()
            .flatten()
    }

    fn shared(&self, key: &str) -> Option<Vec<u8>> {
        hostcalls::get_shared_data(key)
            .ok()
            .and_then(|(value, _)| value)
    }
}

/// A gate and what of Envoy belongs to it.
struct Driver {
    root: u32,
    gate: RefCell<Gate>,
    service: String,
    authorization: Option<Vec<u8>>,
    /// Envoy's token of the open stream, and the gate's number of it.
    stream: Cell<Option<(u32, u64)>>,
    /// Streams to reset in the next tick: not in a callback of the stream, whose other messages Envoy may still be delivering.
    doomed: Cell<Vec<u32>>,
    period: Cell<Millis>,
    next_tick: Cell<Millis>,
}

impl Driver {
    fn new(root: u32, config: Config) -> Self {
        let service = config.grpc_service();
        let authorization = config
            .control
            .token
            .as_ref()
            .map(|token| format!("Bearer {token}").into_bytes());
        let gate = Gate::new(
            config,
            random_id(),
            raw::now(),
            Envoy.shared(TABLE_KEY).as_deref(),
        );
        Self {
            root,
            gate: RefCell::new(gate),
            service,
            authorization,
            stream: Cell::new(None),
            doomed: Cell::default(),
            period: Cell::new(Millis(0)),
            next_tick: Cell::new(Millis(u64::MAX)),
        }
    }

    /// Borrows the gate for one call, then does what it asked for. `None`: the gate is borrowed, which would be a mistake of
    /// this file; it costs one callback instead of the VM.
    fn call<T>(&self, f: impl FnOnce(&mut Gate, &mut Vec<Effect>) -> T) -> Option<T> {
        let mut effects = Vec::new();
        let result = match self.gate.try_borrow_mut() {
            Ok(mut gate) => f(&mut gate, &mut effects),
            Err(_) => {
                log(LogLevel::Error, "the gate was called while it was busy");
                return None;
            }
        };
        for effect in effects {
            self.perform(effect);
        }
        Some(result)
    }

    fn perform(&self, effect: Effect) {
        match effect {
            Effect::Open { stream } => self.open(stream),
            Effect::Send(message) => {
                if let Some((token, _)) = self.stream.get() {
                    // A lost message is noticed by its missing echo.
                    let _ = hostcalls::send_grpc_stream_message(
                        token,
                        Some(&message.encode_to_vec()),
                        false,
                    );
                }
            }
            Effect::Close => {
                let mut doomed = self.doomed.take();
                doomed.extend(self.stream.take().map(|(token, _)| token));
                self.doomed.set(doomed);
            }
            Effect::Finish => {
                if let Some((token, _)) = self.stream.get() {
                    let _ = hostcalls::close_grpc_stream(token);
                }
            }
            Effect::Resume { request, headers } => self.resume(request, headers),
            Effect::Reply { request, reply } => {
                self.as_request(request, || answer(&reply));
            }
            Effect::Share { key, value } => {
                let _ = hostcalls::set_shared_data(&key, Some(&value), None);
            }
            Effect::Warn(text) => log(LogLevel::Warn, &text),
            Effect::Done => {
                self.set_period(Millis(0));
                raw::done();
            }
        }
    }

    fn open(&self, stream: u64) {
        let mut metadata: Vec<(&str, &[u8])> = Vec::new();
        if let Some(authorization) = &self.authorization {
            metadata.push(("authorization", authorization));
        }
        match hostcalls::open_grpc_stream(&self.service, SERVICE, METHOD, metadata) {
            Ok(token) => self.stream.set(Some((token, stream))),
            Err(status) => {
                log(
                    LogLevel::Info,
                    &format!("no stream to control yet: {status:?}"),
                );
                self.call(|gate, _| gate.on_stream_closed(raw::now(), stream));
            }
        }
    }

    fn resume(&self, request: RequestId, headers: Forward) {
        self.as_request(request, || {
            if set_headers(&headers) {
                raw::resume_request();
            } else {
                answer(&unavailable());
            }
        });
    }

    /// Runs host calls for a request that is not the current one. Only from root callbacks.
    fn as_request(&self, request: RequestId, f: impl FnOnce()) {
        if hostcalls::set_effective_context(request.0).is_ok() {
            f();
            let _ = hostcalls::set_effective_context(self.root);
        }
    }

    /// Sets the period only when it changes: setting it restarts the timer.
    fn set_period(&self, period: Millis) {
        if self.period.replace(period) != period {
            let _ = hostcalls::set_tick_period(Duration::from_millis(period.0));
        }
    }

    fn after_tick(&self) {
        for token in self.doomed.take() {
            let _ = hostcalls::cancel_grpc_stream(token);
        }
        let now = raw::now();
        let Some(next) = self.call(|gate, _| gate.next_tick(now)) else {
            return;
        };
        let period = next.since(now).max(SHORTEST_PERIOD);
        if self.period.get() != Millis(0) {
            self.set_period(period);
            self.next_tick.set(now.plus(period));
        }
    }

    /// After other callbacks: brings the next tick forward when it is wanted earlier than the timer fires.
    fn hurry(&self, now: Millis) {
        let Some(next) = self.call(|gate, _| gate.next_tick(now)) else {
            return;
        };
        if next < self.next_tick.get() {
            let period = next.since(now).max(SHORTEST_PERIOD);
            self.period.set(Millis(0));
            self.set_period(period);
            self.next_tick.set(now.plus(period));
        }
    }
}

/// 128 random bits: every hasher of the standard library is seeded by the host's `random_get`.
fn random_id() -> String {
    let draw = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", draw(), draw())
}

fn set_headers(headers: &Forward) -> bool {
    headers
        .iter()
        .all(|(name, value)| raw::set_request_header(name, value))
}

fn answer(reply: &Reply) {
    let reason = reply
        .header(crate::answers::REASON_HEADER)
        .unwrap_or("document");
    raw::send_response(reply, &format!("greenthread_{reason}"));
}

fn unavailable() -> Reply {
    Answer::Booting(1).reply(Api::OpenAi, "")
}

struct Root {
    id: u32,
    gate: Option<Rc<Driver>>,
}

impl Context for Root {
    fn on_grpc_stream_message(&mut self, token: u32, size: usize) {
        let Some(driver) = &self.gate else { return };
        let Some((_, stream)) = driver.stream.get().filter(|(current, _)| *current == token) else {
            return;
        };
        let bytes = hostcalls::get_buffer(BufferType::GrpcReceiveBuffer, 0, size)
            .ok()
            .flatten()
            .unwrap_or_default();
        let now = raw::now();
        driver.call(|gate, effects| gate.on_stream_bytes(now, stream, &bytes, effects));
        driver.hurry(now);
    }

    fn on_grpc_stream_close(&mut self, token: u32, status: u32) {
        // Envoy keeps its half of the stream until the module closes it too.
        let _ = hostcalls::close_grpc_stream(token);
        let Some(driver) = &self.gate else { return };
        let Some((_, stream)) = driver.stream.get().filter(|(current, _)| *current == token) else {
            return;
        };
        driver.stream.set(None);
        log(
            LogLevel::Info,
            &format!("stream to control ended with status {status}"),
        );
        let now = raw::now();
        driver.call(|gate, _| gate.on_stream_closed(now, stream));
        driver.hurry(now);
    }

    /// The configuration is being replaced, or Envoy ends.
    fn on_done(&mut self) -> bool {
        let Some(driver) = &self.gate else {
            return true;
        };
        let done = driver.call(|gate, _| gate.on_replaced()).unwrap_or(true);
        if done {
            driver.set_period(Millis(0));
        } else {
            driver.next_tick.set(Millis(u64::MAX));
            driver.hurry(raw::now());
        }
        done
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        let json = hostcalls::get_buffer(BufferType::PluginConfiguration, 0, size)
            .ok()
            .flatten()
            .unwrap_or_default();
        match Config::parse(&json) {
            Ok(config) => {
                let driver = Driver::new(self.id, config);
                driver.set_period(FIRST_TICK);
                driver.next_tick.set(raw::now().plus(FIRST_TICK));
                self.gate = Some(Rc::new(driver));
                true
            }
            Err(error) => {
                log(
                    LogLevel::Error,
                    &format!("plugin configuration refused: {error}"),
                );
                false
            }
        }
    }

    fn on_tick(&mut self) {
        let Some(driver) = &self.gate else { return };
        let wall = hostcalls::get_current_time()
            .ok()
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let wall = Millis(
            wall.and_then(|wall| u64::try_from(wall.as_millis()).ok())
                .unwrap_or(0),
        );
        driver.call(|gate, effects| gate.on_tick(raw::now(), wall, &Envoy, effects));
        driver.after_tick();
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Request {
            id: RequestId(id),
            gate: self.gate.clone(),
        }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

/// One request. Everything about it is known by the gate; this is the handle of its callbacks.
struct Request {
    id: RequestId,
    gate: Option<Rc<Driver>>,
}

impl Context for Request {}

impl HttpContext for Request {
    fn on_http_request_headers(&mut self, _: usize, end_of_stream: bool) -> Action {
        let Some(driver) = &self.gate else {
            return Action::Continue;
        };
        let now = raw::now();
        match driver
            .call(|gate, effects| gate.on_request(now, self.id, end_of_stream, &Envoy, effects))
        {
            Some(Verdict::Pass) => Action::Continue,
            Some(Verdict::Forward(headers)) if set_headers(&headers) => Action::Continue,
            Some(Verdict::Forward(_)) | None => {
                answer(&unavailable());
                Action::Pause
            }
            Some(Verdict::Hold) => {
                driver.hurry(now);
                Action::Pause
            }
            Some(Verdict::Answer(reply)) => {
                answer(&reply);
                driver.hurry(now);
                Action::Pause
            }
        }
    }

    /// By default Envoy does not call this while the headers are held; with `allow_on_headers_stop_iteration` it does, and
    /// Continue would release the request.
    fn on_http_request_body(&mut self, _: usize, _: bool) -> Action {
        let held = self
            .gate
            .as_ref()
            .and_then(|driver| driver.call(|gate, _| gate.is_held(self.id)));
        if held == Some(true) {
            Action::Pause
        } else {
            Action::Continue
        }
    }

    fn on_log(&mut self) {
        if let Some(driver) = &self.gate {
            let now = raw::now();
            driver.call(|gate, _| gate.on_request_end(now, self.id));
            driver.hurry(now);
        }
    }
}
