//! Cases of hostile guests: what a driver can write into its rings.

use anyhow::Result;

use crate::case::Case;
use crate::field::Field;
use crate::guest::TRANSMIT;

/// The cases of this folder.
pub const CASES: &[Case] = &[Case {
    row: "Q3",
    name: "available-index-jumps",
    what: "The available index runs ahead by more than the ring has: quarantine.",
    full: false,
    run: available_index_jumps,
}];

fn available_index_jumps(field: &mut Field) -> Result<()> {
    let guest = field.connect_victim(Default::default(), 0)?;
    let index = guest.interface.transmit.available_index();
    guest.interface.transmit.set_available_index(index.wrapping_add(5000));
    guest.kick(TRANSMIT)?;
    guest.wait_closed()?;
    field.expect_quarantine("is more than 256 ahead of 0");
    Ok(())
}
