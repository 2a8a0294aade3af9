//! Generates clients: of the Container Runtime Interface, and of KubeVirt's hook sidecars. Needs `protoc` (Debian: protobuf-compiler).

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const HOOKS: &str = "../../control/hook/proto";
    let hooks = ["info/info", "v1alpha3/callbacks"].map(|name| format!("{HOOKS}/{name}.proto"));
    let files = [&["proto/cri.proto".to_owned()], &hooks[..]].concat();
    tonic_prost_build::configure()
        .build_server(false)
        .compile_protos(&files, &["proto".to_owned(), HOOKS.to_owned()])?;
    Ok(())
}
