//! The command line of culvertd. Everything else is in the configuration file.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Switches frames between virtual machines and DPDK ports.
#[derive(Debug, Parser)]
#[command(name = "culvertd", version, about, after_help = EXIT_CODES)]
pub struct Arguments {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/culvert/culvertd.toml")]
    pub config: PathBuf,

    /// Check the configuration, tell every mistake in it, and end
    #[arg(long)]
    pub check: bool,

    /// What to log: error, warn, info, debug or trace, also by part of the program (info,culvert_vhost=debug)
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: String,

    /// How lines of the log look
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,

    /// Goes on in the place of the culvertd that runs, and starts as usual where none does.
    #[arg(long)]
    pub takeover: bool,

    /// Be the daemon that the supervisor has started, see `supervisor`
    #[arg(long, hide = true)]
    pub supervised: bool,

    /// This daemon is to go on in the place of another one.
    #[arg(long, hide = true, requires = "supervised")]
    pub successor: bool,

    /// That one has hugepages.
    #[arg(long, hide = true, requires = "successor")]
    pub hugepages: bool,

    /// Be the migration proxy that the supervisor has started, see `migration`
    #[arg(long, hide = true, conflicts_with = "supervised")]
    pub migration: bool,

    /// Be the metrics process that the supervisor has started, see `metrics`
    #[arg(long, hide = true, conflicts_with_all = ["supervised", "migration"])]
    pub metrics: bool,
}

/// How lines of the log look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For persons: time, level, part of the program, the sentence, the objects
    #[default]
    Text,
    /// One JSON object a line: `timestamp`, `level`, `target`, and in `fields` the sentence as `message`, and the objects
    Json,
}

/// The exit code when culvertd cannot start or go on. 2 is clap's, for a wrong command line.
pub const EXIT_FAILED: u8 = 1;
/// The exit code for mistakes in the configuration (EX_USAGE of sysexits.h).
pub const EXIT_CONFIG: u8 = 64;
/// The exit code by which the daemon asks its supervisor for another one (EX_TEMPFAIL of sysexits.h).
pub const EXIT_AGAIN: u8 = 75;
/// The exit code that Rust gives a program whose first thread has panicked.
pub const EXIT_PANIC: u8 = 101;

const EXIT_CODES: &str = "Exit codes:
   0  stopped by SIGTERM or SIGINT, or the checked configuration has no mistake
   1  culvertd cannot start, or cannot go on
   2  the command line is wrong
  64  the configuration has mistakes, or asks for memory that the machine does not have";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_exit_codes_are_the_documented_ones() {
        assert!(EXIT_CODES.contains(&format!("\n   {EXIT_FAILED}  culvertd cannot start")));
        assert!(EXIT_CODES.contains(&format!("\n  {EXIT_CONFIG}  the configuration has mistakes")));
    }
}
