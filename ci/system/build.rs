//! Generates clients: of the Container Runtime Interface, and of KubeVirt's hook sidecars. Needs `protoc` (Debian: protobuf-compiler).

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["cri", "hooks_info", "hooks_v1alpha3"].map(|name| format!("proto/{name}.proto"));
    tonic_prost_build::configure().build_server(false).compile_protos(&files, &["proto".to_owned()])?;
    Ok(())
}
