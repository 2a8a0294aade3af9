//! What works for an ordinary user, without any capability and without hugepages.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test program"
)]

mod process;

use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use culvert_nic::{BURST, Batch, EalError, HugepageUse, Pool, Port, RxChecksum};
use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};
use process::{Kind, broadcast, config, content, contents, frame, open, own, pool, start};

#[test]
fn the_process_has_no_rights() {
    if own("the_process_has_no_rights", Kind::OrdinaryUser) {
        assert!(!rustix::process::getuid().is_root());
        let status = fs::read_to_string("/proc/self/status").unwrap();
        assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    }
}

#[test]
fn null_makes_and_swallows_frames() {
    if own("null_makes_and_swallows_frames", Kind::OrdinaryUser) {
        let eal = start();
        let pool = pool(&eal);
        let mut port = open(&eal, &pool, "net_null0,size=100");
        assert_eq!((port.driver(), port.name(), port.mtu()), ("net_null", "uplink0", 1500));
        let (mut rx, mut tx) = port.take_queues();
        let mut frames = Batch::new();
        assert_eq!(rx[0].receive(&mut frames), BURST);
        assert!(frames.iter().all(|frame| frame.length() == 100));
        assert_eq!(rx[0].receive(&mut frames), 0, "no room");
        assert_eq!(tx[0].send(&mut frames), BURST);
        assert!(frames.is_empty());
        let statistics = port.statistics();
        assert_eq!((statistics.rx_frames, statistics.tx_frames), (BURST as u64, BURST as u64));
        assert_eq!(rx[0].interrupt_descriptor(), None);
        assert!(rx[0].arm().is_err());
        assert_eq!(port.take_queues().0.len(), 0, "they are given once");
    }
}

#[test]
fn ring_gives_back_what_is_sent() {
    if own("ring_gives_back_what_is_sent", Kind::OrdinaryUser) {
        let eal = start();
        let pool = pool(&eal);
        let free = pool.free_buffers();
        let mut port = open(&eal, &pool, "net_ring0");
        assert!(port.link().up);
        let (mut rx, mut tx) = port.take_queues();
        let mut frames = Batch::new();
        let sent: Vec<Vec<u8>> = (0..20).map(|number| broadcast(number, 60 + 70 * usize::from(number))).collect();
        for bytes in &sent {
            frames.push(frame(&pool, bytes)).unwrap();
        }
        assert_eq!(tx[0].send(&mut frames), 20);
        assert_eq!(rx[0].receive(&mut frames), 20);
        assert_eq!(contents(&mut frames), sent);
        assert_eq!(rx[0].receive(&mut frames), 0);
        assert_eq!(pool.free_buffers(), free);
    }
}

#[test]
fn a_full_ring_leaves_the_rest_in_the_batch() {
    if own("a_full_ring_leaves_the_rest_in_the_batch", Kind::OrdinaryUser) {
        let eal = start();
        let pool = pool(&eal);
        let mut port = open(&eal, &pool, "net_ring0");
        let (mut rx, mut tx) = port.take_queues();
        let mut frames = Batch::new();
        let mut sent = 0_u32;
        while frames.is_empty() {
            for number in 0..BURST as u32 {
                frames.push(frame(&pool, &(sent + number).to_be_bytes().repeat(15))).unwrap();
            }
            sent += tx[0].send(&mut frames) as u32;
        }
        assert_eq!(content(frames.get(0).unwrap()), sent.to_be_bytes().repeat(15), "the first that was not taken");
        let left = frames.len();
        assert_eq!(tx[0].send(&mut frames), 0);
        let mut received = Batch::new();
        assert_eq!(rx[0].receive(&mut received), BURST);
        received.clear();
        assert_eq!(tx[0].send(&mut frames), left.min(BURST));
    }
}

