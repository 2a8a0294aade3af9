//! A call's variables: which verb, for which container and interface. What a runtime may leave out in a verb is `None` there.
//!
//! The values become parts of file and port names; they are checked here, once. No container id is too short for us.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::{Code, Error};

/// The CNI_ variables as they are, not yet read.
#[derive(Clone, Debug, Default)]
pub struct Variables(HashMap<String, Result<String, ()>>);

/// What a runtime asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Make the interface.
    Add,
    /// Remove what ADD made; succeeds when there is nothing.
    Del,
    /// Is what ADD made still there?
    Check,
    /// Remove what belongs to no attachment that the runtime knows.
    Gc,
    /// Can interfaces be made?
    Status,
    /// Which versions of the specification are spoken?
    Version,
}

/// One interface of one container: what ADD makes and DEL removes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttachmentId {
    /// The runtime's name of the container; of a pod, its sandbox.
    pub container: String,
    /// The interface's name in it, such as `eth0`.
    pub ifname: String,
}

/// What Kubernetes' runtimes say of a pod, in CNI_ARGS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// K8S_POD_NAMESPACE
    pub namespace: Option<String>,
    /// K8S_POD_NAME
    pub name: Option<String>,
    /// K8S_POD_UID
    pub uid: Option<String>,
    /// The address that CNI_ARGS asks for (`MAC`).
    pub mac: Option<String>,
}

impl Variables {
    /// Those of this process.
    pub fn of_process() -> Self {
        let named = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            let name = name.into_string().ok()?;
            name.starts_with("CNI_").then(|| (name, value.into_string().map_err(|_| ())))
        };
        Self(std::env::vars_os().filter_map(named).collect())
    }

    /// These, for a caller that is no process.
    pub fn new<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.to_owned(), Ok(value.to_owned()))).collect())
    }

    /// The value of a variable; `None` for an empty one.
    ///
    /// # Errors
    /// [`Code::Environment`] for one that is not UTF-8.
    pub fn get(&self, name: &str) -> Result<Option<&str>, Error> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Ok(value)) => Ok(Some(value.as_str()).filter(|value| !value.is_empty())),
            Some(Err(())) => Err(Error::new(Code::Environment, format!("{name} is not UTF-8"))),
        }
    }

    fn required(&self, name: &str) -> Result<&str, Error> {
        self.get(name)?.ok_or_else(|| {
            Error::with(Code::Environment, format!("{name} is not set"), "the container runtime sets it for this verb")
        })
    }

    /// CNI_COMMAND; `None` when there is none: not called by a runtime.
    ///
    /// # Errors
    /// [`Code::Environment`] for an unknown verb.
    pub fn verb(&self) -> Result<Option<Verb>, Error> {
        let Some(text) = self.get("CNI_COMMAND")? else { return Ok(None) };
        let verbs = [Verb::Add, Verb::Del, Verb::Check, Verb::Gc, Verb::Status, Verb::Version];
        let known = verbs.into_iter().find(|verb| verb.as_str() == text);
        let unknown = || Error::new(Code::Environment, format!("CNI_COMMAND {text:?} is unknown"));
        known.ok_or_else(unknown).map(Some)
    }

    /// CNI_CONTAINERID and CNI_IFNAME.
    ///
    /// # Errors
    /// [`Code::Environment`] for one that is missing or breaks the specification's rule for it.
    pub fn attachment(&self) -> Result<AttachmentId, Error> {
        AttachmentId::new(self.required("CNI_CONTAINERID")?, self.required("CNI_IFNAME")?)
    }

    /// CNI_NETNS, the path of the container's network namespace; `None` when it has gone (DEL).
    ///
    /// # Errors
    /// [`Code::Environment`] for a path that is not absolute.
    pub fn netns(&self) -> Result<Option<PathBuf>, Error> {
        let path = self.get("CNI_NETNS")?.map(PathBuf::from);
        match path.filter(|path| !path.is_absolute()) {
            None => Ok(self.get("CNI_NETNS")?.map(PathBuf::from)),
            Some(path) => {
                Err(Error::new(Code::Environment, format!("CNI_NETNS {} is no absolute path", path.display())))
            }
        }
    }

    /// The folders in CNI_PATH where delegated plugins are looked for.
    ///
    /// # Errors
    /// [`Code::Environment`] for text that is not UTF-8.
    pub fn folders(&self) -> Result<Vec<&Path>, Error> {
        let path = self.get("CNI_PATH")?.unwrap_or_default();
        Ok(path.split(':').filter(|folder| !folder.is_empty()).map(Path::new).collect())
    }

    /// What CNI_ARGS says of the pod. Keys that we do not know are left alone.
    ///
    /// # Errors
    /// [`Code::Environment`] for text that is not `key=value;key=value`, and for a pod's uid that cannot be a folder's name.
    pub fn pod(&self) -> Result<Pod, Error> {
        let mut pod = Pod::default();
        for pair in self.get("CNI_ARGS")?.unwrap_or_default().split(';').filter(|pair| !pair.is_empty()) {
            let wrong = || Error::new(Code::Environment, format!("CNI_ARGS has {pair:?}, which is no key=value"));
            let (key, value) = pair.split_once('=').ok_or_else(wrong)?;
            let value = Some(value.to_owned()).filter(|value| !value.is_empty());
            match key {
                "K8S_POD_NAMESPACE" => pod.namespace = value,
                "K8S_POD_NAME" => pod.name = value,
                "K8S_POD_UID" => pod.uid = value,
                "MAC" => pod.mac = value,
                _ => {}
            }
        }
        for (key, value) in
            [("K8S_POD_NAMESPACE", &pod.namespace), ("K8S_POD_NAME", &pod.name), ("K8S_POD_UID", &pod.uid)]
        {
            if let Some(value) = value.as_ref().filter(|value| !is_word(value)) {
                let message = format!("CNI_ARGS has {key}={value:?}, which is no name of Kubernetes'");
                return Err(Error::with(Code::Environment, message, "it has letters, digits, '.', '_' and '-'"));
            }
        }
        Ok(pod)
    }
}

