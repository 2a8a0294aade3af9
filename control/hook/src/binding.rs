//! Which interfaces of a VMI are ours, and by which binding: vhost-user ports of culvertd, or the translator.
//!
//! One image serves both, registered in the KubeVirt CR under two names. KubeVirt tells the name of the binding that a
//! sidecar is for only since July 2026; before, a sidecar takes all interfaces with one of the usual names.

use crate::context::Context;
use crate::error::Reason;
use crate::vmi::{Interface, Vmi};

/// What serves an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// A port of culvertd.
    Vhostuser,
    /// A translator that this program starts.
    Translator,
}

/// The usual name of the vhost-user binding.
pub const VHOSTUSER_NAME: &str = "culvert";

/// The usual name of the translator binding.
pub const TRANSLATOR_NAME: &str = "culvert-translator";

/// The usual name of the translator binding for which KubeVirt's core attaches a tap.
pub const TAP_TRANSLATOR_NAME: &str = "culvert-tap-translator";

const USUAL_NAMES: [&str; 3] = [VHOSTUSER_NAME, TRANSLATOR_NAME, TAP_TRANSLATOR_NAME];

impl Binding {
    /// What a binding's name stands for.
    pub fn of_name(name: &str) -> Self {
        if name.ends_with("-translator") { Self::Translator } else { Self::Vhostuser }
    }
}

/// The interfaces that are ours, without those that were unplugged.
///
/// # Errors
/// [`Reason::Unused`] when none uses the binding, unless the context allows it.
pub fn interfaces<'a>(vmi: &'a Vmi, context: &Context) -> Result<Vec<(&'a Interface, Binding)>, Reason> {
    let all = &vmi.spec.domain.devices.interfaces;
    let ours: Vec<_> = all
        .iter()
        .filter_map(|interface| {
            let name = interface.binding.as_ref()?.name.as_str();
            Some((interface, binding_of(name, context)?))
        })
        .collect();
    if ours.is_empty() && !context.may_be_unused {
        let usual = || USUAL_NAMES.join(" or ");
        return Err(Reason::Unused { binding: context.binding_name.clone().unwrap_or_else(usual) });
    }
    Ok(ours.into_iter().filter(|(interface, _)| interface.state != "absent").collect())
}

/// How an interface with this binding is served, if it is ours.
fn binding_of(name: &str, context: &Context) -> Option<Binding> {
    let usual = Binding::of_name(name);
    match &context.binding_name {
        Some(ours) => (name == ours).then(|| context.binding.unwrap_or(usual)),
        None => {
            (USUAL_NAMES.contains(&name) && context.binding.is_none_or(|binding| binding == usual)).then_some(usual)
        }
    }
}

/// Whether the VMI has one hook sidecar at most: one for each binding plugin, and those that its annotation lists.
pub fn has_one_sidecar(vmi: &Vmi) -> bool {
    let interfaces = &vmi.spec.domain.devices.interfaces;
    let mut names: Vec<_> = interfaces.iter().filter_map(|interface| Some(&interface.binding.as_ref()?.name)).collect();
    names.sort();
    names.dedup();
    let listed = vmi.annotation("hooks.kubevirt.io/hookSidecars").is_none_or(|list| list.trim() == "[]");
    names.len() <= 1 && listed
}
