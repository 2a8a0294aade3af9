//! Secrets are left out of what others are to read.
//!
//! What is a secret is told by its key's name, by the marks of PEM, and by the place in a URL. Rather too much is left out than too little.

use toml::{Table, Value};

/// A configuration without secrets: comments go, and so do the values of keys whose name says that they are secret.
pub fn config(config: &str) -> String {
    let Ok(mut table) = config.parse::<Table>() else { return text(config) };
    leave_out(&mut table);
    toml::to_string(&table).unwrap_or_default()
}

fn leave_out(table: &mut Table) {
    for (key, value) in table.iter_mut() {
        if is_secret(key) {
            *value = Value::String(LEFT_OUT.to_owned());
        } else {
            leave_out_of(value);
        }
    }
}

fn leave_out_of(value: &mut Value) {
    match value {
        Value::String(string) => *string = text(string).trim_end_matches('\n').to_owned(),
        Value::Array(values) => values.iter_mut().for_each(leave_out_of),
        Value::Table(table) => leave_out(table),
        _ => {}
    }
}

/// A text without secrets. Of a line with a secret's name and a sign behind it, all that follows is left out.
pub fn text(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut in_pem = false;
    for line in text.lines() {
        if line.contains("-----BEGIN ") {
            in_pem = true;
            result.push_str(LEFT_OUT);
            result.push('\n');
        }
        if !in_pem {
            result.push_str(&self::line(line));
            result.push('\n');
        }
        if line.contains("-----END ") {
            in_pem = false;
        }
    }
    result
}

fn line(line: &str) -> String {
    let line = without_users(line);
    let lower = line.to_ascii_lowercase();
    let ends = SECRETS.iter().flat_map(|word| lower.match_indices(word)).filter_map(|(start, word)| {
        let behind = start.checked_add(word.len())?;
        let rest = lower.get(behind..)?;
        // The rest of the word, quotes and spaces, then a sign.
        let name = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"_-\"' ".contains(c))?;
        let sign = rest.get(name..)?.chars().next()?;
        matches!(sign, '=' | ':').then_some(behind.checked_add(name)?.checked_add(1)?)
    });
    // What follows is the secret, without a sign.
    let bearer = lower.find("bearer ").map(|start| start.saturating_add("bearer ".len()));
    match ends.chain(bearer).min() {
        Some(end) => format!("{} {LEFT_OUT}", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

/// Without what stands before the @ of a URL.
fn without_users(line: &str) -> String {
    let mut result = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, behind)) = rest.split_once("://") {
        result.push_str(before);
        result.push_str("://");
        let end = behind.find(|c: char| c.is_whitespace() || "/\"'".contains(c)).unwrap_or(behind.len());
        let (place, others) = behind.split_at(end);
        match place.rsplit_once('@') {
            Some((_, host)) => {
                result.push_str(LEFT_OUT);
                result.push('@');
                result.push_str(host);
            }
            None => result.push_str(place),
        }
        rest = others;
    }
    result.push_str(rest);
    result
}

fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    SECRETS.iter().any(|word| key.contains(word))
}

/// What names of secrets have in them.
const SECRETS: [&str; 9] =
    ["password", "passwd", "passphrase", "secret", "token", "credential", "private", "key", "authorization"];
const LEFT_OUT: &str = "(left out)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_left_out() {
        let hidden = "hunter2";
        for line in [
            "password = \"hunter2\"",
            "db_password=hunter2",
            "\"api_token\": \"hunter2\",",
            "Authorization: Bearer hunter2",
            "got bearer hunter2 from x",
            "eal = \"--secret=hunter2\"",
            "https://anna:hunter2@host/x",
            "https://anna:hun@ter@hunter2@host/x",
            "private-key: hunter2",
            "root=/dev/vda luks.key=hunter2",
            "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----",
        ] {
            let redacted = text(line);
            assert!(!redacted.contains(hidden), "{line}: {redacted}");
            assert!(redacted.contains(LEFT_OUT), "{line}: {redacted}");
        }
        assert!(!text("https://hunter2@host/x").contains(hidden));
        for line in ["port vm-a is open", "https://host/x@y", "key", "monkeys like tokens"] {
            assert_eq!(text(line), format!("{line}\n"));
        }
    }

    #[test]
    fn a_configuration_keeps_what_is_no_secret() {
        let before = "
            # The password is hunter2.
            [migration]
            key = \"/etc/hunter2.pem\"
            networks = [{ name = \"m\", auth_token = \"\"\"hunter2
            hunter2\"\"\" }]
            [[port]]
            name = \"vm-a\"
            device = \"net_x,password=hunter2\"
        ";
        let redacted = config(before);
        assert!(!redacted.contains("hunter2"), "{redacted}");
        assert!(redacted.contains("name = \"vm-a\"") && redacted.contains("name = \"m\""), "{redacted}");
        // One that is no TOML goes line by line.
        assert!(!config("[\npassword = hunter2").contains("hunter2"));
    }
}
