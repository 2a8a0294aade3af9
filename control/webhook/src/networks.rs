//! Which networks a pod asks Multus for: the annotation `k8s.v1.cni.cncf.io/networks`.
//!
//! Source: the Network Plumbing Working Group's "Kubernetes Network Custom Resource Definition De-facto Standard" 1.3,
//! section 4.1, and Multus for what that leaves open. The text comes from whoever made the pod; the names lead to
//! requests to the API server, so they are checked here. [`crate::admission`] calls this.

use serde::Deserialize;
use thiserror::Error;

/// The annotation that Multus reads.
pub const ANNOTATION: &str = "k8s.v1.cni.cncf.io/networks";

/// One network that a pod asks for, by the NetworkAttachmentDefinition that describes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Selection {
    /// Where the definition is.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What the interface will be called in the pod; where the annotation does not tell, as Multus counts: net1, net2, ...
    pub interface: String,
}

/// Why an annotation is refused. Multus would refuse it too, later.
#[derive(Debug, Error, Eq, PartialEq)]
pub enum SelectionError {
    /// It begins as JSON does, and is none, or not a list of objects with a name.
    #[error("the annotation {ANNOTATION} is not a JSON list of networks: {0}")]
    Json(String),
    /// A name that no object, or no interface, can have.
    #[error("the annotation {ANNOTATION} has \"{0}\", which cannot be {1}")]
    Name(String, &'static str),
    /// More networks than a pod can sensibly have.
    #[error("the annotation {ANNOTATION} has {0} networks; at most {MAX_NETWORKS} are looked at")]
    TooMany(usize),
}

/// Reads the annotation's value, in either of its forms. `namespace` is the pod's.
pub fn parse(annotation: &str, namespace: &str) -> Result<Vec<Selection>, SelectionError> {
    let elements = if annotation.contains(['[', '{', '"']) {
        serde_json::from_str(annotation).map_err(|error| SelectionError::Json(error.to_string()))?
    } else {
        annotation.split(',').map(str::trim).filter(|text| !text.is_empty()).map(text_element).collect::<Vec<_>>()
    };
    if elements.len() > MAX_NETWORKS {
        return Err(SelectionError::TooMany(elements.len()));
    }
    elements.into_iter().zip(1..).map(|(element, number)| selection(element, namespace, number)).collect()
}

/// An element of the JSON form; it has more keys, which are Multus's and the plugins' affair.
#[derive(Deserialize)]
struct Element {
    name: String,
    namespace: Option<String>,
    interface: Option<String>,
}

/// The text form: `[namespace/]name[@interface]`.
fn text_element(text: &str) -> Element {
    let (path, interface) = text.split_once('@').map_or((text, None), |(path, name)| (path, Some(name.to_owned())));
    let (namespace, name) = path.split_once('/').map_or((None, path), |(ns, name)| (Some(ns.to_owned()), name));
    Element { name: name.to_owned(), namespace, interface }
}

fn selection(element: Element, namespace: &str, number: usize) -> Result<Selection, SelectionError> {
    let Element { name, namespace: own, interface } = element;
    let namespace = own.filter(|own| !own.is_empty()).unwrap_or_else(|| namespace.to_owned());
    let interface = interface.filter(|name| !name.is_empty()).unwrap_or_else(|| format!("net{number}"));
    if !is_label(&namespace) {
        return Err(SelectionError::Name(namespace, "a namespace's name"));
    }
    if name.len() > MAX_NAME || !name.split('.').all(is_label) {
        return Err(SelectionError::Name(name, "a NetworkAttachmentDefinition's name"));
    }
    if interface.len() > MAX_INTERFACE_NAME
        || interface.contains(|c: char| !c.is_ascii_graphic() || "/:\\\"".contains(c))
    {
        return Err(SelectionError::Name(interface, "an interface's name"));
    }
    Ok(Selection { namespace, name, interface })
}

/// RFC 1123, as Kubernetes uses it.
pub(crate) fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=MAX_LABEL).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

const MAX_NETWORKS: usize = 64;
const MAX_LABEL: usize = 63;
const MAX_NAME: usize = 253;
/// IFNAMSIZ without the NUL.
const MAX_INTERFACE_NAME: usize = 15;

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(namespace: &str, name: &str, interface: &str) -> Selection {
        Selection { namespace: namespace.to_owned(), name: name.to_owned(), interface: interface.to_owned() }
    }

    #[test]
    fn the_json_form_as_kubevirt_writes_it() {
        let text = r#"[{"interface":"pod494bb167e44","mac":"02:11:22:aa:bb:01","name":"lab-net","namespace":"lab",
            "cni-args":{"logicNetworkName":"dpdk-a"}},{"name":"translator","namespace":"culvert-system"}]"#;
        assert_eq!(
            parse(text, "other").unwrap(),
            [selected("lab", "lab-net", "pod494bb167e44"), selected("culvert-system", "translator", "net2")]
        );
    }

    #[test]
    fn the_text_form() {
        assert_eq!(
            parse("blue, lab/red@eth7 ,green@x1,", "ns").unwrap(),
            [selected("ns", "blue", "net1"), selected("lab", "red", "eth7"), selected("ns", "green", "x1")]
        );
        assert_eq!(parse("", "ns").unwrap(), []);
    }

    #[test]
    fn names_that_would_lead_elsewhere_are_refused() {
        let long = "a".repeat(254);
        let names = ["../secrets/x", "a b", "A", "a/b/c", "-a", "a..b", "a?b=c", "a#", "é", "", long.as_str()];
        for name in names {
            let text = serde_json::json!([{"name": name}]).to_string();
            assert!(matches!(parse(&text, "ns"), Err(SelectionError::Name(..))), "{name}");
        }
        assert!(matches!(parse("../x/y", "ns"), Err(SelectionError::Name(..))));
        assert!(matches!(parse("x@sixteen-letters.", "ns"), Err(SelectionError::Name(..))));
        assert!(matches!(parse(r#"[{"name":"x","interface":"a\nb"}]"#, "ns"), Err(SelectionError::Name(..))));
    }

    #[test]
    fn json_that_is_not_a_list_of_networks_is_refused() {
        let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        for text in ["[", "{}", "[1]", "[{}]", "\"x\"", "[{\"name\":1}]", nested.as_str()] {
            assert!(matches!(parse(text, "ns"), Err(SelectionError::Json(_))), "{}", &text[..text.len().min(20)]);
        }
    }

    #[test]
    fn too_many_networks_are_refused() {
        let text = vec!["x"; 65].join(",");
        assert_eq!(parse(&text, "ns"), Err(SelectionError::TooMany(65)));
    }
}
