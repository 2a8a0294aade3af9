//! Generates the clients and servers of `culvert.v1` and of kubelet's device plugin API. Needs `protoc` (Debian:
//! protobuf-compiler).

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let protos = ["proto/culvert/v1/culvert.proto", "proto/kubelet/deviceplugin.proto"];
    tonic_prost_build::configure().compile_protos(&protos, &["proto"])?;
    Ok(())
}
