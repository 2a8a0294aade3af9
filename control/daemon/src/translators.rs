//! The translators of this node: processes of their own, found by their control sockets and asked for their counters.
//!
//! Those of the node's own folder, and those in folders of pods. They are nobody's children and not trusted: each is asked
//! for a short time, all of a pod together not longer, all of them together for two seconds, and what they say is shown, not
//! believed. Whoever is asked may hold up who asks for as long as he likes (descriptors that come with an answer are closed before it is
//! read), so each pod is asked by a thread for which nobody waits longer, and not again before that has ended. Called by the service
//! for `culvertctl status`.

use std::collections::{BTreeSet, HashMap};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use culvert_api::translator::{self, AskError};
use culvert_api::v1::{Pod, Translator};

use crate::pods::folder::{Found, sockets};

/// Who asks translators.
#[derive(Clone, Debug, Default)]
pub struct Asker {
    /// The pods that are being asked.
    asked: Arc<Mutex<BTreeSet<String>>>,
}

impl Asker {
    /// The translators whose control sockets are in `folder`, and in the folders of `pods`.
    pub fn read(&self, folder: &Path, pods: &[Pod]) -> Vec<Translator> {
        let mut all = of_node(folder);
        let end = Instant::now() + ALL_TOGETHER;
        for pod in pods {
            let pod_end = end.min(Instant::now() + EACH);
            all.extend(self.pod(pod, pod_end).unwrap_or_else(|problem| {
                vec![Translator { pod: pod.name.clone(), problem: problem.to_owned(), ..Translator::default() }]
            }));
        }
        all
    }

    /// The translators of one pod, or why they are not known.
    fn pod(&self, pod: &Pod, end: Instant) -> Result<Vec<Translator>, &'static str> {
        if !self.lock().insert(pod.name.clone()) {
            return Err("what answers in its folders has held up an earlier question: it is no translator; remove it");
        }
        let (sender, answer) = std::sync::mpsc::sync_channel(1);
        let (asker, asked) = (self.clone(), pod.clone());
        let thread = std::thread::Builder::new().name("translators".to_owned()).spawn(move || {
            let found: Vec<_> =
                asked.folders.iter().flat_map(|folder| of_pod(&asked, Path::new(folder), end)).collect();
            asker.lock().remove(&asked.name);
            // Nobody may wait for it any more.
            let _ = sender.send(found);
        });
        if thread.is_err() {
            self.lock().remove(&pod.name);
            return Err("culvertd has no thread for the question; try again");
        }
        let patience = end.saturating_duration_since(Instant::now()).saturating_add(EACH);
        answer
            .recv_timeout(patience)
            .map_err(|_| "what answers in its folders takes too long: it is no translator; remove it")
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The translators in one folder of a pod. What keeps a folder from being looked into is no translator's problem: see
/// `pods::help`, and `culvertctl pod show`.
fn of_pod(pod: &Pod, folder: &Path, end: Instant) -> Vec<Translator> {
    let found = sockets(folder, translator::SUFFIX).unwrap_or_else(|error| {
        tracing::debug!(pod = pod.name, "{error}");
        Vec::new()
    });
    let ask = |found: &Found| {
        let asked = ask(&found.path, end, |left| translator::ask_found(found, &found.path, "stats", left))?;
        Some(Translator { pod: pod.name.clone(), ..asked })
    };
    found.iter().filter_map(ask).collect()
}

fn of_node(folder: &Path) -> Vec<Translator> {
    let found = translator::find(folder).unwrap_or_else(|error| {
        tracing::warn!(
            "translators cannot be looked for in {}: {error}; see its mode, and `ulimit -n`",
            folder.display()
        );
        Vec::new()
    });
    let end = Instant::now() + ALL_TOGETHER;
    found.into_iter().filter_map(|path| ask(&path, end, |left| translator::ask(&path, "stats", left))).collect()
}

/// What one answers by `end`. None: it has ended, and left its name behind.
fn ask(path: &Path, end: Instant, stats: impl FnOnce(Duration) -> Result<Vec<String>, AskError>) -> Option<Translator> {
    let guest = path.to_string_lossy();
    let socket = guest.strip_suffix(translator::SUFFIX).unwrap_or(&guest).to_owned();
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        let problem = "others took too long to answer; ask it by `culvertctl translator stats`".to_owned();
        return Some(Translator { socket, problem, ..Translator::default() });
    }
    match stats(left.min(EACH)) {
        Ok(lines) => Some(Translator { socket, statistics: statistics(&lines), ..Translator::default() }),
        Err(AskError::Unreachable { error, .. }) if error.kind() == ErrorKind::ConnectionRefused => None,
        Err(error) => Some(Translator { socket, problem: error.to_string(), ..Translator::default() }),
    }
}

/// Lines of a name and a number; what is none is left out.
pub fn statistics(lines: &[String]) -> HashMap<String, u64> {
    let pair = |line: &String| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    lines.iter().filter_map(pair).take(MAX_STATISTICS).collect()
}

