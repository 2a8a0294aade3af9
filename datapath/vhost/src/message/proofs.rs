//! Headers and bodies of all sizes.

use std::fs::File;

use culvert_proofs::{Choices, proofs};

use super::*;

proofs! {
    a_header_is_of_our_version_and_of_a_body_that_may_be: 2_100,
    a_body_has_the_size_that_its_request_has: 1_700,
    a_table_has_as_many_regions_as_it_says: 2_000,
}

/// A header is taken where its version is 1, it is no reply and its body has up to 4,084 bytes; request, wish for a reply and size are
/// those that it tells: all flags that there are and some others, requests and sizes at edges.
fn a_header_is_of_our_version_and_of_a_body_that_may_be(choices: &mut Choices) {
    let request = choices.of(&[0, 1, 43, 0x7fff_ffff, u32::MAX]);
    let flags = choices.number(0..=15_u32) | choices.of(&[0, 0x10, 0x8000_0000]);
    let size = choices.of(&[0, 1, 8, 4083, 4084, 4085, 4096, 0x1_0000, u32::MAX]);
    let mut bytes = [0; HEADER_BYTES];
    for (field, value) in bytes.chunks_mut(4).zip([request, flags, size]) {
        field.copy_from_slice(&value.to_ne_bytes());
    }
    let expected = match flags & 7 {
        1 if size <= 4084 => Ok(Header { request, need_reply: flags & 8 > 0, size: size as usize }),
        1 => Err(MessageError::Huge(size)),
        5 => Err(MessageError::Reply),
        _ => Err(MessageError::Version(flags & 3)),
    };
    assert_eq!(Header::parse(bytes), expected);
}

/// What the specification says of bodies and descriptors: sizes, and how many descriptors from and to.
const SHAPES: [(FrontendReq, &[usize], usize, usize); 24] = [
    (FrontendReq::GET_FEATURES, &[0], 0, 0),
    (FrontendReq::SET_FEATURES, &[8], 0, 0),
    (FrontendReq::SET_OWNER, &[0], 0, 0),
    (FrontendReq::RESET_OWNER, &[0], 0, 0),
    (FrontendReq::SET_LOG_BASE, &[16], 1, 1),
    (FrontendReq::SET_VRING_NUM, &[8], 0, 0),
    (FrontendReq::SET_VRING_ADDR, &[40], 0, 0),
    (FrontendReq::SET_VRING_BASE, &[8], 0, 0),
    (FrontendReq::GET_VRING_BASE, &[8], 0, 0),
    // The bodies are of bytes 0: they say that there is a descriptor.
    (FrontendReq::SET_VRING_KICK, &[8], 1, 1),
    (FrontendReq::SET_VRING_CALL, &[8], 1, 1),
    (FrontendReq::SET_VRING_ERR, &[8], 1, 1),
    (FrontendReq::GET_PROTOCOL_FEATURES, &[0], 0, 0),
    (FrontendReq::SET_PROTOCOL_FEATURES, &[8], 0, 0),
    (FrontendReq::GET_QUEUE_NUM, &[0], 0, 0),
    (FrontendReq::SET_VRING_ENABLE, &[8], 0, 0),
    (FrontendReq::NET_SET_MTU, &[8], 0, 0),
    (FrontendReq::SET_BACKEND_REQ_FD, &[0, 8], 1, 1),
    (FrontendReq::RESET_DEVICE, &[0], 0, 0),
    (FrontendReq::GET_MAX_MEM_SLOTS, &[0], 0, 0),
    (FrontendReq::ADD_MEM_REG, &[40], 1, 1),
    (FrontendReq::REM_MEM_REG, &[40], 0, 1),
    (FrontendReq::SET_DEVICE_STATE_FD, &[8], 1, 1),
    (FrontendReq::CHECK_DEVICE_STATE, &[0], 0, 0),
];

/// So many descriptors.
fn descriptors(count: usize) -> Vec<OwnedFd> {
    let file = File::open("/dev/null").unwrap();
    (0..count).map(|_| file.try_clone().unwrap().into()).collect()
}

/// A request is taken where its body and descriptors are as many as the specification says, and keeps none of the descriptors otherwise: 24
/// requests, bodies of 0 to 48 bytes and at edges, up to three descriptors. (It asks the kernel for those.)
fn a_body_has_the_size_that_its_request_has(choices: &mut Choices) {
    let (request, sizes, from, to) = choices.of(&SHAPES);
    let size = choices.of(&[0, 1, 4, 7, 8, 9, 12, 15, 16, 17, 24, 32, 39, 40, 41, 48, 268, 4084]);
    let count = choices.number(0..=3_usize);
    let mut given = descriptors(count);
    let parsed = Request::parse(request as u32, &vec![0; size], &mut given);
    let fits = sizes.contains(&size) && (from..=to).contains(&count);
    assert_eq!(parsed.is_ok(), fits, "{request:?} of {size} bytes with {count}: {parsed:?}");
    let kept = usize::from(fits && from == 1);
    assert_eq!(given.len(), count - kept);
    // A number that no request has is refused, whatever comes with it.
    assert_eq!(Request::parse(1000, &vec![0; size], &mut given).unwrap_err(), MessageError::Unknown);
    assert_eq!(given.len(), count - kept);
}

/// A table of regions is taken where it says as many as it has descriptors, from 1 to 8, and has that many whole ones or more, and each
/// gets its own: counts, regions and descriptors of 0 to 9. (It asks the kernel for descriptors.)
fn a_table_has_as_many_regions_as_it_says(choices: &mut Choices) {
    let (told, there, count) = (choices.number(0..=9_u32), choices.number(0..=9_usize), choices.number(0..=9_usize));
    let odd = choices.of(&[0, 1]);
    let mut body = [told.to_ne_bytes(), [0; 4]].concat();
    for field in 0..4 * there as u64 {
        body.extend(field.to_ne_bytes());
    }
    body.extend(vec![0; odd]);
    let mut given = descriptors(count);
    let parsed = Request::parse(FrontendReq::SET_MEM_TABLE as u32, &body, &mut given);
    let fits = (1..=8).contains(&count) && told as usize == count && (count..=8).contains(&there) && odd == 0;
    match parsed {
        Ok(Request::SetMemTable(regions)) => {
            assert!(fits && given.is_empty());
            let fields = |region: &Region| [region.guest_address, region.size, region.user_address, region.mmap_offset];
            assert!(regions.iter().flat_map(|(region, _)| fields(region)).eq(0..4 * u64::from(told)));
        }
        Ok(other) => panic!("{other:?}"),
        Err(_) => assert!(!fits && given.len() == count),
    }
}