#[test]
fn pcap_passes_files_through_byte_for_byte() {
    if own("pcap_passes_files_through_byte_for_byte", Kind::OrdinaryUser) {
        let eal = start();
        let pool = pool(&eal);
        let lengths = [14, 42, 60, 64, 1499, 1514, 1518, 2048, 2049, 9014, 16_000];
        let written: Vec<Vec<u8>> =
            (0..100).map(|number| broadcast(number, lengths[usize::from(number) % lengths.len()])).collect();
        write_pcap(Path::new("in.pcap"), &written);
        let mut port = open(&eal, &pool, "net_pcap0,rx_pcap=in.pcap,tx_pcap=out.pcap");
        assert_eq!(port.driver(), "net_pcap");
        let (mut rx, mut tx) = port.take_queues();
        let mut frames = Batch::new();
        let mut passed = 0;
        while rx[0].receive(&mut frames) > 0 {
            passed += tx[0].send(&mut frames);
            assert!(frames.is_empty());
        }
        assert_eq!(passed, written.len());
        assert_eq!(rx[0].receive(&mut frames), 0, "a file that has ended is an idle port");
        assert!(read_pcap(Path::new("out.pcap")) == written, "seen while the port is open");
        drop((port, rx, tx));
        assert!(read_pcap(Path::new("out.pcap")) == written);
        assert_eq!(pool.free_buffers(), pool.buffers());
    }
}

#[test]
fn pcap_repeats_a_file_when_told() {
    if own("pcap_repeats_a_file_when_told", Kind::OrdinaryUser) {
        let eal = start();
        let pool = pool(&eal);
        let written: Vec<Vec<u8>> = (0..3).map(|number| broadcast(number, 60)).collect();
        write_pcap(Path::new("in.pcap"), &written);
        let mut port = open(&eal, &pool, "net_pcap0,rx_pcap=in.pcap,infinite_rx=1");
        let (mut rx, _tx) = port.take_queues();
        let mut frames = Batch::new();
        let mut received = Vec::new();
        while received.len() < 300 {
            assert!(rx[0].receive(&mut frames) > 0);
            received.extend(contents(&mut frames));
        }
        for (index, bytes) in received.iter().enumerate() {
            assert_eq!(bytes, &written[index % 3]);
        }
    }
}

#[test]
fn queues_are_as_many_as_the_driver_has() {
    if own("queues_are_as_many_as_the_driver_has", Kind::OrdinaryUser) {
        let eal = start();
        let pool = pool(&eal);
        write_pcap(Path::new("in.pcap"), &[broadcast(1, 60)]);
        let mut wanted = config("net_pcap0,rx_pcap=in.pcap,rx_pcap=in.pcap,tx_pcap=out.pcap");
        (wanted.rx_queues, wanted.tx_queues) = (4, 4);
        let mut port = Port::open(&eal, &pool, &wanted).unwrap();
        assert_eq!((port.rx_queues(), port.tx_queues()), (2, 1));
        let (mut rx, tx) = port.take_queues();
        assert_eq!((rx.len(), tx.len()), (2, 1));
        let mut frames = Batch::new();
        assert_eq!(rx.iter_mut().map(|queue| queue.receive(&mut frames)).sum::<usize>(), 2);
        wanted.device = "net_ring0".to_owned();
        (wanted.rx_queues, wanted.tx_queues) = (0, 3);
        let port = Port::open(&eal, &pool, &wanted).unwrap();
        assert_eq!((port.rx_queues(), port.tx_queues()), (1, 3), "no queue is none the less one");
    }
}

#[test]
fn queues_outlive_their_port_and_move_between_threads() {
    if own("queues_outlive_their_port_and_move_between_threads", Kind::OrdinaryUser) {
        let eal = start();
        let pool = pool(&eal);
        let mut port = open(&eal, &pool, "net_ring0");
        let (mut rx, mut tx) = port.take_queues();
        drop(port);
        let worker = std::thread::spawn({
            let pool = pool.clone();
            move || {
                let mut frames = Batch::new();
                frames.push(frame(&pool, &broadcast(7, 60))).unwrap();
                assert_eq!(tx[0].send(&mut frames), 1);
                frames
            }
        });
        let mut frames = worker.join().unwrap();
        assert_eq!(rx[0].receive(&mut frames), 1);
        assert_eq!(content(frames.get(0).unwrap()), broadcast(7, 60));
        let refused = Port::open(&eal, &pool, &config("net_ring0")).unwrap_err();
        assert!(refused.to_string().contains("net_ring0 is in use by another port"), "{refused}");
        drop(rx);
        open(&eal, &pool, "net_ring0");
    }
}

