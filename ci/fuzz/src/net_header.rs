//! What a guest's buffer holds: a virtio-net header and a frame, both as they come. Read, checked, done, and told to a
//! receiver again.

use culvert_frame::{DropReason, Offload, OffloadFields, Offloads};
use culvert_guest::NetHeader;
use culvert_guest::net_header::{DATA_VALID, NEEDS_CSUM};
use culvert_guest::transmit::HEAD_BYTES;

use crate::offload;

/// Runs one input: the bytes of a buffer.
pub fn run(data: &[u8]) {
    let Some(header) = NetHeader::parse(data) else {
        assert!(data.len() < 10);
        return;
    };
    assert_eq!(header.to_bytes(7)[..10], data[..10]);
    let request = header.request();
    let told = OffloadFields { request, data_valid: header.flags & DATA_VALID != 0, header_bytes: header.hdr_len };
    let same = NetHeader { flags: header.flags & (NEEDS_CSUM | DATA_VALID), ..header };
    assert_eq!(NetHeader::of(&told), same);

    let frame = data.get(12..).unwrap_or_default();
    let Ok(length) = u32::try_from(frame.len()) else { return };
    let head = &frame[..frame.len().min(HEAD_BYTES)];
    match Offload::check(request, Offloads::ALL, head, length) {
        Ok(offload) => {
            let fields = offload.fields();
            assert_eq!(Offload::check(fields.request, Offloads::ALL, head, length), Ok(offload), "told otherwise");
            offload::carry_out(offload, frame.to_vec());
        }
        Err(reason) => assert!(matches!(reason, DropReason::BadOffload | DropReason::OffloadNotNegotiated)),
    }
}
