//! Generates KubeVirt's hook services, server and client. Needs `protoc` (Debian: protobuf-compiler).

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["proto/info/info.proto", "proto/v1alpha3/callbacks.proto", "proto/plugins/domain_hook.proto"];
    tonic_prost_build::configure().compile_protos(&files, &["proto"])?;
    Ok(())
}
