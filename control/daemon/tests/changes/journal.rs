//! The journal holds the old objects or the new ones, whatever fails and whenever the process or the machine stops.

use std::collections::BTreeMap;
use std::io;

use culvertd::config::Objects;
use culvertd::journal::disk::{Disk, StateFolder, StateFolderError};
use culvertd::journal::{DAMAGED_FILE, Damage, FILE, Journal, MAX_BYTES, decode, encode};
use proptest::prelude::*;

use crate::objects::{objects, read};

fn sample(number: u32) -> Objects {
    read(&format!(
        "[[network]]\nname = \"n{number}\"\n[[port]]\nname = \"p\"\nnetwork = \"n{number}\"\nsocket = \"/s{number}\"\n"
    ))
}

/// What another start finds in a state folder.
fn found(folder: &tempfile::TempDir) -> Objects {
    let (_, restored) = Journal::open(StateFolder::open(folder.path()).unwrap()).unwrap();
    assert_eq!(restored.damage, None);
    restored.objects
}

#[test]
fn what_was_stored_is_found() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(found(&folder), Objects::default());
    for number in 0..3 {
        let (mut journal, restored) = Journal::open(StateFolder::open(folder.path()).unwrap()).unwrap();
        let before = if number == 0 { Objects::default() } else { sample(number - 1) };
        assert_eq!(restored.objects, before);
        journal.store(&sample(7)).unwrap();
        journal.store(&sample(number)).unwrap();
    }
    assert_eq!(found(&folder), sample(2));
    let names =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.collect::<std::collections::BTreeSet<_>>(), ["journal", "lock"].map(str::to_owned).into());
}

#[test]
fn the_folder_and_the_file_are_culvertds_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/state");
    let (mut journal, _) = Journal::open(StateFolder::open(&path).unwrap()).unwrap();
    journal.store(&sample(1)).unwrap();
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&path.join(FILE))), (0o700, 0o600));
}

#[test]
fn a_second_daemon_is_kept_away() {
    let folder = tempfile::tempdir().unwrap();
    let first = StateFolder::open(folder.path()).unwrap();
    let error = StateFolder::open(folder.path()).unwrap_err();
    assert!(matches!(error, StateFolderError::InUse { .. }));
    let (path, pid) = (folder.path().display(), std::process::id());
    let expected = format!(
        "state folder {path}: another culvertd uses it (process {pid}); stop that one first, or set daemon.state_dir"
    );
    assert_eq!(error.to_string(), expected);
    drop(first);
    StateFolder::open(folder.path()).unwrap();
}

#[test]
fn a_folder_that_cannot_be_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = StateFolder::open(&file.join("state")).unwrap_err();
    assert!(matches!(error, StateFolderError::Kernel { .. }));
    let path = file.display();
    assert!(error.to_string().starts_with(&format!("state folder {path}/state cannot be used: ")), "{error}");
    // A link in the place of a file is not followed.
    std::os::unix::fs::symlink(&file, folder.path().join("lock")).unwrap();
    assert!(matches!(StateFolder::open(folder.path()), Err(StateFolderError::Kernel { .. })));
    assert_eq!(std::fs::read(&file).unwrap(), b"");
}

#[test]
fn a_damaged_journal_is_put_aside() {
    for (contents, damage) in [
        ("", "it is no journal of culvertd"),
        ("something else\n", "it is no journal of culvertd"),
        ("# culvertd journal x\n", "it is no journal of culvertd"),
        ("# culvertd journal 2 0 00000000\n", "it has version 2, which a newer culvertd wrote; this one knows 1"),
        ("# culvertd journal 1 5 00000000\n", "it has not the length that it should have"),
        ("# culvertd journal 1 0 00000001\n", "its checksum is wrong: the disk did not keep it"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), contents).unwrap();
        let (mut journal, restored) = Journal::open(StateFolder::open(folder.path()).unwrap()).unwrap();
        assert_eq!(restored.objects, Objects::default());
        assert_eq!(restored.damage, Some(format!("{damage}; it lies in journal.damaged now")));
        assert_eq!(std::fs::read_to_string(folder.path().join(DAMAGED_FILE)).unwrap(), contents);
        journal.store(&sample(1)).unwrap();
        drop(journal);
        assert_eq!(found(&folder), sample(1));
    }
    let text = "[[port]]\nname = \"a\"\nvlan = 0\n";
    let whole = format!("# culvertd journal 1 {} {:08x}\n{text}", text.len(), crc32fast::hash(text.as_bytes()));
    let Err(Damage::Mistake(mistake)) = decode(whole.as_bytes()) else { panic!("it has a mistake") };
    assert_eq!(mistake, "line 2: port.network: is missing; add a line such as network = \"blue\"");
}