#[test]
fn frames_inside_a_closed_ring_go_back_to_the_pool() {
    if own("frames_inside_a_closed_ring_go_back_to_the_pool", Kind::OrdinaryUser) {
        let eal = start();
        let pool = pool(&eal);
        let free = pool.free_buffers();
        for _ in 0..10 {
            let mut port = open(&eal, &pool, "net_ring0");
            let (_rx, mut tx) = port.take_queues();
            let mut frames = Batch::new();
            for _ in 0..3 {
                assert_eq!(pool.allocate_burst(&[60; BURST], &mut frames), BURST);
                assert_eq!(tx[0].send(&mut frames), BURST);
            }
        }
        assert_eq!(pool.free_buffers(), free);
    }
}

#[test]
fn what_cannot_be_opened_says_why_and_harms_nothing() {
    if own("what_cannot_be_opened_says_why_and_harms_nothing", Kind::OrdinaryUser) {
        let eal = start();
        let pool = pool(&eal);
        let mut good = open(&eal, &pool, "net_ring0");
        let (mut rx, mut tx) = good.take_queues();
        let mut cases = vec![
            ("net_pcap0,rx_pcap=absent.pcap", "absent.pcap (its rx_pcap) cannot be read: No such file or directory"),
            ("net_pcap0,rx_pcap=junk.pcap", "unknown file format"),
            ("net_pcap0,tx_pcap=/proc/nowhere/out.pcap", "(its tx_pcap) cannot be written"),
            ("net_pcap0,rx_iface=nowhere0", "there is no network interface nowhere0"),
            ("net_af_packet0,iface=nowhere0", "there is no network interface nowhere0"),
            (
                "net_virtio_user0,path=absent.sock",
                "absent.sock (its path) cannot be reached: No such file or directory",
            ),
            ("net_virtio_user0,path=absent.sock,server=1", "let the other switch create the socket"),
            (
                "net_vhost0,iface=/nowhere/x.sock",
                "/nowhere/x.sock (its iface, a socket) cannot be made in /nowhere: No such",
            ),
            ("net_nonsense0", "check the name"),
            ("net_null0,size=x", "net_null0"),
            ("0000:00:00.0", "without PCI devices"),
            ("uplink", "check the name"),
            ("eth 0", "neither a PCI address nor a virtual device"),
        ];
        let no_rights = !rustix::process::getuid().is_root();
        assert!(no_rights);
        cases.push(("net_af_packet0,iface=lo", "does not have CAP_NET_ADMIN, CAP_NET_RAW"));
        cases.push(("net_pcap0,iface=lo", "does not have CAP_NET_RAW"));
        cases.push(("net_tap0", "does not have CAP_NET_ADMIN"));
        fs::write("junk.pcap", "no capture").unwrap();
        for (device, expected) in cases {
            for _ in 0..2 {
                let error = Port::open(&eal, &pool, &config(device)).unwrap_err();
                let text = error.to_string();
                assert!(text.contains(expected), "{text}");
                assert!(text.starts_with(&format!("port uplink0: cannot open {device}: ")), "{text}");
            }
            let mut frames = Batch::new();
            frames.push(frame(&pool, &broadcast(1, 60))).unwrap();
            assert_eq!(tx[0].send(&mut frames), 1);
            assert_eq!(rx[0].receive(&mut frames), 1);
        }
        // What was refused can be had once its cause is gone.
        write_pcap(Path::new("absent.pcap"), &[broadcast(3, 60)]);
        let mut port = open(&eal, &pool, "net_pcap0,rx_pcap=absent.pcap");
        let mut frames = Batch::new();
        assert_eq!(port.take_queues().0[0].receive(&mut frames), 1);
        assert_eq!(contents(&mut frames), [broadcast(3, 60)]);
    }
}

