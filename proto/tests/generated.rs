//! Regenerates the protobuf code and compares it with what is committed. Fails on the run that changed it, passes on the next.

use std::{fs, path::Path};

#[test]
fn committed_code_is_what_the_proto_files_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = std::env::temp_dir().join(format!("greenthread-proto-{}", std::process::id()));
    fs::create_dir_all(&out).expect("a folder for generated code");
    let files = protox::compile(["greenthread/gate/v1/gate.proto"], [root.join("proto")])
        .expect("the proto files compile");
    tonic_prost_build::configure()
        .client_mod_attribute(".", r#"#[cfg(feature = "service")]"#)
        .server_mod_attribute(".", r#"#[cfg(feature = "service")]"#)
        .out_dir(&out)
        .compile_fds(files)
        .expect("code generation");
    let name = "greenthread.gate.v1.rs";
    let fresh = fs::read_to_string(out.join(name)).expect("generated file");
    let committed_at = root.join("src").join(name);
    let committed = fs::read_to_string(&committed_at).unwrap_or_default();
    let _ = fs::remove_dir_all(&out);
    if fresh != committed {
        fs::write(&committed_at, fresh).expect("write the generated code");
        panic!(
            "{} was out of date and has been rewritten; run the test again and commit it",
            committed_at.display()
        );
    }
}
