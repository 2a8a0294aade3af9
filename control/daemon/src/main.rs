//! culvertd, the node daemon.

fn main() {}
