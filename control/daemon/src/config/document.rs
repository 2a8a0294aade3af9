//! docs/CONFIG.md, made of the example that has every key (`control/deploy/culvertd.toml`), which tests hold to what is read here: it has
//! no mistake, lacks no key, and says each default.

use std::fmt::Write;

/// The document.
pub fn document() -> String {
    let mut text = String::from(HEAD);
    let mut sections: Vec<Section<'_>> = Vec::new();
    let (mut comment, mut lines) = (Vec::new(), EXAMPLE.lines().peekable());
    // What comes before the first section is for who reads the example.
    while lines.peek().is_some_and(|line| !line.starts_with('[')) {
        lines.next();
    }
    for line in lines {
        if let Some(title) = line.strip_prefix('[') {
            let title = title.trim_matches(['[', ']']);
            match sections.iter().position(|section| section.title == title) {
                // Another object of a kind: its keys belong to the first one.
                Some(known) => {
                    let mut section = sections.remove(known);
                    section.is_begun = false;
                    sections.push(section);
                }
                None => sections.push(Section {
                    title,
                    is_list: line.starts_with("[["),
                    rows: Vec::new(),
                    about: Vec::new(),
                    is_begun: false,
                }),
            }
            if let Some(section) = sections.last_mut()
                && section.about.is_empty()
            {
                section.about = std::mem::take(&mut comment);
            }
            comment.clear();
        } else if let Some((key, value)) = key(line) {
            let Some(section) = sections.last_mut() else { continue };
            section.add(key, value, std::mem::take(&mut comment));
        } else if let Some(words) = line.strip_prefix('#') {
            comment.push(words.trim());
        } else {
            // What stands before an empty line belongs to what comes, unless it is over.
            comment.clear();
        }
    }
    sections.iter().for_each(|section| section.write(&mut text));
    text
}

struct Section<'t> {
    title: &'t str,
    is_list: bool,
    about: Vec<&'t str>,
    /// Whether the next key may belong to the row before.
    is_begun: bool,
    rows: Vec<Row<'t>>,
}

/// Keys with one explanation.
struct Row<'t> {
    keys: Vec<(&'t str, &'t str)>,
    comment: Vec<&'t str>,
}

impl<'t> Section<'t> {
    fn add(&mut self, key: &'t str, value: &'t str, comment: Vec<&'t str>) {
        if self.rows.iter().any(|row| row.keys.iter().any(|(known, _)| *known == key)) {
            return;
        }
        let is_begun = std::mem::replace(&mut self.is_begun, true);
        match self.rows.last_mut() {
            Some(row) if comment.is_empty() && is_begun => row.keys.push((key, value)),
            _ => self.rows.push(Row { keys: vec![(key, value)], comment }),
        }
    }

    fn write(&self, text: &mut String) {
        let title = if self.is_list { format!("[[{}]]", self.title) } else { format!("[{}]", self.title) };
        // Writing to a String cannot fail.
        let _ = write!(text, "\n## {title}\n\n");
        if !self.about.is_empty() {
            let _ = write!(text, "{}\n\n", self.about.join(" "));
        }
        text.push_str("| key | example, or default | what it says |\n|---|---|---|\n");
        for Row { keys, comment } in &self.rows {
            let names: Vec<_> = keys.iter().map(|(key, _)| format!("`{key}`")).collect();
            let values: Vec<_> = keys.iter().map(|(_, value)| format!("`{value}`")).collect();
            let comment = comment.join(" ").replace('|', "\\|");
            let _ = writeln!(text, "| {} | {} | {comment} |", names.join("<br>"), values.join("<br>"));
        }
    }
}

/// The key and the value of a line, which may be commented out.
fn key(line: &str) -> Option<(&str, &str)> {
    let line = line.strip_prefix("# ").unwrap_or(line);
    let (key, value) = line.split_once(" = ")?;
    let is_key = !key.is_empty() && key.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_');
    let value = value.split_once("    #").map_or(value, |(value, _)| value);
    is_key.then_some((key, value.trim()))
}

const EXAMPLE: &str = include_str!("../../../deploy/culvertd.toml");

const HEAD: &str = "# Configuration

<!-- Made of control/deploy/culvertd.toml by `cargo run -p culvertd --example config_document > docs/CONFIG.md`; a test fails when it is stale. -->

culvertd reads one file, `/etc/culvert/culvertd.toml` or what `--config` names. It is TOML. Every mistake in it is told with file, line, key and
remedy, by `culvertd --check` as well, and a file with mistakes is exit code 64. A running culvertd reads it again at `culvertctl reload`,
`systemctl reload culvertd` and SIGHUP: networks, ports, mirrors and pods are brought about, and ports that do not change lose no frame. What
`[daemon]`, `[datapath]` and `[migration]` say holds until culvertd is started again.

What a row shows is the default, where its text does not say \"Example\". Sections in double brackets may be there many times, one for each object.
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Machine, Mistake, Objects};

    #[test]
    fn the_document_is_that_of_the_example() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/CONFIG.md");
        let written = std::fs::read_to_string(file).unwrap();
        let remedy = "run `cargo run -p culvertd --example config_document > docs/CONFIG.md`";
        assert!(written == document(), "docs/CONFIG.md is stale; {remedy}");
        // Each key once: of all sections that bear a title.
        for key in ["metrics_address", "worker_cores", "rx_rate", "guest_ports", "netns"] {
            assert_eq!(written.matches(&format!("\n| `{key}`")).count(), 1, "{key}");
        }
    }

    /// What is read is told for a key that is unknown.
    #[test]
    fn it_has_every_key_that_is_read() {
        let machine = Machine { cores: (0..8).collect(), memory_mb: 4096 };
        let header = |line: &&str| line.starts_with('[');
        let unknown = |line: &str| if header(&line) { format!("{line}\nunknown = 1\n") } else { format!("{line}\n") };
        let example: String = EXAMPLE.lines().map(unknown).collect();
        let mistakes = Config::parse(&example, "", &machine, &Objects::default()).unwrap_err();
        assert_eq!(mistakes.len(), EXAMPLE.lines().filter(header).count());
        let document = document();
        for Mistake { key, remedy, .. } in &mistakes {
            let title = key.strip_suffix(".unknown").unwrap();
            let section =
                document.split("\n## ").find(|text| text.trim_start_matches('[').starts_with(&format!("{title}]")));
            let read =
                remedy.strip_prefix("remove it, or write ").unwrap().split(", ").flat_map(|keys| keys.split(" or "));
            for key in read {
                assert!(section.unwrap().contains(&format!("`{key}`")), "{title}.{key} is not in the example");
            }
        }
    }
}
