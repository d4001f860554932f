//! One item of `models`, read and completed with the defaults of the file.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
};

use greenthread_core::{
    ids::{Bytes, GpuId, Millis, ModelId},
    model::{Caps, Durations, ModelSpec, OnLeaseEnd},
    phase::Tier,
};
use sha2::{Digest, Sha256};

use super::{
    EngineKind, EngineSpec, Model, Surroundings,
    behaviour::{self, Behaviour},
    check::millis,
    prefix,
    reader::{Place, Read, Reader, Section},
    sizes, units,
};

/// Durations before anything was measured: a vLLM with a model of a few billion weights on local disk.
const FIRST_GUESS: Durations = Durations {
    start: Millis::seconds(60),
    wake: Millis::seconds(2),
    sleep: Millis::seconds(2),
    reload: Millis::seconds(10),
};

/// Weights are read again so fast at least, in bytes per second, until it was measured.
const READ_PER_SECOND: u64 = 1 << 30;

/// A model and the places of what is checked against other models.
pub(super) struct Draft {
    pub(super) model: Model,
    pub(super) name_place: Place,
    pub(super) prefixes: Vec<Read<String>>,
    pub(super) gpus: Vec<Read<GpuId>>,
    pub(super) memory_places: sizes::Places,
    pub(super) pinned_place: Place,
    pub(super) tier_place: Place,
    pub(super) engine_place: Place,
}

fn on_lease_end(text: &str) -> Result<OnLeaseEnd, String> {
    match text {
        "flow" => Ok(OnLeaseEnd::Flow),
        "hold" => Ok(OnLeaseEnd::Hold),
        other => Err(format!("{other} is neither flow nor hold")),
    }
}

