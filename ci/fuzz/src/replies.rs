//! What answers at a socket that a translator would have: lines, a refusal, or nothing that a translator says.

use std::path::Path;

use culvert_api::translator::{AskError, read_reply};
use culvertd::translators::statistics;

/// Runs one input: the reply.
pub fn run(data: &[u8]) {
    let path = Path::new("/run/culvert/translators/vm.sock.ctl");
    match read_reply(data.to_vec(), path) {
        Ok(lines) => {
            assert!(lines.iter().all(|line| !line.contains(char::is_control)));
            let statistics = statistics(&lines);
            assert!(statistics.len() <= lines.len());
        }
        Err(AskError::Refused(sentence)) => assert!(!sentence.contains(char::is_control), "{sentence:?}"),
        Err(error) => assert!(matches!(error, AskError::NoTranslator(_)), "{error}"),
    }
}
