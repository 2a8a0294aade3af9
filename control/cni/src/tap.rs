//! Mode `tap`: a tap device in the pod, for a guest without shared memory.

use crate::attachment::Attachment;
use crate::config::settings::Tap;
use crate::error::{Code, Error};
use crate::result::Interface;
use crate::thing::Thing;

/// How the tap is made.
#[derive(Debug)]
pub struct Plan {}

impl Plan {
    /// Finds out what is to be made. Nothing is made yet.
    ///
    /// # Errors
    /// [`Code::Config`].
    pub fn of(_attachment: &Attachment, _settings: &Tap) -> Result<Self, Error> {
        Err(Error::with(Code::Config, "mode tap is not possible yet", "use vhostuser or translator"))
    }

    /// See [`crate::attachment::Plan::things`].
    pub fn things(&self) -> Vec<Thing> {
        Vec::new()
    }

    /// See [`crate::attachment::Plan::make`].
    ///
    /// # Errors
    /// The kernel's and culvertd's.
    pub fn make(&self, _attachment: &Attachment) -> Result<Vec<Interface>, Error> {
        Ok(Vec::new())
    }

    /// See [`crate::attachment::Plan::check`].
    ///
    /// # Errors
    /// [`Code::Changed`].
    pub fn check(&self, _attachment: &Attachment) -> Result<(), Error> {
        Ok(())
    }
}
