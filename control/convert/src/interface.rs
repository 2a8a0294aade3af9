//! What one interface of an object needs, and what a person should know of it.

use crate::edit::{Edits, OLD, PASST, VHOSTUSER};
use crate::kinds::{FEATURE_GATES, INTERFACES, Kind, PASST_GATE};
use crate::objects::{Object, What};
use crate::tree::{Anchors, Content, Node, Tree};
use crate::{BindingName, Change, Fault, Outcome, Warning, Wish};

/// What was found in a text.
pub struct Found<'n, 't> {
    tree: &'n Tree<'t>,
    anchors: Anchors<'n>,
    wish: &'n Wish,
    pub edits: Edits,
    pub changes: Vec<Change>,
    pub warnings: Vec<Warning>,
    /// One for each interface.
    pub outcomes: Vec<Outcome>,
}

/// A virtual machine instance's description.
struct Machine<'n> {
    name: String,
    networks: Vec<&'n Node>,
}

/// A key of an interface that says how it is served.
struct Method<'n> {
    key: &'n Node,
    word: &'n str,
    value: &'n Node,
}

impl<'n, 't> Found<'n, 't> {
    pub fn new(tree: &'n Tree<'t>, wish: &'n Wish) -> Self {
        Self {
            tree,
            anchors: Anchors::of(tree),
            wish,
            edits: Edits::default(),
            changes: vec![],
            warnings: vec![],
            outcomes: vec![],
        }
    }

    /// Finds what an object needs.
    ///
    /// # Errors
    /// When an interface of it cannot be converted.
    pub fn look_at(&mut self, object: &Object<'n>) -> Result<(), Fault> {
        match object.what {
            What::Machine(kind) => self.machine(object, kind),
            What::KubeVirt => {
                self.feature_gates(object.node);
                Ok(())
            }
        }
    }

    fn machine(&mut self, object: &Object<'n>, kind: Kind) -> Result<(), Fault> {
        let Some(spec) = self.anchors.descend(object.node, kind.spec) else { return Ok(()) };
        let Some(interfaces) = self.anchors.descend(spec, &INTERFACES) else { return Ok(()) };
        if self.anchors.is_null(interfaces) {
            return Ok(());
        }
        let Content::Sequence(items) = &interfaces.content else {
            return Err(interfaces.place.fault(format!("{}: interfaces is not a list", object.name)));
        };
        let networks = match self.anchors.get(spec, "networks").map(|networks| &networks.content) {
            Some(Content::Sequence(networks)) => networks.iter().map(|network| self.anchors.resolve(network)).collect(),
            _ => vec![],
        };
        let machine = Machine { name: object.name.clone(), networks };
        items.iter().try_for_each(|item| self.interface(item, &machine))
    }

    fn interface(&mut self, node: &'n Node, machine: &Machine<'n>) -> Result<(), Fault> {
        let node = self.anchors.resolve(node);
        let Content::Mapping(_) = node.content else {
            return Err(node.place.fault(format!("{}: an interface is not a mapping", machine.name)));
        };
        // A template's name may be something that is no text yet.
        let name = self.anchors.get(node, "name").and_then(|name| self.anchors.text(name));
        let shown = name.map_or("without a name".to_owned(), |name| name.escape_debug().to_string());
        let what = format!("{}, interface {shown}", machine.name);
        let methods = self.methods(node);
        self.look_at_values(&methods, &what)?;
        let set: Vec<_> = methods.iter().filter(|method| !self.anchors.is_null(method.value)).collect();
        let words: Vec<_> = set.iter().map(|method| self.described(method)).collect();
        let method = if words.is_empty() { "nothing".to_owned() } else { words.join(" and ") };
        let mut outcome = Outcome { place: node.place, what, method };
        let what = &outcome.what;
        if let [method] = set[..]
            && let Some((from, binding)) = self.step(method, what)?
        {
            self.changes.push(Change {
                line: method.key.place.line,
                object: machine.name.clone(),
                interface: shown,
                from,
                binding: binding.as_str().to_owned(),
            });
            self.warn_of(node, method, name, what, machine);
            outcome.method = format!("{BINDING} {}", binding.as_str());
        } else if let Some(old) = set.iter().find(|method| OLD.contains(&method.word) && set.len() > 1) {
            return Err(old.key.place.fault(format!("{what}: {}; leave one of them", outcome.method)));
        }
        self.outcomes.push(outcome);
        Ok(())
    }

