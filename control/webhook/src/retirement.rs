//! What is answered about virtual machines, whatever makes them, that use passt's or vhost-user's old interface API, and about
//! KubeVirt's configuration with passt's feature gate.
//!
//! By [`crate::stage`] a request is allowed, warned of or refused, with KubeVirt's sentences and what to do. Instances that run
//! are never touched: virt-handler keeps writing to them. [`crate::admission`] calls this.

use culvert_convert::kinds::{FEATURE_GATES, GROUP, INTERFACES, KUBEVIRT, Kind, PASST_GATE};
use serde_json::Value;

use crate::about;
use crate::review::{Cause, Refusal, Request, Verdict};
use crate::stage::{Decision, Life, Stage, decide};

/// How far the retirement of each API is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Policy {
    /// `passt: {}` of KubeVirt 1.0 to 1.2.
    pub passt: Stage,
    /// `vhostuser: {}` of forks.
    pub vhostuser: Stage,
}

/// An interface API that goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Api {
    Passt,
    Vhostuser,
}

/// An interface that uses one.
#[derive(Debug)]
struct Use {
    api: Api,
    /// The interface's path in the object.
    field: String,
    name: String,
}

/// What becomes of a request.
pub(crate) fn judge(request: &Request, policy: Policy) -> Verdict {
    let Request { kind, sub_resource, operation, object: Some(object), .. } = request else {
        return Verdict::default();
    };
    if !["CREATE", "UPDATE"].contains(&operation.as_str()) || !sub_resource.is_empty() {
        return Verdict::default();
    }
    if (kind.group.as_str(), kind.kind.as_str()) == (GROUP, KUBEVIRT) {
        return configuration(object, policy);
    }
    let Some(kind) = Kind::of(&kind.group, &kind.kind) else { return Verdict::default() };
    if kind.name == INSTANCE && operation == "UPDATE" {
        return Verdict::default();
    }
    match uses(object, kind) {
        Ok(uses) if uses.is_empty() => Verdict::default(),
        Ok(uses) => machine(request, object, kind, &uses, policy),
        Err(fault) => {
            let message = format!("culvert: {}: {fault}", name_of(request, object));
            Verdict { refusal: Some(Refusal::malformed(message)), ..Verdict::default() }
        }
    }
}

fn machine(request: &Request, object: &Value, kind: Kind, used: &[Use], policy: Policy) -> Verdict {
    // What is not readable there is not used there.
    let before = request.old_object.as_ref().and_then(|old| uses(old, kind).ok()).unwrap_or_default();
    let mut verdict = Verdict::default();
    let mut refused = Vec::new();
    for api in [Api::Passt, Api::Vhostuser] {
        let used: Vec<_> = used.iter().filter(|used| used.api == api).collect();
        let is_new = |used: &&Use| !before.iter().any(|old| (old.api, &old.name) == (api, &used.name));
        let life = match request.operation.as_str() {
            "UPDATE" if used.iter().any(is_new) => Life::New,
            "UPDATE" if is_started(object, request.old_object.as_ref()) => Life::Restarted,
            "UPDATE" => Life::Running,
            // virt-controller makes the instance of a machine, or of a set, that is there.
            _ if kind.name == INSTANCE && is_owned(object) => Life::Restarted,
            _ => Life::New,
        };
        let stage = api.stage(policy);
        let Some(first) = used.first() else { continue };
        match decide(stage, life) {
            Decision::Allow => {}
            Decision::Warn => {
                verdict.warnings.push(api.sentence(stage).to_owned());
                verdict.warnings.push(format!("culvert: {}", remedy(api, first, used.len())));
            }
            Decision::Refuse => refused.extend(used),
        }
    }
    if let Some(first) = refused.first() {
        let name = name_of(request, object);
        let sentence = first.api.sentence(Stage::Block);
        let message = format!("{sentence} culvert: {name}: {}", remedy(first.api, first, refused.len()));
        tracing::info!(name, "refused: it uses an interface API that is retired");
        let causes = refused.iter().take(MAX_CAUSES).map(|used| used.cause()).collect();
        verdict.refusal = Some(Refusal::invalid(message, causes));
    }
    verdict
}

/// What to do about an interface, and `count - 1` others.
fn remedy(api: Api, first: &Use, count: usize) -> String {
    let others = if count > 1 { format!(" and {} more", count - 1) } else { String::new() };
    let name = if first.name.is_empty() { "without a name" } else { &first.name };
    format!("interface {name}{others}: culvertctl convert writes binding: {{name: {}}}", api.binding())
}

/// The feature gate is only warned of: KubeVirt itself ignores what it does not know.
fn configuration(object: &Value, policy: Policy) -> Verdict {
    let gates = at(object, &FEATURE_GATES).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if policy.passt == Stage::Allow || !gates.iter().any(|gate| gate == PASST_GATE) {
        return Verdict::default();
    }
    let remedy = "culvert: take the feature gate Passt out when no virtual machine needs it any more".to_owned();
    Verdict { warnings: vec![Api::Passt.sentence(policy.passt).to_owned(), remedy], ..Verdict::default() }
}