#[test]
fn an_mtu_that_does_not_fit_is_refused() {
    if own("an_mtu_that_does_not_fit_is_refused", Kind::OrdinaryUser) {
        let eal = start();
        let pool = pool(&eal);
        let mut jumbo = config("net_null0");
        jumbo.mtu = 9000;
        let error = Port::open(&eal, &pool, &jumbo).unwrap_err().to_string();
        assert!(error.contains("frames of MTU 9000 do not fit the pool's buffers of 2048 bytes"), "{error}");
        jumbo.device = "net_ring0".to_owned();
        assert_eq!(Port::open(&eal, &pool, &jumbo).unwrap().mtu(), 9000, "in several buffers");
        jumbo.mtu = 40;
        let error = Port::open(&eal, &pool, &jumbo).unwrap_err().to_string();
        assert!(error.contains("carries an MTU of 46 to 65535, not 40"), "{error}");
    }
}

#[test]
fn a_batch_keeps_places_until_it_is_sent() {
    if own("a_batch_keeps_places_until_it_is_sent", Kind::OrdinaryUser) {
        let eal = start();
        let pool = pool(&eal);
        let mut port = open(&eal, &pool, "net_ring0");
        let (mut rx, mut tx) = port.take_queues();
        let mut frames = Batch::new();
        for number in 0..6 {
            frames.push(frame(&pool, &broadcast(number, 60))).unwrap();
        }
        assert_eq!(content(&frames.take(0).unwrap()), broadcast(0, 60));
        assert_eq!(content(&frames.take(3).unwrap()), broadcast(3, 60));
        assert!(frames.take(3).is_none() && frames.get(3).is_none() && frames.get_mut(3).is_none());
        assert!(frames.take(BURST).is_none() && frames.get(6).is_none());
        assert_eq!(frames.len(), 6);
        assert_eq!(content(frames.get(4).unwrap()), broadcast(4, 60));
        assert_eq!(tx[0].send(&mut frames), 4);
        assert!(frames.is_empty());
        assert_eq!(tx[0].send(&mut frames), 0);
        assert_eq!(rx[0].receive(&mut frames), 4);
        assert_eq!(contents(&mut frames), [1, 2, 4, 5].map(|number| broadcast(number, 60)));

        let free = pool.free_buffers();
        assert_eq!(pool.allocate_burst(&[60; BURST], &mut frames), BURST);
        assert!(frames.is_full());
        let one_more = frame(&pool, &broadcast(9, 99));
        assert_eq!(content(&frames.push(one_more).unwrap_err()), broadcast(9, 99));
        (0..BURST).for_each(|place| drop(frames.take(place)));
        assert_eq!((frames.len(), frames.iter().count()), (BURST, 0));
        frames.close_gaps();
        assert!(frames.is_empty());
        pool.allocate_burst(&[60; BURST], &mut frames);
        drop(frames);
        assert_eq!(pool.free_buffers(), free);
    }
}

#[test]
fn long_frames_are_chains() {
    if own("long_frames_are_chains", Kind::OrdinaryUser) {
        let eal = start();
        let pool = pool(&eal);
        let free = pool.free_buffers();
        let room = usize::from(pool.frame_room());
        for (length, segments) in [(0, 1), (1, 1), (room, 1), (room + 1, 2), (3 * room, 3), (65_550, 33)] {
            let bytes = broadcast(1, length);
            let frame = frame(&pool, &bytes);
            assert_eq!(usize::from(frame.segment_count()), segments);
            assert_eq!(content(&frame), bytes);
            assert_eq!(pool.free_buffers(), free - segments as u32);
        }
        let mut frames = Batch::new();
        assert_eq!(pool.allocate_burst(&[60, 5000, 70], &mut frames), 3);
        assert_eq!(
            frames.iter().map(|frame| (frame.length(), frame.segment_count())).collect::<Vec<_>>(),
            [(60, 1), (5000, 3), (70, 1)]
        );
        frames.clear();
        assert_eq!(pool.free_buffers(), free);
    }
}

