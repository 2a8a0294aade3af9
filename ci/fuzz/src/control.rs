//! Requests of clients to culvertd's control socket: any bytes as protobuf, one after the other, each done with what the ones
//! before have left.
//!
//! Checked: what is refused says why, in one line for each mistake; a change that is done has broken no rule, is the same
//! when it is repeated, and is kept by the journal; no text of a request becomes anything but the value of its key; what
//! runs can be led to what is wanted.

use std::path::Path;

use culvert_api::v1;
use culvertd::change::{Change, Refusal, Verb, apply};
use culvertd::config::{Kind, Objects, conflicts, toml_text};
use culvertd::node::ChangeError;
use culvertd::reconcile::{Running, reconcile};
use culvertd::request;
use prost::Message;

use crate::config::kept;

/// Runs one input: for each request a byte that chooses the method, one that tells how many bytes follow, and these.
pub fn run(data: &[u8]) {
    let mut objects = Objects::default();
    let mut rest = data;
    for _ in 0..MOST {
        let [method, length, behind @ ..] = rest else { break };
        let (bytes, later) = behind.split_at(behind.len().min(usize::from(*length)));
        rest = later;
        let Some(change) = change(*method, bytes) else { continue };
        objects = step(objects, &change);
    }
    kept(&objects);
}

fn step(before: Objects, change: &Change) -> Objects {
    let socket = Path::new("/run/culvert/culvertd.sock");
    let outcome = match apply(&before, change, socket, "culvertd.toml") {
        Err(refusal) => {
            told(refusal);
            return before;
        }
        Ok(outcome) => outcome,
    };
    assert_eq!(outcome.changed, outcome.objects != before);
    assert!(!outcome.note.contains(char::is_control), "{:?}", outcome.note);
    assert!(conflicts(&outcome.objects, socket).is_empty());
    let again = apply(&outcome.objects, change, socket, "culvertd.toml").expect("the same again");
    assert!(!again.changed && again.objects == outcome.objects, "{change:?} is something else the second time");
    if let Verb::Add(keys) = &change.verb {
        // Texts come out as they went in.
        let of = |key: &str| keys.iter().find(|(other, _)| *other == key).map(|(_, value)| value.clone());
        let port = outcome.objects.ports.iter().find(|port| port.wanted.name.as_str() == change.name);
        if let (Kind::Port, Some(port)) = (change.kind, port) {
            let now = port.wanted.keys();
            let description = now.iter().find(|(key, _)| *key == "description").map(|(_, value)| value.clone());
            let wanted = of("description").filter(|text| text != &toml_text(""));
            assert!(wanted.is_none() || description == wanted, "{description:?} is not {wanted:?}");
        }
    }
    let running = running(&before);
    let actions = reconcile(&outcome.objects, &running);
    assert_eq!(actions.is_empty(), !outcome.changed || same_wanted(&before, &outcome.objects));
    outcome.objects
}

fn told(refusal: Refusal) {
    let sentences = ChangeError::Refused(refusal).sentences();
    assert!(!sentences.is_empty());
    for sentence in sentences {
        assert!(!sentence.is_empty() && !sentence.contains(char::is_control), "{sentence:?}");
        assert!(!sentence.contains("mistake in culvertd"), "{sentence}");
        assert!(sentence.len() < 4096, "{} bytes", sentence.len());
    }
}

fn running(objects: &Objects) -> Running {
    Running {
        networks: objects.networks.iter().map(|object| object.wanted.clone()).collect(),
        ports: objects.ports.iter().map(|object| object.wanted.clone()).collect(),
        mirrors: objects.mirrors.iter().map(|object| object.wanted.clone()).collect(),
        pods: objects.pods.iter().map(|object| object.wanted.clone()).collect(),
    }
}

fn same_wanted(one: &Objects, other: &Objects) -> bool {
    running(one) == running(other)
}

/// What a method makes of its request; `None` where the bytes are none.
fn change(method: u8, bytes: &[u8]) -> Option<Change> {
    Some(match method % 11 {
        0 => {
            let v1::AddNetworkRequest { name, network } = decode(bytes)?;
            request::add(Kind::Network, name, request::network(network))
        }
        1 => {
            let v1::SetNetworkRequest { name, network, unset } = decode(bytes)?;
            request::set(Kind::Network, name, request::network(network), unset)
        }
        2 => request::remove(Kind::Network, decode(bytes)?),
        3 | 4 => {
            let v1::AddPortRequest { name, port } = decode(bytes)?;
            request::add(Kind::Port, name, request::port(port))
        }
        5 => {
            let v1::SetPortRequest { name, port, unset } = decode(bytes)?;
            request::set(Kind::Port, name, request::port(port), unset)
        }
        6 => request::remove(Kind::Port, decode(bytes)?),
        7 => {
            let v1::AddMirrorRequest { name, mirror } = decode(bytes)?;
            request::add(Kind::Mirror, name, request::mirror(mirror))
        }
        8 => request::remove(Kind::Mirror, decode(bytes)?),
        9 => {
            let v1::AddPodRequest { name, pod } = decode(bytes)?;
            request::add(Kind::Pod, name, request::pod(pod))
        }
        _ => request::remove(Kind::Pod, decode(bytes)?),
    })
}

fn decode<M: Message + Default>(bytes: &[u8]) -> Option<M> {
    M::decode(bytes).ok()
}

/// How many requests one input has at most.
const MOST: usize = 24;
