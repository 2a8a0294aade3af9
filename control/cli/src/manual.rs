//! The command line for shells and for man(1), made from the table that also is the help.

use std::path::Path;

use anyhow::{Context, Result};
use clap::CommandFactory;

use crate::arguments::{Arguments, Shell};

/// A script that completes commands and options.
pub fn completion(shell: Shell) -> String {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Fish => clap_complete::Shell::Fish,
        Shell::Zsh => clap_complete::Shell::Zsh,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), NAME, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes a page for culvertctl, and one for each command, to a folder that is made if there is none.
///
/// # Errors
/// It cannot be written.
pub fn write(folder: &Path) -> Result<()> {
    let wrong = || format!("man pages cannot be written to {}", folder.display());
    std::fs::create_dir_all(folder).with_context(wrong)?;
    clap_mangen::generate_to(Arguments::command().disable_help_subcommand(true), folder).with_context(wrong)
}

const NAME: &str = "culvertctl";
