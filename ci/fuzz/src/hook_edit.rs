//! The hook sidecar's edit: a domain's XML, a VMI's JSON, and what the pod's files say, of which any may be anything. The
//! result is the whole edit, whose edit is itself, or a sentence.

use culvert_hook::binding::{self, Binding};
use culvert_hook::context::{Context, TranslatorFolder, declared};
use culvert_hook::network_info::{NetworkInfo, network_status};
use culvert_hook::{Vmi, plan};

/// Runs one input: a byte of choices, then texts with a zero between them: domain, VMI, network-info, CULVERT_INTERFACES,
/// network-status.
pub fn run(data: &[u8]) {
    let Some((choices, texts)) = data.split_first() else { return };
    let mut texts = texts.splitn(5, |byte| *byte == 0);
    let mut text = || texts.next().unwrap_or_default();
    let (domain, vmi) = (text(), text());
    let Ok(vmi) = Vmi::parse(vmi) else { return };
    let context = context(*choices, text(), text(), text());

    let first = match plan(domain, &vmi, &context) {
        Ok(first) => first,
        Err(error) => {
            assert!(error.to_string().starts_with("VMI "), "{error}");
            assert!(!error.to_string().contains("this is a bug"), "{error}");
            return;
        }
    };
    let second = plan(&first.domain, &vmi, &context).expect("the edit of an edited domain");
    assert_eq!(String::from_utf8_lossy(&first.domain), String::from_utf8_lossy(&second.domain), "not idempotent");
    let ours = binding::interfaces(&vmi, &context).expect("they were edited");
    let translated = ours.iter().filter(|(_, binding)| *binding == Binding::Translator).count();
    assert_eq!(first.translators.len(), translated);
    for (interface, binding) in ours {
        let alias = format!("<alias name=\"ua-{}\"/>", interface.name);
        let is_tap = first.translators.iter().any(|wish| wish.tap.is_some() && wish.interface == interface.name);
        let text = String::from_utf8_lossy(&first.domain);
        assert!(is_tap || text.contains(&alias), "{} ({binding:?}) is missing in {text}", interface.name);
    }
}

fn context(choices: u8, info: &[u8], interfaces: &[u8], status: &[u8]) -> Context {
    let names = [None, Some("culvert"), Some("culvert-translator"), Some("other")];
    let folder = "/var/run/kubevirt-hooks/hook-sidecar-0/culvert";
    let mut context = Context {
        binding_name: names.get(usize::from(choices & 3)).copied().flatten().map(str::to_owned),
        may_be_unused: choices & 4 != 0,
        network_info: NetworkInfo::parse(info).ok().filter(|_| choices & 8 != 0),
        declared: std::str::from_utf8(interfaces).ok().and_then(|text| declared(text).ok()).unwrap_or_default(),
        network_status: network_status(status).unwrap_or_default(),
        ..Context::default()
    };
    if choices & 16 != 0 {
        context.translator_folder = TranslatorFolder::HookFolder { here: folder.into(), compute: folder.into() };
    }
    if choices & 32 != 0 {
        context.binding = Some(if choices & 64 != 0 { Binding::Translator } else { Binding::Vhostuser });
    }
    if choices & 128 != 0 {
        context.pod_interface = Some("eth0".to_owned());
    }
    context
}
