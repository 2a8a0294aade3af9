//! The objects of a file: documents, and what lists have in them.

use crate::kinds::{self, Kind};
use crate::tree::{Anchors, Content, Node, Tree};

/// An object that concerns us.
pub struct Object<'n> {
    pub node: &'n Node,
    pub what: What,
    /// Kind, namespace and name, for messages.
    pub name: String,
}

/// What it is.
pub enum What {
    /// It describes a virtual machine instance.
    Machine(Kind),
    /// KubeVirt's own configuration.
    KubeVirt,
}

/// All of them, in the order of the text.
pub fn of<'n>(tree: &'n Tree<'_>) -> Vec<Object<'n>> {
    let anchors = Anchors::of(tree);
    let mut objects = Vec::new();
    for document in &tree.documents {
        add(document, &anchors, &mut objects, MAX_LISTS);
    }
    objects
}

fn add<'n>(node: &'n Node, anchors: &Anchors<'n>, objects: &mut Vec<Object<'n>>, lists: usize) {
    let node = anchors.resolve(node);
    let text = |key: &str| anchors.get(node, key).and_then(|value| anchors.text(value)).unwrap_or_default();
    let (group, kind) = (kinds::group(text("apiVersion")), text("kind"));
    if let Some(known) = Kind::of(group, kind) {
        objects.push(Object { node, what: What::Machine(known), name: name(node, kind, anchors) });
        return;
    }
    if (group, kind) == (kinds::GROUP, kinds::KUBEVIRT) {
        objects.push(Object { node, what: What::KubeVirt, name: name(node, kind, anchors) });
        return;
    }
    let is_ours = || kinds::KINDS.iter().any(|known| known.group == group);
    let items = match kind {
        "List" if group.is_empty() => "items",
        // OpenShift's.
        "Template" => "objects",
        _ if kind.ends_with("List") && is_ours() => "items",
        _ => return,
    };
    let Some(lists) = lists.checked_sub(1) else { return };
    if let Some(Content::Sequence(items)) = anchors.get(node, items).map(|items| &items.content) {
        items.iter().for_each(|item| add(item, anchors, objects, lists));
    }
}

/// Such as `VirtualMachine lab/vm`.
fn name(node: &Node, kind: &str, anchors: &Anchors<'_>) -> String {
    let metadata = |key: &str| {
        let text = anchors.descend(node, &["metadata", key]).and_then(|value| anchors.text(value));
        text.filter(|text| !text.is_empty() && !text.contains(char::is_control))
    };
    let name = metadata("name").or_else(|| metadata("generateName")).unwrap_or("without a name");
    match metadata("namespace") {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}

/// Lists in lists, and so on.
const MAX_LISTS: usize = 4;
