//! What kubelet asks of the device plugin: requests of any bytes. No device is given to two containers of a request, none that
//! there is not; what is preferred was offered.

use culvert_api::kubelet::{AllocateRequest, ContainerPreferredAllocationRequest};
use culvertd::device_plugin::{Offer, device_id, device_number, service};
use culvertd::name::Name;
use prost::Message;

/// Runs one input: how many devices there are, and a request.
pub fn run(data: &[u8]) {
    let [ports, request @ ..] = data else { return };
    let network = Name::parse("blue").expect("a name");
    let offer = Offer { network, ports: u32::from(*ports), healthy: true };
    if let Ok(request) = AllocateRequest::decode(request) {
        let asked: usize = request.container_requests.iter().map(|container| container.devices_ids.len()).sum();
        match service::containers(&offer, &request) {
            Ok(containers) => {
                let mut all: Vec<u32> = containers.concat();
                assert!(all.iter().all(|number| *number < offer.ports));
                assert!(all.iter().all(|number| device_number(&device_id(*number)) == Some(*number)));
                assert_eq!((all.len(), containers.len()), (asked, request.container_requests.len()));
                all.sort_unstable();
                all.dedup();
                assert_eq!(all.len(), asked, "a device is given twice");
            }
            Err(status) => assert!(!status.message().contains(char::is_control), "{:?}", status.message()),
        }
    }
    if let Ok(request) = ContainerPreferredAllocationRequest::decode(request) {
        let offered = [&request.must_include_device_i_ds[..], &request.available_device_i_ds[..]].concat();
        let size = usize::try_from(request.allocation_size).unwrap_or(0);
        let preferred = service::prefer(request).device_i_ds;
        assert!(preferred.len() <= size && preferred.iter().all(|id| offered.contains(id)));
    }
}