#[test]
fn an_empty_pool_gives_what_it_has() {
    if own("an_empty_pool_gives_what_it_has", Kind::OrdinaryUser) {
        let eal = start();
        let pool = pool(&eal);
        let all = pool.buffers();
        assert_eq!(pool.free_buffers(), all);
        let mut held: Vec<Batch> = Vec::new();
        while pool.free_buffers() > 10 {
            let mut frames = Batch::new();
            let count = (pool.free_buffers() - 10).min(BURST as u32);
            assert_eq!(pool.allocate_burst(&vec![60; count as usize], &mut frames), count as usize);
            held.push(frames);
        }
        let mut frames = Batch::new();
        assert_eq!(pool.allocate_burst(&[60; 20], &mut frames), 10, "one by one where the burst is not to be had");
        assert!(pool.allocate(60).is_none());
        frames.clear();
        assert!(pool.allocate(2048 * 11).is_none(), "half a chain is given back");
        assert_eq!(pool.free_buffers(), 10);
        assert_eq!(pool.allocate_burst(&[60, 2048 * 11, 60], &mut frames), 1);
        assert_eq!((frames.len(), frames.iter().count()), (1, 1));
        assert!(frames.get(1).is_none() && frames.get(2).is_none());
        drop((held, frames));
        assert_eq!(pool.free_buffers(), all);
    }
}

#[test]
fn empty_frames_get_their_length_later() {
    if own("empty_frames_get_their_length_later", Kind::OrdinaryUser) {
        let eal = start();
        let pool = pool(&eal);
        let all = pool.free_buffers();
        let mut frames = Batch::new();
        // What an earlier user has left in a buffer does not show.
        let mut used = pool.allocate(100).unwrap();
        assert!(used.prepend(&[1; 20]));
        used.set_rx_checksum(RxChecksum::Good);
        drop(used);
        assert!(pool.allocate_empty(3, &mut frames));
        assert_eq!((frames.len(), pool.free_buffers()), (3, all - 3));
        for (frame, length) in frames.iter_mut_from(0).zip([60, 2048, 14]) {
            assert_eq!((frame.length(), frame.segment_count(), frame.rx_checksum()), (0, 1, RxChecksum::Unknown));
            assert!(frame.resize(2049).is_none());
            assert!(frame.head().is_empty());
            frame.resize(length).unwrap().fill(length as u8);
            assert!(frame.prepend(&[9; 128]) && frame.trim_front(128), "its data begins where it always does");
        }
        let mut chain = pool.allocate(3000).unwrap();
        assert!(chain.resize(60).is_none());
        assert_eq!((chain.length(), chain.segment_count()), (3000, 2));
        drop(chain);
        assert!(!pool.allocate_empty(BURST - 2, &mut frames), "no room");
        assert_eq!((frames.len(), frames.iter_mut_from(2).count(), frames.iter_mut_from(9).count()), (3, 1, 0));
        let mut port = open(&eal, &pool, "net_ring0");
        let (mut rx, mut tx) = port.take_queues();
        assert_eq!(tx[0].send(&mut frames), 3);
        assert_eq!(rx[0].receive(&mut frames), 3);
        let lengths: Vec<_> = frames.iter().map(content).collect();
        assert_eq!(lengths, [vec![60; 60], vec![0; 2048], vec![14; 14]]);
        drop(frames.take(1));
        frames.truncate(2);
        assert_eq!((frames.len(), frames.iter().count(), pool.free_buffers()), (2, 1, all - 1));
        frames.clear();
        assert_eq!(pool.free_buffers(), all);
        let mut held: Vec<Batch> = (0..all / BURST as u32).map(|_| Batch::new()).collect();
        assert!(held.iter_mut().all(|batch| pool.allocate_empty(BURST, batch)));
        assert!(!pool.allocate_empty(BURST, &mut frames) && frames.is_empty(), "all or none");
        drop(held);
        assert_eq!(pool.free_buffers(), all);
    }
}

#[test]
fn a_receiving_port_survives_an_empty_pool() {
    if own("a_receiving_port_survives_an_empty_pool", Kind::OrdinaryUser) {
        let eal = start();
        let pool = pool(&eal);
        let mut port = open(&eal, &pool, "net_null0");
        let (mut rx, _tx) = port.take_queues();
        let mut held: Vec<Batch> = Vec::new();
        loop {
            let mut frames = Batch::new();
            if rx[0].receive(&mut frames) == 0 {
                break;
            }
            held.push(frames);
        }
        assert!(pool.free_buffers() < BURST as u32);
        held.clear();
        assert_eq!(rx[0].receive(&mut Batch::new()), BURST);
        assert_eq!(pool.free_buffers(), pool.buffers());
    }
}

