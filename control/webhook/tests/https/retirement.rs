//! The retirement of old interface APIs: each row of the table of stages, asked as the API server asks.

use culvert_webhook::retirement::Policy;
use culvert_webhook::stage::{KubevirtVersion, Stage};
use serde_json::{Value, json};

use crate::api_server::ApiServer;
use crate::asking::Running;

const DEPRECATED: &str =
    "Passt network binding will be deprecated next release. Please refer to Kubevirt user guide for alternatives.";
const DISCONTINUED: &str =
    "Passt network binding is discontinued since v1.3. Please refer to Kubevirt user guide for alternatives.";

/// What is expected of an answer.
#[derive(Clone, Copy, Debug)]
enum Expected {
    Allowed,
    /// With KubeVirt's sentence.
    Warned(&'static str),
    /// With KubeVirt's sentence, at the object's interface.
    Refused(&'static str),
}

async fn start(passt: Stage, vhostuser: Stage) -> Running {
    let api = ApiServer::start().await;
    Running::start_by(&api, api.authority(), Policy { passt, vhostuser }).await
}

async fn check(running: &Running, question: &Value, expected: Expected) {
    let response = running.ask_at("/validate", question).await;
    let what = format!("{expected:?}: {response}");
    assert_eq!(response["uid"], question["request"]["uid"], "{what}");
    assert_eq!(response.get("patch"), None, "{what}");
    match expected {
        Expected::Allowed => {
            assert_eq!((&response["allowed"], response.get("warnings")), (&json!(true), None), "{what}");
        }
        Expected::Warned(sentence) => {
            assert_eq!((&response["allowed"], &response["warnings"][0]), (&json!(true), &json!(sentence)), "{what}");
            // Longer ones are cut (KEP 1693).
            let warnings = response["warnings"].as_array().unwrap();
            assert!(warnings.len() == 2 && warnings.iter().all(|text| text.as_str().unwrap().len() < 256), "{what}");
        }
        Expected::Refused(field) => {
            let status = &response["status"];
            assert_eq!((&response["allowed"], &status["code"]), (&json!(false), &json!(422)), "{what}");
            assert_eq!(status["reason"], "Invalid", "{what}");
            let message = status["message"].as_str().unwrap();
            let name = name_of(question);
            assert!(message.starts_with(DISCONTINUED) && message.contains(&name), "{what}");
            assert!(message.contains("culvertctl convert writes binding: {name: culvert-translator}"), "{what}");
            let cause = json!({"reason": "FieldValueNotSupported", "message": DISCONTINUED, "field": field});
            assert_eq!(status["details"]["causes"], json!([cause]), "{what}");
            let typed: k8s_openapi::apimachinery::pkg::apis::meta::v1::Status =
                serde_json::from_value(status.clone()).unwrap();
            assert_eq!(typed.details.unwrap().causes.unwrap().len(), 1);
        }
    }
}

fn name_of(question: &Value) -> String {
    let request = &question["request"];
    format!("{} lab/{}", request["kind"]["kind"].as_str().unwrap(), request["name"].as_str().unwrap())
}

/// A virtual machine with passt is made.
fn machine() -> Value {
    serde_json::from_str(include_str!("../data/virtual-machine-review.json")).unwrap()
}

const MACHINE_FIELD: &str = "spec.template.spec.domain.devices.interfaces[0].passt";

/// The object of another kind around the same description is made.
fn of_kind(group: &str, version: &str, kind: &str, name: &str, spec: Value) -> Value {
    let mut question = machine();
    let request = &mut question["request"];
    for key in ["kind", "requestKind"] {
        request[key] = json!({"group": group, "version": version, "kind": kind});
    }
    request["name"] = name.into();
    let object = &mut request["object"];
    object["apiVersion"] = format!("{group}/{version}").into();
    object["kind"] = kind.into();
    object["metadata"]["name"] = name.into();
    object["spec"] = spec;
    question
}

fn description() -> Value {
    machine()["request"]["object"]["spec"]["template"]["spec"].clone()
}

/// Somebody makes an instance by himself.
fn instance() -> Value {
    of_kind("kubevirt.io", "v1", "VirtualMachineInstance", "myvmi", description())
}

/// virt-controller makes the instance of a machine that is there.
fn instance_of_a_machine() -> Value {
    let mut question = instance();
    question["request"]["userInfo"]["username"] = "system:serviceaccount:kubevirt:kubevirt-controller".into();
    question["request"]["object"]["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": "myvm", "controller": true,
        "blockOwnerDeletion": true, "uid": "9a2a7c4e-9a3b-41a5-b3c2-28d9ffb6e1aa",
    }]);
    question
}

