//! Generates the client and server of `culvert.v1`. Needs `protoc` (Debian: protobuf-compiler).

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tonic_prost_build::configure().compile_protos(&["proto/culvert/v1/culvert.proto"], &["proto"])?;
    Ok(())
}
