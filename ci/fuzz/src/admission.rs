//! What the API server asks culvert-webhook: a pod, the networks that its annotation names, and their definitions;
//! or a virtual machine.
//!
//! Checked: the patch makes of the pod what the edit made of it, an edited pod is edited no more, names that lead elsewhere
//! are in no path, and a question gets one answer or none.

use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use culvert_webhook::admission::Webhook;
use culvert_webhook::attachment::Definition;
use culvert_webhook::cluster::{Address, Cluster};
use culvert_webhook::networks;
use culvert_webhook::pod::{Interface, edit};
use culvert_webhook::retirement::Policy;
use culvert_webhook::sidecar::Sidecars;
use culvert_webhook::stage::Stage;
use serde_json::Value;

/// Runs one input, texts with a zero between them: a pod (or a whole review), an annotation, and definitions.
pub fn run(data: &[u8]) {
    let mut texts = data.splitn(3, |byte| *byte == 0);
    let mut text = || texts.next().unwrap_or_default();
    let (first, annotation, definitions) = (text(), text(), text());
    review(first);
    let selections = std::str::from_utf8(annotation).ok().and_then(|text| networks::parse(text, "lab").ok());
    let mut interfaces = Vec::new();
    for (selection, definition) in selections.unwrap_or_default().into_iter().zip(definitions.split(|byte| *byte == 0))
    {
        let label =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        assert!(label(&selection.namespace) && selection.name.split('.').all(label), "{selection:?}");
        assert!((1..=15).contains(&selection.interface.len()) && !selection.interface.contains(['/', '"', '\\']));
        let Ok(definition) = serde_json::from_slice::<Definition>(definition) else { continue };
        if let Ok(attachment) = definition.attachment() {
            interfaces.push(Interface { name: selection.interface, attachment });
        }
    }
    let Ok(pod) = serde_json::from_slice::<Value>(first) else { return };
    let mut edited = pod.clone();
    edit(&mut edited, &interfaces, &sidecars());
    let patch = json_patch::diff(&pod, &edited);
    let mut patched = pod;
    json_patch::patch(&mut patched, &patch).expect("a patch of this pod");
    assert_eq!(patched, edited);
    let mut again = edited.clone();
    edit(&mut again, &interfaces, &sidecars());
    assert_eq!(again, edited, "an edited pod is edited again");
}

/// A whole review. The API server that definitions are asked of is not there: who would wait for it is not waited for.
fn review(bytes: &[u8]) {
    let account = PathBuf::from("/proc/self/task");
    let cluster = Cluster::new(Address { host: String::new(), port: 1 }, account);
    let policy = Policy { passt: Stage::Block, vhostuser: Stage::Warn };
    let webhook = Webhook { sidecars: sidecars(), cluster: Arc::new(cluster), policy };
    // With a network this would connect.
    if String::from_utf8_lossy(bytes).contains("k8s.v1.cni.cncf.io") {
        return;
    }
    let mut answer = std::pin::pin!(webhook.mutate(bytes));
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(answer) = answer.as_mut().poll(&mut context) else { panic!("it waits for nothing") };
    for answer in [answer, webhook.validate(bytes)] {
        match answer {
            Ok(review) => {
                let told = serde_json::to_value(review).expect("JSON");
                assert!(told.pointer("/response/uid").is_some() && told.pointer("/response/allowed").is_some());
                let message = told.pointer("/response/status/message").and_then(Value::as_str).unwrap_or_default();
                let is_shown = message.len() < 4096 && !message.contains(char::is_control);
                assert!(is_shown || told.pointer("/response/status/code") == Some(&503.into()), "{message:?}");
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

fn sidecars() -> Sidecars {
    Sidecars { bindings: vec!["culvert".to_owned()], images: vec!["registry/culvert-hook".to_owned()] }
}
