//! A kubeconfig file: where Kubernetes' API is, whom to trust there, and as whom to speak. Of its grammar what plugins on nodes are
//! given (Multus', for one): certificates and tokens, in the file or beside it. Programs that fetch credentials are not run.

use std::fs;
use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;

use crate::error::{Code, Error};

/// How to reach the API.
#[derive(Debug)]
pub struct Access {
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// What stands before every path; without a slash at its end.
    pub prefix: String,
    /// The name in the server's certificate.
    pub server_name: String,
    /// Who signs the server's certificate.
    pub authorities: Vec<CertificateDer<'static>>,
    /// Our own certificate.
    pub identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    /// Our own token.
    pub token: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Document {
    #[serde(rename = "current-context")]
    current_context: String,
    clusters: Vec<NamedCluster>,
    contexts: Vec<NamedContext>,
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<String>,
    certificate_authority_data: Option<String>,
    tls_server_name: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct User {
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<String>,
    client_certificate: Option<String>,
    client_certificate_data: Option<String>,
    client_key: Option<String>,
    client_key_data: Option<String>,
}

impl Access {
    /// Reads the file.
    ///
    /// # Errors
    /// [`Code::Config`] for what is wrong in it; [`Code::Io`] when it or a file that it names cannot be read.
    pub fn read(path: &Path) -> Result<Self, Error> {
        Self::parse(&read(path)?, path)
    }

    /// Reads the text of the file at `path`.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        let wrong =
            |what: String| Error::with(Code::Config, format!("kubeconfig {} cannot be used", path.display()), what);
        let document: Document =
            serde_norway::from_str(text).map_err(|error| wrong(error.to_string().trim().to_owned()))?;
        let absent = |what: &str, name: &str| wrong(format!("there is no {what} {name:?}"));
        let name = document.current_context;
        let context = document.contexts.into_iter().find(|it| it.name == name);
        let context = context.ok_or_else(|| absent("context", &name))?.context;
        let cluster = document.clusters.into_iter().find(|it| it.name == context.cluster);
        let cluster = cluster.ok_or_else(|| absent("cluster", &context.cluster))?.cluster;
        let user = document.users.into_iter().find(|it| it.name == context.user);
        let user = user.ok_or_else(|| absent("user", &context.user))?.user;

        let (tls, host, port, prefix) =
            parse_server(&cluster.server).ok_or_else(|| wrong(format!("server {:?} is no URL", cluster.server)))?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        let authority = pem(folder, cluster.certificate_authority_data, cluster.certificate_authority)?;
        if tls && authority.is_none() {
            return Err(wrong("certificate-authority is missing: without it anybody could answer".to_owned()));
        }
        let authorities = certificates(authority.as_deref()).map_err(wrong)?;
        let identity = match (
            pem(folder, user.client_certificate_data, user.client_certificate)?,
            pem(folder, user.client_key_data, user.client_key)?,
        ) {
            (Some(certificate), Some(key)) => {
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
                    .map_err(|error| wrong(format!("the client's key: {error}")))?;
                Some((certificates(Some(&certificate)).map_err(wrong)?, key))
            }
            _ => None,
        };
        let token = match (user.token.filter(|token| !token.is_empty()), user.token_file) {
            (Some(token), _) => Some(token),
            (None, Some(file)) => Some(read(&folder.join(file))?.trim().to_owned()),
            (None, None) => None,
        };
        let server_name = cluster.tls_server_name.unwrap_or_else(|| host.clone());
        Ok(Self { tls, host, port, prefix, server_name, authorities, identity, token })
    }
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|error| Error::io(format!("{} cannot be read", path.display()), error))
}

/// A value in the file (base64 of PEM), or in a file beside it.
fn pem(folder: &Path, data: Option<String>, file: Option<String>) -> Result<Option<String>, Error> {
    match (data.filter(|data| !data.is_empty()), file.filter(|file| !file.is_empty())) {
        (Some(data), _) => {
            let wrong = || Error::new(Code::Config, "kubeconfig has certificate data that is no base64 of PEM");
            let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, data.trim());
            String::from_utf8(bytes.map_err(|_| wrong())?).map_err(|_| wrong()).map(Some)
        }
        (None, Some(file)) => read(&folder.join(file)).map(Some),
        (None, None) => Ok(None),
    }
}