#[test]
fn pools_are_sized_from_the_memory() {
    if own("pools_are_sized_from_the_memory", Kind::OrdinaryUser) {
        let eal = start();
        let config = culvert_nic::PoolConfig::default();
        let too_few = culvert_nic::PoolConfig { name: "a".to_owned(), buffers: Some(10), ..config.clone() };
        let error = Pool::create(&eal, &too_few).unwrap_err().to_string();
        assert!(
            error.contains("10 buffers of 2048 bytes") && error.contains("raise memory_mb (it is 64 MiB)"),
            "{error}"
        );
        let too_many = culvert_nic::PoolConfig { name: "b".to_owned(), buffers: Some(1_000_000), ..config.clone() };
        let error = Pool::create(&eal, &too_many).unwrap_err().to_string();
        assert!(error.contains("1000000 buffers of 2048 bytes cannot be had: Cannot allocate memory"), "{error}");
        let pool = Pool::create(&eal, &config).unwrap();
        assert!(pool.buffers() > 20_000, "{}", pool.buffers());
        assert_eq!(pool.free_buffers(), pool.buffers());
    }
}

#[test]
fn workers_are_registered_while_their_guard_lives() {
    if own("workers_are_registered_while_their_guard_lives", Kind::OrdinaryUser) {
        let eal = start();
        let pool = pool(&eal);
        // More than DPDK has room for, one after the other.
        for _ in 0..300 {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let _worker = culvert_nic::WorkerThread::register(&eal).unwrap();
                    assert!(pool.allocate(60).is_some());
                });
            });
        }
        // And all at once.
        let (ready, done) = (std::sync::Barrier::new(200), std::sync::Barrier::new(200));
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..200)
                .map(|_| {
                    scope.spawn(|| {
                        ready.wait();
                        let worker = culvert_nic::WorkerThread::register(&eal);
                        done.wait();
                        worker.err().map(|error| error.to_string())
                    })
                })
                .collect();
            let refused: Vec<String> = workers.into_iter().filter_map(|worker| worker.join().unwrap()).collect();
            assert!(!refused.is_empty() && refused.len() < 200, "{}", refused.len());
            assert!(refused.iter().all(|text| text.contains("use fewer workers")), "{refused:?}");
        });
        assert_eq!(pool.free_buffers(), pool.buffers());
    }
}

