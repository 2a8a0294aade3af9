//! Frames between ports: MAC table, forwarding.
