//! Kubernetes' API as a thread plays it, over TLS with an authority of its own: reading a pod, changing its annotations beside others who
//! do, and an API that is somebody else's or answers nonsense.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use culvert_cni::environment;
use culvert_cni::error::{Code, Error};
use culvert_cni::kubernetes::{Kubernetes, Source};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A request: its first line, its headers and its body.
type Request = (String, Vec<String>, Value);

/// An API that gives these answers, one after the other; and a kubeconfig for it.
struct Api {
    folder: TempDir,
    served: thread::JoinHandle<Vec<Request>>,
}

impl Api {
    fn new(answers: Vec<(u16, String)>) -> Self {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec!["api.test".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), cert.pem()).unwrap();
        let kubeconfig = format!(
            "clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:{port}/k8s', certificate-authority: ca.pem, \
             tls-server-name: api.test}}}}]\nusers: [{{name: u, user: {{token: secret}}}}]\n\
             contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\ncurrent-context: x\n"
        );
        fs::write(folder.path().join("kubeconfig"), kubeconfig).unwrap();
        let served = thread::spawn(move || {
            let mut answers = VecDeque::from(answers);
            let mut requests = Vec::new();
            while let Some((status, body)) = answers.pop_front() {
                let (stream, _) = listener.accept().unwrap();
                let connection = ServerConnection::new(Arc::new(config.clone())).unwrap();
                let mut stream = BufReader::new(StreamOwned::new(connection, stream));
                // A client that does not trust us has gone.
                let Some(request) = read(&mut stream) else { continue };
                requests.push(request);
                let head =
                    format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                // It may have had enough.
                let _ = stream.get_mut().write_all((head + &body).as_bytes());
                stream.get_mut().conn.send_close_notify();
                let _ = stream.get_mut().flush();
            }
            requests
        });
        Self { folder, served }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    fn kubernetes(&self) -> Kubernetes {
        Kubernetes::of(&self.path()).unwrap()
    }
}

fn read(stream: &mut impl BufRead) -> Option<Request> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_lowercase()),
        }
    }
    let length = lines.iter().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).ok()?;
    let first = lines.remove(0);
    Some((first, lines, serde_json::from_slice(&body).unwrap_or_default()))
}

fn pod(version: &str, annotations: &Value) -> (u16, String) {
    let pod = json!({
        "metadata": {"uid": "u-1", "resourceVersion": version, "annotations": annotations},
        "spec": {
            "volumes": [
                {"name": "shared-dir", "emptyDir": {}}, {"name": "host", "hostPath": {"path": "/var/run/x"}},
                {"name": "secret", "secret": {}},
            ],
            "containers": [
                {"name": "sidecar", "volumeMounts": [{"name": "shared-dir", "mountPath": "/elsewhere"}]},
                {"name": "compute", "volumeMounts": [{"name": "shared-dir", "mountPath": "/var/lib/cni/usrcni"}]},
            ],
        },
    });
    (200, pod.to_string())
}

fn id(uid: &str) -> environment::Pod {
    environment::Pod {
        namespace: Some("lab".to_owned()),
        name: Some("virt-launcher-fw-x1".to_owned()),
        uid: Some(uid.to_owned()),
        mac: None,
    }
}

fn later(result: Result<impl Sized, Error>) -> String {
    let error = result.err().unwrap();
    assert_eq!(error.code, Code::TryLater, "{error}");
    error.to_string()
}

#[test]
fn a_pod_is_read() {
    let api = Api::new(vec![pod("1", &json!({}))]);
    let read = api.kubernetes().pod(&id("u-1")).unwrap();
    let requests = api.served.join().unwrap();
    assert_eq!(read.volume("shared-dir"), Some(Source::EmptyDir));
    assert_eq!(read.volume("host"), Some(Source::HostPath("/var/run/x".into())));
    assert_eq!((read.volume("secret"), read.volume("missing")), (None, None));
    assert_eq!(read.mount_path("shared-dir"), Some(Path::new("/var/lib/cni/usrcni")));
    assert_eq!(read.mount_path("host"), None);
    let (first, headers, _) = &requests[0];
    assert_eq!(first, "get /k8s/api/v1/namespaces/lab/pods/virt-launcher-fw-x1 http/1.1");
    assert!(headers.contains(&"authorization: bearer secret".to_owned()), "{headers:?}");
}

#[test]
fn annotations_are_changed_beside_others_who_do() {
    let conflict = (409, json!({"message": "the object has been modified"}).to_string());
    let answers = vec![pod("1", &json!({"a": "1"})), conflict, pod("2", &json!({"a": "2"})), (200, "{}".to_owned())];
    let api = Api::new(answers);
    let changed = api.kubernetes().annotate(&id("u-1"), |pod| {
        BTreeMap::from([("b".to_owned(), format!("after {}", pod.metadata.annotations["a"]))])
    });
    changed.unwrap();
    let requests = api.served.join().unwrap();
    let (first, headers, body) = &requests[3];
    assert_eq!(first, "patch /k8s/api/v1/namespaces/lab/pods/virt-launcher-fw-x1 http/1.1");
    assert!(headers.contains(&"content-type: application/merge-patch+json".to_owned()), "{headers:?}");
    assert_eq!(body, &json!({"metadata": {"resourceVersion": "2", "annotations": {"b": "after 2"}}}));
}

#[test]
fn answers_that_do_not_help() {
    let refused = |answer: (u16, String)| {
        let api = Api::new(vec![answer]);
        let result = api.kubernetes().pod(&id("u-1"));
        api.served.join().unwrap();
        later(result)
    };
    let forbidden = json!({"message": "pods is forbidden: User x"}).to_string();
    assert!(refused((403, forbidden)).contains("403 Forbidden: pods is forbidden"));
    assert!(refused((404, String::new())).contains("404"));
    assert!(refused((200, "hello".to_owned())).contains("expected value"));
    assert!(refused((200, "x".repeat(5 << 20))).contains("length limit"));
    // The name is another pod's by now.
    let api = Api::new(vec![pod("1", &json!({}))]);
    assert!(later(api.kubernetes().pod(&id("u-2"))).contains("replaced"));
    api.served.join().unwrap();
}

#[test]
fn only_the_clusters_own_authority_is_trusted() {
    let api = Api::new(vec![pod("1", &json!({}))]);
    let other = generate_simple_self_signed(vec!["api.test".to_owned()]).unwrap();
    fs::write(api.folder.path().join("ca.pem"), other.cert.pem()).unwrap();
    let error = later(api.kubernetes().pod(&id("u-1")));
    assert!(error.contains("certificate"), "{error}");
    assert!(api.served.join().unwrap().is_empty(), "a token was sent to a stranger");
    // Nobody there.
    let api = Api::new(vec![]);
    api.served.join().unwrap();
    let kubernetes = Kubernetes::of(&api.folder.path().join("kubeconfig")).unwrap();
    assert!(later(kubernetes.pod(&id("u-1"))).contains("refused"));
}
