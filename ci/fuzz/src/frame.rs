//! The first bytes of a frame, and of the virtio-net header before it.

use culvert_frame::{DropReason, ETHERNET_HEADER_BYTES, EthernetHeader, header::flow_hash};
use culvert_guest::NetHeader;

/// Runs one input.
pub fn run(data: &[u8]) {
    match EthernetHeader::parse(data) {
        Ok(header) => {
            let read = [header.destination.0, header.source.0].concat();
            assert_eq!(data[..12], read);
            assert_eq!(data[12..14], header.ether_type.to_be_bytes());
        }
        Err(reason) => {
            assert_eq!(reason, DropReason::Runt);
            assert!(data.len() < ETHERNET_HEADER_BYTES);
        }
    }
    // The same bytes hash alike, wherever they lie.
    let moved = [&[0], data].concat();
    assert_eq!(flow_hash(data), flow_hash(&moved[1..]));
    match NetHeader::parse(data) {
        Some(header) => assert_eq!(header.to_bytes(7)[..10], data[..10]),
        None => assert!(data.len() < 10),
    }
}
