//! One question of the API server and its answer: AdmissionReview of admission.k8s.io/v1.
//!
//! What does not concern us is allowed as it is. When a network's definition cannot be read, the pod is refused if a
//! sidecar of ours is in it: without its volumes its VM could not start, with a reason that is hard to find, and
//! virt-controller asks again by itself. Other pods are allowed, with a warning. [`crate::server`] calls this.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::cluster::Cluster;
use crate::networks::{self, ANNOTATION};
use crate::pod::{self, Interface};
use crate::sidecar::Sidecars;

/// Answers questions about pods.
#[derive(Debug)]
pub struct Webhook {
    /// Which containers are ours.
    pub sidecars: Sidecars,
    /// Where definitions are read.
    pub cluster: Arc<Cluster>,
}

/// A question that cannot be answered, not even with a refusal.
#[derive(Debug, Error)]
#[error("this is not an AdmissionReview of {API_VERSION}: {0}")]
pub struct Malformed(String);

impl Webhook {
    /// Answers the AdmissionReview in `body` with one.
    ///
    /// # Errors
    /// When `body` is none.
    pub async fn answer(&self, body: &[u8]) -> Result<Review, Malformed> {
        let Review { api_version, kind, request, .. } =
            serde_json::from_slice(body).map_err(|error| Malformed(error.to_string()))?;
        let request = request.ok_or_else(|| Malformed("it has no request".to_owned()))?;
        if api_version != API_VERSION || kind != KIND {
            return Err(Malformed(format!("it is a {kind} of {api_version}")));
        }
        let uid = request.uid.clone();
        let verdict = self.judge(request).await;
        Ok(Review { api_version, kind, request: None, response: Some(verdict.into_response(uid)) })
    }

    async fn judge(&self, request: Request) -> Verdict {
        let Request { namespace, operation, object: Some(pod), .. } = request else { return Verdict::default() };
        if operation != "CREATE"
            || pod.pointer("/metadata/labels/kubevirt.io").is_none_or(|label| label != "virt-launcher")
        {
            return Verdict::default();
        }
        let annotation = pod.get("metadata").and_then(|it| it.get("annotations")).and_then(|it| it.get(ANNOTATION));
        let annotation = annotation.and_then(Value::as_str).unwrap_or_default();
        let interfaces = match self.interfaces(annotation, &namespace).await {
            Ok(interfaces) => interfaces,
            Err(reason) => return self.without_definition(&pod, reason),
        };
        let mut edited = pod.clone();
        let warnings = pod::edit(&mut edited, &interfaces, &self.sidecars);
        Verdict { patch: json_patch::diff(&pod, &edited), refusal: None, warnings }
    }

    async fn interfaces(&self, annotation: &str, namespace: &str) -> Result<Vec<Interface>, String> {
        let mut interfaces = Vec::new();
        for selection in networks::parse(annotation, namespace).map_err(|error| error.to_string())? {
            let attachment = self.cluster.attachment(&selection.namespace, &selection.name).await.map_err(|error| {
                format!("NetworkAttachmentDefinition {}/{} {error}", selection.namespace, selection.name)
            })?;
            interfaces.push(Interface { name: selection.interface, attachment });
        }
        Ok(interfaces)
    }

    fn without_definition(&self, pod: &Value, reason: String) -> Verdict {
        let containers = pod.pointer("/spec/containers").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let reason = format!("culvert: {reason}");
        tracing::warn!(reason, pod = %name_of(pod), "a pod's networks cannot be read");
        match containers.iter().any(|container| self.sidecars.is_ours(container)) {
            true => Verdict { refusal: Some(reason), ..Verdict::default() },
            false => Verdict { warnings: vec![reason], ..Verdict::default() },
        }
    }
}

/// A pod's name, or what it will begin with.
fn name_of(pod: &Value) -> &str {
    let metadata = |key: &str| pod.get("metadata").and_then(|it| it.get(key)).and_then(Value::as_str);
    metadata("name").or_else(|| metadata("generateName")).unwrap_or_default()
}

/// AdmissionReview: a question has a request, its answer a response.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Review {
    api_version: String,
    kind: String,
    #[serde(default, skip_serializing)]
    request: Option<Request>,
    #[serde(default, skip_deserializing, skip_serializing_if = "Option::is_none")]
    response: Option<Response>,
}

/// What is of interest of AdmissionRequest.
#[derive(Debug, Deserialize)]
struct Request {
    uid: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    operation: String,
    object: Option<Value>,
}

/// AdmissionResponse.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    uid: String,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    /// JSON Patch (RFC 6902), in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Status {
    code: u16,
    reason: &'static str,
    message: String,
}

/// Allowed as it is, unless something is said.
#[derive(Default)]
struct Verdict {
    patch: json_patch::Patch,
    refusal: Option<String>,
    warnings: Vec<String>,
}

impl Verdict {
    fn into_response(self, uid: String) -> Response {
        let Self { patch, refusal, warnings } = self;
        let patch = (!patch.0.is_empty()).then(|| serde_json::to_vec(&patch).ok()).flatten();
        Response {
            uid,
            allowed: refusal.is_none(),
            status: refusal.map(|message| Status { code: 503, reason: "ServiceUnavailable", message }),
            patch_type: patch.is_some().then_some("JSONPatch"),
            patch: patch.map(|patch| STANDARD.encode(patch)),
            warnings,
        }
    }
}

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