/// How long one translator may take for its answer.
const EACH: Duration = Duration::from_millis(200);
/// How long those of the node may take, and those of pods.
const ALL_TOGETHER: Duration = Duration::from_secs(1);
/// Counters of one translator.
const MAX_STATISTICS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn read(folder: &Path, pods: &[Pod]) -> Vec<Translator> {
        Asker::default().read(folder, pods)
    }

    #[test]
    fn those_that_do_not_answer_are_shown_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path(), &[]).is_empty());
        // Left behind by one that has ended, no socket at all, and of another type.
        drop(UnixListener::bind(folder.path().join("a.sock.ctl")).unwrap());
        std::fs::write(folder.path().join("b.sock.ctl"), "").unwrap();
        let _stream = UnixListener::bind(folder.path().join("c.sock.ctl")).unwrap();
        let read = read(folder.path(), &[]);
        let names: Vec<_> = read.iter().map(|translator| translator.socket.rsplit('/').next().unwrap()).collect();
        assert_eq!(names, ["b.sock", "c.sock"]);
        assert!(read.iter().all(|translator| translator.problem.contains("cannot be reached")));
    }

    /// One that answers `reply` to one request.
    fn answering(path: &Path, reply: &'static str) -> std::thread::JoinHandle<()> {
        use rustix::net::{
            AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept, bind, listen, recv,
            send, socket_with,
        };
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        listen(&socket, 8).unwrap();
        std::thread::spawn(move || {
            let client = accept(&socket).unwrap();
            recv(&client, &mut [0; 100], RecvFlags::empty()).unwrap();
            send(&client, reply.as_bytes(), SendFlags::NOSIGNAL).unwrap();
        })
    }

    #[test]
    fn those_of_pods_are_found_in_their_folders() {
        let (node, one, two) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let server = answering(&one.path().join("vm.sock.ctl"), "ok\nrx_frames 7\n");
        // Left behind, a link to another pod's, and one that does not answer.
        drop(UnixListener::bind(two.path().join("a.sock.ctl")).unwrap());
        std::os::unix::fs::symlink(one.path().join("vm.sock.ctl"), two.path().join("b.sock.ctl")).unwrap();
        let _stream = UnixListener::bind(two.path().join("c.sock.ctl")).unwrap();
        let pod = |name: &str, folders: &[&Path]| Pod {
            name: name.to_owned(),
            folders: folders.iter().map(|folder| folder.display().to_string()).collect(),
            ..Pod::default()
        };
        let missing = node.path().join("missing");
        let pods = [pod("one", &[one.path(), &missing]), pod("two", &[two.path()])];
        let [first, second] = <[_; 2]>::try_from(read(node.path(), &pods)).unwrap();
        server.join().unwrap();
        assert_eq!((first.pod.as_str(), first.statistics["rx_frames"], first.problem.as_str()), ("one", 7, ""));
        assert!(first.socket.ends_with("/vm.sock"), "{}", first.socket);
        assert_eq!(second.pod, "two");
        assert!(second.socket.ends_with("/c.sock") && second.problem.contains("cannot be reached"), "{second:?}");
    }

    /// Before, each `culvertctl status` lost one of eight threads to such a pod, until no question was answered any more.
    #[test]
    fn a_pod_that_holds_up_a_question_is_not_asked_again() {
        use rustix::net::{
            AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
            SocketType, accept, bind, listen, sendmsg, socket_with, sockopt,
        };
        use std::io::{IoSlice, Write};
        use std::mem::MaybeUninit;
        use std::os::fd::AsFd;

        // Who closes it last waits, and that may be the pod.
        let is_held_up = (0..10).any(|_| {
            let (node, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
            bind(&socket, &SocketAddrUnix::new(folder.path().join("vm.sock.ctl")).unwrap()).unwrap();
            listen(&socket, 8).unwrap();
            let hostile = std::thread::spawn(move || {
                let client = accept(&socket).unwrap();
                // A socket that lingers: its peer reads nothing, and it has more to send than fits.
                let peer = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                let mut slow = std::net::TcpStream::connect(peer.local_addr().unwrap()).unwrap();
                let _other = peer.accept().unwrap();
                sockopt::set_socket_linger(&slow, Some(Duration::from_secs(5))).unwrap();
                slow.set_nonblocking(true).unwrap();
                while slow.write(&[0; 65_536]).is_ok() {}
                let descriptors = [slow.as_fd()];
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
                sendmsg(&client, &[IoSlice::new(b"ok\n")], &mut control, SendFlags::NOSIGNAL).unwrap();
                drop(slow);
                // As long as the question is held up.
                std::thread::sleep(Duration::from_secs(6));
            });
            let pod =
                Pod { name: "one".to_owned(), folders: vec![folder.path().display().to_string()], ..Pod::default() };
            let asker = Asker::default();
            let start = Instant::now();
            let told = asker.read(node.path(), std::slice::from_ref(&pod));
            if !told[0].problem.contains("takes too long") {
                assert_eq!(told[0].problem, "", "{told:?}");
                hostile.join().unwrap();
                return false;
            }
            let again = asker.read(node.path(), std::slice::from_ref(&pod));
            assert!(again[0].problem.contains("has held up an earlier question"), "{again:?}");
            assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
            hostile.join().unwrap();
            true
        });
        assert!(is_held_up);
    }

    #[test]
    fn only_numbers_are_statistics() {
        let lines = ["rx_frames 7", "tx_frames -1", "x", "", "y 1 2", "..."].map(str::to_owned);
        assert_eq!(statistics(&lines), HashMap::from([("rx_frames".to_owned(), 7)]));
    }
}
