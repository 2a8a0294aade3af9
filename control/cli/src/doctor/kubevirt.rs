//! Kubernetes: kubelet, CNI plugins, and what Culvert has installed there.

use super::Finding;
use super::node::Node;

const CHECK: &str = "kubevirt";

/// Whether the parts on this node are where they belong.
pub fn look(node: &Node) -> Vec<Finding> {
    if !node.has("/var/lib/kubelet") {
        return vec![Finding::ok(CHECK, "there is no kubelet here; nothing is needed for it")];
    }
    let mut findings = Vec::new();
    findings.push(if node.has("/var/lib/kubelet/device-plugins/kubelet.sock") {
        Finding::ok(CHECK, "kubelet takes device plugins")
    } else {
        Finding::warning(
            CHECK,
            "kubelet takes no device plugins: its socket is not there",
            "start kubelet, or mount its folder",
        )
    });
    findings.push(if PLUGINS.iter().any(|folder| node.has(format!("{folder}/culvert-cni"))) {
        Finding::ok(CHECK, "culvert-cni is installed")
    } else {
        Finding::error(
            CHECK,
            format!("culvert-cni is in none of {}", PLUGINS.join(", ")),
            "install Culvert's DaemonSet, whose first container puts it there",
        )
    });
    findings
}

/// Where runtimes look for plugins.
const PLUGINS: [&str; 3] = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;
    use crate::doctor::node::tests::machine;

    #[test]
    fn kubelet_and_plugin() {
        let levels = |files: &[(&str, &str)]| {
            let (_folder, node) = machine(files);
            look(&node).iter().map(|finding| finding.level).collect::<Vec<_>>()
        };
        assert_eq!(levels(&[]), [Level::Ok]);
        assert_eq!(levels(&[("/var/lib/kubelet/config.yaml", "")]), [Level::Warning, Level::Error]);
        let kubelet = ("/var/lib/kubelet/device-plugins/kubelet.sock", "");
        assert_eq!(levels(&[kubelet, ("/opt/cni/bin/culvert-cni", "")]), [Level::Ok, Level::Ok]);
    }
}
