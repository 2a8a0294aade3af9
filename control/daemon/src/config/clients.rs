//! The keys of `[daemon]` that say who may use the control socket; [`access`](crate::server::Access) obeys them.

use super::section::{Report, Section};
use super::value::{self, set};

/// Who may use the control socket, and what for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clients {
    /// The group that the control socket belongs to: its members may connect. culvertd's own group by default.
    pub socket_group: Option<u32>,
    /// The users, besides root and culvertd's own, who may change something; others who may connect may only ask. Everybody who may
    /// connect by default.
    pub admin_users: Option<Vec<u32>>,
}

impl Clients {
    /// Reads its keys from the `[daemon]` section.
    pub(super) fn read(report: &mut Report<'_>, section: &mut Section<'_>) -> Self {
        let number = |value: &toml::de::DeValue<'_>| value::number(value, 0..=u32::MAX - 1);
        let mut clients = Self::default();
        set(&mut clients.socket_group, section.optional(report, "socket_group", |value| number(value).map(Some)));
        let users = section.list(report, "admin_users", "[1000]", number);
        clients.admin_users = users.map(|found| found.value.into_iter().map(|user| user.value).collect());
        clients
    }

    /// The keys whose values differ.
    pub(super) fn differences(&self, other: &Self) -> [(&'static str, bool); 2] {
        [
            ("daemon.socket_group", self.socket_group != other.socket_group),
            ("daemon.admin_users", self.admin_users != other.admin_users),
        ]
    }
}
