//! C5: names and paths that lead elsewhere, or are none.

use std::fs;

use anyhow::{Result, ensure};
use culvert_api::v1;
use culvert_driver::Shape;
use culvert_system::frontend::FrontendGuest;
use tonic::{Code, Status};

use crate::client::{Client, guest_port};
use crate::field::Field;

pub(super) fn names_and_paths(field: &mut Field) -> Result<()> {
    let mut client = Client::connect(&field.control_socket())?;
    let folder = field.node().path("named");
    fs::create_dir(&folder)?;
    let before = field.daemon().ask("port list")?;
    let long = "a".repeat(300);
    // Look-alikes: a Cyrillic a, a full-width one, a letter with a combining mark, a right-to-left override.
    let look_alikes = ["\u{430}", "\u{ff41}", "a\u{301}", "\u{202e}a"];
    let names = [
        "",
        "../x",
        "/abs",
        ".",
        "..",
        "a/b",
        "a b",
        "a\n",
        "\n",
        "a\0",
        "A",
        "a_b",
        "a.b",
        "a\"",
        "a]",
        "a\u{1b}[2J",
        &long,
    ];
    for name in names.into_iter().chain(look_alikes) {
        let name = name.to_owned();
        let port = v1::AddPortRequest { name: name.clone(), port: Some(guest_port(&folder.join("s"))) };
        refused(client.ask(async |client| client.add_port(port).await), &name)?;
        let network = v1::AddNetworkRequest { name: name.clone(), network: None };
        refused(client.ask(async |client| client.add_network(network).await), &name)?;
        let pod = v1::PodSpec { folders: vec!["/nowhere".to_owned()], ..v1::PodSpec::default() };
        let pod = v1::AddPodRequest { name: name.clone(), pod: Some(pod) };
        refused(client.ask(async |client| client.add_pod(pod).await), &name)?;
        let mirror = v1::MirrorSpec { from: vec!["left".to_owned()], to: Some("right".to_owned()), direction: None };
        let mirror = v1::AddMirrorRequest { name: name.clone(), mirror: Some(mirror) };
        refused(client.ask(async |client| client.add_mirror(mirror).await), &name)?;
        let gone = v1::RemoveRequest { name: name.clone() };
        refused(client.ask(async |client| client.remove_port(gone).await), &name)?;
        // In the place of another object's name.
        let spec = v1::PortSpec { network: Some(name.clone()), ..guest_port(&folder.join("s")) };
        refused(client.add_port("named", spec), &name)?;
    }
    let inside = folder.display();
    for socket in [
        String::new(),
        "s".to_owned(),
        "./s".to_owned(),
        "/".to_owned(),
        format!("{inside}/.."),
        format!("{inside}/../../s"),
        format!("{inside}/s\0"),
        format!("{inside}/{}", "s".repeat(200)),
        format!("/{}", "s/".repeat(5000)),
    ] {
        match client.add_port("named", guest_port(socket.as_ref())) {
            Err(status) => ensure!(status.code() == Code::InvalidArgument, "{socket:?}: {status}"),
            Ok(_) => {
                client.remove_port("named")?;
                anyhow::bail!("the socket {socket:?} was taken");
            }
        }
    }
    // Roots that are none of the socket's.
    for root in ["/", "relative", "/nowhere/..", ""] {
        let spec = v1::PortSpec { socket_root: Some(root.to_owned()), ..guest_port(&folder.join("s")) };
        if client.add_port("named", spec).is_ok() {
            client.remove_port("named")?;
            ensure!(root == "/", "the root {root:?} was taken");
        }
    }
    ensure!(fs::read_dir(&folder)?.next().is_none(), "something was made in {inside}");
    ensure!(field.daemon().ask("port list")? == before, "ports have changed");

    // A path of more than the 107 bytes of a socket's address is none of these: it works.
    let deep = folder.join("d".repeat(120));
    client.add_port("named", guest_port(&deep.join("vhost.sock")))?;
    let short = field.node().path("short");
    std::os::unix::fs::symlink(&deep, &short)?;
    drop(FrontendGuest::connect(&short.join("vhost.sock"), Shape::default())?);
    ensure!(client.remove_port("named")?, "there is no port");
    Ok(())
}

/// Asserts that an answer is a refusal that names what was wrong.
fn refused<T>(answer: Result<T, Status>, name: &str) -> Result<()> {
    let Err(status) = answer else { anyhow::bail!("the name {name:?} was taken") };
    ensure!(status.code() == Code::InvalidArgument, "{name:?}: {status}");
    let told = status.message();
    ensure!(!told.is_empty() && !told.contains('\u{1b}') && told.len() < 1000, "{name:?}: {told}");
    Ok(())
}
