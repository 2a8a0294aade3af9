//! Over QEMU's stream socket.
