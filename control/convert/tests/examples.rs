//! Texts and what becomes of them: `tests/data/odd` has one text for each thing that a file may have, and beside it what is
//! expected (as [`told`] has it); `tests/data/seeds` has the examples from KubeVirt's own designs and guides.
#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::fmt::Write;
use std::path::{Path, PathBuf};

use culvert_convert::{Conversion, Fault, Wish, convert};
use serde::Deserialize;
use serde_json::{Value, json};
use similar::TextDiff;

fn data(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(folder)
}

fn seed(name: &str) -> String {
    std::fs::read_to_string(data("seeds").join(name).with_extension("yaml")).unwrap()
}

fn converted(text: &str) -> Conversion {
    convert(text.as_bytes(), &Wish::default()).unwrap()
}

/// What a conversion tells, and a diff.
fn told(before: &str, result: &Result<Conversion, Fault>) -> String {
    let Conversion { text, changes, warnings } = match result {
        Ok(conversion) => conversion,
        Err(fault) => return format!("fault {fault}\n"),
    };
    let mut told = String::new();
    for change in changes {
        writeln!(
            told,
            "change {}: {}, interface {}: {} -> {}",
            change.line, change.object, change.interface, change.from, change.binding
        )
        .unwrap();
    }
    for warning in warnings {
        writeln!(told, "warning {}: {}", warning.line, warning.text).unwrap();
    }
    told + &TextDiff::from_lines(before, text).unified_diff().context_radius(0).to_string()
}

/// The documents of a text, as another parser sees them; an error where one is nothing that JSON can say.
fn documents(text: &str) -> Result<Vec<Value>, serde_json::Error> {
    let documents = serde_norway::Deserializer::from_str(text.trim_start_matches('\u{feff}'));
    documents
        .map(|document| {
            let mut value = serde_norway::Value::deserialize(document).unwrap();
            value.apply_merge().unwrap();
            serde_json::to_value(value)
        })
        .collect()
}

/// What a document should become: in the interfaces that were changed the old keys are replaced.
fn expected(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(expected),
        Value::Object(entries) => {
            entries.values_mut().for_each(expected);
            for (old, binding) in [("passt", "culvert-translator"), ("vhostuser", "culvert")] {
                if entries.get(old) == Some(&json!({})) {
                    entries.remove(old);
                    entries.insert("binding".to_owned(), json!({"name": binding}));
                }
            }
        }
        _ => {}
    }
}

#[test]
fn odd_texts_become_what_is_expected() {
    let (mut texts, mut compared) = (0, 0);
    let mut wrong = String::new();
    for entry in std::fs::read_dir(data("odd")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        texts += 1;
        let before = std::fs::read_to_string(&path).unwrap();
        let result = convert(before.as_bytes(), &Wish::default());
        let told = told(&before, &result);
        let expectation = path.with_extension("expected");
        if std::env::var_os("WRITE_EXPECTED").is_some() {
            std::fs::write(&expectation, &told).unwrap();
        }
        if std::fs::read_to_string(&expectation).unwrap_or_default() != told {
            writeln!(wrong, "{}:\n{told}", path.display()).unwrap();
        }
        let Ok(first) = result else { continue };
        let second = converted(&first.text);
        assert_eq!((second.text.as_str(), second.changes.len()), (first.text.as_str(), 0), "{}", path.display());
        // Another parser sees the same change and no other.
        if let (false, Ok(mut wanted)) = (first.changes.is_empty(), documents(&before)) {
            wanted.iter_mut().for_each(expected);
            assert_eq!(documents(&first.text).unwrap(), wanted, "{}", path.display());
            compared += 1;
        }
    }
    assert!(texts > 35 && compared > 20, "{compared} of {texts} texts were compared");
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn passts_other_bindings_are_converted_when_that_is_wished() {
    let before = std::fs::read_to_string(data("odd/other-passt-bindings.yaml")).unwrap();
    let wish = Wish { all_passt: true, ..Wish::default() };
    let conversion = convert(before.as_bytes(), &wish).unwrap();
    let wanted = before
        .replace("{name: passt}", "{name: culvert-translator}")
        .replace("passtBinding: {}", "binding: {name: culvert-translator}")
        .replace("'passt'", "'culvert-translator'");
    assert_eq!(conversion.text, wanted);
    assert_eq!((conversion.changes.len(), conversion.warnings.len()), (3, 0));
}

/// In the designs' examples dots stand for what was left out; they are no YAML where they stand.
const LEFT_OUT: &str = "  ...\n";

#[test]
fn examples_with_dots_are_refused_with_their_line() {
    for (name, line) in [("passt-old-api", 16), ("passt-plugin", 17), ("passt-feature-gate", 11)] {
        let fault = convert(seed(name).as_bytes(), &Wish::default()).unwrap_err();
        assert!(fault.text.starts_with("this is not YAML: "), "{fault}");
        assert!((line..=line + 1).contains(&fault.line), "{name}: {fault}");
    }
}

#[test]
fn the_old_api_becomes_the_binding() {
    let before = seed("passt-old-api").replace(LEFT_OUT, "");
    let conversion = converted(&before);
    assert_eq!(conversion.text, before.replace("passt: {}", "binding: {name: culvert-translator}"));
    assert_eq!(conversion.changes[0].object, "VirtualMachine myvm");
    assert_eq!((conversion.changes.len(), conversion.warnings), (1, vec![]));
}

#[test]
fn a_part_of_a_machine_is_refused_and_the_whole_converted() {
    let part = seed("vhostuser-part");
    assert!(convert(part.as_bytes(), &Wish::default()).is_err());
    let head = "apiVersion: kubevirt.io/v1\nkind: VirtualMachine\nspec:\n  template:\n    spec:\n      domain:\n        devices:\n";
    let before = format!("{head}{part}");
    let conversion = converted(&before);
    assert_eq!(conversion.text, before.replace("vhostuser: {}", "binding: {name: culvert}"));
    assert_eq!(conversion.changes[0].interface, "vhost-user-vn-blue");
    assert!(conversion.warnings[0].text.contains("NetworkAttachmentDefinition vn-blue"), "{conversion:?}");
}

#[test]
fn what_uses_the_plugin_stays_unless_all_is_wished() {
    for name in ["passt-plugin", "passt-plugin-running", "passt-plugin-ports"] {
        let before = seed(name).replace(LEFT_OUT, "");
        let conversion = converted(&before);
        assert_eq!((conversion.text.as_str(), conversion.changes.len()), (before.as_str(), 0), "{name}");
        assert!(conversion.warnings[0].text.contains("--all-passt"), "{name}");
        let all = convert(before.as_bytes(), &Wish { all_passt: true, ..Wish::default() }).unwrap();
        assert_eq!(all.text, before.replace("name: passt\n", "name: culvert-translator\n"), "{name}");
    }
}

#[test]
fn kubevirts_configuration_stays_with_a_word_about_the_feature_gate() {
    let before = seed("passt-feature-gate").replace(LEFT_OUT, "");
    let conversion = converted(&before);
    assert_eq!(conversion.text, before);
    assert_eq!(conversion.warnings[0].line, 10);
    let plugin = seed("passt-plugin-registered").replace(LEFT_OUT, "");
    assert_eq!(converted(&plugin), Conversion { text: plugin, ..Conversion::default() });
}