#[test]
fn too_much_is_refused() {
    let mut text = "[[network]]\nname = \"n\"\n".to_owned();
    for number in 0..1024 {
        let socket = format!("{}/s{number}", "/f".repeat(2040));
        text.push_str(&format!("[[port]]\nname = \"p{number}\"\nnetwork = \"n\"\nsocket = \"{socket}\"\n"));
    }
    let most = read(&text);
    assert!(encode(&most).len() < MAX_BYTES);
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(StateFolder::open(folder.path()).unwrap()).unwrap();
    journal.store(&most).unwrap();
    for number in 0..1024 {
        let device = format!("net_null{number},x={}", "y".repeat(5_000));
        text.push_str(&format!("[[port]]\nname = \"d{number}\"\nnetwork = \"n\"\ndevice = \"{device}\"\n"));
    }
    let error = journal.store(&read(&text)).unwrap_err();
    assert_eq!(error.to_string(), "all objects together take more than 8388608 bytes");
    drop(journal);
    assert_eq!(found(&folder), most);
}

proptest! {
    #[test]
    fn objects_survive_the_bytes(objects in objects()) {
        prop_assert_eq!(decode(&encode(&objects)), Ok(objects));
    }

    #[test]
    fn any_bytes_get_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode(&bytes).is_err());
    }

    /// One byte that is not what it was is seen.
    #[test]
    fn no_byte_may_change(objects in objects(), place in any::<prop::sample::Index>(), other in 1..=255u8) {
        let mut bytes = encode(&objects);
        let place = place.index(bytes.len());
        bytes[place] ^= other;
        let found = decode(&bytes);
        // Digits of the checksum may be of either case, and a number may be written in other ways.
        prop_assert!(found.is_err() || found == Ok(objects));
    }

    #[test]
    fn no_part_is_taken_for_the_whole(objects in objects(), place in any::<prop::sample::Index>()) {
        let bytes = encode(&objects);
        prop_assert!(decode(&bytes[..place.index(bytes.len())]).is_err());
    }
}

/// A disk on which one step fails, and after it, as the test likes, all others: as if the process were killed there.
struct Failing<D> {
    disk: D,
    /// Steps that still succeed.
    left: usize,
    /// Whether the steps after the one that fails succeed.
    goes_on: bool,
    failed: bool,
}

impl<D> Failing<D> {
    fn step(&mut self) -> io::Result<()> {
        if self.failed && self.goes_on {
            return Ok(());
        }
        if self.left == 0 {
            self.failed = true;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.left -= 1;
        Ok(())
    }
}

impl<D: Disk> Disk for Failing<D> {
    fn read(&mut self, name: &str, most: usize) -> io::Result<Option<Vec<u8>>> {
        self.disk.read(name, most)
    }

    fn write(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.step() {
            if self.goes_on || self.left == 0 {
                // A full disk, or a kill, in the middle of the bytes.
                self.disk.write(name, &bytes[..bytes.len() / 2])?;
            }
            return Err(error);
        }
        self.disk.write(name, bytes)
    }

    fn flush(&mut self, name: &str) -> io::Result<()> {
        self.step()?;
        self.disk.flush(name)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.step()?;
        self.disk.rename(from, to)
    }