fn text(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        Err("it is empty".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

fn expose(path: &str) -> Result<String, String> {
    if path.starts_with('/') {
        Ok(path.to_owned())
    } else {
        Err(format!("{path} must start with a slash, like /metrics"))
    }
}

/// Reads one model. `None`: without a name, an id and an engine there is nothing to check further.
pub(super) fn draft(
    item: &Read<&super::tree::Node>,
    base: Behaviour,
    gpu_sizes: &[u64],
    around: &Surroundings,
    reader: &Reader<'_>,
) -> Option<Draft> {
    let section = Section::item(reader, item);
    let name = section.read("name", prefix::name);
    let served = section.read("model", text);
    for (key, missing) in [("name", name.is_none()), ("model", served.is_none())] {
        if missing && !section.has(key) {
            reader.wrong(
                &section.place,
                format!("the model has no {key}; write `{key}: …`"),
            );
        }
    }
    let prefixes = read_prefixes(&section, name.as_ref(), reader);
    let gpus = read_gpus(&section, reader);
    let memory = sizes::read(&section, reader);
    let behaviour = behaviour::read(&section, base);
    let lease_end = section
        .read("onLeaseEnd", on_lease_end)
        .map(|read| read.value);
    let expose = parsed(section.texts("expose"), expose, reader)
        .into_iter()
        .map(|read| read.value)
        .collect();
    let max_model_len = section
        .read("maxModelLen", units::count)
        .map(|read| read.value);
    let first_gpu = gpus.first().map_or(0, |gpu| gpu.value.0);
    let words = Words {
        name: name.as_ref().map_or("", |read| &read.value),
        served: served.as_ref().map_or("", |read| &read.value),
        state: &around.state.to_string_lossy(),
        gpu: first_gpu,
        gpus: gpus
            .iter()
            .map(|gpu| gpu.value.0.to_string())
            .collect::<Vec<_>>()
            .join(","),
        gpu_memory: gpu_sizes.get(first_gpu).copied().unwrap_or(0),
    };
    let engine = read_engine(&section.section("engine"), &words, reader);
    let pinned_place = section.section("fairness").place_of("pinned");
    let tier_place = section.section("sleep").place_of("tier");
    section.finish();

    let (name, served, (engine, engine_place)) = (name?, served?, engine?);
    let digest = digest(&name.value, &engine);
    let spec = spec(
        ModelId(format!("{}.{}", name.value, &digest[..8])),
        &engine,
        behaviour,
        lease_end,
        &memory,
        &gpus,
    );
    let model = Model {
        served: served.value,
        prefixes: prefixes.iter().map(|read| read.value.clone()).collect(),
        engine: beside_us(engine, around),
        expose,
        max_model_len,
        on_lease_end: lease_end,
        spec,
        cluster: format!("gt-{}", &digest[..12]),
        name: name.value,
    };
    Some(Draft {
        model,
        name_place: name.place,
        prefixes,
        gpus,
        memory_places: memory.places,
        pinned_place,
        tier_place,
        engine_place,
    })
}

fn parsed<T>(
    texts: Vec<Read<String>>,
    parse: impl Fn(&str) -> Result<T, String>,
    reader: &Reader<'_>,
) -> Vec<Read<T>> {
    let one = |read: Read<String>| match parse(&read.value) {
        Ok(value) => Some(Read {
            value,
            place: read.place,
        }),
        Err(cause) => {
            reader.wrong(&read.place, cause);
            None
        }
    };
    texts.into_iter().filter_map(one).collect()
}

fn read_prefixes(
    section: &Section<'_>,
    name: Option<&Read<String>>,
    reader: &Reader<'_>,
) -> Vec<Read<String>> {
    if section.has("prefixes") {
        let written = section.texts("prefixes");
        if written.is_empty() {
            reader.wrong(
                &section.place_of("prefixes"),
                "a model needs at least one prefix; leave the field out to use its name",
            );
        }
        return parsed(written, prefix::prefix, reader);
    }
    parsed(name.cloned().into_iter().collect(), prefix::prefix, reader)
}

fn read_gpus(section: &Section<'_>, reader: &Reader<'_>) -> Vec<Read<GpuId>> {
    if !section.has("gpus") {
        return vec![Read {
            value: GpuId(0),
            place: section.place_of("gpus"),
        }];
    }
    let index = |text: &str| {
        text.parse()
            .map(GpuId)
            .map_err(|_| format!("{text} is no number of a GPU; the first of gpus is 0"))
    };
    let mut gpus = parsed(section.texts("gpus"), index, reader);
    if gpus.is_empty() {
        reader.wrong(&section.place_of("gpus"), "a model needs at least one GPU");
    }
    gpus.sort_by_key(|gpu| gpu.value);
    for pair in gpus.windows(2) {
        if let [first, second] = pair
            && first.value == second.value
        {
            reader.wrong(
                &second.place,
                format!("GPU {} is given twice", second.value.0),
            );
        }
    }
    gpus
}

/// What placeholders in a command stand for.
struct Words<'a> {
    name: &'a str,
    served: &'a str,
    state: &'a str,
    gpu: usize,
    gpus: String,
    gpu_memory: u64,
}

impl Words<'_> {
    fn fill(&self, argument: &str, port: u16) -> String {
        argument
            .replace("{port}", &port.to_string())
            .replace("{name}", self.name)
            .replace("{model}", self.served)
            .replace("{state}", self.state)
            .replace("{gpu}", &self.gpu.to_string())
            .replace("{gpus}", &self.gpus)
            .replace("{gpu-memory}", &format!("{}B", self.gpu_memory))
    }
}

fn read_engine(
    section: &Section<'_>,
    words: &Words<'_>,
    reader: &Reader<'_>,
) -> Option<(EngineSpec, Place)> {
    let kind = section.read_or("type", EngineKind::Vllm, engine_kind).value;
    let url = section.read("url", units::url);
    let port = section.read("port", units::port);
    let command = section.texts("command");
    let env: BTreeMap<String, String> = section.map("env");
    let wrong = |key: &str, cause: &str| reader.wrong(&section.place_of(key), cause);
    let (has_url, has_command) = (section.has("url"), section.has("command"));
    let result = match (has_url, has_command) {
        (false, false) => {
            reader.wrong(&section.place, "the model has no engine; give it a url to attach to one that runs, or a command and a port to start one");
            None
        }
        (true, true) => {
            wrong(
                "url",
                "there are a url and a command; keep url to attach to an engine that runs, or command to start one",
            );
            None
        }
        (true, false) => {
            for (key, given) in [("port", section.has("port")), ("env", section.has("env"))] {
                if given {
                    wrong(
                        key,
                        "this is for an engine that is started; with url the engine runs already, so leave it out",
                    );
                }
            }
            url.map(|url| {
                (
                    EngineSpec {
                        kind,
                        address: url.value,
                        command: None,
                        env,
                    },
                    url.place,
                )
            })
        }
        (false, true) => {
            if command.is_empty() {
                wrong(
                    "command",
                    "the command is empty; write the program and its arguments as a list",
                );
            } else if !command
                .iter()
                .any(|argument| argument.value.contains("{port}"))
            {
                wrong(
                    "command",
                    "no argument has {port}; the engine must be told where to listen, like [vllm, serve, ID, --port, \"{port}\"]",
                );
            }
            if !section.has("port") {
                wrong(
                    "port",
                    "an engine that is started needs a port of its own; write `port: 9001`",
                );
            }
            port.map(|port| {
                let filled = command
                    .iter()
                    .map(|argument| words.fill(&argument.value, port.value))
                    .collect();
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.value));
                (
                    EngineSpec {
                        kind,
                        address,
                        command: Some(filled),
                        env,
                    },
                    port.place,
                )
            })
        }
    };
    section.finish();
    result
}

