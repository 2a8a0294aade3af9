//! What kubelet asks of one resource: its devices, and folders for containers.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use culvert_api::kubelet;
use culvert_api::kubelet::device_plugin_server::DevicePlugin;
use tokio::sync::watch;
use tokio_stream::Stream;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use super::folders::Folders;
use super::{Offer, device_id, device_number};

/// The answers for one resource.
pub(super) struct Service {
    pub(super) offer: watch::Receiver<Offer>,
    pub(super) folders: Arc<Folders>,
    /// How many streams of devices there are.
    pub(super) watchers: Arc<AtomicUsize>,
}

/// What is told to kubelet when a resource is registered, and whenever it asks: it need not ask before each start of a
/// container, and its own choice of devices is as good as ours.
pub(super) fn options() -> kubelet::DevicePluginOptions {
    kubelet::DevicePluginOptions { pre_start_required: false, get_preferred_allocation_available: false }
}

#[tonic::async_trait]
impl DevicePlugin for Service {
    async fn get_device_plugin_options(
        &self,
        _: Request<kubelet::Empty>,
    ) -> Result<Response<kubelet::DevicePluginOptions>, Status> {
        Ok(Response::new(options()))
    }

    type ListAndWatchStream = Devices;

    async fn list_and_watch(&self, _: Request<kubelet::Empty>) -> Result<Response<Devices>, Status> {
        self.watchers.fetch_add(1, Ordering::Relaxed);
        let offers = WatchStream::new(self.offer.clone());
        Ok(Response::new(Devices { offers, watchers: Arc::clone(&self.watchers) }))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<kubelet::PreferredAllocationRequest>,
    ) -> Result<Response<kubelet::PreferredAllocationResponse>, Status> {
        let container_responses = request.into_inner().container_requests.into_iter().map(prefer).collect();
        Ok(Response::new(kubelet::PreferredAllocationResponse { container_responses }))
    }

    async fn allocate(
        &self,
        request: Request<kubelet::AllocateRequest>,
    ) -> Result<Response<kubelet::AllocateResponse>, Status> {
        let offer = self.offer.borrow().clone();
        // All or nothing: what is wrong is told before a folder is touched.
        let containers = containers(&offer, &request.into_inner())?;
        let container_responses = containers.iter().map(|numbers| self.give(&offer, numbers));
        let container_responses = container_responses.collect::<Result<_, Status>>()?;
        Ok(Response::new(kubelet::AllocateResponse { container_responses }))
    }

    async fn pre_start_container(
        &self,
        _: Request<kubelet::PreStartContainerRequest>,
    ) -> Result<Response<kubelet::PreStartContainerResponse>, Status> {
        Ok(Response::new(kubelet::PreStartContainerResponse {}))
    }
}

impl Service {
    /// One container's folder, new and empty.
    fn give(&self, offer: &Offer, numbers: &[u32]) -> Result<kubelet::ContainerAllocateResponse, Status> {
        if numbers.is_empty() {
            return Ok(kubelet::ContainerAllocateResponse::default());
        }
        let folder = self.folders.allocate(&offer.network, numbers).map_err(|error| {
            let sentence = format!("no folder for {}: {error}", offer.resource());
            tracing::error!("{sentence}");
            Status::internal(sentence)
        })?;
        tracing::info!(resource = offer.resource(), folder = %folder.display(), "given to a container");
        let mount = kubelet::Mount {
            container_path: container_folder(offer.network.as_str()),
            host_path: folder.display().to_string(),
            read_only: false,
        };
        Ok(kubelet::ContainerAllocateResponse { mounts: vec![mount], ..Default::default() })
    }
}

/// Where a container finds its sockets in a network: the same on every node.
pub(super) fn container_folder(network: &str) -> String {
    format!("/var/run/culvert/{network}")
}

/// The numbers of each container's devices, in ascending order.
///
/// # Errors
/// `InvalidArgument` for an id that is no device's, or one that is there twice.
pub fn containers(offer: &Offer, request: &kubelet::AllocateRequest) -> Result<Vec<Vec<u32>>, Status> {
    let requests = request.container_requests.iter();
    let containers: Vec<Vec<u32>> =
        requests.map(|request| numbers(offer, &request.devices_ids)).collect::<Result<_, _>>()?;
    let mut seen = std::collections::BTreeSet::new();
    match containers.iter().flatten().find(|number| !seen.insert(**number)) {
        Some(twice) => Err(Status::invalid_argument(format!("{} is asked for twice", device_id(*twice)))),
        None => Ok(containers),
    }
}

