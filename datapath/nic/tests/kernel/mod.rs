//! Kernel interfaces for tests, and frames through them.
#![allow(dead_code, reason = "each test program uses a part")]

use std::fs;
use std::path::Path;
use std::process::Command;

use culvert_nic::{Batch, Eal, Pool, Port, RxQueue, TxQueue};

use crate::process::{broadcast, content, frame, pool, start};

/// Sends from each port to the other: 100 frames of all sizes up to `longest` bytes, some at a time.
pub fn both_ways(pool: &Pool, a: &mut Port, b: &mut Port, longest: usize) {
    let (mut a_rx, mut a_tx) = a.take_queues();
    let (mut b_rx, mut b_tx) = b.take_queues();
    one_way(pool, &mut a_tx[0], &mut b_rx[0], longest);
    one_way(pool, &mut b_tx[0], &mut a_rx[0], longest);
    drop((a_rx, a_tx, b_rx, b_tx));
}

pub fn one_way(pool: &Pool, tx: &mut TxQueue, rx: &mut RxQueue, longest: usize) {
    for first in (0..100).step_by(10) {
        let sent: Vec<Vec<u8>> = (first..first + 10)
            .map(|number| broadcast(number, 60 + (longest - 60) * usize::from(number) / 99))
            .collect();
        let mut frames = Batch::new();
        for bytes in &sent {
            frames.push(frame(pool, bytes)).unwrap();
        }
        while !frames.is_empty() {
            tx.send(&mut frames);
        }
        assert!(receive(rx, sent.len()) == sent, "frames {first} to {}", first + 10);
    }
}

/// Waits for `count` of our frames; the kernel has its own besides.
pub fn receive(rx: &mut RxQueue, count: usize) -> Vec<Vec<u8>> {
    let mut received = Vec::new();
    while received.len() < count {
        let mut frames = Batch::new();
        rx.receive(&mut frames);
        received.extend(frames.iter().map(content).filter(|bytes| bytes[12..14] == [0x88, 0xb5]));
        std::thread::yield_now();
    }
    received
}

/// EAL, a pool, and the interfaces veth-a and veth-b of this MTU, which are joined.
pub fn veth_pair(mtu: u16) -> (Eal, Pool) {
    quiet();
    ip(&format!("link add veth-a mtu {mtu} type veth peer name veth-b mtu {mtu}"));
    ip("link set veth-a up");
    ip("link set veth-b up");
    let eal = start();
    let pool = pool(&eal);
    (eal, pool)
}

/// Keeps the kernel from sending on interfaces that are made later.
pub fn quiet() {
    let setting = Path::new("/proc/sys/net/ipv6/conf/default/disable_ipv6");
    if setting.exists() {
        fs::write(setting, "1").unwrap();
    }
}

pub fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

pub fn mtu(interface: &str) -> String {
    let output = Command::new("ip").args(["-o", "link", "show", interface]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut words = text.split(' ').skip_while(|word| *word != "mtu");
    words.nth(1).unwrap().to_owned()
}
