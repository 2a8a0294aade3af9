//! A group's number, from the file of groups. The C library's functions are not used: statically linked, they would load
//! libraries of the node's at run time.

use std::path::Path;

use crate::error::{Code, Error};

/// The number of the group `name` in `file`, which is /etc/group; `name` may be a number itself.
///
/// # Errors
/// [`Code::Io`] when the file cannot be read, [`Code::Config`] when there is no such group.
pub fn find(file: &Path, name: &str) -> Result<u32, Error> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let text = std::fs::read_to_string(file).map_err(|error| Error::io(format!("{}", file.display()), error))?;
    // group(5): name:password:number:members
    let number = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() == Some(name) { fields.nth(1)?.parse().ok() } else { None }
    });
    let missing = || Error::with(Code::Config, format!("there is no group {name:?}"), "correct host.vhost.group");
    number.ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "root:x:0:\nbroken\nkvmg:x:993:qemu,root\nkv:x:no:\n").unwrap();
        let find = |name| find(file.path(), name);
        assert_eq!((find("kvmg"), find("root"), find("107")), (Ok(993), Ok(0), Ok(107)));
        for name in ["x", "broken", "kv", "kvmg:x", ""] {
            assert_eq!(find(name).unwrap_err().code, Code::Config, "{name}");
        }
        assert_eq!(super::find(Path::new("/nonexistent"), "x").unwrap_err().code, Code::Io);
    }
}
