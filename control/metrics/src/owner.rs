//! Whose a port or a translator is: the pod and the virtual machine, as culvert-cni writes them into an object's description
//! (`pod NAMESPACE/NAME, IFNAME of NETWORK`).

/// The pod, and the virtual machine that it is for; empty where it is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// The virtual machine, by the name of its pod, virt-launcher-NAME-SUFFIX.
    pub vm: String,
}

impl Owner {
    /// Reads a description. What a person wrote is none.
    pub fn parse(description: &str) -> Self {
        let pod = description.strip_prefix("pod ").and_then(|rest| rest.split_once(", ")).map(|(pod, _)| pod);
        let Some((namespace, pod)) = pod.and_then(|pod| pod.split_once('/')) else { return Self::default() };
        if ![namespace, pod].into_iter().all(is_name) {
            return Self::default();
        }
        let vm = pod.strip_prefix("virt-launcher-").and_then(|rest| rest.rsplit_once('-')).map(|(vm, _)| vm);
        Self { namespace: namespace.to_owned(), pod: pod.to_owned(), vm: vm.unwrap_or_default().to_owned() }
    }
}

/// Names of Kubernetes: RFC 1123 subdomains.
fn is_name(text: &str) -> bool {
    let is_fine = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || matches!(letter, '-' | '.');
    !text.is_empty() && text.len() <= 253 && text.chars().all(is_fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_of_the_plugin_are_read_and_no_others() {
        let owner = |namespace: &str, pod: &str, vm: &str| Owner {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            vm: vm.to_owned(),
        };
        let parse = |pod: &str| Owner::parse(&format!("pod {pod}, net1 of blue"));
        assert_eq!(parse("shop/virt-launcher-db-2-x7k2p"), owner("shop", "virt-launcher-db-2-x7k2p", "db-2"));
        assert_eq!(parse("shop/web"), owner("shop", "web", ""));
        for other in ["", "of vm-a", "pod shop/web", "pod shop, net1", "pod a/b/c, x", "pod A/b, x", "pod /b, x"] {
            assert_eq!(Owner::parse(other), Owner::default(), "{other}");
        }
    }
}
