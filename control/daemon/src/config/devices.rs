//! The keys of `[daemon]` that say how ports are offered to kubelet; the device plugin obeys them.

use std::path::PathBuf;

use toml::de::DeValue;

use super::section::{Report, Section};
use super::value::{self, Wrong, set};

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
    pub device_owner: (u32, u32),
    /// SELinux label of a container's folder; none is set by default.
    pub device_label: Option<String>,
}

impl Default for Devices {
    fn default() -> Self {
        Self {
            kubelet_device_plugins: None,
            device_folder: PathBuf::from("/run/culvert/devices"),
            device_info_folder: PathBuf::from("/var/run/k8s.cni.cncf.io/devinfo/dp"),
            device_owner: (107, 107),
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
        set(&mut devices.device_owner, section.optional(report, "device_owner", owner));
        devices.device_label = section.optional(report, "device_label", label).map(|found| found.value);
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

/// A user's and a group's number, with a colon between them.
fn owner(value: &DeValue<'_>) -> Result<(u32, u32), Wrong> {
    let example = "\"107:107\"";
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // The largest one means "nobody" to chown(2).
        text.parse().ok().filter(|number| digits && *number < u32::MAX)
    };
    let text = value::text(value, example)?;
    let owner = text.split_once(':').and_then(|(user, group)| Some((number(user)?, number(group)?)));
    owner.ok_or_else(|| Wrong::new("is no owner", format!("write the numbers of a user and a group, like {example}")))
}

/// An SELinux label.
fn label(value: &DeValue<'_>) -> Result<String, Wrong> {
    let example = "\"system_u:object_r:container_file_t:s0\"";
    let label = value::text(value, example)?;
    let parts = label.split(':').filter(|part| !part.is_empty()).count();
    if parts < 3 || label.len() > MAX_LABEL_BYTES || !label.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Wrong::new("is no SELinux label", format!("write it like {example}")));
    }
    Ok(label.to_owned())
}

const MAX_LABEL_BYTES: usize = 255;
