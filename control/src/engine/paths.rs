//! Paths of an engine that change or disclose the engine itself. They are for control only; gates answer 403 for them.
//!
//! Normalised: lower case, single slashes, no dot segments. One that ends in "/" covers everything below it.

/// Control paths of vLLM 0.32 and 0.33 (with and without development mode), and of the simulator's own switches.
pub(super) const VLLM: &[&str] = &[
    // Sleep mode and the scheduler: two of them can corrupt an engine when they race with control's own calls.
    "/sleep",
    "/wake_up",
    "/is_sleeping",
    "/release_kv_cache_memory",
    "/pause",
    "/resume",
    "/is_paused",
    "/abort_requests",
    "/inference/v1/abort_requests",
    // Remote procedure calls, caches, weights.
    "/collective_rpc",
    "/reset_prefix_cache",
    "/reset_mm_cache",
    "/reset_encoder_cache",
    "/weight_checker",
    "/weight_info",
    "/get_world_size",
    "/init_weight_transfer_engine",
    "/shutdown_weight_transfer_engine",
    "/start_weight_update",
    "/start_draft_weight_update",
    "/update_weights",
    "/finish_weight_update",
    "/update_weight_version",
    // Adapters (vLLM's own and SageMaker's spelling).
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/adapters",
    "/adapters/",
    // Profiler, scaling, faults, internals.
    "/start_profile",
    "/stop_profile",
    "/scale_elastic_ep",
    "/is_scaling_elastic_ep",
    "/fault_tolerance/",
    "/server_info",
    "/kv_event_sources",
    "/load",
    // Fault switches of engine-sim.
    "/sim",
    "/sim/",
];

#[cfg(test)]
mod tests {
    use super::VLLM;

    #[test]
    fn every_path_is_normalised_and_listed_once() {
        for (index, path) in VLLM.iter().enumerate() {
            assert!(
                path.starts_with('/') && !path.contains("//") && !path.contains("/."),
                "{path}"
            );
            assert_eq!(*path, path.to_ascii_lowercase());
            assert!(!VLLM[..index].contains(path), "{path} is listed twice");
        }
    }
}