/// The interfaces that use an old API. A path that leads nowhere is none; one through something else than an object is a fault.
fn uses(object: &Value, kind: Kind) -> Result<Vec<Use>, String> {
    let mut node = object;
    let mut path = Vec::new();
    for key in kind.spec.iter().chain(&INTERFACES) {
        if !node.is_object() {
            return Err(format!("{} is not an object", shown(&path)));
        }
        path.push(*key);
        match node.get(*key) {
            None | Some(Value::Null) => return Ok(vec![]),
            Some(value) => node = value,
        }
    }
    let field = shown(&path);
    let interfaces = node.as_array().ok_or_else(|| format!("{field} is not a list"))?;
    let mut uses = Vec::new();
    for (index, interface) in interfaces.iter().enumerate() {
        if !interface.is_object() {
            return Err(format!("{field}[{index}] is not an object"));
        }
        let name = interface.get("name").and_then(Value::as_str).unwrap_or_default();
        for api in [Api::Passt, Api::Vhostuser] {
            if interface.get(api.key()).is_some_and(|value| !value.is_null()) {
                let name: String = name.chars().take(MAX_SHOWN).collect();
                let field = format!("{field}[{index}].{}", api.key());
                uses.push(Use { api, field, name: name.escape_debug().to_string() });
            }
        }
    }
    Ok(uses)
}

fn shown(path: &[&str]) -> String {
    if path.is_empty() { "it".to_owned() } else { path.join(".") }
}

fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, key| value.get(key))
}

/// Whether an update starts a machine that was stopped on purpose.
fn is_started(object: &Value, before: Option<&Value>) -> bool {
    let is_stopped = |object: &Value| match (at(object, &["spec", "running"]), at(object, &["spec", "runStrategy"])) {
        (Some(Value::Bool(running)), _) => !running,
        (_, Some(strategy)) => strategy == "Halted",
        _ => false,
    };
    // One that goes away is never started.
    let goes = at(object, &["metadata", "deletionTimestamp"]).is_some_and(|time| !time.is_null());
    !goes && !is_stopped(object) && before.is_some_and(is_stopped)
}

/// Whether a controller made it.
fn is_owned(object: &Value) -> bool {
    let owners = at(object, &["metadata", "ownerReferences"]).and_then(Value::as_array);
    owners.is_some_and(|owners| owners.iter().any(|owner| owner.get("controller") == Some(&Value::Bool(true))))
}

/// Kind, namespace and name, or what that will begin with.
fn name_of(request: &Request, object: &Value) -> String {
    let metadata = |key: &str| at(object, &["metadata", key]).and_then(Value::as_str).filter(|name| !name.is_empty());
    let name = Some(request.name.as_str()).filter(|name| !name.is_empty());
    let name = name.or_else(|| metadata("name")).or_else(|| metadata("generateName")).unwrap_or_default();
    about::shown(&request.kind.kind, &request.namespace, name)
}

impl Use {
    fn cause(&self) -> Cause {
        let message = self.api.sentence(Stage::Block).to_owned();
        Cause { reason: "FieldValueNotSupported", message, field: self.field.clone() }
    }
}

impl Api {
    fn key(self) -> &'static str {
        match self {
            Self::Passt => "passt",
            Self::Vhostuser => "vhostuser",
        }
    }

    fn stage(self, policy: Policy) -> Stage {
        match self {
            Self::Passt => policy.passt,
            Self::Vhostuser => policy.vhostuser,
        }
    }

    /// The binding that takes its place, as control/deploy registers it.
    fn binding(self) -> &'static str {
        match self {
            Self::Passt => "culvert-translator",
            Self::Vhostuser => "culvert",
        }
    }

    /// KubeVirt's own sentences for passt, in 1.2 and 1.3.
    fn sentence(self, stage: Stage) -> &'static str {
        match (self, stage) {
            (Self::Passt, Stage::Block) => {
                "Passt network binding is discontinued since v1.3. Please refer to Kubevirt user guide for alternatives."
            }
            (Self::Passt, _) => {
                "Passt network binding will be deprecated next release. Please refer to Kubevirt user guide for alternatives."
            }
            (Self::Vhostuser, Stage::Block) => "Vhostuser interfaces are refused in this cluster.",
            (Self::Vhostuser, _) => "Vhostuser interfaces will be refused in this cluster.",
        }
    }
}

/// The kind whose objects are running machines.
const INSTANCE: &str = "VirtualMachineInstance";
/// An object may have more such interfaces; whoever reads it knows by then.
const MAX_CAUSES: usize = 16;
/// What of a name is shown, in characters.
const MAX_SHOWN: usize = 128;
