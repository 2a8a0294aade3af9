//! One question of the API server and its answer: AdmissionReview of admission.k8s.io/v1.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

/// A question that cannot be answered, not even with a refusal.
#[derive(Debug, Error)]
#[error("this is not an AdmissionReview of {API_VERSION}: {0}")]
pub struct Malformed(String);

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

impl Review {
    /// What is asked.
    pub(crate) fn question(body: &[u8]) -> Result<Request, Malformed> {
        let Self { api_version, kind, request, .. } =
            serde_json::from_slice(body).map_err(|error| Malformed(error.to_string()))?;
        let request = request.ok_or_else(|| Malformed("it has no request".to_owned()))?;
        if api_version != API_VERSION || kind != KIND {
            return Err(Malformed(format!("it is a {kind} of {api_version}")));
        }
        Ok(request)
    }

    /// The answer to the question `uid`.
    pub(crate) fn answer(uid: String, verdict: Verdict) -> Self {
        let response = Some(verdict.into_response(uid));
        Self { api_version: API_VERSION.to_owned(), kind: KIND.to_owned(), request: None, response }
    }
}

/// What is of interest of AdmissionRequest.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Request {
    pub uid: String,
    #[serde(default)]
    pub kind: GroupKind,
    #[serde(default)]
    pub sub_resource: String,
    #[serde(default)]
    pub namespace: String,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub operation: String,
    pub object: Option<Value>,
    pub old_object: Option<Value>,
}

/// GroupVersionKind without its version.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct GroupKind {
    pub group: String,
    pub kind: String,
}

/// AdmissionResponse.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    uid: String,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Refusal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    /// JSON Patch (RFC 6902), in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// Why something is refused: Status of meta/v1.
#[derive(Debug, Serialize)]
pub(crate) struct Refusal {
    code: u16,
    reason: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
}

#[derive(Debug, Serialize)]
struct Details {
    causes: Vec<Cause>,
}

/// StatusCause of meta/v1.
#[derive(Debug, Serialize)]
pub(crate) struct Cause {
    pub reason: &'static str,
    pub message: String,
    pub field: String,
}

impl Refusal {
    /// What may be asked again.
    pub fn unavailable(message: String) -> Self {
        Self { code: 503, reason: "ServiceUnavailable", message, details: None }
    }

    /// An object that is none of its kind.
    pub fn malformed(message: String) -> Self {
        Self { code: 400, reason: "BadRequest", message, details: None }
    }

    /// An object that has what it must not have.
    pub fn invalid(message: String, causes: Vec<Cause>) -> Self {
        Self { code: 422, reason: "Invalid", message, details: Some(Details { causes }) }
    }
}

/// Allowed as it is, unless something is said.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub patch: json_patch::Patch,
    pub refusal: Option<Refusal>,
    pub warnings: Vec<String>,
}

impl Verdict {
    fn into_response(self, uid: String) -> Response {
        let Self { patch, refusal, warnings } = self;
        let patch = (!patch.0.is_empty()).then(|| serde_json::to_vec(&patch).ok()).flatten();
        Response {
            uid,
            allowed: refusal.is_none(),
            status: refusal,
            patch_type: patch.is_some().then_some("JSONPatch"),
            patch: patch.map(|patch| STANDARD.encode(patch)),
            warnings,
        }
    }
}

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
