//! The edit: a domain and its VMI become a domain with our interfaces, and the translators that must run for it.
//!
//! Pure, and idempotent: the result of a result is the same, byte for byte. An interface is known by its alias; what is
//! there under that alias is replaced, and its PCI address kept, which a domain that migrates has already.

use std::path::PathBuf;

use roxmltree::{Document, Node};
use sha2::{Digest, Sha256};

use crate::binding::{self, Binding};
use crate::context::{Context, TranslatorFolder};
use crate::domain::{self, Changes, DomainError, child, children};
use crate::error::{EditError, InterfaceFault, Reason};
use crate::forwards::forwards;
use crate::host_mtu;
use crate::interface::{Element, Rings, alias, mac_address, pci_address, write_mac};
use crate::memory;
use crate::socket::{self, Mode};
use crate::vmi::{Interface, Network, Vmi};

/// What comes of an edit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The whole document.
    pub domain: Vec<u8>,
    /// Translators that must run before QEMU starts.
    pub translators: Vec<TranslatorWish>,
    /// Sentences for the log.
    pub notices: Vec<String>,
}

/// A translator that must run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TranslatorWish {
    /// The VMI's name of the interface.
    pub interface: String,
    /// The guest's socket, as this program sees it.
    pub socket: PathBuf,
    /// Whether QEMU has a tap instead of the socket, KubeVirt's core having attached it.
    pub tap: Option<Tap>,
    /// The pod's interface.
    pub pod_interface: String,
    /// Forwarded ports, as options.
    pub forwards: Vec<String>,
}

/// A tap that KubeVirt's core has attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tap {
    /// Its name in the pod as the domain says.
    pub device: Option<String>,
    /// Its MTU as the domain says, in bytes.
    pub mtu: Option<u16>,
}

/// Gives the domain the interfaces of the VMI that are ours.
///
/// # Errors
/// Why nothing was edited.
pub fn edit(domain_xml: &[u8], vmi: &Vmi, context: &Context) -> Result<Vec<u8>, EditError> {
    plan(domain_xml, vmi, context).map(|plan| plan.domain)
}

/// The same, with the translators.
///
/// # Errors
/// Why nothing was edited.
pub fn plan(domain_xml: &[u8], vmi: &Vmi, context: &Context) -> Result<Plan, EditError> {
    make(domain_xml, vmi, context).map_err(|reason| EditError { vmi: vmi.name(), reason })
}

fn make(domain_xml: &[u8], vmi: &Vmi, context: &Context) -> Result<Plan, Reason> {
    let document = domain::parse(domain_xml)?;
    let root = document.root_element();
    let count = |count| DomainError::Count { name: "devices", count, expected: "one" };
    let devices = child(root, "devices")?.ok_or_else(|| count(0))?;

    let mut changes = Changes::default();
    let mut plan = Plan { domain: Vec::new(), translators: Vec::new(), notices: Vec::new() };
    let mut appended = String::new();
    let mut written = Vec::new();
    let mut mtus = Vec::new();
    for (interface, binding) in binding::interfaces(vmi, context)? {
        let fault = |fault| Reason::Interface { interface: interface.name.chars().take(100).collect(), fault };
        check_name(&interface.name).map_err(fault)?;
        if vmi.spec.domain.devices.interfaces.iter().filter(|other| other.name == interface.name).count() > 1 {
            return Err(fault(InterfaceFault::Twice));
        }
        let network = vmi.network(&interface.name).ok_or_else(|| fault(InterfaceFault::NoNetwork))?;
        let there: Vec<_> = with_alias(devices, &interface.name).collect();
        let element = match binding {
            Binding::Vhostuser => vhostuser(vmi, interface, network, context, root, &mut mtus).map_err(fault)?,
            Binding::Translator => {
                let tap = there.iter().find(|element| element.attribute("type") == Some("ethernet"));
                let tap = tap.map(|element| Tap { device: device_of(*element), mtu: mtu_of(*element) });
                let is_tap = tap.is_some();
                let wish = translator(vmi, interface, network, context, tap, &mut plan.notices).map_err(fault)?;
                let path = socket_of_translator(&interface.name, context).1;
                plan.translators.push(wish);
                if is_tap {
                    // QEMU has the tap that KubeVirt's core attached; its memory need not be shared.
                    continue;
                }
                on_translator(vmi, interface, path).map_err(fault)?
            }
        };
        let kept = there.first().and_then(|element| children(*element, "address").next()).map(domain::source);
        let address = match interface.pci_address.as_str() {
            "" => kept.map(str::to_owned),
            address => Some(pci_address(address).map_err(fault)?),
        };
        let xml = Element { address, ..element }.xml();
        match there.split_first() {
            Some((first, others)) => {
                changes.replace(*first, &xml);
                others.iter().for_each(|other| changes.replace(*other, ""));
            }
            None => appended.push_str(&xml),
        }
        written.push(interface.name.as_str());
    }
    if !written.is_empty() {
        memory::share(root, devices, vmi, &mut changes)?;
    }
    host_mtu::write(root, &mtus, &mut changes)?;
    if !appended.is_empty() {
        changes.append(devices, &appended);
    }
    plan.domain = changes.apply(document.input_text()).ok_or_else(|| unsound("changes overlap"))?.into_bytes();
    check_result(&plan.domain, &written)?;
    Ok(plan)
}

