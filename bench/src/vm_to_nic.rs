//! Guests and DPDK devices: what a port that leads to a NIC costs, without the NIC.
//!
//! What is sent to one device of a pair comes out of the other one (net_memif twice in one process, or net_af_packet at both ends of a
//! veth pair): a guest on each, so that a frame goes from a guest to a device and from a device to a guest, both ways at once. Culvert has
//! a network for each half. net_ring gives back what it is sent: the guest's own frames come from outside, so a learning switch that
//! has one network with both learns the guest's address anew for each burst, and finds no port for the destination. net_null takes all
//! and gives nothing, so that nobody learns where a destination is. net_pcap gives the same frames for ever, and takes all.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use culvert_system::place::Namespace;
use culvert_system::veth::Veth;
use tempfile::TempDir;

use crate::load::{Frames, LoadGuest, drive};
use crate::options::Options;
use crate::pair::{MILLIONS, RATE, busy_figure, under_load};
use crate::peer::{Peer, Setup};
use crate::scenario::{Case, Figure};

/// What the guests' frames meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Device {
    /// Two shared memory interfaces of one process, joined.
    Memif,
    /// Gives back what it is sent.
    Ring,
    /// Takes all, and gives the same frames for ever.
    Pcap,
    /// Takes all.
    Null,
    /// Packet sockets at both ends of a veth pair.
    AfPacket,
}

pub fn cases(options: &Options) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for device in [Device::Ring, Device::Memif, Device::Pcap, Device::Null, Device::AfPacket] {
        // Devices have buffers for 1500 bytes.
        for &size in options.sizes.iter().filter(|&&size| size <= 1514) {
            let options = options.clone();
            let name = format!("{size} B, {}", device.name());
            cases.push(Case::new(name, move |peer| measure(&options, peer, device, size)));
        }
    }
    Ok(cases)
}

fn measure(options: &Options, peer: Peer, device: Device, size: u32) -> Result<Vec<Figure>> {
    // What the devices are made of, until the switch has ended.
    let folder = TempDir::new()?;
    let mut setup = Setup { guests: 1, ..Setup::pair(options.switch_core(), size) };
    let mut namespace = None;
    let at = |name: &str| folder.path().join(name).display().to_string();
    setup.nics = match device {
        Device::Memif => {
            setup.guests = 2;
            // Isolated, culvertd may not do what net_memif needs to connect. Of what it does with frames nothing is different.
            setup.isolated = false;
            let socket = format!("culvert-bench-{}", std::process::id());
            let end = |number: u8, role| {
                format!("net_memif{number},id=0,role={role},bsize=2048,rsize=10,socket={socket},socket-abstract=yes")
            };
            vec![end(0, "server"), end(1, "client")]
        }
        Device::Ring => vec!["net_ring0".to_owned()],
        Device::Pcap => {
            let file = at("frames");
            fs::write(&file, capture(&Frames::plain(2, 1, size).image(0)))?;
            vec![format!("net_pcap0,rx_pcap={file},infinite_rx=1")]
        }
        Device::Null => vec!["net_null0,no-rx=1".to_owned()],
        Device::AfPacket => {
            setup.guests = 2;
            let inside = Namespace::new("nic")?;
            Veth::between([("nic0", &inside), ("nic1", &inside)], 1500)?;
            setup.namespace = Some(inside.name().to_owned());
            namespace = Some(inside);
            vec!["net_af_packet0,iface=nic0".to_owned(), "net_af_packet1,iface=nic1".to_owned()]
        }
    };
    let outcome = under_load(peer, &setup, options.load_core(), |switch| {
        let mut guests = Vec::new();
        for (number, socket) in (1..).zip(&switch.sockets) {
            let frames = Frames::plain(number, 3 - number, size);
            guests.push(LoadGuest::connect(socket, options.rings(), frames)?);
        }
        drive(&mut guests, WARM_UP)?;
        let busy = switch.busy()?;
        let (before, start) = (count(&guests), Instant::now());
        drive(&mut guests, options.time())?;
        let (after, seconds) = (count(&guests), start.elapsed().as_secs_f64());
        guests.iter().try_for_each(LoadGuest::check)?;
        let [taken, received] = [0, 1].map(|side| (after[side] - before[side]) as f64 / seconds / 1e6);
        let mut figures = match device {
            Device::Null => vec![Figure::gain(RATE, MILLIONS, taken)],
            Device::Pcap => vec![
                Figure::gain(RATE, MILLIONS, taken + received),
                Figure::gain("to the device", MILLIONS, taken),
                Figure::gain("from the device", MILLIONS, received),
            ],
            Device::Memif | Device::Ring | Device::AfPacket => vec![Figure::gain(RATE, MILLIONS, received)],
        };
        ensure!(figures.iter().all(|figure| figure.value > 0.0), "no frame passed");
        figures.extend(busy_figure(switch, busy)?);
        Ok(figures)
    });
    drop(namespace);
    outcome
}

impl Device {
    fn name(self) -> &'static str {
        match self {
            Self::Memif => "net_memif and back",
            Self::Ring => "net_ring and back",
            Self::Pcap => "net_pcap, both ways",
            Self::Null => "net_null",
            Self::AfPacket => "af_packet, veth and back",
        }
    }
}

/// Frames that were taken from all guests, and those that they got.
fn count(guests: &[LoadGuest]) -> [u64; 2] {
    [guests.iter().map(LoadGuest::taken).sum(), guests.iter().map(LoadGuest::received).sum()]
}

/// A capture with some bursts of a frame (draft-ietf-opsawg-pcap-05, section 4).
fn capture(frame: &[u8]) -> Vec<u8> {
    let length = (frame.len() as u32).to_le_bytes();
    let mut file = [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 0xffff, 1].map(u32::to_le_bytes).concat();
    for _ in 0..256 {
        file.extend([[0; 4], [0; 4], length, length].concat());
        file.extend(frame);
    }
    file
}

const WARM_UP: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_has_a_head_and_all_frames() {
        let file = capture(&[7; 60]);
        assert_eq!(file.len(), 24 + 256 * (16 + 60));
        assert_eq!(file[..4], [0xd4, 0xc3, 0xb2, 0xa1]);
        assert_eq!(file[24 + 8..24 + 12], 60_u32.to_le_bytes());
    }
}
