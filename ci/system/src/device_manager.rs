//! The part of kubelet that device plugins meet: it serves the registration socket, asks each plugin for its devices, and
//! has devices allocated. When it starts it removes all sockets in its folder, as kubelet does.
//!
//! It behaves as kubelet's device manager (pkg/kubelet/cm/devicemanager) where a plugin can tell; it admits no pods and
//! keeps no checkpoint. A [`Temper`] other than [`Temper::Ordinary`] makes it one that fails.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_api::kubelet;
use culvert_api::kubelet::device_plugin_client::DevicePluginClient;
use culvert_api::kubelet::registration_server::{Registration, RegistrationServer};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

/// How it treats plugins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Temper {
    /// As kubelet does.
    Ordinary,
    /// It registers a plugin and then never asks it for anything.
    Forgetful,
    /// It refuses every registration.
    Refusing,
    /// It never answers a registration.
    Silent,
}

/// A device manager, running or not.
pub struct DeviceManager {
    folder: PathBuf,
    running: Option<Runtime>,
    state: Arc<Mutex<State>>,
}

/// What it knows of plugins.
#[derive(Default)]
struct State {
    registrations: Vec<kubelet::RegisterRequest>,
    resources: BTreeMap<String, Resource>,
}

/// A resource whose plugin answers.
struct Resource {
    options: kubelet::DevicePluginOptions,
    plugin: DevicePluginClient<Channel>,
    /// The health of each device.
    devices: BTreeMap<String, String>,
    /// Whether the plugin's stream of devices goes on.
    alive: bool,
}

