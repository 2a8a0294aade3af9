use super::*;
use culvert_translate::forward::{ForwardTable, Ground, Protocol, Rule};
use mio::{Events, Poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};

/// A translator of forwards alone.
struct Fake {
    forwards: ForwardTable,
    flows: usize,
}

impl Fake {
    fn new() -> Self {
        let ground = Ground { v4: true, v6: true, tcp: true, udp: true, ephemeral: 32768..=60999 };
        Self { forwards: ForwardTable::new(ground), flows: 2 }
    }
}

impl Controlled for Fake {
    fn forwards(&self) -> &[Rule] {
        self.forwards.rules()
    }

    fn add_forward(&mut self, protocol: Protocol, spec: &str) -> Result<(), String> {
        self.forwards.add(protocol, spec).map_err(|error| error.to_string())
    }

    fn remove_forward(&mut self, protocol: Protocol, spec: &str) -> Result<(), String> {
        self.forwards.remove(protocol, spec).map_err(|error| error.to_string())
    }

    fn flows(&self, each: &mut dyn FnMut(&str) -> bool) {
        let _ = (0..self.flows).all(|number| each(&format!("tcp 192.0.2.1:{number}")));
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        vec![("rx_frames", 7), ("tx_frames", u64::MAX)]
    }
}

/// A control socket that is served whenever a client waits.
struct Served {
    _folder: tempfile::TempDir,
    address: SocketAddrUnix,
    control: ControlSocket,
    poll: Poll,
    fake: Fake,
    now: Instant,
}

impl Served {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("S.ctl");
        let mut control = ControlSocket::bind(&path).unwrap();
        let poll = Poll::new().unwrap();
        control.register(poll.registry(), Token(100)).unwrap();
        let address = SocketAddrUnix::new(&path).unwrap();
        Self { _folder: folder, address, control, poll, fake: Fake::new(), now: Instant::now() }
    }

    fn client(&mut self) -> OwnedFd {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let client = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        rustix::net::connect(&client, &self.address).unwrap();
        self.serve();
        client
    }

    /// Until nothing is left to do.
    fn serve(&mut self) {
        let mut events = Events::with_capacity(8);
        loop {
            self.poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
            if events.is_empty() {
                return;
            }
            for event in &events {
                self.control.ready(event.token(), self.now, &mut self.fake);
            }
        }
    }

    fn ask(&mut self, client: &OwnedFd, request: &[u8]) -> Result<String, Errno> {
        rustix::net::send(client, request, SendFlags::NOSIGNAL)?;
        self.serve();
        let mut reply = vec![0; 1 << 18];
        let (_, length) = rustix::net::recv(client, &mut reply, RecvFlags::empty())?;
        reply.truncate(length);
        Ok(String::from_utf8(reply).unwrap())
    }

    /// A process that another test starts has our descriptors for a moment as well: until then a closed one is open.
    fn must_have_cut_off(&mut self, client: &OwnedFd) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match self.ask(client, b"stats") {
                Err(Errno::AGAIN) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
                result => return assert_eq!(result, Err(Errno::PIPE)),
            }
        }
    }

    fn clients(&self) -> usize {
        self.control.clients.iter().flatten().count()
    }
}

#[test]
fn clients_are_answered_and_go() {
    let mut served = Served::new();
    let (one, two) = (served.client(), served.client());
    assert_eq!(served.ask(&one, b"forward add tcp 80").unwrap(), "ok\n");
    assert_eq!(served.ask(&two, b"forward list").unwrap(), "ok\nTCP *:80 => 80\n");
    assert_eq!(served.ask(&two, b"\xff").unwrap(), format!("error: {REQUESTS}\n"));
    let long = vec![b'x'; MAX_REQUEST_BYTES + 1];
    assert_eq!(served.ask(&two, &long).unwrap(), format!("error: a request has at most {MAX_REQUEST_BYTES} bytes\n"));
    assert_eq!(served.ask(&two, b"forward list").unwrap(), "ok\nTCP *:80 => 80\n");
    drop(one);
    served.serve();
    assert_eq!(served.clients(), 1);
    // An empty message is as good as the end.
    rustix::net::send(&two, b"", SendFlags::empty()).unwrap();
    served.serve();
    assert_eq!(served.clients(), 0);
}

#[test]
fn those_who_say_nothing_keep_nobody_out() {
    let mut served = Served::new();
    let first = served.client();
    let mut silent = Vec::new();
    for _ in 0..100 {
        served.now += Duration::from_millis(1);
        served.ask(&first, b"stats").map_err(|error| panic!("{error}")).unwrap();
        silent.push(served.client());
        served.now += Duration::from_secs(1);
    }
    assert_eq!(served.clients(), MAX_CLIENTS);
    served.must_have_cut_off(&silent[0]);
}

#[test]
fn floods_end_the_client_only() {
    let mut served = Served::new();
    let (flood, other) = (served.client(), served.client());
    for _ in 0..MAX_REQUESTS {
        assert!(served.ask(&flood, b"stats").unwrap().starts_with("ok"));
    }
    assert_eq!(served.ask(&flood, b"stats").unwrap(), format!("error: ask at most {MAX_REQUESTS} times a second\n"));
    served.must_have_cut_off(&flood);
    assert!(served.ask(&other, b"stats").unwrap().starts_with("ok"));
    served.now += Duration::from_secs(1);
    let again = served.client();
    assert!(served.ask(&again, b"stats").unwrap().starts_with("ok"));
}

#[test]
fn who_does_not_read_is_cut_off() {
    let mut served = Served::new();
    served.fake.flows = 1_000_000;
    let client = served.client();
    let mut sent = 0;
    while rustix::net::send(&client, b"flows", SendFlags::NOSIGNAL).is_ok() {
        sent += 1;
        served.now += Duration::from_secs(1);
        served.serve();
        assert!(sent < 1000, "replies pile up");
    }
    assert_eq!(served.clients(), 0);
}

#[test]
fn only_few_may_connect_at_once() {
    let mut served = Served::new();
    let address = served.address.clone();
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let clients: Vec<OwnedFd> = (0..200)
        .map(|_| {
            let client = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
            let _ = rustix::net::connect(&client, &address);
            client
        })
        .collect();
    served.serve();
    assert!(served.clients() <= MAX_CLIENTS);
    drop(clients);
    served.serve();
    let client = served.client();
    assert!(served.ask(&client, b"stats").unwrap().starts_with("ok"));
}
