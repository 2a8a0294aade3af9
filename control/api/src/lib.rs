//! The gRPC schema of culvertd's control socket, and the client and server generated from it; and kubelet's schema for
//! device plugins.
//!
//! The schema is `proto/culvert/v1/culvert.proto`; its comments are the reference. Used by culvertd (server) and
//! by culvertctl and later clients. Translators are asked by another, simpler protocol: [`translator`] is its client.
//! [`socket_address`] is where a control socket is connected to; [`latency`] reads what was measured.
#![forbid(unsafe_code)]

pub mod latency;
pub mod socket_address;
pub mod translator;

/// Version 1 of the schema.
#[expect(missing_docs, unused_qualifications, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("culvert.v1");
}

/// Kubelet's device plugin API, v1beta1: `proto/kubelet/deviceplugin.proto`.
#[expect(missing_docs, unused_qualifications, reason = "generated code")]
pub mod kubelet {
    tonic::include_proto!("v1beta1");
}

/// Largest request that culvertd reads, in bytes.
pub const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// Largest answer that a client should accept, in bytes: every network's table of addresses at its fullest.
pub const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;
