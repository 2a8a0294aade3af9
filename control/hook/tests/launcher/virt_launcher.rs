//! virt-launcher as a hook sidecar sees it: it collects sockets by scanning, asks each for Info, and calls back with new
//! connections and limits of time. Where KubeVirt gives up for good, this panics.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_hook::proto::info::info_client::InfoClient;
use culvert_hook::proto::info::{InfoParams, InfoResult};
use culvert_hook::proto::v1alpha3::callbacks_client::CallbacksClient;
use culvert_hook::proto::v1alpha3::{OnDefineDomainParams, ShutdownParams};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// A virt-launcher before it starts its VM.
pub struct VirtLauncher {
    folders: Vec<PathBuf>,
    all_below: Option<PathBuf>,
}

/// A hook that was collected.
pub struct Hook {
    socket: PathBuf,
    pub info: InfoResult,
}

impl VirtLauncher {
    /// Scans the folders below the volume, as since 1.6.
    pub fn with_folders(volume: &Path) -> Self {
        Self { folders: Vec::new(), all_below: Some(volume.to_owned()) }
    }

    /// Scans some of them, where a test has files of its own in the volume.
    pub fn with_folder_names(volume: &Path, names: &[&str]) -> Self {
        Self { folders: names.iter().map(|name| volume.join(name)).collect(), all_below: None }
    }

    /// Scans the volume itself, as before.
    pub fn with_one_folder(volume: &Path) -> Self {
        Self { folders: vec![volume.to_owned()], all_below: None }
    }

    /// Waits for so many hooks, in the order of their folders. Those that share a file name count once, so that this would never end.
    pub async fn collect(&self, count: usize) -> Vec<Hook> {
        let mut processed = HashSet::new();
        let mut hooks = Vec::new();
        let collecting = async {
            while processed.len() < count {
                for path in self.scan() {
                    let name = path.file_name().unwrap().to_owned();
                    if processed.contains(&name) {
                        continue;
                    }
                    // Not ready yet.
                    let Ok(channel) = dial(&path).await else { continue };
                    let asked = InfoClient::new(channel).info(limited(InfoParams {}, 1)).await;
                    let info = asked.unwrap_or_else(|status| panic!("{} gives no Info: {status}", path.display()));
                    let info = info.into_inner();
                    assert!(info.versions.iter().any(|version| version == "v1alpha3"), "no version is supported");
                    processed.insert(name);
                    hooks.push(Hook { socket: path, info });
                }
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(240), collecting).await.unwrap();
        hooks.sort_by(|one, other| one.socket.cmp(&other.socket));
        hooks
    }

    /// Everything that is no folder.
    fn scan(&self) -> Vec<PathBuf> {
        let entries = |folder: &Path| -> Vec<PathBuf> {
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
        };
        let below = self.all_below.iter().flat_map(|volume| entries(volume)).filter(|path| path.is_dir());
        let folders = self.folders.iter().cloned().chain(below);
        folders.flat_map(|folder| entries(&folder)).filter(|path| !path.is_dir()).collect()
    }
}

impl Hook {
    pub async fn define(&self, domain: &[u8], vmi: &[u8]) -> Result<Vec<u8>, Status> {
        let params = OnDefineDomainParams { domain_xml: domain.to_vec(), vmi: vmi.to_vec() };
        let result = self.callbacks().await.on_define_domain(limited(params, 60)).await?;
        Ok(result.into_inner().domain_xml)
    }

    pub async fn shutdown(&self) -> Result<(), Status> {
        self.callbacks().await.shutdown(limited(ShutdownParams {}, 60)).await.map(drop)
    }

    pub async fn callbacks(&self) -> CallbacksClient<Channel> {
        CallbacksClient::new(dial(&self.socket).await.unwrap())
    }
}

/// Connects within a second.
pub async fn dial(path: &Path) -> Result<Channel, tonic::transport::Error> {
    let path = path.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://hook").connect_timeout(Duration::from_secs(1));
    endpoint.connect_with_connector(connector).await
}

fn limited<T>(message: T, seconds: u64) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_secs(seconds));
    request
}
