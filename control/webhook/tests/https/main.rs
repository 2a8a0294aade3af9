//! The webhook behind its HTTPS server, with a made certificate, and an API server that is played: questions as the API
//! server asks them, definitions as it tells them.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

mod api_server;
mod asking;
mod retirement;

use std::time::Duration;

use api_server::ApiServer;
use asking::{Running, launcher, question};
use serde_json::{Value, json};

const VHOSTUSER: &str = r#"{"cniVersion":"1.0.0","type":"culvert-cni","mode":"vhostuser","network":"blue"}"#;
const TRANSLATOR: &str = r#"{"cniVersion":"1.0.0","type":"culvert-cni","mode":"translator"}"#;

/// The API server with the definitions that the pod of `tests/data` asks for.
async fn usual_api_server() -> ApiServer {
    let api = ApiServer::start().await;
    api.define("lab", "lab-net", VHOSTUSER);
    api.define("culvert-system", "culvert-translator", TRANSLATOR);
    api
}

fn volumes(pod: &Value) -> Vec<&str> {
    pod["spec"]["volumes"].as_array().unwrap().iter().map(|volume| volume["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_virt_launcher_pod_gets_its_volumes() {
    let api = usual_api_server().await;
    let running = Running::start(&api).await;
    let response = running.ask(&question(launcher())).await;
    assert_eq!((response["uid"].as_str(), response["allowed"].as_bool()), (Some("7b1c"), Some(true)));
    assert_eq!(response["patchType"], "JSONPatch");
    assert_eq!(response.get("warnings"), None);
    let pod = Running::patched(launcher(), &response);
    let names = volumes(&pod);
    for name in ["shared-dir", "podinfo", "culvert-translator", "hook-sidecar-sockets"] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    let typed: k8s_openapi::api::core::v1::Pod = serde_json::from_value(pod.clone()).unwrap();
    assert_eq!(typed.spec.unwrap().containers.len(), 4);

    let again = running.ask(&question(pod)).await;
    assert_eq!(
        (again["allowed"].as_bool(), again.get("patch")),
        (Some(true), None),
        "asked again, nothing is left to do"
    );
    running.stop().await;
}

#[tokio::test]
async fn pods_that_do_not_concern_us_are_allowed_as_they_are() {
    let api = ApiServer::start().await;
    let running = Running::start(&api).await;
    let mut other_label = launcher();
    other_label["metadata"]["labels"]["kubevirt.io"] = json!("hotplug-disk");
    let mut update = question(launcher());
    update["request"]["operation"] = json!("UPDATE");
    let mut deletion = question(launcher());
    deletion["request"]["object"] = Value::Null;
    for question in [question(other_label), update, deletion, question(json!({}))] {
        let response = running.ask(&question).await;
        assert_eq!((response["allowed"].as_bool(), response.get("patch")), (Some(true), None));
    }
    assert_eq!(api.questions(), 0);
    running.stop().await;
}

#[tokio::test]
async fn a_definition_that_is_not_there_refuses_pods_with_our_sidecar_and_warns_of_others() {
    let api = ApiServer::start().await;
    let running = Running::start(&api).await;
    let response = running.ask(&question(launcher())).await;
    assert_eq!(response["allowed"], false);
    let message = response["status"]["message"].as_str().unwrap();
    assert!(message.contains("NetworkAttachmentDefinition lab/lab-net does not exist"), "{message}");

    let mut pod = launcher();
    pod["spec"]["containers"].as_array_mut().unwrap().truncate(1);
    let response = running.ask(&question(pod)).await;
    assert_eq!((response["allowed"].as_bool(), response.get("patch")), (Some(true), None));
    assert!(response["warnings"][0].as_str().unwrap().contains("lab/lab-net does not exist"), "{response}");

    // Errors are not kept.
    api.define("lab", "lab-net", VHOSTUSER);
    api.define("culvert-system", "culvert-translator", TRANSLATOR);
    assert_eq!(running.ask(&question(launcher())).await["allowed"], true);
    running.stop().await;
}

#[tokio::test]
async fn what_the_api_server_refuses_is_told() {
    let api = usual_api_server().await;
    let cases = [(403, "may not be read by culvert-webhook (403 Forbidden)"), (500, "500 Internal Server Error")];
    for (status, expected) in cases {
        api.answer_with(status);
        let running = Running::start(&api).await;
        let response = running.ask(&question(launcher())).await;
        let message = response["status"]["message"].as_str().unwrap();
        assert!(!response["allowed"].as_bool().unwrap() && message.contains(expected), "{message}");
        running.stop().await;
    }
}

#[tokio::test]
async fn an_api_server_that_is_not_there_or_another_is_told() {
    let api = usual_api_server().await;
    let other = ApiServer::start().await;
    let running = Running::start_with(&api, other.authority()).await;
    let response = running.ask(&question(launcher())).await;
    let message = response["status"]["message"].as_str().unwrap();
    assert!(message.contains("could not be read from the API server: TLS"), "{message}");
    assert_eq!(api.questions(), 0, "nothing is told to a server that has not proved itself");
    running.stop().await;

    api.stop().await;
    let running = Running::start(&api).await;
    let response = running.ask(&question(launcher())).await;
    assert!(response["status"]["message"].as_str().unwrap().contains("refused"), "{response}");
    running.stop().await;
}

#[tokio::test]
async fn a_definition_is_asked_for_once_within_its_time() {
    let api = usual_api_server().await;
    let running = Running::start(&api).await;
    for _ in 0..3 {
        assert_eq!(running.ask(&question(launcher())).await["allowed"], true);
    }
    assert_eq!(api.questions(), 2, "two definitions");
    running.stop().await;
}

#[tokio::test]
async fn an_annotation_that_cannot_be_read_refuses_the_pod() {
    let api = ApiServer::start().await;
    let running = Running::start(&api).await;
    for annotation in ["[{]", "../../secrets/x", "[{\"name\":\"a/../../../../v1/secrets\"}]"] {
        let mut pod = launcher();
        pod["metadata"]["annotations"]["k8s.v1.cni.cncf.io/networks"] = json!(annotation);
        let response = running.ask(&question(pod)).await;
        let message = response["status"]["message"].as_str().unwrap();
        assert!(!response["allowed"].as_bool().unwrap(), "{annotation}");
        assert!(message.contains("the annotation k8s.v1.cni.cncf.io/networks"), "{message}");
    }
    assert_eq!(api.questions(), 0);
    running.stop().await;
}

#[tokio::test]
async fn what_is_no_question_is_answered_with_a_status() {
    let api = ApiServer::start().await;
    let running = Running::start(&api).await;
    let deep = "[".repeat(100_000);
    let v1beta1 = json!({"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "request": {"uid": "1"}});
    let cases = [
        ("GET", "/healthz", String::new(), 200),
        ("POST", "/healthz", String::new(), 405),
        ("GET", "/mutate", String::new(), 405),
        ("GET", "/", String::new(), 404),
        ("POST", "/mutate", String::new(), 400),
        ("POST", "/mutate", deep, 400),
        ("POST", "/mutate", "{}".to_owned(), 400),
        ("POST", "/mutate", v1beta1.to_string(), 400),
        ("POST", "/mutate", "\u{0}\u{ff}".to_owned(), 400),
        ("GET", "/validate", String::new(), 405),
        ("POST", "/validate", String::new(), 400),
        ("POST", "/validate", "[".repeat(100_000), 400),
        (
            "POST",
            "/validate",
            "{\"apiVersion\": \"admission.k8s.io/v1\", \"kind\": \"AdmissionReview\"}".to_owned(),
            400,
        ),
        ("POST", "/validate/", "{}".to_owned(), 404),
    ];
    for (method, path, body, expected) in cases {
        let (status, _) = running.send(method, path, body.into_bytes()).await;
        assert_eq!(status, expected, "{method} {path}");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_question_that_is_too_large_is_refused() {
    let api = ApiServer::start().await;
    let running = Running::start(&api).await;
    for path in ["/mutate", "/validate"] {
        let (status, _) = running.send("POST", path, vec![b' '; (4 << 20) + 1]).await;
        assert_eq!(status, 413);
        let mut question = br#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"1","kind":{"group":"","version":"v1",
            "kind":"Pod"},"namespace":"lab","operation":"CREATE","object":{"metadata":{"generateName":"virt-launcher-vm-","x":""#.to_vec();
        question.resize((4 << 20) + 1, b'x');
        let (status, body) = running.send("POST", path, question).await;
        let told = "Pod lab/virt-launcher-vm-: a question has at most 4 MiB; make the object smaller\n";
        assert_eq!((status, String::from_utf8(body).unwrap().as_str()), (413, told));
    }
    running.stop().await;
}

#[tokio::test]
async fn who_says_nothing_or_half_of_it_is_given_up() {
    let api = ApiServer::start().await;
    let running = Running::start(&api).await;
    let silent = running.connect_without_tls().await;
    let mut halves = Vec::new();
    let half_body = "POST /mutate HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{";
    for half in ["", "GET /heal", half_body] {
        halves.push(running.send_and_wait(half.as_bytes()).await);
    }
    // Time goes on by itself as long as nobody has anything to do.
    tokio::time::pause();
    assert_eq!(Running::rest_of(silent).await, "");
    for (half, stream) in ["", "GET /heal", half_body].into_iter().zip(halves) {
        let answer = Running::rest_of(stream).await;
        let first = answer.lines().next().unwrap_or_default();
        assert_eq!(first, if half == half_body { "HTTP/1.1 408 Request Timeout" } else { "" }, "{half}");
    }
    tokio::time::resume();
    assert_eq!(running.send("GET", "/healthz", vec![]).await.0, 200, "others are served");
    running.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_their_turn() {
    let api = ApiServer::start().await;
    let running = Running::start(&api).await;
    let mut idle = Vec::new();
    for _ in 0..128 {
        idle.push(running.send_and_wait(b"").await);
    }
    {
        let mut last = std::pin::pin!(running.handshake(running.connect_without_tls().await));
        // Time goes on by itself as long as nobody has anything to do: the last one is not served.
        tokio::time::pause();
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut last).await.is_err());
        tokio::time::resume();
        drop(idle.pop());
        last.await;
    }
    running.stop().await;
}

#[tokio::test]
async fn a_renewed_certificate_is_used_for_the_next_connection() {
    let api = usual_api_server().await;
    let running = Running::start(&api).await;
    let first = running.served_certificate().await;
    assert_eq!(first, running.served_certificate().await);

    // Half of a pair leaves the old one in force.
    let (certificate, key) = running.new_certificate();
    running.write_certificate(&certificate, None);
    assert_eq!(running.served_certificate().await, first);

    running.write_certificate(&certificate, Some(&key));
    let second = running.served_certificate().await;
    assert_ne!(second, first);
    running.remove_certificate();
    assert_eq!(running.served_certificate().await, second, "gone for a moment, it stays in force");
    running.stop().await;
}
