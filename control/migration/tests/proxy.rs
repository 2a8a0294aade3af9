//! Two hosts' proxies, on this one: what libvirt and QEMU say arrives, and from nobody else.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::panic,
    reason = "these are tests"
)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_migration::address::Places;
use culvert_migration::rules::{Network, Pattern};
use culvert_migration::tls::{Files, Tls};
use culvert_migration::{Accepting, Channel, Error, Offered, Proxy, Role, Settings, View, Wanted};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Who signs the certificates of hosts.
struct Authority(Issuer<'static, KeyPair>, String);

impl Authority {
    fn new() -> Self {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = parameters.self_signed(&key).unwrap().pem();
        Self(Issuer::new(parameters, key), pem)
    }

    /// Writes the files of a host of that name.
    fn sign(&self, folder: &Path, name: &str) -> Files {
        let key = KeyPair::generate().unwrap();
        let parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = parameters.signed_by(&key, &self.0).unwrap();
        let [path, key_path, authority] = ["tls.crt", "tls.key", "ca.crt"].map(|file| folder.join(file));
        std::fs::write(&path, certificate.pem()).unwrap();
        std::fs::write(&key_path, key.serialize_pem()).unwrap();
        std::fs::write(&authority, &self.1).unwrap();
        Files { certificate: path, key: key_path, authority, peer_name: None }
    }
}

/// A host: its proxy, and its folder of sockets.
struct Host {
    proxy: Proxy,
    folder: tempfile::TempDir,
}

impl Host {
    fn new(tls: Option<&Authority>) -> Self {
        Self::named(tls, "127.0.0.1", None)
    }

    fn named(authority: Option<&Authority>, name: &str, peer_name: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tls = authority.map(|authority| {
            let files = authority.sign(folder.path(), name);
            Tls::read(Files { peer_name: peer_name.map(str::to_owned), ..files }).unwrap()
        });
        let places = Places { interface: "culvert-none".to_owned(), network_status: None, otherwise: Some(HERE) };
        let patterns = |text: &str| vec![Pattern::parse(text).unwrap()];
        let nowhere = Places { otherwise: None, ..places.clone() };
        let networks = vec![
            Network { name: "nowhere".to_owned(), migrations: patterns("lost-*"), places: nowhere, rate: None },
            Network { name: "slow".to_owned(), migrations: patterns("vm-*"), places, rate: Some(80_000_000) },
        ];
        let settings = Settings { networks, folder: folder.path().to_owned(), ports: None, tls };
        Self { proxy: Proxy::new(settings), folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn offer(&self, name: &str) -> Result<Accepting, Error> {
        let targets = Channel::ALL.map(|channel| (channel, self.path(&format!("target-{channel}"))));
        self.proxy.listen(name, Offered { targets: targets.into() })
    }

    fn view(&self) -> View {
        self.proxy.list().remove(0)
    }

    /// Waits for what went wrong.
    async fn error(&self) -> String {
        for _ in 0..500 {
            if let Some(error) = self.view().error {
                return error;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("nothing went wrong");
    }
}

fn wanted(accepting: &Accepting) -> Wanted {
    Wanted { address: accepting.address, ports: accepting.ports.clone(), rate: None }
}

/// A source and a target that know each other, the sockets of the source, and who listens at the target.
struct Pair {
    source: Host,
    target: Host,
    sockets: BTreeMap<Channel, PathBuf>,
    listeners: BTreeMap<Channel, UnixListener>,
}

impl Pair {
    fn new(source: Host, target: Host) -> Self {
        let accepting = target.offer("vm-a").unwrap();
        let sockets = source.proxy.connect("vm-a", wanted(&accepting)).unwrap();
        let listen = |channel| (channel, UnixListener::bind(target.path(&format!("target-{channel}"))).unwrap());
        let listeners = Channel::ALL.map(listen).into();
        Self { source, target, sockets, listeners }
    }

    async fn connection(&self, channel: Channel) -> (UnixStream, UnixStream) {
        let source = UnixStream::connect(&self.sockets[&channel]).await.unwrap();
        let accepted = tokio::time::timeout(Duration::from_secs(20), self.listeners[&channel].accept()).await;
        (source, accepted.expect("a connection").unwrap().0)
    }

    /// The next connection does not come through, and both ends say why.
    async fn refused(&self) -> [String; 2] {
        let before = self.target.view().accepted;
        let mut source = UnixStream::connect(&self.sockets[&Channel::Control]).await.unwrap();
        assert!(matches!(source.read(&mut [0]).await, Ok(0) | Err(_)));
        let errors = [self.source.error().await, self.target.error().await];
        assert_eq!(self.target.view().accepted, before);
        errors
    }
}

fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|number| (number * 7 + number / 251) as u8).collect()
}

#[tokio::test]
async fn all_channels_carry_all_bytes_both_ways_and_end_as_their_ends_do() {
    let authority = Authority::new();
    for authority in [Some(&authority), None] {
        let pair = Pair::new(Host::new(authority), Host::new(authority));
        assert_eq!(pair.sockets[&Channel::Memory], pair.source.path("vm-a-49152-source.sock"));
        let mut connections = Vec::new();
        // Several of QEMU's at once: multifd.
        for channel in [Channel::Control, Channel::Memory, Channel::Memory, Channel::Disks] {
            connections.push(pair.connection(channel).await);
        }
        // The last bytes of the last handshake are on their way.
        while pair.target.view().connections < 4 || pair.source.view().connections < 4 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for (number, (source, target)) in connections.into_iter().enumerate() {
            let (there, back) = (pattern(300_000 + number), pattern(100_000 - number));
            let (mut from, mut to) = (source.into_split(), target.into_split());
            let (sent, answered) = (there.clone(), back.clone());
            let sending = tokio::spawn(async move {
                from.1.write_all(&sent).await.unwrap();
                from.1.shutdown().await.unwrap();
                let mut answer = Vec::new();
                from.0.read_to_end(&mut answer).await.unwrap();
                answer
            });
            let mut came = Vec::new();
            to.0.read_to_end(&mut came).await.unwrap();
            assert!(came == there, "{number}");
            to.1.write_all(&answered).await.unwrap();
            drop(to);
            assert!(sending.await.unwrap() == back, "{number}");
        }
        let (source, target) = (pair.source.view(), pair.target.view());
        assert_eq!((source.sent, source.received), (1_200_006, 399_994));
        assert_eq!((target.received, target.sent), (source.sent, source.received));
        assert_eq!((source.role, source.network.as_str(), source.rate), (Role::Source, "slow", Some(80_000_000)));
        assert_eq!((source.accepted, source.error, target.error), (4, None, None));
    }
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused_by_both() {
    let [ours, theirs] = [Authority::new(), Authority::new()];
    let [source, target] = Pair::new(Host::new(Some(&theirs)), Host::new(Some(&ours))).refused().await;
    assert!(source.contains("TLS fails: invalid peer certificate"), "{source}");
    assert!(target.starts_with("from 127.0.0.1: TLS fails"), "{target}");
}

#[tokio::test]
async fn a_target_must_be_the_one_that_was_meant() {
    let authority = Authority::new();
    let host = |name, peer| Host::named(Some(&authority), name, peer);
    let [source, _] = Pair::new(host("127.0.0.1", None), host("10.0.0.1", None)).refused().await;
    assert!(source.contains("not valid for name") || source.contains("NotValidForName"), "{source}");
    // All hosts may share one name.
    let pair = Pair::new(host("a", Some("host.migration")), host("host.migration", None));
    pair.connection(Channel::Memory).await;
}

#[tokio::test]
async fn without_a_certificate_nobody_is_let_in() {
    let authority = Authority::new();
    let pair = Pair::new(Host::new(None), Host::new(Some(&authority)));
    let mut source = UnixStream::connect(&pair.sockets[&Channel::Control]).await.unwrap();
    source.write_all(b"\x00\x00\x00\x1c no libvirt either").await.unwrap();
    let mut left = Vec::new();
    let _ = source.read_to_end(&mut left).await;
    let error = pair.target.error().await;
    assert!(error.contains("TLS fails"), "{error}");
    assert_eq!(pair.target.view().accepted, 0);
    // Who says nothing keeps nobody away, and others only so many of its kind.
    let port = pair.target.offer("vm-a").unwrap().ports[&Channel::Control];
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect((HERE, port)).await.unwrap());
    }
    let mut last = silent.pop().unwrap();
    assert!(matches!(last.read(&mut [0]).await, Ok(0) | Err(_)), "there was no place for it");
}

#[tokio::test]
async fn renewed_certificates_are_taken_for_the_next_connection() {
    let [before, after] = [Authority::new(), Authority::new()];
    let pair = Pair::new(Host::new(Some(&before)), Host::new(Some(&before)));
    let (mut source, mut target) = pair.connection(Channel::Control).await;
    source.write_all(b"here").await.unwrap();
    target.read_exact(&mut [0; 4]).await.unwrap();
    after.sign(pair.source.folder.path(), "127.0.0.1");
    pair.refused().await;
    after.sign(pair.target.folder.path(), "127.0.0.1");
    pair.connection(Channel::Control).await;
    // Those that are open go on.
    source.write_all(b"still").await.unwrap();
    let mut came = [0; 5];
    target.read_exact(&mut came).await.unwrap();
    assert_eq!(&came, b"still");
}

#[tokio::test]
async fn what_ends_in_the_middle_ends_at_both_ends() {
    let authority = Authority::new();
    let pair = Pair::new(Host::new(Some(&authority)), Host::new(Some(&authority)));
    let (mut source, mut target) = pair.connection(Channel::Memory).await;
    source.write_all(b"half").await.unwrap();
    pair.source.proxy.remove("vm-a").unwrap();
    assert!(matches!(source.read(&mut [0; 9]).await, Ok(0) | Err(_)));
    let mut came = Vec::new();
    // An end that nobody has asked for is none that looks like one.
    tokio::time::timeout(Duration::from_secs(20), target.read_to_end(&mut came)).await.expect("an end").ok();
    assert!(pair.target.error().await.contains("broke off"));
    assert!(pair.sockets.values().all(|path| !path.exists()), "the sockets have gone");
    assert!(matches!(pair.source.proxy.remove("vm-a"), Err(Error::Unknown(_))));
}

#[tokio::test]
async fn a_target_that_nobody_listens_on_is_told() {
    let pair = Pair::new(Host::new(None), Host::new(None));
    std::fs::remove_file(pair.target.path("target-0")).unwrap();
    let mut source = UnixStream::connect(&pair.sockets[&Channel::Control]).await.unwrap();
    assert!(matches!(source.read(&mut [0]).await, Ok(0) | Err(_)));
    let error = pair.target.error().await;
    assert!(error.contains("target-0 cannot be reached"), "{error}");
}

#[tokio::test]
async fn what_is_so_already_stays_and_what_is_not_begins_anew() {
    let (source, target) = (Host::new(None), Host::new(None));
    let first = target.offer("vm-a").unwrap();
    assert_eq!((target.offer("vm-a").unwrap(), first.network.as_str(), first.address), (first.clone(), "slow", HERE));
    let fewer = Offered { targets: [(Channel::Control, target.path("x"))].into() };
    let other = target.proxy.listen("vm-a", fewer).unwrap();
    assert_eq!(other.ports.len(), 1);
    assert!(TcpStream::connect((HERE, first.ports[&Channel::Memory])).await.is_err(), "nobody listens there any more");

    let sockets = source.proxy.connect("vm-a", wanted(&first)).unwrap();
    assert_eq!(source.proxy.connect("vm-a", wanted(&first)).unwrap(), sockets);
    let fewer = source.proxy.connect("vm-a", wanted(&other)).unwrap();
    assert!(fewer.len() == 1 && fewer.values().all(|path| path.exists()));
    assert!(!sockets[&Channel::Memory].exists());

    let error = source.offer("vm-a").unwrap_err().to_string();
    assert_eq!(error, "migration vm-a is here already, as a source; remove it first");
    let error = target.offer("lost-1").unwrap_err().to_string();
    assert!(error.starts_with("network nowhere: there is no interface culvert-none"), "{error}");
    assert!(matches!(target.offer("web"), Err(Error::NoNetwork(_))));
    let six = Wanted { address: "fd00::1".parse().unwrap(), ..wanted(&first) };
    assert!(matches!(source.proxy.connect("vm-b", six), Err(Error::OtherKind { .. })));
    std::fs::write(source.path("vm-c-source.sock"), "").unwrap();
    let error = source.proxy.connect("vm-c", wanted(&first)).unwrap_err().to_string();
    assert!(error.contains("something that is no socket has this name"), "{error}");
}

#[tokio::test]
async fn there_are_only_so_many() {
    let host = Host::new(None);
    for number in 0..culvert_migration::MAX_MIGRATIONS {
        host.offer(&format!("vm-{number}")).unwrap();
    }
    assert!(matches!(host.offer("vm-x"), Err(Error::TooMany)));
    host.proxy.remove("vm-3").unwrap();
    host.offer("vm-x").unwrap();
}
