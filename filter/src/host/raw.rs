//! Host calls whose status is looked at. The SDK's versions panic on a status they do not expect, for instance when a
//! request that is answered from a tick has just ended; and the SDK has no monotonic clock that all VMs share.

use crate::{answers::Reply, time::Millis};

const OK: u32 = 0;
const REQUEST_HEADERS: u32 = 0;
const HTTP_REQUEST: u32 = 0;
const NO_GRPC_STATUS: i32 = -1;
const CLOCK_MONOTONIC: u32 = 1;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_replace_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_continue_stream(stream: u32) -> u32;
    fn proxy_done() -> u32;
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_size: usize,
        body: *const u8,
        body_size: usize,
        headers: *const u8,
        headers_size: usize,
        grpc_status: i32,
    ) -> u32;
}

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn clock_time_get(clock: u32, precision: u64, time: *mut u64) -> u32;
}

/// Envoy's monotonic clock, the same for every VM of the process. (`Instant` reads it too, but hides the number.)
pub(super) fn now() -> Millis {
    let mut nanoseconds = 0;
    // SAFETY: the host writes eight bytes to a valid, aligned place.
    unsafe { clock_time_get(CLOCK_MONOTONIC, 1, &raw mut nanoseconds) };
    Millis(nanoseconds.checked_div(1_000_000).unwrap_or(0))
}

/// Sets a header of the effective request; false when the host refuses.
pub(super) fn set_request_header(name: &str, value: &[u8]) -> bool {
    // SAFETY: the host reads both slices before it returns.
    let status = unsafe {
        proxy_replace_header_map_value(
            REQUEST_HEADERS,
            name.as_ptr(),
            name.len(),
            value.as_ptr(),
            value.len(),
        )
    };
    status == OK
}

/// Lets the effective request go on. A request that has ended meanwhile needs nothing.
pub(super) fn resume_request() {
    // SAFETY: takes no pointers.
    unsafe { proxy_continue_stream(HTTP_REQUEST) };
}

/// Tells Envoy that this root can be destroyed.
pub(super) fn done() {
    // SAFETY: takes no pointers.
    unsafe { proxy_done() };
}

/// Answers the effective request. `details` is what `%RESPONSE_CODE_DETAILS%` logs.
pub(super) fn send_response(reply: &Reply, details: &str) {
    let headers = serialised(&reply.headers);
    // SAFETY: the host copies the slices before it returns.
    unsafe {
        proxy_send_local_response(
            reply.status,
            details.as_ptr(),
            details.len(),
            reply.body.as_ptr(),
            reply.body.len(),
            headers.as_ptr(),
            headers.len(),
            NO_GRPC_STATUS,
        )
    };
}

/// Header maps cross the border as: number of pairs, the lengths of each pair, then names and values, each with a zero behind.
fn serialised(headers: &[(&'static str, String)]) -> Vec<u8> {
    let length = |text: &str| u32::try_from(text.len()).unwrap_or(0).to_le_bytes();
    let mut bytes = u32::try_from(headers.len())
        .unwrap_or(0)
        .to_le_bytes()
        .to_vec();
    for (name, value) in headers {
        bytes.extend(length(name));
        bytes.extend(length(value));
    }
    for (name, value) in headers {
        for text in [*name, value.as_str()] {
            bytes.extend_from_slice(text.as_bytes());
            bytes.push(0);
        }
    }
    bytes
}
