//! Which object a question is about, also where the question is too long, cut off, or no AdmissionReview otherwise: what comes before
//! that is read. The API server writes kind, namespace and name in front of the object.

use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};

/// Kind, namespace and name, as far as the beginning of a question tells them; `None`: it tells nothing.
pub(crate) fn about(question: &[u8]) -> Option<String> {
    let mut about = About::default();
    // It ends in an error wherever the question does.
    let _ = Part { about: &mut about, path: "" }.deserialize(&mut serde_json::Deserializer::from_slice(question));
    let is_told = !(about.kind.is_empty() && about.namespace.is_empty() && about.name.is_empty());
    is_told.then(|| shown(&about.kind, &about.namespace, &about.name))
}

/// How messages name an object: `VirtualMachine lab/vm`.
pub(crate) fn shown(kind: &str, namespace: &str, name: &str) -> String {
    let kind = if kind.is_empty() { "object" } else { kind };
    let name = if name.is_empty() { "without a name" } else { name };
    let full = if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") };
    let of = |text: &str, most: usize| text.chars().take(most).collect::<String>().escape_debug().to_string();
    format!("{} {}", of(kind, MAX_SHOWN), of(&full, 2 * MAX_SHOWN))
}

#[derive(Default)]
struct About {
    kind: String,
    namespace: String,
    name: String,
}

/// An object in the question, by the keys that lead to it.
struct Part<'a> {
    about: &'a mut About,
    path: &'a str,
}

impl<'de> DeserializeSeed<'de> for Part<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Part<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            let path = format!("{}/{key}", self.path);
            match path.as_str() {
                "/request" | "/request/kind" | "/request/object" | "/request/object/metadata" => {
                    map.next_value_seed(Part { about: self.about, path: &path })?;
                }
                "/request/kind/kind" => self.about.kind = map.next_value()?,
                "/request/namespace" => self.about.namespace = map.next_value()?,
                "/request/name" => self.about.name = map.next_value()?,
                // An object that is made may have no name yet, or none in the request.
                "/request/object/metadata/name" | "/request/object/metadata/generateName"
                    if self.about.name.is_empty() =>
                {
                    self.about.name = map.next_value()?;
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// What of a name is shown, in characters.
const MAX_SHOWN: usize = 128;