impl DeviceManager {
    /// One that does not run yet, nor is there its folder.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), running: None, state: Arc::default() }
    }

    /// Starts it with nothing known: sockets in its folder are removed, its own is made.
    ///
    /// # Errors
    /// The kernel's.
    pub fn start(&mut self, temper: Temper) -> Result<()> {
        self.kill();
        fs::DirBuilder::new().recursive(true).mode(0o750).create(&self.folder)?;
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() && entry.file_name() != CHECKPOINT {
                fs::remove_file(entry.path())?;
            }
        }
        self.state = Arc::default();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let inside = runtime.enter();
        let listener = UnixListener::bind(self.folder.join(SOCKET))?;
        drop(inside);
        let registry = Registry { folder: self.folder.clone(), temper, state: Arc::clone(&self.state) };
        let server = Server::builder().add_service(RegistrationServer::new(registry));
        runtime.spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
        self.running = Some(runtime);
        Ok(())
    }

    /// Ends it as a signal does that cannot be caught: its socket's name stays.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.running.take() {
            runtime.shutdown_background();
        }
    }

    /// Ends it in order.
    ///
    /// # Errors
    /// Its socket is not there.
    pub fn stop(&mut self) -> Result<()> {
        self.kill();
        fs::remove_file(self.folder.join(SOCKET)).context("kubelet's socket")
    }

    /// All registrations since it started.
    pub fn registrations(&self) -> Vec<kubelet::RegisterRequest> {
        self.state().registrations.clone()
    }

    /// The health of each device of a resource; `None` while its plugin does not answer.
    pub fn devices(&self, resource: &str) -> Option<BTreeMap<String, String>> {
        let state = self.state();
        state.resources.get(resource).filter(|resource| resource.alive).map(|resource| resource.devices.clone())
    }

    /// The options that a resource's plugin gave when it was asked.
    pub fn options(&self, resource: &str) -> Option<kubelet::DevicePluginOptions> {
        self.state().resources.get(resource).map(|resource| resource.options)
    }

    /// Waits until a resource has so many healthy devices; with 0, until it has none or no plugin.
    ///
    /// # Errors
    /// It does not within the limit.
    pub fn wait_for_devices(&self, resource: &str, count: usize) -> Result<()> {
        self.wait_until(&format!("{resource} to have {count} devices"), || {
            let devices = self.devices(resource);
            devices.as_ref().map_or(0, |devices| devices.values().filter(|health| *health == "Healthy").count())
                == count
                && (count == 0 || devices.is_some_and(|devices| devices.len() == count))
        })
    }

    /// Waits until something is so.
    ///
    /// # Errors
    /// It is not within the limit.
    pub fn wait_until(&self, what: &str, mut is: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while !is() {
            ensure!(Instant::now() < deadline, "waited {LIMIT:?} for {what}; registered: {:?}", self.registrations());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Has devices of a resource allocated, some for each of several containers.
    ///
    /// # Errors
    /// There is no such resource, or the plugin's refusal.
    pub fn allocate(&self, resource: &str, containers: &[&[&str]]) -> Result<Vec<kubelet::ContainerAllocateResponse>> {
        let requests = containers.iter().map(|ids| kubelet::ContainerAllocateRequest {
            devices_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        });
        let request = kubelet::AllocateRequest { container_requests: requests.collect() };
        let answer = self.call(resource, async |mut plugin| plugin.allocate(request).await)?;
        Ok(answer.container_responses)
    }

    /// Calls a resource's plugin.
    ///
    /// # Errors
    /// There is no such resource, it does not run itself, or the plugin's refusal.
    pub fn call<T>(
        &self,
        resource: &str,
        call: impl AsyncFnOnce(DevicePluginClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T> {
        let plugin = self.state().resources.get(resource).map(|resource| resource.plugin.clone());
        let plugin = plugin.with_context(|| format!("{resource} is not registered"))?;
        let runtime = self.running.as_ref().context("the device manager does not run")?;
        Ok(runtime.block_on(call(plugin))?.into_inner())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for DeviceManager {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The registration service.
struct Registry {
    folder: PathBuf,
    temper: Temper,
    state: Arc<Mutex<State>>,
}

#[tonic::async_trait]
impl Registration for Registry {
    async fn register(&self, request: Request<kubelet::RegisterRequest>) -> Result<Response<kubelet::Empty>, Status> {
        let request = request.into_inner();
        self.state.lock().unwrap_or_else(PoisonError::into_inner).registrations.push(request.clone());
        match self.temper {
            Temper::Ordinary => {
                // As kubelet: it is answered first, the plugin's socket comes after that.
                let (folder, state) = (self.folder.clone(), Arc::clone(&self.state));
                tokio::spawn(async move {
                    let resource = request.resource_name.clone();
                    if let Err(error) = watch(&folder, request, &state).await {
                        println!("kubelet: the plugin of {resource} is gone: {error:#}");
                    }
                });
            }
            Temper::Forgetful => {}
            Temper::Refusing => return Err(Status::unknown("the plugin\n is not welcome")),
            Temper::Silent => std::future::pending().await,
        }
        Ok(Response::new(kubelet::Empty {}))
    }
}

/// Asks a plugin for its devices until that ends.
async fn watch(folder: &Path, request: kubelet::RegisterRequest, state: &Mutex<State>) -> Result<()> {
    let path = folder.join(&request.endpoint);
    let channel = Endpoint::from_shared(format!("unix://{}", path.display()))?.connect().await?;
    let mut plugin = DevicePluginClient::new(channel);
    let options = plugin.get_device_plugin_options(kubelet::Empty {}).await?.into_inner();
    let mut lists = plugin.list_and_watch(kubelet::Empty {}).await?.into_inner();
    let state = || state.lock().unwrap_or_else(PoisonError::into_inner);
    let end = loop {
        let list = match lists.message().await {
            Ok(Some(list)) => list,
            Ok(None) => break Ok(()),
            Err(status) => break Err(status.into()),
        };
        let devices = list.devices.into_iter().map(|device| (device.id, device.health)).collect();
        let resource = Resource { options, plugin: plugin.clone(), devices, alive: true };
        state().resources.insert(request.resource_name.clone(), resource);
    };
    if let Some(resource) = state().resources.get_mut(&request.resource_name) {
        resource.alive = false;
    }
    end
}

const SOCKET: &str = "kubelet.sock";

const CHECKPOINT: &str = "kubelet_internal_checkpoint";

const LIMIT: Duration = Duration::from_secs(60);