/// The interface of a port of culvertd.
fn vhostuser(
    vmi: &Vmi,
    interface: &Interface,
    network: &Network,
    context: &Context,
    root: Node,
    mtus: &mut Vec<(String, u64)>,
) -> Result<Element, InterfaceFault> {
    if network.pod.is_some() {
        return Err(InterfaceFault::PodNetwork);
    }
    let socket = socket::find(vmi, network, context)?;
    if let Some(mtu) = socket.mtu.filter(|mtu| *mtu != DEFAULT_MTU) {
        if !(68..=65_535).contains(&mtu) {
            return Err(InterfaceFault::Mtu(mtu));
        }
        mtus.push((alias(&interface.name), mtu));
    }
    let model = model(vmi, interface)?;
    let rings = model.starts_with("virtio").then(|| Rings { queues: queues(vmi, root, socket.queues) });
    let mac =
        if interface.mac_address.is_empty() { socket.mac.as_deref() } else { Some(interface.mac_address.as_str()) };
    let mac = mac.map_or_else(|| Ok(made_up_mac(vmi, interface)), mac_address)?;
    Ok(Element { mac, path: socket.path, mode: socket.mode, rings, ..common(interface, model) })
}

/// The interface of a translator.
fn on_translator(vmi: &Vmi, interface: &Interface, path: String) -> Result<Element, InterfaceFault> {
    socket::check_path(&path)?;
    let given = Some(interface.mac_address.as_str()).filter(|mac| !mac.is_empty());
    let mac = given.map_or_else(|| Ok(made_up_mac(vmi, interface)), mac_address)?;
    Ok(Element { mac, path, ..common(interface, model(vmi, interface)?) })
}

/// What all our interfaces have in common.
fn common(interface: &Interface, model: String) -> Element {
    Element {
        name: interface.name.clone(),
        mac: String::new(),
        path: String::new(),
        mode: Mode::Client,
        model,
        rings: None,
        boot_order: interface.boot_order,
        down: interface.state == "down",
        acpi_index: Some(interface.acpi_index).filter(|index| *index > 0),
        address: None,
    }
}

/// The translator of an interface.
fn translator(
    vmi: &Vmi,
    interface: &Interface,
    network: &Network,
    context: &Context,
    tap: Option<Tap>,
    notices: &mut Vec<String>,
) -> Result<TranslatorWish, InterfaceFault> {
    if network.pod.is_none() && !network.multus.as_ref().is_some_and(|multus| multus.default) {
        return Err(InterfaceFault::NotPodNetwork);
    }
    let pod_interface = vmi.pod_interface(&interface.name).or(context.pod_interface.as_deref());
    let pod_interface = pod_interface.ok_or(InterfaceFault::NoPodInterface)?.to_owned();
    if let TranslatorFolder::HookFolder { compute, .. } = &context.translator_folder {
        if !binding::has_one_sidecar(vmi) {
            return Err(InterfaceFault::NoTranslatorFolder);
        }
        if tap.is_none() {
            notices.push(format!(
                "interface {:?}: the volume culvert-translator is not mounted; the socket is in {}, which may be elsewhere on another node: this VM cannot migrate",
                interface.name,
                compute.display()
            ));
        }
    }
    let istio = vmi.annotation("sidecar.istio.io/inject").is_some_and(|inject| inject.eq_ignore_ascii_case("true"));
    let forwards = forwards(&interface.ports, istio)?;
    notices.extend(forwards.notices.iter().map(|notice| format!("interface {:?}: {notice}", interface.name)));
    let (socket, _) = socket_of_translator(&interface.name, context);
    Ok(TranslatorWish { interface: interface.name.clone(), socket, tap, pod_interface, forwards: forwards.options })
}

