//! docs/API.md is what the schema says: made from it, so that it cannot say something else.
#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::fmt::Write;
use std::path::PathBuf;

const SCHEMA: &str = include_str!("../proto/culvert/v1/culvert.proto");

/// What stands between comments and code of the schema.
#[derive(Default)]
struct Reader {
    comment: Vec<String>,
    methods: String,
    types: String,
    /// The head of the file has been passed.
    begun: bool,
    preface: String,
}

impl Reader {
    fn comment(&mut self) -> String {
        std::mem::take(&mut self.comment).join(" ").replace('|', "\\|").trim().to_owned()
    }

    fn line(&mut self, line: &str) {
        let text = line.trim();
        if let Some(comment) = text.strip_prefix("//") {
            self.comment.push(comment.trim().to_owned());
            return;
        }
        if text.starts_with("syntax") && !self.begun {
            self.begun = true;
            self.preface = paragraphs(&std::mem::take(&mut self.comment));
        } else if let Some(name) = head(text, "service") {
            let comment = self.comment();
            write!(self.methods, "\n## Service culvert.v1.{name}\n\n").unwrap();
            if !comment.is_empty() {
                write!(self.methods, "{comment}\n\n").unwrap();
            }
            self.methods.push_str("| method | question | answer | what it does |\n|---|---|---|---|\n");
        } else if let Some(method) = text.strip_prefix("rpc ") {
            let (name, rest) = method.split_once('(').unwrap();
            let (question, rest) = rest.split_once(')').unwrap();
            let answer = rest.split_once('(').unwrap().1.split_once(')').unwrap().0;
            let (stream, answer) = match answer.strip_prefix("stream ") {
                Some(answer) => (", one after the other", answer),
                None => ("", answer),
            };
            let comment = self.comment();
            let (question, answer) = (link(question), link(answer));
            writeln!(self.methods, "| `{name}` | {question} | {answer}{stream} | {comment} |").unwrap();
        } else if let Some(name) = head(text, "message").or_else(|| head(text, "enum")) {
            let comment = self.comment();
            write!(self.types, "\n### {name}\n\n").unwrap();
            if !comment.is_empty() {
                write!(self.types, "{comment}\n\n").unwrap();
            }
            if text.ends_with("{}") {
                self.types.push_str("It has no fields.\n");
            } else if text.starts_with("enum") {
                self.types.push_str("| value | number | meaning |\n|---|---|---|\n");
            } else {
                self.types.push_str("| field | type | number | meaning |\n|---|---|---|---|\n");
            }
        } else if let Some((declaration, number)) = text.strip_suffix(';').and_then(|text| text.split_once(" = ")) {
            let comment = self.comment();
            match declaration.rsplit_once(' ') {
                Some((kind, name)) => {
                    let words: Vec<_> = kind.split(' ').collect();
                    let kind = match words.as_slice() {
                        ["repeated", kind] => format!("list of {}", link(kind)),
                        ["optional", kind] => format!("{}, or absent", link(kind)),
                        _ => link(kind),
                    };
                    writeln!(self.types, "| `{name}` | {kind} | {number} | {comment} |").unwrap();
                }
                None => writeln!(self.types, "| `{declaration}` | {number} | {comment} |").unwrap(),
            }
        } else if text.is_empty() {
            // A comment that stands alone belongs to nothing.
            self.comment.clear();
        }
    }
}

fn head<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    text.strip_prefix(word)?.strip_prefix(' ')?.split_once(' ').map(|(name, _)| name)
}

/// A type of the schema leads to where it is described.
fn link(name: &str) -> String {
    let ours = SCHEMA.contains(&format!("message {name} {{")) || SCHEMA.contains(&format!("enum {name} {{"));
    if ours { format!("[{name}](#{})", name.to_lowercase()) } else { format!("`{name}`") }
}

/// Empty comment lines end a paragraph.
fn paragraphs(lines: &[String]) -> String {
    lines.split(|line| line.is_empty()).map(|lines| lines.join("\n")).collect::<Vec<_>>().join("\n\n")
}

fn reference() -> String {
    let mut reader = Reader::default();
    SCHEMA.lines().for_each(|line| reader.line(line));
    let Reader { methods, types, preface, .. } = reader;
    format!(
        "# The control API\n\n<!-- Made from control/api/proto/culvert/v1/culvert.proto: \
         CULVERT_WRITE=1 cargo test -p culvert-api --test reference -->\n\n{preface}\n{methods}\n## Messages\n{types}"
    )
}

#[test]
fn the_reference_is_what_the_schema_says() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/API.md");
    let reference = reference();
    if std::env::var_os("CULVERT_WRITE").is_some() {
        std::fs::write(&path, &reference).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    if written != reference {
        let line = written.lines().zip(reference.lines()).position(|(one, other)| one != other);
        panic!(
            "docs/API.md is stale from line {line:?} (from 0) on: CULVERT_WRITE=1 cargo test -p culvert-api --test reference"
        );
    }
}

/// Each method and message is there.
#[test]
fn nothing_is_left_out() {
    let reference = reference();
    for line in SCHEMA.lines().map(str::trim) {
        let (word, rest) = line.split_once(' ').unwrap_or_default();
        let name: String = rest.chars().take_while(|sign| sign.is_alphanumeric()).collect();
        match word {
            "rpc" => assert!(reference.contains(&format!("| `{name}` |")), "{name}"),
            "message" | "enum" => assert!(reference.contains(&format!("\n### {name}\n")), "{name}"),
            _ => {}
        }
    }
}
