//! The message that is arriving, in whatever pieces.

use std::os::fd::OwnedFd;
use std::time::Instant;

use crate::message::{HEADER_BYTES, Header, MessageError};

/// The message that is arriving.
#[derive(Debug, Default)]
pub struct Input {
    /// When its first byte came.
    pub since: Option<Instant>,
    pub head: Vec<u8>,
    pub header: Option<Header>,
    pub body: Vec<u8>,
    pub descriptors: Vec<OwnedFd>,
}

impl Input {
    pub fn missing(&self) -> usize {
        match self.header {
            None => HEADER_BYTES.saturating_sub(self.head.len()),
            Some(header) => header.size.saturating_sub(self.body.len()),
        }
    }

    /// Whether the message is whole.
    pub fn push(&mut self, bytes: &[u8]) -> Result<bool, MessageError> {
        if self.header.is_some() {
            self.body.extend_from_slice(bytes);
        } else {
            self.head.extend_from_slice(bytes);
            if let Ok(head) = self.head.as_slice().try_into() {
                let header = Header::parse(head)?;
                self.body.reserve_exact(header.size);
                self.header = Some(header);
            }
        }
        Ok(self.header.is_some() && self.missing() == 0)
    }
}
