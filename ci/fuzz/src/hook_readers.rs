//! The files of a pod that the hook sidecar reads: annotations in Go's quotes, and JSON about networks.

use culvert_hook::annotations;
use culvert_hook::context::declared;
use culvert_hook::network_info::{NetworkInfo, network_status};

/// Runs one input: any bytes, as each of the files.
pub fn run(data: &[u8]) {
    let status = annotations::find(data, "k8s.v1.cni.cncf.io/network-status");
    if let Ok(Some(value)) = status {
        let _ = network_status(value.as_bytes());
    }
    if let Ok(info) = NetworkInfo::parse(data) {
        assert!(info.interfaces.iter().all(|interface| info.find(&interface.network).is_some()));
    }
    let _ = network_status(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = declared(text);
    // What was quoted is read as it was, whatever follows.
    let file = format!("before=\"\"\nkey={}\nkey=\"later\"\nbroken", quoted(text));
    assert_eq!(annotations::find(file.as_bytes(), "key"), Ok(Some(text.to_owned())));
}

/// Quotes a text as Go does, with another escape for each kind of character.
fn quoted(text: &str) -> String {
    let escape = |character: char| match character {
        '"' => "\\\"".to_owned(),
        '\\' => "\\\\".to_owned(),
        '\n' => "\\n".to_owned(),
        '\u{7}' => "\\a".to_owned(),
        '\0'..='\u{1f}' | '\u{7f}' => format!("\\x{:02x}", u32::from(character)),
        '\u{80}'..='\u{ffff}' => format!("\\u{:04x}", u32::from(character)),
        '\u{10000}'.. => format!("\\U{:08x}", u32::from(character)),
        plain => plain.to_string(),
    };
    format!("\"{}\"", text.chars().map(escape).collect::<String>())
}