/// The pod's device that an interface of the domain is.
fn device_of(interface: Node) -> Option<String> {
    let device = children(interface, "target").next()?.attribute("dev")?;
    (is_word(device) && device.len() < 16).then(|| device.to_owned())
}

/// The MTU that an interface of the domain has.
fn mtu_of(interface: Node) -> Option<u16> {
    children(interface, "mtu").next()?.attribute("size")?.parse().ok()
}

/// The translator's socket for an interface: as this program sees it, and as QEMU does.
fn socket_of_translator(interface: &str, context: &Context) -> (PathBuf, String) {
    let (here, compute) = match &context.translator_folder {
        TranslatorFolder::Volume(folder) => (folder, folder),
        TranslatorFolder::HookFolder { here, compute } => (here, compute),
    };
    let name = format!("{interface}.sock");
    (here.join(&name), compute.join(&name).to_string_lossy().into_owned())
}

/// KubeVirt's rule for models: what is left open is virtio, in the form that the VM uses.
fn model(vmi: &Vmi, interface: &Interface) -> Result<String, InterfaceFault> {
    let virtio =
        if vmi.spec.domain.devices.use_virtio_transitional { "virtio-transitional" } else { "virtio-non-transitional" };
    match interface.model.as_str() {
        "" | "virtio" => Ok(virtio.to_owned()),
        model if is_word(model) => Ok(model.to_owned()),
        other => Err(InterfaceFault::Model(other.chars().take(100).collect())),
    }
}

/// Queue pairs: one for each virtual processor when the VM wants several, as many as a port has at most.
fn queues(vmi: &Vmi, root: Node, port: Option<u64>) -> u64 {
    if !vmi.spec.domain.devices.network_interface_multiqueue {
        return 1;
    }
    // What the VMI leaves open KubeVirt has reckoned from the resources that it asks for.
    let reckoned = || children(root, "vcpu").next()?.text()?.trim().parse().ok();
    vmi.processors().or_else(reckoned).unwrap_or(1).min(port.unwrap_or(MAX_QUEUES)).clamp(1, MAX_QUEUES)
}

/// A MAC address that stays the same for this interface of this VMI, locally administered.
fn made_up_mac(vmi: &Vmi, interface: &Interface) -> String {
    let digest = Sha256::digest(format!("{}/{}", vmi.metadata.uid, interface.name));
    let octets: Vec<u8> = std::iter::once(0x02).chain(digest.iter().copied().take(5)).collect();
    write_mac(&octets)
}

/// The interfaces of the domain that have the alias of one of the VMI's.
fn with_alias<'a, 'input>(devices: Node<'a, 'input>, name: &str) -> impl Iterator<Item = Node<'a, 'input>> {
    let alias = alias(name);
    let has_alias =
        move |element: &Node| children(*element, "alias").any(|element| element.attribute("name") == Some(&alias));
    children(devices, "interface").filter(has_alias)
}

/// Whether a name can be an alias and a file name.
fn check_name(name: &str) -> Result<(), InterfaceFault> {
    if is_word(name) && name.len() <= 63 { Ok(()) } else { Err(InterfaceFault::Name) }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// The edited document is one, and has each interface once.
fn check_result(domain: &[u8], written: &[&str]) -> Result<(), Reason> {
    let document: Document = domain::parse(domain).map_err(|error| match error {
        DomainError::TooLong(_) => error.into(),
        other => unsound(&other.to_string()),
    })?;
    let devices = child(document.root_element(), "devices")?.ok_or_else(|| unsound("no devices"))?;
    match written.iter().find(|name| with_alias(devices, name).count() != 1) {
        Some(name) => Err(unsound(&format!("interface {name} is not there once"))),
        None => Ok(()),
    }
}

fn unsound(what: &str) -> Reason {
    DomainError::Unsound(what.to_owned()).into()
}

/// What a guest takes that is not told.
const DEFAULT_MTU: u64 = 1500;

/// Queue pairs of a guest's port in culvertd, unless it is given another number.
const MAX_QUEUES: u64 = 16;
