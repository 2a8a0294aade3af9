//! What the frames of a load look like: UDP over IPv4, so that each peer finds the headers that it wants to see.

/// What a guest sends.
#[derive(Clone, Copy, Debug)]
pub struct Frames {
    /// The number of the sending guest, and of the one that is to get its frames; [`Frames::BROADCAST`] for all.
    pub from: u8,
    /// See `from`.
    pub to: u8,
    /// How long they are.
    pub lengths: Lengths,
    /// Whether the guests write every byte that they send and read every byte that they get.
    pub touched: bool,
    /// How many addresses each guest has, 65,536 at most.
    pub addresses: u32,
    /// How many source ports, 65,536 at most.
    pub flows: u32,
}

/// The lengths of frames in bytes, without FCS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lengths {
    /// All the same.
    Fixed(u32),
    /// The simple Internet mix: 7 of 64, 4 of 570 and 1 of 1514 bytes.
    Imix,
}

impl Frames {
    /// Stands for the broadcast address.
    pub const BROADCAST: u8 = 0xff;

    /// Frames from one guest to another, always the same.
    pub fn plain(from: u8, to: u8, length: u32) -> Self {
        Self { from, to, lengths: Lengths::Fixed(length), touched: false, addresses: 1, flows: 1 }
    }

    /// Whether anything in a frame is to be written before it is sent.
    #[inline]
    pub fn vary(&self) -> bool {
        self.touched || self.identities() > 1
    }

    /// How many frames there are that differ.
    #[inline]
    pub fn identities(&self) -> u32 {
        self.addresses.max(self.flows)
    }

    /// The frame that lies in an entry of the ring from the start.
    pub fn image(&self, entry: u16) -> Vec<u8> {
        let length = self.lengths.of(entry);
        let to = if self.to == Self::BROADCAST { [0xff; 6] } else { address(self.to) };
        let mut frame = [to, address(self.from)].concat();
        let ip_bytes = (length - 14) as u16;
        let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, self.from, 10, 0, 0, self.to];
        ip[2..4].copy_from_slice(&ip_bytes.to_be_bytes());
        let sum: u32 = ip.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        ip[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
        frame.extend([8, 0]);
        frame.extend(ip);
        // From port 4000 to port 4000, without a checksum, as IPv4 permits.
        frame.extend([0x0f, 0xa0, 0x0f, 0xa0]);
        frame.extend((ip_bytes - 20).to_be_bytes());
        frame.extend([0, 0]);
        frame.resize(length as usize, 0);
        frame
    }
}

impl Lengths {
    /// Of the frame in an entry of the ring.
    #[inline]
    pub fn of(self, entry: u16) -> u32 {
        match self {
            Self::Fixed(length) => length,
            // Spread, so that long ones do not come together.
            Self::Imix => [64, 570, 64, 64, 570, 64, 1514, 64, 570, 64, 570, 64][usize::from(entry % 12)],
        }
    }

    /// The longest.
    pub fn longest(self) -> u32 {
        match self {
            Self::Fixed(length) => length,
            Self::Imix => 1514,
        }
    }
}

/// A guest's first address; the last two bytes tell its addresses apart.
fn address(guest: u8) -> [u8; 6] {
    [2, 0, 0, guest, 0, 0]
}
