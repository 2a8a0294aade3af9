//! A name server for tests: every name has the same two addresses, over UDP and TCP.

use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::thread;

use anyhow::{Context, Result};

use crate::place::Namespace;
use crate::translator::WORLD;

/// Starts it on port 53 of an address of a namespace. It ends with the test.
///
/// # Errors
/// The port is taken.
pub fn serve(namespace: &Namespace, address: &str) -> Result<()> {
    let (udp, tcp) = (namespace.udp(address)?, namespace.listen(address)?);
    thread::spawn(move || over_udp(&udp));
    thread::spawn(move || over_tcp(&tcp));
    Ok(())
}

fn over_udp(socket: &UdpSocket) {
    let mut bytes = [0; 1500];
    while let Ok((length, peer)) = socket.recv_from(&mut bytes) {
        if let Some(answer) = bytes.get(..length).and_then(answer) {
            // Who asked may have gone.
            let _ = socket.send_to(&answer, peer);
        }
    }
}

/// RFC 1035, 4.2.2: messages after their length.
fn over_tcp(listener: &TcpListener) {
    for stream in listener.incoming() {
        let serve = || -> Result<()> {
            let (mut stream, mut length) = (stream?, [0; 2]);
            stream.read_exact(&mut length)?;
            let mut question = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut question)?;
            let answer = answer(&question).context("no question")?;
            stream.write_all(&u16::try_from(answer.len())?.to_be_bytes())?;
            Ok(stream.write_all(&answer)?)
        };
        // Who asked may have gone.
        let _ = serve();
    }
}

/// The answer to a message with one question (RFC 1035, 4.1): [`WORLD`]'s address of the type that was asked for.
fn answer(message: &[u8]) -> Option<Vec<u8>> {
    let (id, rest) = message.split_at_checked(2)?;
    let questions = rest.get(10..)?;
    // The name ends with an empty label; type and class follow.
    let name = questions.iter().position(|&byte| byte == 0)? + 1;
    let question = questions.get(..name + 4)?;
    let address = match question.get(name..name + 2)? {
        [0, 1] => WORLD[0].parse::<std::net::Ipv4Addr>().ok()?.octets().to_vec(),
        [0, 28] => WORLD[1].parse::<std::net::Ipv6Addr>().ok()?.octets().to_vec(),
        _ => Vec::new(),
    };
    let answers = u8::from(!address.is_empty());
    // A recursive answer without an error.
    let mut answer = [id, &[0x85, 0x80, 0, 1, 0, answers, 0, 0, 0, 0], question].concat();
    if answers > 0 {
        // The name of the question, its type and class, a minute, the address.
        answer.extend([0xc0, 12]);
        answer.extend(question.get(name..)?);
        answer.extend([0, 0, 0, 60, 0, u8::try_from(address.len()).ok()?]);
        answer.extend(address);
    }
    Some(answer)
}
