//! The keys of `[daemon]` that say how ports are offered to kubelet; [`device_plugin`](crate::device_plugin) obeys them.

use std::path::PathBuf;

use culvert_vhost::Owner;
use toml::de::DeValue;

use super::section::{Report, Section};
use super::value::{self, set};

/// Where kubelet is met, and what containers are given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices {
    /// The folder of kubelet's socket and of those of device plugins; `None`, the default, when there is no kubelet.
    pub kubelet_device_plugins: Option<PathBuf>,
    /// The folder of the folders that containers get; `/run/culvert/devices` by default.
    pub device_folder: PathBuf,
    /// The folder where Multus looks for what a device is; `/var/run/k8s.cni.cncf.io/devinfo/dp` by default.
    pub device_info_folder: PathBuf,
    /// User and group of a container's folder; 107:107 by default, whom KubeVirt runs QEMU as.
    pub device_owner: Owner,
    /// SELinux label of a container's folder; none is set by default.
    pub device_label: Option<String>,
}

impl Default for Devices {
    fn default() -> Self {
        Self {
            kubelet_device_plugins: None,
            device_folder: PathBuf::from("/run/culvert/devices"),
            device_info_folder: PathBuf::from("/var/run/k8s.cni.cncf.io/devinfo/dp"),
            device_owner: Owner { uid: 107, gid: 107 },
            device_label: None,
        }
    }
}

impl Devices {
    /// Reads its keys from the `[daemon]` section.
    pub(super) fn read(report: &mut Report<'_>, section: &mut Section<'_>) -> Self {
        let mut devices = Self::default();
        let folder = |example: &'static str| move |value: &DeValue<'_>| value::absolute_path(value, example);
        let kubelet = folder("\"/var/lib/kubelet/device-plugins\"");
        let kubelet = section.optional(report, "kubelet_device_plugins", kubelet);
        devices.kubelet_device_plugins = kubelet.map(|found| found.value);
        let own = section.optional(report, "device_folder", folder("\"/run/culvert/devices\""));
        set(&mut devices.device_folder, own);
        let info = folder("\"/var/run/k8s.cni.cncf.io/devinfo/dp\"");
        set(&mut devices.device_info_folder, section.optional(report, "device_info_folder", info));
        set(&mut devices.device_owner, section.optional(report, "device_owner", value::owner));
        devices.device_label = section.optional(report, "device_label", value::label).map(|found| found.value);
        devices
    }

    /// The keys whose values differ.
    pub(super) fn differences(&self, other: &Self) -> [(&'static str, bool); 5] {
        [
            ("daemon.kubelet_device_plugins", self.kubelet_device_plugins != other.kubelet_device_plugins),
            ("daemon.device_folder", self.device_folder != other.device_folder),
            ("daemon.device_info_folder", self.device_info_folder != other.device_info_folder),
            ("daemon.device_owner", self.device_owner != other.device_owner),
            ("daemon.device_label", self.device_label != other.device_label),
        ]
    }
}
