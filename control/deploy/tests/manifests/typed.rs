//! Every kind of object that we have, as a struct that knows its keys: Kubernetes's own by k8s-openapi, those of others as
//! far as we use them. What a struct does not know is an error, which the API server would only drop, or refuse.

use std::collections::BTreeMap;

use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::kubevirt::VirtualMachine;

/// Loads an object into the struct of its kind.
pub fn check(object: &Value) -> Result<(), String> {
    let kind = (object["apiVersion"].as_str().unwrap_or_default(), object["kind"].as_str().unwrap_or_default());
    match kind {
        ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration") => {
            lossless::<MutatingWebhookConfiguration>(object)
        }
        ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration") => {
            lossless::<ValidatingWebhookConfiguration>(object)
        }
        ("apps/v1", "DaemonSet") => lossless::<DaemonSet>(object),
        ("apps/v1", "Deployment") => lossless::<Deployment>(object),
        ("cert-manager.io/v1", "Certificate") => strict::<Certificate>(object),
        ("cert-manager.io/v1", "Issuer") => strict::<Issuer>(object),
        ("k8s.cni.cncf.io/v1", "NetworkAttachmentDefinition") => strict::<Network>(object),
        ("kubevirt.io/v1", "VirtualMachine") => strict::<VirtualMachine>(object),
        ("monitoring.coreos.com/v1", "PrometheusRule") => strict::<PrometheusRule>(object),
        ("policy/v1", "PodDisruptionBudget") => lossless::<PodDisruptionBudget>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => lossless::<ClusterRole>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => lossless::<ClusterRoleBinding>(object),
        ("v1", "ConfigMap") => lossless::<ConfigMap>(object),
        ("v1", "Namespace") => lossless::<Namespace>(object),
        ("v1", "Secret") => lossless::<Secret>(object),
        ("v1", "Service") => lossless::<Service>(object),
        ("v1", "ServiceAccount") => lossless::<ServiceAccount>(object),
        (version, kind) => Err(format!("no struct for {kind} of {version}")),
    }
}

/// k8s-openapi's structs drop what they do not know: what comes out must be what went in.
fn lossless<T: DeserializeOwned + Serialize>(object: &Value) -> Result<(), String> {
    let typed: T = serde_json::from_value(object.clone()).map_err(|error| error.to_string())?;
    let again = serde_json::to_value(typed).map_err(|error| error.to_string())?;
    lost(object, &again, String::new()).map_or(Ok(()), |path| Err(format!("{path} is no key of {}", object["kind"])))
}

/// The path of the first thing that is in `before` and not in `after`.
fn lost(before: &Value, after: &Value, path: String) -> Option<String> {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => before.iter().find_map(|(key, value)| {
            let path = format!("{path}.{key}");
            if value.is_null() {
                None
            } else {
                after.get(key).map_or(Some(path.clone()), |after| lost(value, after, path))
            }
        }),
        (Value::Array(before), Value::Array(after)) => before.iter().enumerate().find_map(|(index, value)| {
            let path = format!("{path}[{index}]");
            after.get(index).map_or(Some(path.clone()), |after| lost(value, after, path))
        }),
        (before, after) => (before != after).then_some(path),
    }
}

fn strict<T: DeserializeOwned>(object: &Value) -> Result<(), String> {
    serde_json::from_value::<T>(object.clone()).map(drop).map_err(|error| error.to_string())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    pub name: String,
    pub namespace: String,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// NetworkAttachmentDefinition.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "for its keys")]
pub struct Network {
    api_version: String,
    kind: String,
    pub metadata: Metadata,
    pub spec: NetworkSpec,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    pub config: String,
}

/// Of the Prometheus operator. Without a namespace: it goes where that looks for rules.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "for its keys")]
struct PrometheusRule {
    api_version: String,
    kind: String,
    metadata: RuleMetadata,
    spec: RuleSpec,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "for its keys")]
struct RuleMetadata {
    name: String,
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "for its keys")]
struct RuleSpec {
    groups: Vec<RuleGroup>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "for its keys")]
struct RuleGroup {
    name: String,
    rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "for its keys")]
struct Rule {
    alert: String,
    expr: String,
    r#for: Option<String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "for its keys")]
struct Issuer {
    api_version: String,
    kind: String,
    metadata: Metadata,
    spec: IssuerSpec,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "for its keys")]
struct IssuerSpec {
    self_signed: Empty,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Empty {}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "for its keys")]
struct Certificate {
    api_version: String,
    kind: String,
    metadata: Metadata,
    spec: CertificateSpec,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "for its keys")]
struct CertificateSpec {
    secret_name: String,
    dns_names: Vec<String>,
    issuer_ref: IssuerRef,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "for its keys")]
struct IssuerRef {
    kind: String,
    name: String,
}

#[test]
fn a_key_that_does_not_exist_is_found() {
    let service =
        |key: &str| serde_json::json!({"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{key: 443}]}});
    assert_eq!(check(&service("port")), Ok(()));
    assert_eq!(check(&service("prot")).unwrap_err(), ".spec.ports[0].prot is no key of \"Service\"");
    let other = serde_json::json!({"apiVersion": "v1", "kind": "Pod"});
    assert_eq!(check(&other).unwrap_err(), "no struct for Pod of v1");
}