fn replica_set() -> Value {
    let spec =
        json!({"replicas": 2, "selector": {"matchLabels": {}}, "template": {"metadata": {}, "spec": description()}});
    of_kind("kubevirt.io", "v1", "VirtualMachineInstanceReplicaSet", "set", spec)
}

fn pool() -> Value {
    let machine = json!({"runStrategy": "Always", "template": {"metadata": {}, "spec": description()}});
    let spec = json!({"replicas": 2, "selector": {}, "virtualMachineTemplate": {"metadata": {}, "spec": machine}});
    of_kind("pool.kubevirt.io", "v1beta1", "VirtualMachinePool", "pool", spec)
}

/// The object was there before, and `change` is what is done to it now.
fn update(mut question: Value, change: impl Fn(&mut Value)) -> Value {
    let request = &mut question["request"];
    request["operation"] = "UPDATE".into();
    request["oldObject"] = request["object"].clone();
    request["options"] = json!({"kind": "UpdateOptions", "apiVersion": "meta.k8s.io/v1"});
    change(&mut request["object"]);
    question
}

fn labelled(question: Value) -> Value {
    update(question, |object| object["metadata"]["labels"] = json!({"owner": "anna"}))
}

/// A machine that was stopped is started by its owner.
fn start_of_a_machine() -> Value {
    let mut question = machine();
    question["request"]["object"]["spec"]["runStrategy"] = "Halted".into();
    update(question, |object| object["spec"]["runStrategy"] = "Always".into())
}

/// The same with the key of before.
fn start_of_an_old_machine() -> Value {
    let mut question = machine();
    let spec = question["request"]["object"]["spec"].as_object_mut().unwrap();
    spec.remove("runStrategy");
    spec.insert("running".to_owned(), json!(false));
    update(question, |object| object["spec"]["running"] = json!(true))
}

fn stop_of_a_machine() -> Value {
    update(machine(), |object| object["spec"]["runStrategy"] = "Halted".into())
}

#[tokio::test]
async fn each_row_of_the_table() {
    let set_field = MACHINE_FIELD;
    let new = [
        (machine(), MACHINE_FIELD),
        (instance(), "spec.domain.devices.interfaces[0].passt"),
        (replica_set(), set_field),
        (pool(), "spec.virtualMachineTemplate.spec.template.spec.domain.devices.interfaces[0].passt"),
    ];
    let restarted = [
        (instance_of_a_machine(), "spec.domain.devices.interfaces[0].passt"),
        (start_of_a_machine(), MACHINE_FIELD),
        (start_of_an_old_machine(), MACHINE_FIELD),
    ];
    let running = [labelled(machine()), labelled(replica_set()), labelled(pool()), stop_of_a_machine()];
    for (version, stage) in [("v1.1.1", Stage::Allow), ("v1.2.2", Stage::Warn), ("v1.3.0", Stage::Block)] {
        assert_eq!(Stage::of(version.parse::<KubevirtVersion>().unwrap()), stage);
        let webhook = start(stage, Stage::Allow).await;
        for (question, field) in new.iter().chain(&restarted) {
            let expected = match stage {
                Stage::Allow => Expected::Allowed,
                Stage::Warn => Expected::Warned(DEPRECATED),
                Stage::Block => Expected::Refused(field),
            };
            check(&webhook, question, expected).await;
        }
        for question in &running {
            let expected = match stage {
                Stage::Allow => Expected::Allowed,
                Stage::Warn => Expected::Warned(DEPRECATED),
                Stage::Block => Expected::Warned(DISCONTINUED),
            };
            check(&webhook, question, expected).await;
        }
        // virt-handler keeps writing to instances that run.
        check(&webhook, &labelled(instance_of_a_machine()), Expected::Allowed).await;
        webhook.stop().await;
    }
}