fn certificates(pem: Option<&str>) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.unwrap_or_default().as_bytes()).collect();
    all.map_err(|error| format!("a certificate: {error}"))
}

/// `https://host:port/prefix`: whether it is TLS, host, port, prefix.
fn parse_server(url: &str) -> Option<(bool, String, u16, String)> {
    let (tls, rest) = match url.split_once("://")? {
        ("https", rest) => (true, rest),
        ("http", rest) => (false, rest),
        _ => return None,
    };
    let (authority, prefix) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let (host, port) = match authority.strip_prefix('[') {
        Some(bracketed) => {
            let (host, port) = bracketed.split_once(']')?;
            (host, port.strip_prefix(':'))
        }
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let port = match port {
        Some(port) => port.parse().ok()?,
        None if tls => 443,
        None => 80,
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '-' | '_' | '/');
    let usable = !host.is_empty() && host.chars().all(plain) && prefix.chars().all(plain);
    usable.then(|| (tls, host.to_owned(), port, prefix.trim_end_matches('/').to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Multus' daemon writes it.
    const MULTUS: &str = "\
apiVersion: v1
kind: Config
clusters:
- name: local
  cluster:
    server: https://[fd00:10::1]:6443
    certificate-authority-data: LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCkFRSUQKLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo=
users:
- name: multus
  user:
    token: \"abc.def\"
contexts:
- name: multus-context
  context:
    cluster: local
    user: multus
current-context: multus-context
";

    fn parse(text: &str) -> Result<Access, Error> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("token"), "from-file\n").unwrap();
        let path = folder.path().join("multus.kubeconfig");
        fs::write(&path, text).unwrap();
        Access::read(&path)
    }

    #[test]
    fn what_multus_writes() {
        let access = parse(MULTUS).unwrap();
        assert_eq!((access.tls, access.host.as_str(), access.port), (true, "fd00:10::1", 6443));
        assert_eq!((access.prefix.as_str(), access.token.as_deref()), ("", Some("abc.def")));
        assert_eq!(access.authorities, [CertificateDer::from(vec![1, 2, 3])]);
        let file = parse(&MULTUS.replace("token: \"abc.def\"", "tokenFile: token")).unwrap();
        assert_eq!(file.token.as_deref(), Some("from-file"));
    }

    #[test]
    fn what_cannot_be_used_is_told() {
        for (text, part) in [
            (MULTUS.replace("current-context: multus", "current-context: other"), "there is no context"),
            (MULTUS.replace("user: multus", "user: other"), "there is no user"),
            (MULTUS.replace("https://", "ftp://"), "is no URL"),
            (MULTUS.replace("certificate-authority-data", "insecure"), "certificate-authority is missing"),
            (MULTUS.replace("LS0t", "a!!a"), "base64"),
            (MULTUS.replace("clusters:", "clusters: 5\nx:"), "cannot be used"),
            ("{".to_owned(), "cannot be used"),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.to_string().contains(part) && error.code == Code::Config, "{error}");
        }
        assert_eq!(Access::read(Path::new("/nonexistent")).unwrap_err().code, Code::Io);
    }

    #[test]
    fn servers() {
        let parsed = |tls, host: &str, port, prefix: &str| Some((tls, host.to_owned(), port, prefix.to_owned()));
        assert_eq!(parse_server("https://10.96.0.1:443/"), parsed(true, "10.96.0.1", 443, ""));
        assert_eq!(parse_server("https://api.lab/k8s/c1/"), parsed(true, "api.lab", 443, "/k8s/c1"));
        assert_eq!(parse_server("http://[::1]"), parsed(false, "::1", 80, ""));
        for bad in
            ["", "10.0.0.1", "https://", "https://a:b", "https://a:99999", "https://a b", "https://[::1", "x://a"]
        {
            assert_eq!(parse_server(bad), None, "{bad}");
        }
    }
}
