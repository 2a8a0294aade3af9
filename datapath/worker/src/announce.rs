//! Frames that Culvert sends in a guest's name.

use culvert_frame::MacAddress;

/// A reverse ARP request from `address` to everybody (RFC 903), padded to the shortest Ethernet frame: bridges on the
/// way learn where the guest is now. What QEMU sends for its own devices after a migration.
pub fn rarp(address: MacAddress) -> [u8; 60] {
    let mut frame = [0; 60];
    let fields: [&[u8]; 10] = [
        &MacAddress::BROADCAST.0,
        &address.0,
        &[0x80, 0x35],       // EtherType: RARP
        &[0, 1, 8, 0, 6, 4], // Ethernet and IPv4 addresses
        &[0, 3],             // request reverse
        &address.0,
        &[0; 4],
        &address.0,
        &[0; 4],
        &[0; 18],
    ];
    let bytes = fields.into_iter().flatten();
    frame.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_rfc_903_has_them() {
        let frame = rarp(MacAddress([2, 0, 0, 0, 0, 9]));
        assert_eq!(frame[..6], [0xff; 6]);
        assert_eq!(frame[6..12], [2, 0, 0, 0, 0, 9]);
        assert_eq!(frame[12..22], [0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
        assert_eq!(frame[22..28], [2, 0, 0, 0, 0, 9]);
        assert_eq!(frame[32..38], [2, 0, 0, 0, 0, 9]);
    }
}