#[test]
fn starting_leaves_the_caller_as_it_was() {
    if own("starting_leaves_the_caller_as_it_was", Kind::OrdinaryUser) {
        let masks = || {
            let status = fs::read_to_string("/proc/thread-self/status").unwrap();
            let kept = ["SigBlk", "SigIgn", "SigCgt", "Cpus_allowed"];
            status
                .lines()
                .filter(|line| kept.iter().any(|name| line.starts_with(name)))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let before = masks();
        let eal = start();
        assert_eq!(masks(), before);
        assert_eq!(eal.hugepages(), &HugepageUse::NotUsed { reason: "the setting is never".to_owned() });
        assert_eq!((eal.memory_mb(), eal.pci()), (64, false));
        // EAL's threads leave signals to others.
        for thread in fs::read_dir("/proc/self/task").unwrap() {
            let thread = thread.unwrap().path();
            let name = fs::read_to_string(thread.join("comm")).unwrap();
            let status = fs::read_to_string(thread.join("status")).unwrap();
            let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:\t")).unwrap();
            let term_blocked = u64::from_str_radix(blocked, 16).unwrap() & (1 << (libc::SIGTERM - 1)) != 0;
            assert_eq!(term_blocked, name.contains("eal") || name.contains("dpdk"), "{name}");
        }
        let error = culvert_nic::Eal::start(&culvert_nic::EalConfig::default()).unwrap_err();
        assert!(matches!(error, EalError::AlreadyStarted), "{error}");
    }
}

#[test]
fn dpdk_logs_to_tracing() {
    if own("dpdk_logs_to_tracing", Kind::OrdinaryUser) {
        let log = Arc::new(Mutex::new(Vec::new()));
        let writer = Arc::clone(&log);
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_ansi(false)
            .with_writer(move || Shared(Arc::clone(&writer)))
            .init();
        let eal = start();
        let pool = pool(&eal);
        Port::open(&eal, &pool, &config("net_pcap0,rx_pcap=absent.pcap")).unwrap_err();
        let text = String::from_utf8(log.lock().unwrap().clone()).unwrap();
        let line =
            |words: &str| text.lines().find(|line| line.contains(words)).unwrap_or_else(|| panic!("{words}: {text}"));
        assert!(line("Detected CPU lcores").contains("DEBUG dpdk: EAL:"), "{text}");
        assert!(line("started with 64 MiB").contains("INFO dpdk:"), "{text}");
        assert!(line("Couldn't open absent.pcap").contains("WARN dpdk:"), "{text}");
        assert!(text.lines().all(|line| line.contains(" dpdk: ")), "each message is one event: {text}");
    }
}

/// A log that the test can read.
struct Shared(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn ports_come_and_go_while_others_are_polled() {
    if own("ports_come_and_go_while_others_are_polled", Kind::OrdinaryUser) {
        let eal = start();
        let pool = pool(&eal);
        let mut port = open(&eal, &pool, "net_ring0");
        let (mut rx, mut tx) = port.take_queues();
        let stop = AtomicBool::new(false);
        let passed = std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let _worker = culvert_nic::WorkerThread::register(&eal).unwrap();
                let mut frames = Batch::new();
                frames.push(frame(&pool, &broadcast(1, 60))).unwrap();
                let mut passed = 0_u64;
                // At least once, also when this thread starts late.
                loop {
                    assert_eq!(tx[0].send(&mut frames), 1);
                    assert_eq!(rx[0].receive(&mut frames), 1);
                    passed += 1;
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
                assert_eq!(contents(&mut frames), [broadcast(1, 60)]);
                passed
            });
            for round in 0..30 {
                let mut other = open(&eal, &pool, "net_null0");
                let (mut rx, _tx) = other.take_queues();
                assert_eq!(rx[0].receive(&mut Batch::new()), BURST, "round {round}");
                Port::open(&eal, &pool, &config("net_pcap0,rx_pcap=absent.pcap")).unwrap_err();
                drop(open(&eal, &pool, "net_pcap1,tx_pcap=out.pcap"));
            }
            stop.store(true, Ordering::Relaxed);
            worker.join().unwrap()
        });
        assert!(passed > 0);
        assert_eq!(pool.free_buffers(), pool.buffers());
    }
}

#[test]
fn a_start_that_fails_is_an_error_with_eals_words() {
    if own("a_start_that_fails_is_an_error_with_eals_words", Kind::OrdinaryUser) {
        let config = culvert_nic::EalConfig {
            extra_args: vec!["-d".to_owned(), "/nowhere/driver.so".to_owned()],
            ..Default::default()
        };
        let error = culvert_nic::Eal::start(&config).unwrap_err().to_string();
        assert!(error.starts_with("DPDK cannot start: "), "{error}");
        assert!(error.contains("/nowhere/driver.so") && error.contains("Cannot init plugins"), "{error}");
    }
}

#[test]
fn memory_that_cannot_be_had_is_an_error() {
    if own("memory_that_cannot_be_had_is_an_error", Kind::OrdinaryUser) {
        let config = culvert_nic::EalConfig {
            memory_mb: 1 << 30,
            hugepages: culvert_nic::Hugepages::Always,
            ..Default::default()
        };
        let error = culvert_nic::Eal::start(&config).unwrap_err().to_string();
        assert!(error.starts_with("no hugepages for the "), "{error}");
        let config = culvert_nic::EalConfig { hugepages: culvert_nic::Hugepages::Never, ..config };
        let error = culvert_nic::Eal::start(&config).unwrap_err().to_string();
        assert!(error.starts_with("DPDK cannot start: "), "{error}");
    }
}

fn write_pcap(path: &Path, frames: &[Vec<u8>]) {
    let mut writer = PcapWriter::new(File::create(path).unwrap()).unwrap();
    for bytes in frames {
        let length = bytes.len() as u32;
        writer.write_packet(&PcapPacket::new(std::time::Duration::ZERO, length, bytes)).unwrap();
    }
}

fn read_pcap(path: &Path) -> Vec<Vec<u8>> {
    let mut reader = PcapReader::new(File::open(path).unwrap()).unwrap();
    std::iter::from_fn(|| reader.next_packet().map(|packet| packet.unwrap().data.into_owned())).collect()
}
