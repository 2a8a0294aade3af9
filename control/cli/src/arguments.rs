//! The command line: noun, then verb. This file is also the help.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Shows what culvertd does on this node.
#[derive(Debug, Parser)]
#[command(version, about, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub struct Arguments {
    /// culvertd's control socket
    #[arg(long, global = true, value_name = "PATH", default_value = "/run/culvert/culvertd.sock")]
    pub socket: PathBuf,

    /// How to print: as a table for a person, or as JSON for a program
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,

    #[command(subcommand)]
    pub command: Command,
}

/// What the answer looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// The daemon and its workers
    Status,
    /// Networks: learning bridges between ports
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Ports: the ways to guests and NICs
    #[command(subcommand)]
    Port(PortCommand),
    /// Addresses that the networks have learned
    #[command(subcommand)]
    Mac(MacCommand),
    /// Frames and bytes by port; rx is towards culvertd, tx away from it
    Stats {
        /// Only this port
        port: Option<String>,
    },
    /// Refused frames: why, how many, the last one, and what to do
    Drops {
        /// Only this port
        port: Option<String>,
    },
    /// The frames of a port as they pass, printed or as pcapng; ends by Ctrl-C
    Capture(CaptureWish),
}

#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    /// All networks
    List,
    /// One network
    Show {
        /// Its name
        network: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum PortCommand {
    /// All ports
    List,
    /// One port
    Show {
        /// Its name
        port: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum MacCommand {
    /// All learned addresses
    List {
        /// Only this network
        #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
        network: String,
        /// Only this port
        #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
        port: String,
    },
}

#[derive(Debug, Args)]
pub struct CaptureWish {
    /// The port
    pub port: String,

    /// Write pcapng to this file, or to standard output with `-` (as in `| wireshark -k -i -`)
    #[arg(short, long, value_name = "FILE")]
    pub write: Option<PathBuf>,

    /// End after so many frames
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,

    /// Keep so many bytes of each frame
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..))]
    pub snaplen: Option<u32>,
}

/// The exit code when culvertd refuses or the output cannot be written. 2 is clap's, for a wrong command line.
pub const EXIT_FAILED: u8 = 1;
/// The exit code when culvertd cannot be reached.
pub const EXIT_UNREACHABLE: u8 = 3;

const EXIT_CODES: &str = "Exit codes:
  0  done
  1  culvertd refused, or the output could not be written
  2  the command line is wrong
  3  culvertd cannot be reached";

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
        assert!(EXIT_CODES.contains(&format!("\n  {EXIT_FAILED}  culvertd refused")));
        assert!(EXIT_CODES.contains(&format!("\n  {EXIT_UNREACHABLE}  culvertd cannot be reached")));
    }
}