    fn flush_folder(&mut self) -> io::Result<()> {
        self.step()?;
        self.disk.flush_folder()
    }
}

/// Steps of one store.
const STEPS: usize = 4;

/// The process is killed before each step of several stores: the next one finds the state of the last answered store, or
/// the one that was under way.
#[test]
fn killed_between_any_two_steps_the_state_is_old_or_new() {
    for steps in 0..=3 * STEPS {
        let folder = tempfile::tempdir().unwrap();
        let disk =
            Failing { disk: StateFolder::open(folder.path()).unwrap(), left: steps, goes_on: false, failed: false };
        let (mut journal, _) = Journal::open(disk).unwrap();
        let mut answered = 0;
        while answered < 3 && journal.store(&sample(answered + 1)).is_ok() {
            answered += 1;
        }
        assert_eq!(usize::try_from(answered).unwrap(), steps / STEPS);
        drop(journal);
        let state = |number| if number == 0 { Objects::default() } else { sample(number) };
        let found = found(&folder);
        assert!(found == state(answered) || found == state(answered + 1), "after {steps} steps: {found:?}");
    }
}

/// A step fails and the process lives on: the store is refused, the old state stays, and the next store works.
#[test]
fn a_store_that_fails_leaves_the_old_state() {
    for steps in 0..STEPS {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(StateFolder::open(folder.path()).unwrap()).unwrap();
        journal.store(&sample(1)).unwrap();
        drop(journal);
        let disk =
            Failing { disk: StateFolder::open(folder.path()).unwrap(), left: steps, goes_on: true, failed: false };
        let (mut journal, _) = Journal::open(disk).unwrap();
        assert_eq!(journal.store(&sample(2)).unwrap_err().kind(), io::ErrorKind::StorageFull);
        drop(journal);
        assert_eq!(found(&folder), sample(1), "step {steps} failed");
        let (mut journal, _) = Journal::open(StateFolder::open(folder.path()).unwrap()).unwrap();
        journal.store(&sample(2)).unwrap();
        drop(journal);
        assert_eq!(found(&folder), sample(2));
    }
}

/// A machine that loses its power: what was not flushed may be there, in part, or not at all.
#[derive(Clone, Debug, Default)]
struct Machine {
    /// Contents by file number, and how many bytes of them are flushed.
    files: Vec<(Vec<u8>, usize)>,
    /// Which file has which name: in the running machine, and on the disk.
    names: BTreeMap<String, usize>,
    flushed_names: BTreeMap<String, usize>,
}

impl Machine {
    /// The states that the disk may be in after the power is lost: each name is the old one or the new one, and of each
    /// file there is what was flushed, all, or something between.
    fn after_power_loss(&self) -> Vec<Machine> {
        let mut states = Vec::new();
        for names in [&self.names, &self.flushed_names] {
            for kept in 0..3 {
                let files = self.files.iter().map(|(bytes, flushed)| {
                    let length = [*flushed, usize::midpoint(*flushed, bytes.len()), bytes.len()][kept];
                    (bytes[..length].to_vec(), length)
                });
                states.push(Machine { files: files.collect(), names: names.clone(), flushed_names: names.clone() });
            }
        }
        states
    }
}

impl Disk for Machine {
    fn read(&mut self, name: &str, _: usize) -> io::Result<Option<Vec<u8>>> {
        Ok(self.names.get(name).map(|file| self.files[*file].0.clone()))
    }

    fn write(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        // As with O_TRUNC: the file stays, its contents go.
        let file = *self.names.entry(name.to_owned()).or_insert_with(|| {
            self.files.push((Vec::new(), 0));
            self.files.len() - 1
        });
        self.files[file] = (bytes.to_vec(), 0);
        Ok(())
    }

    fn flush(&mut self, name: &str) -> io::Result<()> {
        let file = &mut self.files[self.names[name]];
        file.1 = file.0.len();
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let file = self.names.remove(from).unwrap();
        self.names.insert(to.to_owned(), file);
        Ok(())
    }

    fn flush_folder(&mut self) -> io::Result<()> {
        self.flushed_names = self.names.clone();
        Ok(())
    }
}

impl Disk for &mut Machine {
    fn read(&mut self, name: &str, most: usize) -> io::Result<Option<Vec<u8>>> {
        (**self).read(name, most)
    }

    fn write(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        (**self).write(name, bytes)
    }

    fn flush(&mut self, name: &str) -> io::Result<()> {
        (**self).flush(name)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        (**self).rename(from, to)
    }

    fn flush_folder(&mut self) -> io::Result<()> {
        (**self).flush_folder()
    }
}

#[test]
fn whenever_the_power_goes_the_state_is_old_or_new() {
    for steps in 0..=3 * STEPS {
        let mut machine = Machine::default();
        let disk = Failing { disk: &mut machine, left: steps, goes_on: false, failed: false };
        let (mut journal, _) = Journal::open(disk).unwrap();
        let mut answered = 0;
        while answered < 3 && journal.store(&sample(answered + 1)).is_ok() {
            answered += 1;
        }
        drop(journal);
        let state = |number| if number == 0 { Objects::default() } else { sample(number) };
        for mut after in machine.after_power_loss() {
            let (_, restored) = Journal::open(&mut after).unwrap();
            assert_eq!(restored.damage, None, "after {steps} steps: {after:?}");
            let is_either = restored.objects == state(answered) || restored.objects == state(answered + 1);
            assert!(is_either, "after {steps} steps: {after:?}");
        }
    }
}
