//! Everything that a guest can write: memory, rings, chains, the virtio-net header.