#[tokio::test]
async fn what_is_added_to_a_machine_is_new_and_what_is_taken_away_is_gone() {
    let webhook = start(Stage::Block, Stage::Allow).await;
    let interfaces = |object: &mut Value, interfaces: Value| {
        object["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"] = interfaces;
    };
    let added = update(machine(), |object| {
        interfaces(object, json!([{"name": "blue", "passt": {}}, {"name": "red", "passt": {}}]))
    });
    let response = webhook.ask_at("/validate", &added).await;
    assert_eq!(response["allowed"], false);
    let causes = response["status"]["details"]["causes"].as_array().unwrap();
    assert_eq!(causes.len(), 2, "both are told");
    assert!(response["status"]["message"].as_str().unwrap().contains("interface blue and 1 more"), "{response}");

    let converted = json!([{"name": "blue", "binding": {"name": "culvert-translator"}}]);
    check(&webhook, &update(machine(), |object| interfaces(object, converted.clone())), Expected::Allowed).await;
    let nothing = json!([{"name": "blue", "passt": null}, {"name": "red", "passtBinding": {}}]);
    check(&webhook, &update(machine(), |object| interfaces(object, nothing.clone())), Expected::Allowed).await;

    // A machine that goes away must be able to.
    let mut goes = start_of_a_machine();
    goes["request"]["object"]["metadata"]["deletionTimestamp"] = "2026-11-22T20:15:42Z".into();
    check(&webhook, &goes, Expected::Warned(DISCONTINUED)).await;
    let mut deleted = machine();
    deleted["request"]["operation"] = "DELETE".into();
    deleted["request"]["oldObject"] = deleted["request"]["object"].take();
    check(&webhook, &deleted, Expected::Allowed).await;
    let mut status = labelled(machine());
    status["request"]["subResource"] = "status".into();
    check(&webhook, &status, Expected::Allowed).await;
    webhook.stop().await;
}

#[tokio::test]
async fn kubevirts_configuration_is_warned_of_its_feature_gate() {
    let gates = |gates: Value| {
        let spec = json!({"configuration": {"developerConfiguration": {"featureGates": gates}}});
        of_kind("kubevirt.io", "v1", "KubeVirt", "kubevirt", spec)
    };
    for (stage, expected) in [
        (Stage::Allow, Expected::Allowed),
        (Stage::Warn, Expected::Warned(DEPRECATED)),
        (Stage::Block, Expected::Warned(DISCONTINUED)),
    ] {
        let webhook = start(stage, Stage::Allow).await;
        for question in [gates(json!(["LiveMigration", "Passt"])), labelled(gates(json!(["Passt"])))] {
            check(&webhook, &question, expected).await;
        }
        for other in [json!(["PasstBinding"]), json!([]), json!("Passt"), Value::Null] {
            check(&webhook, &gates(other), Expected::Allowed).await;
        }
        webhook.stop().await;
    }
}

#[tokio::test]
async fn vhostuser_has_a_stage_of_its_own() {
    let mut question = machine();
    question["request"]["object"]["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"] =
        json!([{"name": "blue", "vhostuser": {}}]);
    let webhook = start(Stage::Block, Stage::Allow).await;
    check(&webhook, &question, Expected::Allowed).await;
    webhook.stop().await;
    let webhook = start(Stage::Allow, Stage::Warn).await;
    check(&webhook, &question, Expected::Warned("Vhostuser interfaces will be refused in this cluster.")).await;
    webhook.stop().await;
    let webhook = start(Stage::Allow, Stage::Block).await;
    let response = webhook.ask_at("/validate", &question).await;
    let expected = "Vhostuser interfaces are refused in this cluster. culvert: VirtualMachine lab/myvm: interface blue: \
                    culvertctl convert writes binding: {name: culvert}";
    assert_eq!((&response["allowed"], &response["status"]["message"]), (&json!(false), &json!(expected)));
    webhook.stop().await;
}

