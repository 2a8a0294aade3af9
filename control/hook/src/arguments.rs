//! The words of the command line, which are also environment variables where KubeVirt or culvert-webhook sets them.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use culvert_hook::binding::Binding;

/// KubeVirt's binding sidecar: gives a virtual machine its interfaces on Culvert's networks.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 120)]
pub struct Arguments {
    /// The binding's name in the KubeVirt CR [default: "culvert" and "culvert-translator", both]
    #[arg(long, env = "NETWORK_BINDING_PLUGIN_NAME", value_name = "NAME")]
    pub binding_name: Option<String>,
    /// What the binding is [default: "translator" if its name ends with "-translator", else "vhostuser"]
    #[arg(long, env = "CULVERT_BINDING")]
    pub binding: Option<BindingWord>,
    /// The pod's primary interface, for KubeVirt before 1.6, whose VMIs do not tell it
    #[arg(long, env = "CULVERT_POD_INTERFACE", value_name = "NAME")]
    pub pod_interface: Option<String>,
    /// Where the pod's interfaces have their sockets, as culvert-webhook writes it
    #[arg(long, env = "CULVERT_INTERFACES", value_name = "JSON", hide = true)]
    pub interfaces: Option<String>,
    /// This container's name
    #[arg(long, env = "CONTAINER_NAME", value_name = "NAME")]
    pub container_name: Option<String>,
    /// The folder that virt-launcher looks for hooks in; it is left out if it is not there and --plugin-socket is given
    #[arg(long, value_name = "PATH", default_value = "/var/run/kubevirt-hooks")]
    pub hook_folder: PathBuf,
    /// Serve a Plugin's DomainHookService there, too
    #[arg(long, value_name = "PATH")]
    pub plugin_socket: Option<PathBuf>,
    /// culvert-translator
    #[arg(long, value_name = "PROGRAM", default_value = "/usr/bin/culvert-translator")]
    pub translator: PathBuf,
    /// The folder for translators' sockets, where it is mounted
    #[arg(long, value_name = "PATH", default_value = culvert_hook::context::TRANSLATOR_VOLUME)]
    pub translator_folder: PathBuf,
    /// KubeVirt's file about the pod's networks
    #[arg(long, value_name = "FILE", default_value = "/etc/podinfo/network-info")]
    pub network_info: PathBuf,
    /// The pod's annotations
    #[arg(long, value_name = "FILE", default_value = "/etc/podnetinfo/annotations")]
    pub annotations: PathBuf,
    /// How much is logged
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "CULVERT_LOG")]
    pub log_level: String,
}

/// What a binding is.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum BindingWord {
    /// Ports of culvertd
    Vhostuser,
    /// The translator
    Translator,
}

impl From<BindingWord> for Binding {
    fn from(word: BindingWord) -> Self {
        match word {
            BindingWord::Vhostuser => Self::Vhostuser,
            BindingWord::Translator => Self::Translator,
        }
    }
}
