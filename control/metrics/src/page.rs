//! The status page: one document with its script and style in it, which asks for `/api/node.json` and shows it.
//!
//! What guests, pods and persons have named reaches the document as text only (`textContent`), never as HTML; and a policy
//! (Content-Security-Policy) has the browser run no script but the one that is here.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::body::Bytes;
use sha2::{Digest, Sha256};

/// The page and its policy.
#[derive(Debug)]
pub struct Page {
    policy: String,
}

impl Default for Page {
    fn default() -> Self {
        Self::new()
    }
}

impl Page {
    /// The page of this version.
    pub fn new() -> Self {
        let [style, script] = ["style", "script"].map(|element| format!("'sha256-{}'", digest(element)));
        let policy = format!(
            "default-src 'none'; style-src {style}; script-src {script}; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
             frame-ancestors 'none'"
        );
        Self { policy }
    }

    /// What the browser may do with it.
    pub fn policy(&self) -> &str {
        &self.policy
    }
}

/// The document.
pub fn html() -> Bytes {
    Bytes::from_static(HTML.as_bytes())
}

/// SHA-256 of what is in an element.
fn digest(element: &str) -> String {
    let (start, end) = (format!("<{element}>"), format!("</{element}>"));
    let content =
        HTML.split_once(&start).and_then(|(_, rest)| rest.split_once(&end)).map_or("", |(content, _)| content);
    STANDARD.encode(Sha256::digest(content.as_bytes()))
}

const HTML: &str = include_str!("page.html");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_needs_nothing_from_elsewhere_and_makes_no_html_of_names() {
        for forbidden in [
            "http:",
            "https:",
            "innerHTML",
            "outerHTML",
            "insertAdjacent",
            "document.write",
            "eval(",
            "style=",
            "onclick",
        ] {
            assert!(!HTML.contains(forbidden), "{forbidden}");
        }
        for element in ["style", "script"] {
            assert_eq!(HTML.matches(&format!("<{element}>")).count(), 1, "{element}");
        }
    }
}
