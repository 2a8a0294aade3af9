//! The program itself: it says where it serves, serves, ends when it is told to, and says what is missing.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

fn program(folder: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_culvert-webhook"));
    command.args(["--listen", "127.0.0.1:0", "--api-host", "127.0.0.1"]);
    command.arg("--certificate").arg(folder.path().join("tls.crt")).arg("--key").arg(folder.path().join("tls.key"));
    command.stderr(Stdio::piped());
    command
}

#[test]
fn it_serves_until_it_is_told_to_stop() {
    let folder = TempDir::new().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["webhook.test".to_owned()]).unwrap();
    std::fs::write(folder.path().join("tls.crt"), made.cert.pem()).unwrap();
    std::fs::write(folder.path().join("tls.key"), made.signing_key.serialize_pem()).unwrap();
    let mut running = program(&folder).spawn().unwrap();
    let mut log = BufReader::new(running.stderr.take().unwrap());
    let mut line = String::new();
    log.read_line(&mut line).unwrap();
    assert!(line.contains("culvert-webhook is ready"), "{line}");
    let address = line.trim().rsplit_once("listen=").unwrap().1.to_owned();

    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connection = ClientConnection::new(Arc::new(config), ServerName::try_from("webhook.test").unwrap()).unwrap();
    let mut stream = StreamOwned::new(connection, TcpStream::connect(address).unwrap());
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: webhook.test\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("ok\n"), "{answer}");

    assert!(Command::new("kill").arg(running.id().to_string()).status().unwrap().success());
    assert_eq!(running.wait().unwrap().code(), Some(0));
}

#[test]
fn what_is_missing_is_named() {
    let folder = TempDir::new().unwrap();
    let output = program(&folder).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let file = folder.path().join("tls.crt");
    assert_eq!(text, format!("culvert-webhook: {}: No such file or directory (os error 2)\n", file.display()));
}
