//! The kernel and what it can do.

use super::Finding;
use super::node::Node;

/// Its version and features.
pub fn look(node: &Node) -> Vec<Finding> {
    let release = node.text("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut findings = vec![version(&release)];
    let modules = node.text("/sys/kernel/security/lsm");
    findings.push(match &modules {
        Some(modules) if modules.split(',').any(|module| module == "landlock") => {
            Finding::ok("landlock", "the kernel keeps culvertd out of folders that it does not need")
        }
        Some(_) => Finding::warning(
            "landlock",
            "the kernel has no Landlock: the file system stays reachable for culvertd",
            "boot with lsm=landlock,... before the other modules",
        ),
        None => Finding::warning(
            "landlock",
            "whether the kernel has Landlock cannot be seen: securityfs is not mounted",
            "`mount -t securityfs securityfs /sys/kernel/security`",
        ),
    });
    findings.push(if node.has("/proc/sys/kernel/seccomp/actions_avail") {
        Finding::ok("seccomp", "the kernel limits system calls")
    } else {
        Finding::error(
            "seccomp",
            "the kernel has no seccomp filters, and culvertd does not start without",
            "use a kernel with CONFIG_SECCOMP_FILTER, or set daemon.isolation = \"off\"",
        )
    });
    findings.push(if node.has("/dev/kvm") {
        Finding::ok("kvm", "guests can run at full speed")
    } else {
        Finding::warning(
            "kvm",
            "there is no /dev/kvm: guests are emulated",
            "enable virtualization, `modprobe kvm_intel` or kvm_amd",
        )
    });
    findings
}

/// openat2(2) and what else came with 5.6 is not done without; what steers translators' ports (sk_lookup) came with 5.9.
fn version(release: &str) -> Finding {
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let found = format!("Linux {release}");
    match (numbers.next(), numbers.next().unwrap_or(0)) {
        (Some(major), minor) if (major, minor) >= (5, 9) => Finding::ok("kernel", found),
        (Some(major), minor) if (major, minor) >= (5, 6) => Finding::warning(
            "kernel",
            format!("{found}: translators' forwarded ports each take a socket"),
            "use Linux 5.9 or later",
        ),
        _ => Finding::error("kernel", format!("{found} is too old"), "use Linux 5.9 or later"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;
    use crate::doctor::node::tests::machine;

    #[test]
    fn versions() {
        for (release, level) in [
            ("6.1.0-31-amd64", Level::Ok),
            ("5.9", Level::Ok),
            ("5.6.1", Level::Warning),
            ("4.19.0", Level::Error),
            ("", Level::Error),
        ] {
            assert_eq!(version(release).level, level, "{release}");
        }
    }

    #[test]
    fn features() {
        let levels = |files: &[(&str, &str)]| {
            let (_folder, node) = machine(files);
            look(&node).iter().skip(1).map(|finding| finding.level).collect::<Vec<_>>()
        };
        assert_eq!(levels(&[]), [Level::Warning, Level::Error, Level::Warning]);
        let all = [
            ("/sys/kernel/security/lsm", "capability,landlock,yama"),
            ("/proc/sys/kernel/seccomp/actions_avail", "kill"),
            ("/dev/kvm", ""),
        ];
        assert_eq!(levels(&all), [Level::Ok; 3]);
    }
}
