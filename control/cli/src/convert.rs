//! `culvertctl convert`: KubeVirt's objects in files, moved to Culvert's bindings. Asks no daemon.
//!
//! All files are read and converted before any is written: a mistake in one leaves all as they are.

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use clap::CommandFactory;
use clap::error::ErrorKind;
use culvert_convert::{BindingName, Change, Conversion, Wish, convert};
use serde::Serialize;
use similar::TextDiff;
use tempfile::NamedTempFile;

use crate::arguments::{Arguments, ConvertWish, EXIT_WOULD_CHANGE, Format};
use crate::print;

/// Carries out the command.
///
/// # Errors
/// When a file cannot be read, converted or written.
pub fn run(wish: &ConvertWish, format: Format) -> Result<ExitCode> {
    check_command_line(wish, format);
    let bindings = Wish {
        translator: BindingName::new(&wish.translator_binding).context("--translator-binding")?,
        vhostuser: BindingName::new(&wish.vhostuser_binding).context("--vhostuser-binding")?,
        all_passt: wish.all_passt,
    };
    let stdin = [PathBuf::from("-")];
    let files = if wish.files.is_empty() { &stdin[..] } else { &wish.files };
    let converted = convert_all(files, &bindings)?;
    for file in &converted {
        for warning in &file.conversion.warnings {
            let line = format!("culvertctl: {}:{}: warning: {}", file.name(), warning.line, warning.text);
            // There is nobody left to tell when this fails.
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }
    if wish.in_place {
        converted.iter().filter(|file| file.is_changed()).try_for_each(Converted::write)?;
    }
    print(&told(wish, format, &converted)?)?;
    let would_change = wish.check && converted.iter().any(Converted::is_changed);
    Ok(if would_change { ExitCode::from(EXIT_WOULD_CHANGE) } else { ExitCode::SUCCESS })
}

/// What clap cannot tell by itself.
fn check_command_line(wish: &ConvertWish, format: Format) {
    let is_whole = format == Format::Table && !wish.in_place && !wish.diff && !wish.check;
    let mistake = if wish.files.len() > 1 && is_whole {
        "several files would be printed as one: add --diff, --in-place or --check"
    } else if wish.in_place && (wish.files.is_empty() || wish.files.iter().any(|file| is_stdin(file))) {
        "--in-place needs files: standard input cannot be written"
    } else {
        return;
    };
    let mut command = Arguments::command();
    command.build();
    // Its usage is that of this command.
    let command = command.find_subcommand_mut("convert").cloned().unwrap_or(command);
    command.clone().error(ErrorKind::ArgumentConflict, mistake).exit();
}

/// What is printed.
fn told(wish: &ConvertWish, format: Format, converted: &[Converted<'_>]) -> Result<String> {
    if let Some(data) = format.data() {
        return data.text(&converted.iter().map(Converted::report).collect::<Vec<_>>());
    }
    if wish.diff {
        return Ok(converted.iter().map(Converted::diff).collect());
    }
    if wish.in_place || wish.check {
        return Ok(converted.iter().flat_map(Converted::lines).collect());
    }
    Ok(converted.iter().map(|file| file.conversion.text.as_str()).collect())
}

/// All mistakes are told, not only the first one.
fn convert_all<'a>(files: &'a [PathBuf], wish: &Wish) -> Result<Vec<Converted<'a>>> {
    let mut converted = Vec::new();
    let mut mistakes = Vec::new();
    for path in files {
        let name = shown(path);
        let result = read(path).and_then(|text| {
            let conversion = convert(&text, wish).map_err(|fault| anyhow!("{name}:{fault}"))?;
            Ok(Converted { path, before: String::from_utf8(text)?, conversion })
        });
        match result {
            Ok(file) => converted.push(file),
            Err(error) => mistakes.push(format!("{error:#}")),
        }
    }
    match mistakes.is_empty() {
        true => Ok(converted),
        false => bail!(mistakes.join("\n")),
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let (read, name) = match is_stdin(path) {
        true => (std::io::stdin().lock().take(MAX_BYTES + 1).read_to_end(&mut text), shown(path)),
        false => {
            (std::fs::File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut text)), shown(path))
        }
    };
    read.with_context(|| format!("{name} cannot be read"))?;
    if text.len() as u64 > MAX_BYTES {
        bail!("{name} is larger than {} MiB", MAX_BYTES >> 20);
    }
    Ok(text)
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

fn shown(path: &Path) -> String {
    if is_stdin(path) { "standard input".to_owned() } else { path.display().to_string() }
}

/// A file that was read, and what it becomes.
struct Converted<'a> {
    path: &'a Path,
    before: String,
    conversion: Conversion,
}

impl Converted<'_> {
    fn name(&self) -> String {
        shown(self.path)
    }

    fn is_changed(&self) -> bool {
        self.before != self.conversion.text
    }

    /// One line for each change.
    fn lines(&self) -> Vec<String> {
        let line = |change: &Change| {
            let Change { line, object, interface, from, binding } = change;
            format!("{}:{line}: {object}, interface {interface}: {from} -> binding: {{name: {binding}}}\n", self.name())
        };
        self.conversion.changes.iter().map(line).collect()
    }

    fn diff(&self) -> String {
        if !self.is_changed() {
            return String::new();
        }
        let diff = TextDiff::from_lines(&self.before, &self.conversion.text);
        diff.unified_diff().header(&self.name(), &self.name()).to_string()
    }

    /// A whole file takes the place of the one that was there: nobody finds half of it.
    fn write(&self) -> Result<()> {
        let write = || -> Result<()> {
            let path = self.path.canonicalize()?;
            let metadata = path.metadata()?;
            let mut file = NamedTempFile::new_in(path.parent().unwrap_or(Path::new("/")))?;
            file.write_all(self.conversion.text.as_bytes())?;
            file.as_file().set_permissions(metadata.permissions())?;
            // Only root can keep another's name on it.
            let _ = fchown(file.as_file(), Some(metadata.uid()), Some(metadata.gid()));
            file.as_file().sync_all()?;
            file.persist(path)?;
            Ok(())
        };
        write().with_context(|| format!("{} cannot be written", self.name()))
    }

    fn report(&self) -> Report {
        let change = |Change { line, object, interface, from, binding }: Change| ReportedChange {
            line,
            object,
            interface,
            from,
            binding,
        };
        let warnings = self.conversion.warnings.iter();
        Report {
            file: self.name(),
            changed: self.is_changed(),
            changes: self.conversion.changes.iter().cloned().map(change).collect(),
            warnings: warnings.map(|it| ReportedWarning { line: it.line, text: it.text.clone() }).collect(),
            diff: self.diff(),
        }
    }
}

#[derive(Serialize)]
struct Report {
    file: String,
    changed: bool,
    changes: Vec<ReportedChange>,
    warnings: Vec<ReportedWarning>,
    diff: String,
}

#[derive(Serialize)]
struct ReportedChange {
    line: usize,
    object: String,
    interface: String,
    from: String,
    binding: String,
}

#[derive(Serialize)]
struct ReportedWarning {
    line: usize,
    text: String,
}

/// Far more than the API server takes, for all objects of a cluster in one file.
const MAX_BYTES: u64 = 256 << 20;