    /// How an interface is served, as its keys say: one that is set is right.
    fn methods(&self, node: &'n Node) -> Vec<Method<'n>> {
        let entries = self.anchors.entries(node).into_iter();
        let methods = entries.filter_map(|(key, value)| {
            let word = self.anchors.text(key).filter(|word| METHODS.contains(word))?;
            Some(Method { key, word, value })
        });
        methods.collect()
    }

    /// Refuses what stands twice, and warns of what has no value.
    fn look_at_values(&mut self, methods: &[Method<'n>], what: &str) -> Result<(), Fault> {
        for (number, Method { key, word, value }) in methods.iter().enumerate() {
            if methods.iter().take(number).any(|before| before.word == *word) {
                return Err(key.place.fault(format!("{what}: {word} stands twice")));
            }
            if OLD.contains(word) && self.anchors.is_null(value) {
                self.edits.see(key);
                let text = format!(
                    "{what}: {word} without a value is nothing to Kubernetes; if it is meant, write {word}: {{}}"
                );
                self.warnings.push(Warning { line: key.place.line, text });
            }
        }
        Ok(())
    }

    /// Such as `masquerade`, or `binding culvert`.
    fn described(&self, method: &Method<'n>) -> String {
        let plugin = self.anchors.get(method.value, "name").and_then(|name| self.anchors.text(name));
        match plugin {
            Some(plugin) if method.word == BINDING => format!("{BINDING} {plugin}"),
            _ => method.word.to_owned(),
        }
    }

    /// Converts a method, if it is one to convert. Returns what stood there, and what stands there now.
    fn step(&mut self, method: &Method<'n>, what: &str) -> Result<Option<(String, &'n BindingName)>, Fault> {
        let wish = self.wish;
        let (from, binding) = match method.word {
            PASST => ("passt: {}", &wish.translator),
            VHOSTUSER => ("vhostuser: {}", &wish.vhostuser),
            PASST_BINDING => ("passtBinding: {}", &wish.translator),
            BINDING if self.described(method) == "binding passt" => ("binding: {name: passt}", &wish.translator),
            _ => return Ok(None),
        };
        if !OLD.contains(&method.word) && !wish.all_passt {
            let text = format!(
                "{what}: {from} is another of KubeVirt's passt bindings, and stays; --all-passt converts it, too"
            );
            self.warnings.push(Warning { line: method.key.place.line, text });
            return Ok(None);
        }
        if method.word == BINDING {
            let entries = self.anchors.entries(method.value).into_iter();
            let names = entries.filter(|(key, _)| self.anchors.text(key) == Some("name"));
            for (_, plugin) in names {
                self.edits.replace_word(self.tree, plugin, PASST, binding.as_str())?;
            }
        } else {
            self.replace(method, binding.as_str(), what)?;
        }
        Ok(Some((from.to_owned(), binding)))
    }

    fn replace(&mut self, method: &Method<'n>, binding: &str, what: &str) -> Result<(), Fault> {
        let Method { key, word, value } = method;
        match &self.anchors.resolve(value).content {
            Content::Mapping(entries) if entries.is_empty() => {}
            Content::Mapping(_) => {
                let text = format!("{what}: {word} has keys, which KubeVirt does not know: write {word}: {{}}");
                return Err(key.place.fault(text));
            }
            _ => return Err(key.place.fault(format!("{what}: {word} is not {{}}"))),
        }
        self.edits.see(key);
        let quotes = self.edits.replace_word(self.tree, key, word, BINDING)?;
        self.edits.fill(self.tree, value, binding, quotes)
    }

    /// What else the new binding wants.
    fn warn_of(
        &mut self,
        interface: &'n Node,
        method: &Method<'_>,
        name: Option<&str>,
        what: &str,
        machine: &Machine<'n>,
    ) {
        let anchors = &self.anchors;
        let network = machine
            .networks
            .iter()
            .copied()
            .find(|network| anchors.get(network, "name").and_then(|known| anchors.text(known)) == name);
        let has = |key: &str| network.and_then(|network| anchors.get(network, key)).is_some();
        let definition = network.and_then(|network| anchors.descend(network, &["multus", "networkName"]));
        let definition = definition.and_then(|name| anchors.text(name)).unwrap_or_default();
        let sentence = match (method.word == VHOSTUSER, has("pod"), has("multus")) {
            _ if name.is_none() => None,
            (true, _, true) => Some(format!(
                "NetworkAttachmentDefinition {definition} must be one for culvert-cni (control/deploy/networks)"
            )),
            (true, true, _) => {
                Some("it is on the pod's network, for which the binding is not: use a multus network".to_owned())
            }
            (false, _, true) => {
                Some("it is on a multus network, for which the binding is not: it is for the pod's".to_owned())
            }
            (false, true, _) => None,
            (_, false, false) => Some("no network of the VM has its name, or it has neither pod nor multus".to_owned()),
        };
        let model = anchors.get(interface, "model").and_then(|model| anchors.text(model));
        let model = model.filter(|model| !model.is_empty() && !model.starts_with("virtio"));
        let model =
            model.map(|model| format!("model {model} is none that shares its rings with the binding: use virtio"));
        let line = method.key.place.line;
        self.warnings
            .extend(sentence.into_iter().chain(model).map(|text| Warning { line, text: format!("{what}: {text}") }));
    }

    fn feature_gates(&mut self, node: &'n Node) {
        let Some(gates) = self.anchors.descend(node, &FEATURE_GATES) else { return };
        let Content::Sequence(gates) = &gates.content else { return };
        let gate = gates.iter().find(|gate| self.anchors.text(gate) == Some(PASST_GATE));
        if let Some(gate) = gate {
            let text = "the feature gate Passt can go when no interface is passt: {} any more; the bindings must be registered \
                        (control/deploy/kubevirt/bindings.yaml)";
            self.warnings.push(Warning { line: gate.place.line, text: text.to_owned() });
        }
    }
}

const BINDING: &str = "binding";
const PASST_BINDING: &str = "passtBinding";
/// InterfaceBindingMethod of all versions of KubeVirt, with `binding`, and `vhostuser` of forks.
const METHODS: [&str; 9] =
    ["bridge", "slirp", "masquerade", "sriov", "macvtap", PASST, PASST_BINDING, VHOSTUSER, BINDING];
