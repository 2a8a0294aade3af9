//! KubeVirt's hook services, client and server, generated from `proto/`.

/// What a sidecar says of itself.
#[expect(missing_docs, unused_qualifications, clippy::doc_markdown, reason = "generated code")]
pub mod info {
    tonic::include_proto!("kubevirt.hooks.info");
}

/// What virt-launcher calls.
#[expect(missing_docs, unused_qualifications, clippy::doc_markdown, reason = "generated code")]
pub mod v1alpha3 {
    tonic::include_proto!("kubevirt.hooks.v1alpha3");
}

/// What virt-launcher calls in the sidecar of a `Plugin`.
#[expect(missing_docs, unused_qualifications, clippy::doc_markdown, reason = "generated code")]
pub mod plugins {
    tonic::include_proto!("kubevirt.hooks.plugins.v1alpha1");
}
