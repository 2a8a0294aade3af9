//! The command line of culvert-webhook.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;

use crate::retirement::Policy;
use crate::stage::{KubevirtVersion, Stage};

/// Gives virt-launcher pods the volumes that Culvert's bindings need, and sees to the retirement of old interface APIs.
#[derive(Debug, Parser)]
#[command(name = "culvert-webhook", version, about, after_help = EXIT_CODES)]
pub struct Arguments {
    /// The address and port to serve HTTPS on
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "[::]:8443")]
    pub listen: SocketAddr,

    /// The certificate, with those of its issuers, in PEM; read again when it changes
    #[arg(long, value_name = "FILE", default_value = "/etc/culvert-webhook/tls.crt")]
    pub certificate: PathBuf,

    /// The certificate's key in PEM
    #[arg(long, value_name = "FILE", default_value = "/etc/culvert-webhook/tls.key")]
    pub key: PathBuf,

    /// The names of our bindings in KubeVirt's configuration
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', default_value = "culvert,culvert-translator")]
    pub binding: Vec<String>,

    /// Images that are culvert-hook, for KubeVirt before 1.9, which does not tell a sidecar its binding; without a
    /// tag: all of its versions
    #[arg(long, value_name = "IMAGE,...", value_delimiter = ',')]
    pub sidecar_image: Vec<String>,

    /// KubeVirt's version, by which interfaces with passt: {} are dealt with: before 1.2 allowed, in 1.2 warned of, then refused
    #[arg(long, value_name = "VERSION")]
    pub kubevirt_version: Option<KubevirtVersion>,

    /// How they are dealt with, whatever the version [default: by --kubevirt-version, without that warn]
    #[arg(long, value_name = "STAGE", value_enum)]
    pub passt_stage: Option<Stage>,

    /// How interfaces with vhostuser: {} are dealt with, which only forks of KubeVirt have
    #[arg(long, value_name = "STAGE", value_enum, default_value_t = Stage::Allow)]
    pub vhostuser_stage: Stage,

    /// The API server's name or address
    #[arg(long, value_name = "HOST", env = "KUBERNETES_SERVICE_HOST")]
    pub api_host: String,

    /// The API server's port
    #[arg(long, value_name = "PORT", env = "KUBERNETES_SERVICE_PORT", default_value_t = 443)]
    pub api_port: u16,

    /// The folder with the service account's token and ca.crt
    #[arg(long, value_name = "FOLDER", default_value = "/var/run/secrets/kubernetes.io/serviceaccount")]
    pub service_account: PathBuf,

    /// What to log: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: String,
}

impl Arguments {
    /// How old interface APIs are dealt with.
    pub fn policy(&self) -> Policy {
        let by_version = self.kubevirt_version.map_or(Stage::Warn, Stage::of);
        Policy { passt: self.passt_stage.unwrap_or(by_version), vhostuser: self.vhostuser_stage }
    }
}

/// The exit code when culvert-webhook cannot start. 2 is clap's, for a wrong command line.
pub const EXIT_FAILED: u8 = 1;

const EXIT_CODES: &str = "Exit codes:
   0  stopped by SIGTERM or SIGINT
   1  a file, an address or an option is wrong; the sentence tells
   2  the command line is wrong";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_stage_is_that_of_the_version_unless_it_is_given() {
        let policy = |options: &str| {
            let words = ["culvert-webhook", "--api-host=x"].into_iter().chain(options.split_whitespace());
            Arguments::try_parse_from(words).unwrap().policy()
        };
        let of = |passt, vhostuser| Policy { passt, vhostuser };
        assert_eq!(policy(""), of(Stage::Warn, Stage::Allow));
        assert_eq!(policy("--kubevirt-version v1.1.1"), of(Stage::Allow, Stage::Allow));
        assert_eq!(policy("--kubevirt-version=1.6"), of(Stage::Block, Stage::Allow));
        assert_eq!(policy("--kubevirt-version=1.6 --passt-stage=warn"), of(Stage::Warn, Stage::Allow));
        assert_eq!(policy("--vhostuser-stage block"), of(Stage::Warn, Stage::Block));
    }
}
