//! Who may ask what: the kernel tells who is at the other end of a connection (SO_PEERCRED), and the configuration what that one may.
//!
//! What only asks is a list of methods; all others change something, also those that somebody adds and does not think of here.

use std::convert::Infallible;
use std::task::{Context, Poll};

use tokio::net::UnixStream;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{BoxFuture, Service};
use tonic::server::NamedService;
use tonic::{Status, codegen::http::uri::PathAndQuery};

use crate::config::Clients;

/// What users may do.
#[derive(Clone, Debug)]
pub struct Access {
    /// Root's and culvertd's own.
    always: Vec<u32>,
    /// None: everybody.
    admins: Option<Vec<u32>>,
}

/// What a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Admin,
    /// Only ask.
    ReadOnly,
}

impl Access {
    /// As the configuration says. Asks who this process is, which not every thread may.
    pub fn new(clients: &Clients) -> Self {
        Self { always: vec![0, rustix::process::geteuid().as_raw()], admins: clients.admin_users.clone() }
    }

    /// Everybody may do everything whom the socket lets in.
    pub fn of_everybody() -> Self {
        Self { always: Vec::new(), admins: None }
    }

    /// Everybody may only ask: for tests, which are one user.
    pub fn of_nobody() -> Self {
        Self { always: Vec::new(), admins: Some(Vec::new()) }
    }

    /// What the client at the other end may do.
    pub(super) fn role(&self, stream: &UnixStream) -> Role {
        // One that the kernel does not tell is nobody.
        stream.peer_cred().map_or(Role::ReadOnly, |peer| self.role_of(peer.uid()))
    }

    fn role_of(&self, user: u32) -> Role {
        let Some(admins) = &self.admins else { return Role::Admin };
        if self.always.contains(&user) || admins.contains(&user) { Role::Admin } else { Role::ReadOnly }
    }
}

/// A service behind which nobody changes anything who may only ask.
#[derive(Clone, Debug)]
pub(crate) struct Guarded<S>(pub S);

impl<S: NamedService> NamedService for Guarded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // Every connection has one; what came by none may nothing.
        let role = request.extensions().get::<Role>().copied().unwrap_or(Role::ReadOnly);
        let method = method(request.uri().path_and_query());
        if role == Role::Admin || QUESTIONS.contains(&method) {
            request.extensions_mut().insert(role);
            return Box::pin(self.0.call(request));
        }
        let status = refusal(method);
        Box::pin(async move { Ok(status.into_http()) })
    }
}

/// The answer to a client that may only ask.
pub(crate) fn refusal(method: &str) -> Status {
    Status::permission_denied(format!(
        "you may only ask, and {method} is more than that; do it as root or as one of daemon.admin_users"
    ))
}

/// The name of the method that is called: what follows the last slash of `/culvert.v1.Culvert/ListPorts`.
fn method(path: Option<&PathAndQuery>) -> &str {
    path.map_or("", |path| path.path().rsplit('/').next().unwrap_or_default())
}

/// Methods that only ask. One of them can change something, and looks at the [`Role`] itself: Rebalance.
const QUESTIONS: &[&str] = &[
    "GetLogLevel",
    "GetStats",
    "GetStatus",
    "ListDrops",
    "ListMacs",
    "ListMigrations",
    "ListMirrors",
    "ListNetworks",
    "ListPods",
    "ListPorts",
    "ListWorkers",
    "Rebalance",
    "Trace",
    "WatchEvents",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_named_may_only_ask() {
        let own = rustix::process::geteuid().as_raw();
        let named = Access::new(&Clients { admin_users: Some(vec![1000]), ..Clients::default() });
        for (user, role) in [(0, Role::Admin), (own, Role::Admin), (1000, Role::Admin), (1001, Role::ReadOnly)] {
            assert_eq!(named.role_of(user), role, "{user}");
        }
        let nobody = Access::new(&Clients { admin_users: Some(Vec::new()), ..Clients::default() });
        assert_eq!((nobody.role_of(1000), nobody.role_of(0)), (Role::ReadOnly, Role::Admin));
        // Without the key the socket's mode decides.
        assert_eq!(Access::new(&Clients::default()).role_of(1001), Role::Admin);
    }

    #[test]
    fn the_method_is_what_follows_the_last_slash() {
        let path = |text: &'static str| PathAndQuery::from_static(text);
        assert_eq!(method(Some(&path("/culvert.v1.Culvert/ListPorts"))), "ListPorts");
        assert_eq!(method(Some(&path("/culvert.v1.Culvert/AddPort?/ListPorts"))), "AddPort");
        assert_eq!(method(Some(&path("/"))), "");
        assert_eq!(method(None), "");
    }

    /// Each of them is in the schema.
    #[test]
    fn questions_are_methods() {
        let schema = include_str!("../../../api/proto/culvert/v1/culvert.proto");
        for question in QUESTIONS {
            assert!(schema.contains(&format!("rpc {question}(")), "{question}");
        }
    }
}