/// The numbers of one container's devices, in ascending order.
fn numbers(offer: &Offer, ids: &[String]) -> Result<Vec<u32>, Status> {
    let number = |id: &String| {
        device_number(id).filter(|number| *number < offer.ports).ok_or_else(|| {
            let id: String = id.chars().take(MAX_SHOWN).collect();
            Status::invalid_argument(format!("{} has no device {}", offer.resource(), id.escape_debug()))
        })
    };
    let mut numbers: Vec<u32> = ids.iter().map(number).collect::<Result<_, _>>()?;
    numbers.sort_unstable();
    Ok(numbers)
}

/// Those that must be, then those of the lowest numbers.
pub fn prefer(request: kubelet::ContainerPreferredAllocationRequest) -> kubelet::ContainerPreferredAllocationResponse {
    let size = usize::try_from(request.allocation_size).unwrap_or(0);
    let mut ids = request.must_include_device_i_ds;
    let mut others = request.available_device_i_ds;
    others.retain(|id| !ids.contains(id));
    others.sort_by_key(|id| device_number(id).unwrap_or(u32::MAX));
    ids.extend(others);
    ids.truncate(size);
    kubelet::ContainerPreferredAllocationResponse { device_i_ds: ids }
}

/// The devices, at once and after each change, until the resource ends.
pub(super) struct Devices {
    offers: WatchStream<Offer>,
    watchers: Arc<AtomicUsize>,
}

impl Stream for Devices {
    type Item = Result<kubelet::ListAndWatchResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.offers).poll_next(context).map(|offer| offer.map(|offer| Ok(devices(&offer))))
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        self.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

fn devices(offer: &Offer) -> kubelet::ListAndWatchResponse {
    let health = if offer.healthy { "Healthy" } else { "Unhealthy" };
    let devices = offer.ids().map(|id| kubelet::Device { id, health: health.to_owned(), topology: None });
    kubelet::ListAndWatchResponse { devices: devices.collect() }
}

/// How much of an id that is none of ours is repeated, in characters.
const MAX_SHOWN: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Name;
    use tokio_stream::StreamExt;

    fn offer(ports: u32, healthy: bool) -> Offer {
        Offer { network: Name::parse("blue").unwrap(), ports, healthy }
    }

    fn health(list: &kubelet::ListAndWatchResponse) -> Vec<(&str, &str)> {
        list.devices.iter().map(|device| (device.id.as_str(), device.health.as_str())).collect()
    }

    /// The stream has what holds when it is asked, not each step on the way; it ends with the resource.
    #[tokio::test]
    async fn devices_are_told_and_told_again() {
        let (sender, receiver) = watch::channel(offer(2, true));
        let watchers = Arc::new(AtomicUsize::new(1));
        let mut devices = Devices { offers: WatchStream::new(receiver), watchers: Arc::clone(&watchers) };
        let list = devices.next().await.unwrap().unwrap();
        assert_eq!(health(&list), [("port-0", "Healthy"), ("port-1", "Healthy")]);
        sender.send(offer(3, true)).unwrap();
        sender.send(offer(1, false)).unwrap();
        let list = devices.next().await.unwrap().unwrap();
        assert_eq!(health(&list), [("port-0", "Unhealthy")]);
        drop(sender);
        assert!(devices.next().await.is_none());
        drop(devices);
        assert_eq!(watchers.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn only_ids_of_the_resource_are_devices() {
        let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
        assert_eq!(numbers(&offer(11, true), &ids(&["port-10", "port-9"])).unwrap(), [9, 10]);
        for id in [
            "port-11",
            "port-",
            "port-01",
            "port-+1",
            "port--1",
            "Port-1",
            "port-1 ",
            "1",
            "",
            "port-4294967296",
            "../port-1",
        ] {
            let status = numbers(&offer(11, true), &ids(&["port-1", id])).unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            assert_eq!(status.message(), format!("culvert.dev/blue has no device {id}"));
        }
        let long = numbers(&offer(11, true), &ids(&[&"\n".repeat(1000)])).unwrap_err();
        assert_eq!(long.message().len(), "culvert.dev/blue has no device ".len() + 2 * MAX_SHOWN);
    }

    #[test]
    fn the_lowest_numbers_are_preferred() {
        let preferred = |available: &[&str], must: &[&str], allocation_size| {
            let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
            let request = kubelet::ContainerPreferredAllocationRequest {
                available_device_i_ds: ids(available),
                must_include_device_i_ds: ids(must),
                allocation_size,
            };
            prefer(request).device_i_ds
        };
        assert_eq!(preferred(&["port-10", "port-9", "x"], &[], 2), ["port-9", "port-10"]);
        assert_eq!(preferred(&["port-1", "port-2", "port-3"], &["port-3"], 2), ["port-3", "port-1"]);
        assert_eq!(preferred(&["port-1"], &[], 5), ["port-1"]);
        assert!(preferred(&["port-1"], &[], -1).is_empty());
    }
}