fn engine_kind(text: &str) -> Result<EngineKind, String> {
    match text {
        "vllm" => Ok(EngineKind::Vllm),
        other => Err(format!("{other} is no engine type; known is vllm")),
    }
}

/// Name, address and command in 64 hexadecimal digits: another engine under the same name is another row and another cluster.
fn digest(name: &str, engine: &EngineSpec) -> String {
    let mut hash = Sha256::new();
    let address = engine.address.to_string();
    for part in [name, &address]
        .into_iter()
        .chain(engine.command.iter().flatten().map(String::as_str))
    {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// `engine-sim` is found beside this program when it lies there; everything else, and it too otherwise, on the PATH.
fn beside_us(mut engine: EngineSpec, around: &Surroundings) -> EngineSpec {
    if let (Some(command), Some(simulator)) = (&mut engine.command, &around.engine_sim)
        && let Some(program) = command.first_mut()
        && program == "engine-sim"
    {
        *program = simulator.to_string_lossy().into_owned();
    }
    engine
}

fn spec(
    id: ModelId,
    engine: &EngineSpec,
    behaviour: Behaviour,
    lease_end: Option<OnLeaseEnd>,
    memory: &sizes::Memory,
    gpus: &[Read<GpuId>],
) -> ModelSpec {
    let caps = match engine.kind {
        EngineKind::Vllm => Caps {
            counts: true,
            lossless: true,
            restartable: engine.command.is_some(),
            // Allowed here; whether the engine can do it is for the engine to show. Where a reload fails the engine is lost, so an
            // engine that control cannot start again has to be asked for it by name.
            disk: match behaviour.tier {
                Some(Tier::Disk) => true,
                Some(Tier::Ram | Tier::Stopped) => false,
                None => engine.command.is_some(),
            },
        },
    };
    // Rule 14: only an engine that keeps what it receives while asleep may go on without a lease.
    let default_lease_end = if caps.lossless {
        OnLeaseEnd::Flow
    } else {
        OnLeaseEnd::Hold
    };
    ModelSpec {
        id,
        gpus: gpus.iter().map(|gpu| gpu.value).collect(),
        awake: memory.awake,
        asleep: memory.asleep,
        conditioned: false,
        sizes: memory.sizes,
        pinned: behaviour.pinned,
        tier: behaviour.tier,
        popular: behaviour.popular,
        idle_timeout: behaviour.idle_timeout.map(millis),
        drain_timeout: millis(behaviour.drain_timeout),
        on_drain_timeout: behaviour.on_drain_timeout,
        max_freeze: millis(behaviour.max_freeze),
        min_runtime: millis(behaviour.min_runtime),
        max_wait: millis(behaviour.max_wait),
        on_lease_end: lease_end.unwrap_or(default_lease_end),
        caps,
        guess: Durations {
            reload: first_reload(memory.sizes.disk.bytes),
            ..FIRST_GUESS
        },
    }
}

/// How long a wake from disk takes by its weights, before one was measured.
fn first_reload(weights: Bytes) -> Millis {
    FIRST_GUESS
        .reload
        .max(Millis(weights.0.saturating_mul(1_000) / READ_PER_SECOND))
}
