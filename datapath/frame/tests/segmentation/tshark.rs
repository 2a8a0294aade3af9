//! What tshark, which knows nothing of us, says of segments: every checksum, every length, and the payload in order.

use std::fs::File;
use std::process::Command;
use std::time::Duration;

use pcap_file::pcap::{PcapPacket, PcapWriter};

use crate::cut;
use crate::sample::{Ip, Sample, Transport};

/// What tshark is asked of each frame, one column each.
const FIELDS: [&str; 9] = [
    "ip.checksum.status",
    "tcp.checksum.status",
    "udp.checksum.status",
    "tcp.payload",
    "udp.payload",
    "tcp.analysis.flags",
    "_ws.malformed",
    "_ws.expert.severity",
    "frame.protocols",
];

/// Of checksums, as tshark writes it.
const GOOD: &str = "1";
/// Of what tshark remarks: a warning.
const WARNING: u32 = 0x0060_0000;

#[test]
fn tshark_finds_every_segment_correct_and_the_payload_whole() {
    let mut samples = Vec::new();
    for tags in [vec![], vec![5], vec![9, 5]] {
        for ip in [
            Ip::V4 { id: 65_534, options: 0 },
            Ip::V4 { id: 7, options: 3 },
            Ip::V6 { hop_by_hop: false, routing: false, destination: false },
            Ip::V6 { hop_by_hop: true, routing: true, destination: true },
        ] {
            // ACK and PSH; the sequence number wraps.
            let tcp = Transport::Tcp { sequence: u32::MAX - 5000, flags: 0x18, options: 3 };
            for transport in [tcp, Transport::Udp] {
                for size in [999, 1000, 1448, 20_000] {
                    let seed = u8::try_from(samples.len()).unwrap();
                    let (tags, ip) = (tags.clone(), ip.clone());
                    samples.push(Sample { tags, ip, transport: transport.clone(), payload_bytes: 10_007, seed, size });
                }
            }
        }
    }
    let segments: Vec<_> = samples.iter().map(cut).collect();
    let all_rows = dissect(&segments.concat());
    assert_eq!(all_rows.len(), segments.concat().len());
    let mut all_rows = all_rows.into_iter();
    for (sample, segments) in samples.iter().zip(&segments) {
        let rows: Vec<_> = all_rows.by_ref().take(segments.len()).collect();
        let mut joined = String::new();
        for row in &rows {
            let [ip, tcp, udp, tcp_payload, udp_payload, analysis, malformed, severity, protocols] = &row[..] else {
                panic!("{row:?}")
            };
            let is_tcp = matches!(sample.transport, Transport::Tcp { .. });
            assert_eq!(ip, if matches!(sample.ip, Ip::V4 { .. }) { GOOD } else { "" }, "{sample:?}");
            assert_eq!(tcp, if is_tcp { GOOD } else { "" }, "{sample:?}");
            assert_eq!(udp, if is_tcp { "" } else { GOOD }, "{sample:?}");
            assert_eq!(analysis, "", "{sample:?}");
            assert_eq!(malformed, "", "{sample:?}");
            let remarks = severity.split(',').filter(|text| !text.is_empty()).map(|text| text.parse::<u32>().unwrap());
            assert_eq!(remarks.filter(|severity| *severity >= WARNING).count(), 0, "{sample:?}");
            let tags = protocols.split(':').filter(|name| ["vlan", "ieee8021ad"].contains(name));
            assert_eq!(tags.count(), sample.tags.len(), "{protocols}");
            joined.push_str(tcp_payload);
            joined.push_str(udp_payload);
        }
        let expected: String = sample.payload().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(joined.replace(':', ""), expected, "{sample:?}");
    }
}

/// tshark would notice: a wrong byte anywhere behind the Ethernet header.
#[test]
fn tshark_finds_a_wrong_checksum() {
    let sample = Sample {
        tags: vec![],
        ip: Ip::V4 { id: 1, options: 0 },
        transport: Transport::Udp,
        payload_bytes: 30,
        seed: 0,
        size: 20,
    };
    let mut segments = cut(&sample);
    segments[1][60 - 10] ^= 1;
    let rows = dissect(&segments);
    assert_eq!(rows[0][2], GOOD);
    assert_ne!(rows[1][2], GOOD);
}

/// The fields of each frame.
fn dissect(frames: &[Vec<u8>]) -> Vec<Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("segments.pcap");
    let mut writer = PcapWriter::new(File::create(&path).unwrap()).unwrap();
    for frame in frames {
        let length = u32::try_from(frame.len()).unwrap();
        writer.write_packet(&PcapPacket::new(Duration::ZERO, length, frame)).unwrap();
    }
    drop(writer);

    let mut command = Command::new("tshark");
    command.arg("-r").arg(&path).args(["-n", "-T", "fields", "-E", "separator=;"]);
    for protocol in ["ip", "tcp", "udp"] {
        command.arg("-o").arg(format!("{protocol}.check_checksum:TRUE"));
    }
    for field in FIELDS {
        command.args(["-e", field]);
    }
    let output = command.output().expect("tshark: run ci/setup");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.split(';').map(str::to_owned).collect()).collect()
}
