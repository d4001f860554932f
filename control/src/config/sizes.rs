//! `memory` of one model: what it takes, and who says so.

use greenthread_core::{
    ids::Bytes,
    model::{Size, Sizes, Source},
};

use super::{
    reader::{Place, Reader, Section},
    units,
};

/// What stays of a sleeping vLLM when nobody said how much: a CUDA context and its graphs.
const ASLEEP: u64 = 1 << 30;

/// The figures of one model, per GPU, and the places of what is checked further.
pub(super) struct Memory {
    pub(super) awake: Bytes,
    pub(super) asleep: Bytes,
    pub(super) sizes: Sizes,
    pub(super) places: Places,
}

/// Where figures were written.
pub(super) struct Places {
    pub(super) awake: Place,
    pub(super) asleep: Place,
    pub(super) waking: Place,
    pub(super) sleeping: Place,
    pub(super) host: Place,
}

/// Reads `memory` of a model.
pub(super) fn read(model: &Section<'_>, reader: &Reader<'_>) -> Memory {
    let memory = model.section("memory");
    let awake = memory.read("awake", units::positive_size);
    if awake.is_none() && !memory.has("awake") {
        let cause = "how much of each GPU the model takes while awake must be known; for vLLM write gpu-memory-utilization × the GPU's size, like 17GiB";
        reader.wrong(&memory.place_of("awake"), cause);
    }
    let size = |key, otherwise| match memory.read(key, units::size) {
        Some(read) => Size {
            bytes: Bytes(read.value),
            source: Source::Declared,
        },
        None => Size {
            bytes: otherwise,
            source: Source::Default,
        },
    };
    let asleep = size("asleep", Bytes(ASLEEP));
    // A model whose size is unknown is reported already; it must not raise more errors about memory.
    let awake = awake.map_or(asleep.bytes, |read| Bytes(read.value));
    // What leaves the GPU, cache included: weights cannot be more.
    let weights = awake.less(asleep.bytes);
    let waking = size("waking", Bytes(0));
    let sizes = Sizes {
        awake: Source::Declared,
        asleep: asleep.source,
        waking,
        starting: waking,
        sleeping: size("sleeping", Bytes(0)),
        host: size("host", weights),
        disk: size("disk", weights),
    };
    let places = Places {
        awake: memory.place_of("awake"),
        asleep: memory.place_of("asleep"),
        waking: memory.place_of("waking"),
        sleeping: memory.place_of("sleeping"),
        host: memory.place_of("host"),
    };
    memory.finish();
    Memory {
        awake,
        asleep: asleep.bytes,
        sizes,
        places,
    }
}
