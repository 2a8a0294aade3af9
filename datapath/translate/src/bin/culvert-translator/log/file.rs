//! A log file that stays below its size: when it is full, the older half of its lines makes room.
//!
//! The first line names the program and its process and stays. Only the descriptor is used after the file was made: it
//! may be renamed or removed, and this works without a file system. A line that cannot be written is lost.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// A file of limited size.
#[derive(Debug)]
pub struct LogFile {
    file: File,
    header: usize,
    size: usize,
    limit: usize,
}

impl LogFile {
    /// Makes or empties the file at `path`, which may have `limit` bytes, 4096 at least; only its owner may read it.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn create(path: &Path, limit: u64) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut log = Self { file, header: 0, size: 0, limit };
        let header = format!("culvert-translator {}: process {}\n", env!("CARGO_PKG_VERSION"), std::process::id());
        log.append(header.as_bytes())?;
        log.header = log.size;
        Ok(log)
    }

    /// Adds a line, line end included. What is longer than the file is cut.
    pub fn write(&mut self, line: &[u8]) {
        let longest = (self.limit / 2).saturating_sub(self.header);
        let line = line.get(..longest).unwrap_or(line);
        // There is no other place to tell that this fails.
        let _ = if self.size + line.len() > self.limit {
            self.make_room().and_then(|()| self.append(line))
        } else {
            self.append(line)
        };
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        // Behind what is known to be whole: a write that failed half-way is overwritten.
        self.file.write_all_at(line, offset(self.size))?;
        self.size += line.len();
        Ok(())
    }

    /// Moves the newer half of the lines to behind the header.
    fn make_room(&mut self) -> io::Result<()> {
        let from = self.header + (self.size - self.header) / 2;
        let mut newer = vec![0; self.size - from];
        self.file.read_exact_at(&mut newer, offset(from))?;
        let whole = newer.iter().position(|byte| *byte == b'\n').map_or(newer.len(), |end| end + 1);
        let newer = newer.get(whole..).unwrap_or_default();
        self.file.write_all_at(newer, offset(self.header))?;
        self.size = self.header + newer.len();
        self.file.set_len(offset(self.size))
    }
}

fn offset(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_newest_lines_stay_below_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "what was there before").unwrap();
        let mut log = LogFile::create(&path, 4096).unwrap();
        for number in 0..2000 {
            log.write(format!("{number:06}: line\n").as_bytes());
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.len() <= 4096 && text.len() == log.size);
            let mut lines = text.lines();
            let header = lines.next().unwrap();
            assert!(header.ends_with(&format!(": process {}", std::process::id())), "{header}");
            let numbers: Vec<u32> = lines.map(|line| line.strip_suffix(": line").unwrap().parse().unwrap()).collect();
            assert_eq!(numbers.last(), Some(&number));
            assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1));
            assert!(number < 300 || text.len() > 2000, "{} bytes", text.len());
        }
    }

    #[test]
    fn it_needs_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = LogFile::create(&path, 4096).unwrap();
        let mut same = File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        for _ in 0..1000 {
            log.write(b"a line\n");
        }
        let mut text = String::new();
        same.read_to_string(&mut text).unwrap();
        assert!((2000..=4096).contains(&text.len()));
    }

    #[test]
    fn long_lines_are_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = LogFile::create(&path, 4096).unwrap();
        for _ in 0..10 {
            log.write(&[b'x'; 10_000]);
            assert!(std::fs::metadata(&path).unwrap().len() <= 4096);
        }
    }
}
