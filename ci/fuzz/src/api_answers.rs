//! What culvert-cni reads besides its input: a pod as Kubernetes' API tells of it, a kubeconfig, what an IPAM plugin answers,
//! and its own records, of which a disk may have kept anything.

use culvert_cni::kubeconfig::Access;
use culvert_cni::kubernetes::Pod;
use culvert_cni::record::Contents;
use culvert_cni::result::CniResult;
use std::path::Path;

/// Runs one input: a byte that chooses the reader, and the bytes.
pub fn run(data: &[u8]) {
    let [choice, bytes @ ..] = data else { return };
    match choice % 4 {
        0 => {
            let Ok(pod) = serde_json::from_slice::<Pod>(bytes) else { return };
            for name in ["shared-dir", "", "x"] {
                let _ = (pod.volume(name), pod.mount_path(name));
            }
        }
        1 => {
            let Ok(text) = std::str::from_utf8(bytes) else { return };
            // Files beside it are not there.
            if let Ok(access) = Access::parse(text, Path::new("/proc/self/task/kubeconfig")) {
                assert!(
                    !access.host.is_empty() && !access.prefix.ends_with('/'),
                    "{:?} {:?}",
                    access.host,
                    access.prefix
                );
                let safe = |text: &str| !text.contains(|c: char| c.is_whitespace() || c.is_control());
                assert!(safe(&access.host) && safe(&access.prefix), "{access:?}");
            }
        }
        2 => {
            let Ok(contents) = serde_json::from_slice::<Contents>(bytes) else { return };
            let written = serde_json::to_vec(&contents).expect("JSON");
            assert_eq!(serde_json::from_slice::<Contents>(&written).expect("our own record"), contents);
        }
        _ => {
            let Ok(value) = serde_json::from_slice(bytes) else { return };
            let _ = CniResult::parse("an IPAM plugin's result", value);
        }
    }
}
