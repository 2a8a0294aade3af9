//! What is answered about pods.
//!
//! What does not concern us is allowed as it is. When a network's definition cannot be read, the pod is refused if a
//! sidecar of ours is in it: without its volumes its VM could not start, with a reason that is hard to find, and
//! virt-controller asks again by itself. Other pods are allowed, with a warning. [`crate::server`] calls this.

use std::sync::Arc;

use serde_json::Value;

use crate::cluster::Cluster;
use crate::networks::{self, ANNOTATION};
use crate::pod::{self, Interface};
use crate::retirement::{self, Policy};
use crate::review::{Malformed, Refusal, Request, Review, Verdict};
use crate::sidecar::Sidecars;

/// Answers all questions.
#[derive(Debug)]
pub struct Webhook {
    /// Which containers are ours.
    pub sidecars: Sidecars,
    /// Where definitions are read.
    pub cluster: Arc<Cluster>,
    /// What becomes of the old interface APIs.
    pub policy: Policy,
}

impl Webhook {
    /// Answers the AdmissionReview in `body`, which is about a pod, with one.
    ///
    /// # Errors
    /// When `body` is none.
    pub async fn mutate(&self, body: &[u8]) -> Result<Review, Malformed> {
        let request = Review::question(body)?;
        let uid = request.uid.clone();
        Ok(Review::answer(uid, self.judge(request).await))
    }

    /// Answers the AdmissionReview in `body`, which is about one of KubeVirt's objects, with one.
    ///
    /// # Errors
    /// When `body` is none.
    pub fn validate(&self, body: &[u8]) -> Result<Review, Malformed> {
        let request = Review::question(body)?;
        let verdict = retirement::judge(&request, self.policy);
        Ok(Review::answer(request.uid, verdict))
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
            true => Verdict { refusal: Some(Refusal::unavailable(reason)), ..Verdict::default() },
            false => Verdict { warnings: vec![reason], ..Verdict::default() },
        }
    }
}

/// A pod's name, or what it will begin with.
fn name_of(pod: &Value) -> &str {
    let metadata = |key: &str| pod.get("metadata").and_then(|it| it.get(key)).and_then(Value::as_str);
    metadata("name").or_else(|| metadata("generateName")).unwrap_or_default()
}
