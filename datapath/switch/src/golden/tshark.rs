//! What tshark, which knows nothing of us, says of the golden captures: no frame that is told to be complete has a wrong
//! checksum.

use std::process::Command;

use super::folder;

/// What tshark is asked of each frame, one column each.
const FIELDS: [&str; 4] = ["frame.comment", "ip.checksum.status", "tcp.checksum.status", "udp.checksum.status"];

/// Of checksums, as tshark writes it.
const BAD: &str = "0";
const GOOD: &str = "1";

#[test]
fn tshark_finds_no_bad_checksum_in_what_left() {
    let (mut good, mut undone) = (0, 0);
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if !path.to_string_lossy().ends_with(".out.pcapng") {
            continue;
        }
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
        for (number, row) in String::from_utf8(output.stdout).unwrap().lines().enumerate() {
            let place = format!("{}, frame {}: {row}", path.display(), number + 1);
            let columns: Vec<_> = row.split(';').collect();
            assert_eq!(columns.len(), FIELDS.len(), "{place}");
            assert_ne!(columns[1], BAD, "{place}");
            // A frame that was left undone says so in its comment.
            if columns[0].contains("flags=1") {
                undone += 1;
                continue;
            }
            assert!(columns[2] != BAD && columns[3] != BAD, "{place}");
            good += u32::from(columns[2] == GOOD || columns[3] == GOOD);
        }
    }
    // Otherwise nothing was looked at.
    assert!(good > 50 && undone > 10, "{good} {undone}");
}
