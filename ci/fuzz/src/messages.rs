//! One vhost-user message: header, body, descriptors.

use std::os::fd::OwnedFd;

use arbitrary::{Arbitrary, Unstructured};
use culvert_vhost::message::{HEADER_BYTES, Header, MAX_BODY_BYTES, MAX_DESCRIPTORS, Request, Shape};

use crate::descriptor::{self, Kind};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    header: [u8; HEADER_BYTES],
    /// Mostly a request that exists.
    request: u8,
    descriptors: Vec<Kind>,
    body: &'a [u8],
}

/// Runs one input.
pub fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    header(input.header);

    let memory = descriptor::common();
    let free = descriptor::lowest_free();
    let body = &input.body[..input.body.len().min(MAX_BODY_BYTES)];
    let open = |kind: &Kind| descriptor::open(*kind, memory);
    let mut descriptors: Vec<OwnedFd> = input.descriptors.iter().take(MAX_DESCRIPTORS + 1).map(open).collect();
    let sent = descriptors.len();
    let request = u32::from(input.request % 48);
    let parsed = Request::parse(request, body, &mut descriptors);
    match &parsed {
        Ok(parsed) => {
            assert!(Shape::of(request).is_some());
            let kept = kept(parsed);
            assert_eq!(kept + descriptors.len(), sent, "descriptors are kept or left");
        }
        // Texts for people must not fail either.
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert_eq!(descriptors.len(), sent, "a refused request keeps none");
        }
    }
    drop((parsed, descriptors));
    assert_eq!(descriptor::lowest_free(), free, "a descriptor stays open");
}

fn header(bytes: [u8; HEADER_BYTES]) {
    let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let (request, flags, size) = (word(0), word(4), word(8));
    let good = flags & 3 == 1 && flags & 4 == 0 && size as usize <= MAX_BODY_BYTES;
    let expected = Header { request, need_reply: flags & 8 != 0, size: size as usize };
    assert_eq!(Header::parse(bytes).ok(), good.then_some(expected));
}

fn kept(request: &Request) -> usize {
    match request {
        Request::SetMemTable(regions) => regions.len(),
        Request::AddMemReg(..)
        | Request::SetBackendReqFd(_)
        | Request::SetLogBase { .. }
        | Request::SetLogFd(_)
        | Request::SetDeviceState { .. } => 1,
        Request::SetVringKick(ring) | Request::SetVringCall(ring) | Request::SetVringErr(ring) => {
            usize::from(ring.descriptor.is_some())
        }
        _ => 0,
    }
}
