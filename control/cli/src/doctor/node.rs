//! The files of a machine that tell about it, below one folder.

use std::fs;
use std::path::{Path, PathBuf};

/// A machine.
#[derive(Clone, Debug)]
pub struct Node {
    root: PathBuf,
}

impl Node {
    /// The one that this program runs on.
    pub fn of_this_machine() -> Self {
        Self { root: PathBuf::from("/") }
    }

    /// One that is played by files below a folder.
    #[cfg(test)]
    pub fn below(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Where a file is that is called `path`, which is absolute.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The text of a file without the white space around it.
    pub fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        Some(fs::read_to_string(self.path(path)).ok()?.trim().to_owned())
    }

    /// Whether there is such a file.
    pub fn has(&self, path: impl AsRef<Path>) -> bool {
        self.path(path).exists()
    }

    /// The names in a folder, sorted.
    pub fn names(&self, path: impl AsRef<Path>) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().filter_map(Result::ok);
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// The name of what a link leads to.
    pub fn link(&self, path: impl AsRef<Path>) -> Option<String> {
        let target = fs::read_link(self.path(path)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }
}

/// Numbers in a list of the kernel's, such as `0-3,8`; none for what is not such a list.
pub fn numbers(list: &str) -> Vec<usize> {
    let ranges = list.trim().split(',').filter(|range| !range.is_empty()).map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse().ok()?..=usize::min(last.parse().ok()?, MAX_CORES))
    });
    ranges.collect::<Option<Vec<std::ops::RangeInclusive<usize>>>>().into_iter().flatten().flatten().collect()
}

/// More than any machine has.
const MAX_CORES: usize = 65_536;

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A machine of these files and their texts; a text that begins with `-> ` is a link.
    pub fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Node) {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::below(folder.path());
        for (path, text) in files {
            let path = node.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match text.strip_prefix("-> ") {
                Some(target) => std::os::unix::fs::symlink(target, path).unwrap(),
                None => fs::write(path, text).unwrap(),
            }
        }
        (folder, node)
    }

    #[test]
    fn lists_of_numbers() {
        assert_eq!(numbers("0-2,8\n"), [0, 1, 2, 8]);
        assert_eq!(numbers(""), [0; 0]);
        assert_eq!(numbers("x"), [0; 0]);
    }

    #[test]
    fn files_are_below_the_root() {
        let (_folder, node) = machine(&[("/sys/a", " x\n"), ("/sys/b", "-> ../../drivers/vfio-pci")]);
        assert_eq!(node.text("/sys/a").as_deref(), Some("x"));
        assert_eq!(node.link("/sys/b").as_deref(), Some("vfio-pci"));
        assert_eq!(node.names("/sys"), ["a", "b"]);
        assert!(!node.has("/sys/c") && node.has("/sys/a"));
    }
}
