//! Which containers of a virt-launcher pod are culvert-hook.
//!
//! KubeVirt calls the containers of all bindings and hooks `hook-sidecar-<n>`. Since July 2026 it tells each in an
//! environment variable for which binding it is there; before, only the image tells.

use serde_json::Value;

/// What our sidecars are known by.
#[derive(Clone, Debug)]
pub struct Sidecars {
    /// Names of bindings, as KubeVirt's configuration has them.
    pub bindings: Vec<String>,
    /// Images: one without tag and digest stands for all of its versions.
    pub images: Vec<String>,
}

impl Sidecars {
    /// Whether `container` is culvert-hook.
    pub fn is_ours(&self, container: &Value) -> bool {
        let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
        if !name.starts_with(NAME) {
            return false;
        }
        let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
        binding(container).is_some_and(|name| self.bindings.iter().any(|ours| ours == name))
            || self.images.iter().any(|ours| is_version_of(image, ours))
    }

    /// Whether `container` is culvert-hook for the translator's binding, as far as the container tells.
    pub fn is_translators(&self, container: &Value) -> bool {
        self.is_ours(container) && binding(container).is_some_and(|name| name.ends_with(TRANSLATOR_SUFFIX))
    }
}

fn binding(container: &Value) -> Option<&str> {
    let variables = container.get("env")?.as_array()?;
    let is_it = |variable: &&Value| variable.get("name").and_then(Value::as_str) == Some(BINDING);
    variables.iter().find(is_it)?.get("value")?.as_str()
}

fn is_version_of(image: &str, ours: &str) -> bool {
    image == ours || repository(ours) == ours && repository(image) == ours
}

/// An image's name without tag and digest. A colon before the last slash belongs to the registry's port.
fn repository(image: &str) -> &str {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    match name.get(last..).and_then(|text| text.find(':')) {
        Some(colon) => name.get(..last + colon).unwrap_or(name),
        None => name,
    }
}

const NAME: &str = "hook-sidecar-";
const BINDING: &str = "NETWORK_BINDING_PLUGIN_NAME";
/// As culvert-hook tells its two bindings from each other.
const TRANSLATOR_SUFFIX: &str = "-translator";

#[cfg(test)]
mod tests {
    use super::*;

    fn sidecars() -> Sidecars {
        Sidecars {
            bindings: vec!["culvert".to_owned(), "culvert-translator".to_owned()],
            images: vec!["registry.test:5000/culvert/culvert".to_owned(), "exact.test/hook:1".to_owned()],
        }
    }

    #[test]
    fn by_the_bindings_name() {
        let of = |name: &str, binding: &str| serde_json::json!({"name": name, "image": "x", "env": [{"name": "A"}, {"name": BINDING, "value": binding}]});
        assert!(sidecars().is_ours(&of("hook-sidecar-0", "culvert")));
        assert!(!sidecars().is_translators(&of("hook-sidecar-0", "culvert")));
        assert!(sidecars().is_translators(&of("hook-sidecar-1", "culvert-translator")));
        assert!(!sidecars().is_ours(&of("hook-sidecar-1", "passt")));
        assert!(!sidecars().is_translators(&of("hook-sidecar-1", "other-translator")));
        assert!(!sidecars().is_ours(&of("compute", "culvert")), "only hook sidecars are");
    }

    #[test]
    fn by_the_image() {
        let ours = |image: &str| sidecars().is_ours(&serde_json::json!({"name": "hook-sidecar-0", "image": image}));
        assert!(ours("registry.test:5000/culvert/culvert"));
        assert!(ours("registry.test:5000/culvert/culvert:1.2"));
        assert!(ours("registry.test:5000/culvert/culvert:1.2@sha256:00"));
        assert!(ours("registry.test:5000/culvert/culvert@sha256:00"));
        assert!(!ours("registry.test:5000/culvert/culvert-not:1"));
        assert!(ours("exact.test/hook:1"));
        assert!(!ours("exact.test/hook:2"));
        assert!(!ours(""));
    }
}