impl Verb {
    /// As in CNI_COMMAND.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }
}

impl AttachmentId {
    /// Checks the names of a container and an interface (CNI 1.1.0, "Parameters"; interfaces as the kernel names them).
    ///
    /// # Errors
    /// [`Code::Environment`].
    pub fn new(container: &str, ifname: &str) -> Result<Self, Error> {
        if !is_word(container) {
            let message = format!("container id {container:?} is not one");
            let details = "it has 1 to 200 letters, digits, '.', '_' and '-', the first a letter or digit";
            return Err(Error::with(Code::Environment, message, details));
        }
        let allowed = |c: char| !matches!(c, '/' | ':') && !c.is_whitespace() && !c.is_control();
        if ifname.is_empty() || ifname.len() > 15 || matches!(ifname, "." | "..") || !ifname.chars().all(allowed) {
            let message = format!("interface name {ifname:?} is not one");
            let details = "it has 1 to 15 bytes, without '/', ':' and white space, and is not '.' or '..'";
            return Err(Error::with(Code::Environment, message, details));
        }
        Ok(Self { container: container.to_owned(), ifname: ifname.to_owned() })
    }
}

impl fmt::Display for AttachmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "interface {} of container {}", self.ifname, self.container)
    }
}

/// Whether a text is a container's id or a name of Kubernetes', and can be a file's name: letters, digits, `.`, `_`, `-`, the
/// first a letter or digit, at most 200 bytes.
pub fn is_word(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    text.len() <= 200 && text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code<T>(result: Result<T, Error>) -> Option<Code> {
        result.err().map(|error| error.code)
    }

    #[test]
    fn a_call_of_multus() {
        let variables = Variables::new([
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "0f1e2d3c4b5a69788796a5b4c3d2e1f0"),
            ("CNI_IFNAME", "pod494bb167e44"),
            ("CNI_NETNS", "/run/netns/cni-1"),
            ("CNI_PATH", "/opt/cni/bin:/usr/lib/cni"),
            (
                "CNI_ARGS",
                "IgnoreUnknown=true;K8S_POD_NAMESPACE=lab;K8S_POD_NAME=virt-launcher-fw-x1;\
                 K8S_POD_INFRA_CONTAINER_ID=0f1e2d3c4b5a69788796a5b4c3d2e1f0;K8S_POD_UID=7b1c2d3e-0001-4a4a-9b9b-00112233aabb",
            ),
        ]);
        assert_eq!(variables.verb(), Ok(Some(Verb::Add)));
        let id = variables.attachment().unwrap();
        assert_eq!((id.container.as_str(), id.ifname.as_str()), ("0f1e2d3c4b5a69788796a5b4c3d2e1f0", "pod494bb167e44"));
        assert_eq!(variables.netns().unwrap().unwrap(), Path::new("/run/netns/cni-1"));
        assert_eq!(variables.folders().unwrap(), [Path::new("/opt/cni/bin"), Path::new("/usr/lib/cni")]);
        let pod = variables.pod().unwrap();
        assert_eq!((pod.namespace.as_deref(), pod.name.as_deref()), (Some("lab"), Some("virt-launcher-fw-x1")));
        assert_eq!(pod.uid.as_deref(), Some("7b1c2d3e-0001-4a4a-9b9b-00112233aabb"));
    }

    #[test]
    fn variables_that_are_missing_or_wrong() {
        let none = Variables::default();
        assert_eq!(none.verb(), Ok(None));
        assert_eq!(code(none.attachment()), Some(Code::Environment));
        assert_eq!((none.netns(), none.pod()), (Ok(None), Ok(Pod::default())));
        assert_eq!(none.folders().unwrap(), Vec::<&Path>::new());
        assert_eq!(code(Variables::new([("CNI_COMMAND", "add")]).verb()), Some(Code::Environment));
        assert_eq!(code(Variables::new([("CNI_NETNS", "netns/x")]).netns()), Some(Code::Environment));
        for args in ["K8S_POD_UID", "a=b;c", "K8S_POD_UID=../..", "K8S_POD_UID=a/b", "K8S_POD_NAME=a\nb"] {
            assert_eq!(code(Variables::new([("CNI_ARGS", args)]).pod()), Some(Code::Environment), "{args}");
        }
        let empty = Variables::new([("CNI_ARGS", ";;K8S_POD_UID=;X=y=z")]);
        assert_eq!(empty.pod(), Ok(Pod::default()));
    }

    #[test]
    fn names_that_are_none() {
        let long = "a".repeat(201);
        for container in ["", ".a", "-a", "_a", "a/b", "../x", "a b", "a\n", "\u{430}", &long] {
            assert_eq!(code(AttachmentId::new(container, "eth0")), Some(Code::Environment), "{container:?}");
        }
        for ifname in ["", ".", "..", "a/b", "a:b", "a b", "a\tb", "a\u{a0}b", "sixteen-letters-"] {
            assert_eq!(code(AttachmentId::new("a", ifname)), Some(Code::Environment), "{ifname:?}");
        }
        for (container, ifname) in [("a", "x"), ("0", "net1"), ("A.b_c-d", "fifteen-letters"), ("a", "...")] {
            assert!(AttachmentId::new(container, ifname).is_ok());
        }
    }
}
