//! System tests: real guests, real DPDK frontends.
