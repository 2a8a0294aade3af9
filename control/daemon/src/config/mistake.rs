//! One mistake in a configuration: where it is, what is wrong and what to do.

use std::fmt;

/// One mistake in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The file, as it was named on the command line; empty for a request of a client.
    pub file: String,
    /// The line in the file, from 1; `None` when the whole file is meant.
    pub line: Option<usize>,
    /// The key with its section, such as `port.mtu`; empty when there is none.
    pub key: String,
    /// The value as it is written in the file, shortened; `None` when there is none.
    pub value: Option<String>,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

/// `FILE:LINE: KEY = VALUE: PROBLEM; REMEDY`, on one line; parts that do not exist are left out.
impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        match (self.file.as_str(), self.line) {
            ("", _) => {}
            (file, None) => parts.push(file.to_owned()),
            (file, Some(line)) => parts.push(format!("{file}:{line}")),
        }
        match (self.key.as_str(), &self.value) {
            ("", _) => {}
            (key, None) => parts.push(key.to_owned()),
            (key, Some(value)) => parts.push(format!("{key} = {value}")),
        }
        parts.push(format!("{}; {}", self.problem, self.remedy));
        f.write_str(&parts.join(": "))
    }
}

/// The one of `candidates` that `word` was probably meant to be, if there is one.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Longer words are no typing errors, and the distance takes quadratic time.
    if word.len() > 64 {
        return None;
    }
    let distance = |candidate: &str| strsim::damerau_levenshtein(word, candidate);
    let best = candidates.into_iter().min_by_key(|candidate| distance(candidate))?;
    (distance(best) <= 1 + best.len() / 6).then_some(best)
}

/// The names in `candidates` as a list for a sentence: `a, b or c`.
pub(super) fn either<'a>(candidates: impl IntoIterator<Item = &'a str>) -> String {
    let mut words: Vec<&str> = candidates.into_iter().collect();
    match words.pop() {
        None => String::new(),
        Some(only) if words.is_empty() => only.to_owned(),
        Some(last) => format!("{} or {last}", words.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        let keys = ["name", "network", "mtu", "queues"];
        assert_eq!(nearest("netwrok", keys), Some("network"));
        assert_eq!(nearest("queue", keys), Some("queues"));
        assert_eq!(nearest("colour", keys), None);
        assert_eq!(nearest(&"m".repeat(100_000), keys), None);
        assert_eq!(nearest("x", []), None);
    }

    #[test]
    fn lists_read_as_sentences() {
        assert_eq!(either([]), "");
        assert_eq!(either(["a"]), "a");
        assert_eq!(either(["a", "b", "c"]), "a, b or c");
    }

    #[test]
    fn parts_that_do_not_exist_are_left_out() {
        let mut mistake = Mistake {
            file: "f.toml".into(),
            line: Some(3),
            key: "port.mtu".into(),
            value: Some("9".into()),
            problem: "is too small".into(),
            remedy: "write 68 or more".into(),
        };
        assert_eq!(mistake.to_string(), "f.toml:3: port.mtu = 9: is too small; write 68 or more");
        mistake.value = None;
        assert_eq!(mistake.to_string(), "f.toml:3: port.mtu: is too small; write 68 or more");
        (mistake.key, mistake.line) = (String::new(), None);
        assert_eq!(mistake.to_string(), "f.toml: is too small; write 68 or more");
        (mistake.key, mistake.file) = ("port.mtu".into(), String::new());
        assert_eq!(mistake.to_string(), "port.mtu: is too small; write 68 or more");
    }
}