#[tokio::test]
async fn objects_that_are_none_are_refused_by_name() {
    let webhook = start(Stage::Block, Stage::Block).await;
    let with = |pointer: &str, value: Value| {
        let mut question = machine();
        *question.pointer_mut(pointer).unwrap() = value;
        question
    };
    let devices = "/request/object/spec/template/spec/domain/devices";
    let many: Vec<_> = (0..10_000).map(|number| json!({"name": format!("n{number}"), "passt": {}})).collect();
    for (question, code, sentence) in [
        (with("/request/object", json!([])), 400, "VirtualMachine lab/myvm: it is not an object"),
        (with("/request/object/spec", json!("x")), 400, "VirtualMachine lab/myvm: spec is not an object"),
        (
            with("/request/object/spec/template", json!([1])),
            400,
            "VirtualMachine lab/myvm: spec.template is not an object",
        ),
        (
            with(devices, json!({"interfaces": {}})),
            400,
            "VirtualMachine lab/myvm: spec.template.spec.domain.devices.interfaces is not a list",
        ),
        (with(devices, json!({"interfaces": [{}, 7]})), 400, "interfaces[1] is not an object"),
        (
            with(devices, json!({"interfaces": [{"name": 7, "passt": []}]})),
            422,
            "VirtualMachine lab/myvm: interface without a name: culvertctl convert",
        ),
        (
            with(devices, json!({"interfaces": [{"name": "a\u{1b}[31m\n".repeat(1000), "passt": {}}]})),
            422,
            "interface a\\u{1b}[31m\\n",
        ),
        (with(devices, json!({ "interfaces": many })), 422, "interface n0 and 9999 more"),
    ] {
        let response = webhook.ask_at("/validate", &question).await;
        let message = response["status"]["message"].as_str().unwrap();
        assert_eq!((&response["allowed"], &response["status"]["code"]), (&json!(false), &json!(code)), "{message}");
        assert!(message.contains(sentence) && message.contains("VirtualMachine lab/myvm"), "{message}");
        assert!(message.len() < 2000 && !message.contains('\u{1b}'), "{message}");
        let causes = response["status"]["details"]["causes"].as_array().map_or(0, Vec::len);
        assert!(causes <= 16, "{causes} causes");
    }
    // What is not there is no interface, and what is of other kinds is none of ours.
    let mut other = machine();
    other["request"]["kind"] = json!({"group": "example.test", "version": "v1", "kind": "VirtualMachine"});
    let mut nameless = machine();
    nameless["request"]["kind"] = json!({});
    for question in [
        with("/request/object/spec", Value::Null),
        with("/request/object", json!({})),
        with("/request/object", Value::Null),
        other,
        nameless,
    ] {
        check(&webhook, &question, Expected::Allowed).await;
    }
    webhook.stop().await;
}

#[tokio::test]
async fn a_question_that_is_cut_off_anywhere_is_a_bad_request() {
    let webhook = start(Stage::Block, Stage::Block).await;
    let text = machine().to_string();
    let namespace = text.find("\"namespace\":\"lab\"").unwrap() + "\"namespace\":\"lab\"".len();
    for length in (0..text.len()).step_by(97) {
        let (status, body) = webhook.send("POST", "/validate", text.as_bytes()[..length].to_vec()).await;
        let told = String::from_utf8(body).unwrap();
        assert_eq!(status, 400, "{length}: {told}");
        let sentence = "this is not an AdmissionReview of admission.k8s.io/v1: EOF while parsing";
        let object = told.strip_suffix('\n').unwrap().split_once(sentence).expect(&told).0;
        // Whose question it is, as soon as that has come.
        if length >= namespace {
            assert_eq!(object, "VirtualMachine lab/myvm: ", "{length}");
        }
    }
    webhook.stop().await;
}
