//! What this container is told of its pod: environment variables, and files that KubeVirt, culvert-webhook and the kubelet
//! put there. Files are read anew for each request, since they may come or change late.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::annotations;
use crate::binding::Binding;
use crate::context::{self, Context, TranslatorFolder};
use crate::network_info::{self, NetworkInfo, ReadError};

/// Where things are, and who we are.
#[derive(Clone, Debug)]
pub struct Pod {
    /// See [`Context::binding_name`].
    pub binding_name: Option<String>,
    /// See [`Context::binding`].
    pub binding: Option<Binding>,
    /// See [`Context::pod_interface`].
    pub pod_interface: Option<String>,
    /// The JSON that culvert-webhook writes into CULVERT_INTERFACES.
    pub declared: Option<String>,
    /// The file `network-info`; its folder is there where it is mounted.
    pub network_info: PathBuf,
    /// The file of the pod's annotations.
    pub annotations: PathBuf,
    /// The volume for translators' sockets.
    pub translator_volume: PathBuf,
    /// Our folder below the hook folder.
    pub hook_subfolder: PathBuf,
    /// The same as the compute container sees it.
    pub hook_subfolder_in_compute: PathBuf,
}

impl Pod {
    /// Reads what there is now.
    ///
    /// # Errors
    /// Something that is there cannot be read.
    pub fn context(&self, may_be_unused: bool) -> Result<Context, ReadError> {
        let declared = self.declared.as_deref().map_or_else(|| Ok(Default::default()), context::declared)?;
        let folder = if self.translator_volume.is_dir() {
            TranslatorFolder::Volume(self.translator_volume.clone())
        } else {
            TranslatorFolder::HookFolder {
                here: self.hook_subfolder.clone(),
                compute: self.hook_subfolder_in_compute.clone(),
            }
        };
        Ok(Context {
            binding_name: self.binding_name.clone(),
            binding: self.binding,
            may_be_unused,
            network_info: self.network_info()?,
            declared,
            network_status: self.network_status()?,
            translator_folder: folder,
            pod_interface: self.pod_interface.clone(),
        })
    }

    /// The file `network-info`: absent where it is not mounted, and empty until KubeVirt has written it.
    fn network_info(&self) -> Result<Option<NetworkInfo>, ReadError> {
        match read(&self.network_info, network_info::MAX_JSON_BYTES)? {
            Some(text) => NetworkInfo::parse(&text).map(Some),
            None if self.network_info.parent().is_some_and(Path::is_dir) => Ok(Some(NetworkInfo::default())),
            None => Ok(None),
        }
    }

    fn network_status(&self) -> Result<Vec<network_info::StatusEntry>, ReadError> {
        let Some(file) = read(&self.annotations, annotations::MAX_FILE_BYTES)? else { return Ok(Vec::new()) };
        let value = annotations::find(&file, NETWORK_STATUS).map_err(|error| failure(&self.annotations, &error))?;
        network_info::network_status(value.unwrap_or_default().as_bytes())
    }
}

/// The contents of a file, one byte more than `limit` at most, so that readers see that it is too long. `None` if there is
/// none.
fn read(path: &Path, limit: usize) -> Result<Option<Vec<u8>>, ReadError> {
    let limit = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let mut contents = Vec::new();
    match File::open(path).and_then(|file| file.take(limit).read_to_end(&mut contents)) {
        Ok(_) => Ok(Some(contents)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failure(path, &error)),
    }
}

fn failure(path: &Path, error: &dyn std::error::Error) -> ReadError {
    ReadError { what: path.display().to_string(), reason: error.to_string() }
}

const NETWORK_STATUS: &str = "k8s.v1.cni.cncf.io/network-status";
