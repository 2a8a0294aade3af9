//! What a NIC does to frames for us: checksums and TCP segmentation when sending, checks when receiving.
//!
//! These are the words only. [`crate::TxQueue::offloads`] says what a device can, [`Mbuf::request_offload`] asks for it,
//! frame by frame, and [`Mbuf::rx_checksum`] tells what the device found. What a guest asked for (the virtio-net
//! header) is read elsewhere, and so is the software that does what a NIC cannot.

use dpdk_sys as ffi;

use crate::mbuf::Mbuf;

/// What the device does for frames that are sent, of those things that we ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NicOffloads {
    /// Header checksums of IPv4.
    pub ipv4_checksum: bool,
    /// TCP checksums, over IPv4 and IPv6.
    pub tcp_checksum: bool,
    /// UDP checksums, over IPv4 and IPv6.
    pub udp_checksum: bool,
    /// TCP segmentation, over IPv4 and IPv6, of frames of several buffers; only where the TCP checksum is as well.
    pub tso: bool,
}

impl NicOffloads {
    /// From a driver's mask of TX offloads.
    pub(crate) fn of(mask: u64) -> NicOffloads {
        let has = |wanted: u64| mask & wanted == wanted;
        NicOffloads {
            ipv4_checksum: has(ffi::CULVERT_TX_IPV4_CHECKSUM),
            tcp_checksum: has(ffi::CULVERT_TX_TCP_CHECKSUM),
            udp_checksum: has(ffi::CULVERT_TX_UDP_CHECKSUM),
            tso: has(ffi::CULVERT_TX_TCP_SEGMENTATION | ffi::CULVERT_TX_TCP_CHECKSUM | ffi::CULVERT_TX_MULTI_SEGMENT),
        }
    }
}

/// All TX offloads of DPDK's that are used where a driver has them.
pub(crate) const WANTED_TX: u64 = ffi::CULVERT_TX_IPV4_CHECKSUM
    | ffi::CULVERT_TX_TCP_CHECKSUM
    | ffi::CULVERT_TX_UDP_CHECKSUM
    | ffi::CULVERT_TX_TCP_SEGMENTATION;

/// What the device is to do to one frame, and where its headers are. Lengths are in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxOffload {
    /// Length of all before the IP header: Ethernet header and VLAN tags.
    pub l2: u16,
    /// Length of the IP header, with its options or extension headers.
    pub l3: u16,
    /// Length of the TCP or UDP header.
    pub l4: u16,
    /// IPv6, otherwise IPv4.
    pub ipv6: bool,
    /// UDP, otherwise TCP.
    pub udp: bool,
    /// Fill in the TCP or UDP checksum. What is in the field does not matter: the sum over the pseudo-header is put
    /// there on the way out, where the device wants it.
    pub checksum: bool,
    /// Cut the TCP payload into segments of this many bytes, with headers of their own, checksums included. 0: do not.
    pub segment_size: u16,
}

/// What is known of the TCP or UDP checksum of a received frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RxChecksum {
    /// Nothing: look for yourself.
    Unknown,
    /// It is right.
    Good,
    /// It is wrong.
    Bad,
    /// It is not filled in yet, but the data is intact: the frame has not been on a wire. In the field is the sum over
    /// the pseudo-header, as virtio has it (1.3, 5.1.6.4).
    Partial,
}

impl Mbuf {
    /// Asks the device that the frame is sent by for checksums and segmentation; replaces an earlier request. False,
    /// with nothing changed, if it cannot be told to: the headers do not lie within the first segment, are longer
    /// than DPDK has room for, or segments of UDP are asked for.
    #[must_use]
    pub fn request_offload(&mut self, offload: &TxOffload) -> bool {
        let TxOffload { l2, l3, l4, ipv6, udp, checksum, segment_size } = *offload;
        let fits = |length: u16, most: ffi::culvert_header_limits| u32::from(length) <= most;
        let all_fit =
            fits(l2, ffi::CULVERT_L2_MOST) && fits(l3, ffi::CULVERT_L3_MOST) && fits(l4, ffi::CULVERT_L4_MOST);
        if !all_fit || usize::from(l2) + usize::from(l3) + usize::from(l4) > self.head().len() {
            return false;
        }
        let mut flags = 0;
        if checksum || segment_size > 0 {
            flags |= if ipv6 { ffi::CULVERT_MBUF_TX_IPV6 } else { ffi::CULVERT_MBUF_TX_IPV4 };
            flags |= if udp { ffi::CULVERT_MBUF_TX_UDP_CHECKSUM } else { ffi::CULVERT_MBUF_TX_TCP_CHECKSUM };
        }
        if segment_size > 0 {
            if udp {
                return false;
            }
            // Each segment has an IPv4 header of its own.
            let header = if ipv6 { 0 } else { ffi::CULVERT_MBUF_TX_IPV4_CHECKSUM };
            flags |= ffi::CULVERT_MBUF_TX_TCP_SEGMENTATION | header;
        }
        // SAFETY: a live mbuf that is this value's alone; the lengths are within the limits.
        unsafe { ffi::culvert_request_offload(self.raw(), flags, l2, l3, l4, segment_size) };
        true
    }

    /// What the driver found out about the checksum on receiving; Unknown of frames that were not received.
    #[must_use]
    #[inline]
    pub fn rx_checksum(&self) -> RxChecksum {
        match self.flags() & ffi::CULVERT_MBUF_RX_L4_MASK {
            ffi::CULVERT_MBUF_RX_L4_GOOD => RxChecksum::Good,
            ffi::CULVERT_MBUF_RX_L4_BAD => RxChecksum::Bad,
            ffi::CULVERT_MBUF_RX_L4_NONE => RxChecksum::Partial,
            _ => RxChecksum::Unknown,
        }
    }

    /// Says what is known of the checksum, as a driver does on receiving.
    pub fn set_rx_checksum(&mut self, checksum: RxChecksum) {
        let known = match checksum {
            RxChecksum::Unknown => 0,
            RxChecksum::Good => ffi::CULVERT_MBUF_RX_L4_GOOD,
            RxChecksum::Bad => ffi::CULVERT_MBUF_RX_L4_BAD,
            RxChecksum::Partial => ffi::CULVERT_MBUF_RX_L4_NONE,
        };
        self.set_flags(self.flags() & !ffi::CULVERT_MBUF_RX_L4_MASK | known);
    }

    /// Payload bytes of each of the TCP segments that the device has joined to this frame; None of an ordinary frame.
    /// Only where [`crate::PortConfig::lro`] is set.
    #[must_use]
    pub fn rx_segment_size(&self) -> Option<u16> {
        if self.flags() & ffi::CULVERT_MBUF_RX_LRO == 0 {
            return None;
        }
        // SAFETY: a live mbuf, which is read.
        match unsafe { ffi::culvert_rx_segment_size(self.raw_const()) } {
            0 => None,
            size => Some(size),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segmentation_needs_the_checksum_and_chains() {
        let all = WANTED_TX | ffi::CULVERT_TX_MULTI_SEGMENT;
        let none = NicOffloads::default();
        assert_eq!(NicOffloads::of(0), none);
        let offloads = NicOffloads { ipv4_checksum: true, tcp_checksum: true, udp_checksum: true, tso: true };
        assert_eq!(NicOffloads::of(all), offloads);
        assert_eq!(NicOffloads::of(WANTED_TX), NicOffloads { tso: false, ..offloads });
        assert_eq!(NicOffloads::of(ffi::CULVERT_TX_TCP_SEGMENTATION | ffi::CULVERT_TX_MULTI_SEGMENT), none);
    }
}
