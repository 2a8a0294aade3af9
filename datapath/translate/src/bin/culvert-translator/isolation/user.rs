//! The user that the process becomes: who `--runas` names, or nobody when root has started it.

use std::fmt;
use std::io;

use nix::unistd::{Gid, Group, Uid, setgroups, setresgid, setresuid};

/// A user and a group, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    user: Uid,
    group: Gid,
}

/// There is no such user or group.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--runas {0}: there is no such {1}; give a number or a name, also with :GROUP")]
pub struct Unknown(String, &'static str);

impl User {
    /// Who `text` names: a user, or a user and a group, each by number or name. The group of a user given by name is
    /// the user's own, of one given by number the same number.
    ///
    /// # Errors
    /// [`Unknown`]
    pub fn named(text: &str) -> Result<Self, Unknown> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let unknown = |what| Unknown(text.to_owned(), what);
        let (user, own_group) = match user.parse() {
            Ok(number) => (Uid::from_raw(number), Gid::from_raw(number)),
            Err(_) => {
                let found = nix::unistd::User::from_name(user).ok().flatten().ok_or(unknown("user"))?;
                (found.uid, found.gid)
            }
        };
        let group = match group {
            None => own_group,
            Some(group) => match group.parse() {
                Ok(number) => Gid::from_raw(number),
                Err(_) => Group::from_name(group).ok().flatten().ok_or(unknown("group"))?.gid,
            },
        };
        Ok(Self { user, group })
    }

    /// Who root becomes. Root of a user namespace stays: there is nobody else.
    pub fn instead_of_root() -> Option<Self> {
        let is_root = nix::unistd::geteuid().is_root();
        let all_users = std::fs::read_to_string("/proc/self/uid_map")
            .is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]));
        let nobody = Self { user: Uid::from_raw(NOBODY), group: Gid::from_raw(NOBODY) };
        (is_root && all_users).then(|| Self::named("nobody").unwrap_or(nobody))
    }

    /// Becomes this user, of this group alone. Capabilities go with root.
    ///
    /// # Errors
    /// The kernel's reason; usually one needs to be root for this.
    pub fn enter(self) -> io::Result<()> {
        if self.is_entered() {
            return Ok(());
        }
        setgroups(&[])?;
        setresgid(self.group, self.group, self.group)?;
        setresuid(self.user, self.user, self.user)?;
        Ok(())
    }

    fn is_entered(self) -> bool {
        let users = nix::unistd::getresuid().is_ok_and(|ids| [ids.real, ids.effective, ids.saved] == [self.user; 3]);
        let groups = nix::unistd::getresgid().is_ok_and(|ids| [ids.real, ids.effective, ids.saved] == [self.group; 3]);
        users && groups
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user {} of group {}", self.user, self.group)
    }
}

/// As most distributions have it.
const NOBODY: u32 = 65534;

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(text: &str) -> Result<(u32, u32), String> {
        User::named(text).map(|user| (user.user.as_raw(), user.group.as_raw())).map_err(|error| error.to_string())
    }

    #[test]
    fn users_are_known_by_number_and_by_name() {
        assert_eq!(numbers("107"), Ok((107, 107)));
        assert_eq!(numbers("107:36"), Ok((107, 36)));
        assert_eq!(numbers("root"), Ok((0, 0)));
        assert_eq!(numbers("107:root"), Ok((107, 0)));
        let unknown = |text: &str, what| {
            Err(format!("--runas {text}: there is no such {what}; give a number or a name, also with :GROUP"))
        };
        assert_eq!(numbers("no-such-user"), unknown("no-such-user", "user"));
        assert_eq!(numbers("0:no-such-group"), unknown("0:no-such-group", "group"));
        assert_eq!(numbers(""), unknown("", "user"));
        assert_eq!(numbers("-1"), unknown("-1", "user"));
        assert_eq!(numbers("4294967296"), unknown("4294967296", "user"));
    }
}
