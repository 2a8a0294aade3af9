//! culvert-hook, KubeVirt's binding sidecar: see the library.
#![forbid(unsafe_code)]

fn main() {}
