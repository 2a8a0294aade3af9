//! What a client's wish to add, set or remove an object does to everything that is wanted, or why it is refused. Pure:
//! nothing is opened, kept or sent here. `node::live` calls it, keeps the result and brings it about.
//!
//! An object belongs to the file or to clients; a client changes only those of clients. To add what is there already and
//! to remove what is not is no error, so that a client may simply repeat a wish whose answer it missed.

use std::path::Path;

use culvert_switch::port::MAX_PORTS;

use crate::config::objects::{MAX_NETWORKS, MAX_PODS, Named};
use crate::config::{
    Attachment, Keys, Kind, Mirror, Mistake, Object, Objects, Origin, Port, conflicts, is_key, read_object,
};
use crate::name::Name;

/// A client's wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The kind of the object.
    pub kind: Kind,
    /// Its name, not checked yet.
    pub name: String,
    /// What is to be done.
    pub verb: Verb,
}

/// What a client wishes to be done with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// There shall be one with these keys; the name is not among them.
    Add(Keys),
    /// These keys shall have these values, and those of `unset` their defaults; the others stay.
    Set {
        /// The keys with a new value.
        keys: Keys,
        /// The keys without one.
        unset: Vec<String>,
    },
    /// There shall be none.
    Remove,
}

/// What a change leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What is wanted from now on.
    pub objects: Objects,
    /// Whether that is something else than before.
    pub changed: bool,
    /// What the client should know besides; empty when there is nothing.
    pub note: String,
}

/// Why a change is refused. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// What the client gave has mistakes.
    Mistakes(Vec<Mistake>),
    /// There is another object of that name.
    Exists(String),
    /// There is no object of that name.
    Missing(String),
    /// The object is the file's, or others need it.
    NotNow(String),
    /// There are as many as there can be.
    TooMany(String),
}

/// What `change` makes of `objects`. `file` is the configuration file's name, for messages.
///
/// # Errors
/// Any [`Refusal`].
pub fn apply(objects: &Objects, change: &Change, control_socket: &Path, file: &str) -> Result<Outcome, Refusal> {
    let kind = change.kind;
    let name = read_name(kind, &change.name)?;
    let existing = existing(objects, kind, &name);
    if let Some((_, Origin::File { line })) = existing
        && !matches!(&change.verb, Verb::Add(_))
    {
        let remedy = "change it there and run `culvertctl reload`";
        return Err(Refusal::NotNow(format!("{kind} {name} stands in {file}:{line}; {remedy}")));
    }
    match (&change.verb, existing) {
        (Verb::Add(keys), existing) => add(objects, kind, &name, keys, existing, control_socket, file),
        (Verb::Set { .. }, None) => {
            let list = format!("`culvertctl {kind} list` shows the {kind}s");
            Err(Refusal::Missing(format!("there is no {kind} {name}; {list}")))
        }
        (Verb::Set { keys, unset }, Some((before, _))) => {
            set(objects, kind, &name, &before, keys, unset, control_socket)
        }
        (Verb::Remove, None) => Ok(unchanged(objects, format!("there was no {kind} {name}"))),
        (Verb::Remove, Some(_)) => remove(objects, kind, &name),
    }
}

/// The objects of the file and those of clients that fit it, and a sentence for each of the others: after a restart the
/// file may be another one, and it wins.
pub fn admit(file: Objects, clients: Objects, control_socket: &Path) -> (Objects, Vec<String>) {
    let mut all = file.with(clients);
    let mut left_out = Vec::new();
    // The file comes first and is right by itself: the blame falls on a client's object. What is left out may leave others
    // without what they need.
    while let Some((kind, name, mistake)) = conflicts(&all, control_socket).into_iter().next() {
        if !all.remove_of_clients(kind, &name) {
            break;
        }
        left_out.push(format!(
            "{kind} {name}, which was added at run time, does not fit the configuration file and is left out: {mistake}"
        ));
    }
    (all, left_out)
}

fn unchanged(objects: &Objects, note: String) -> Outcome {
    Outcome { objects: objects.clone(), changed: false, note }
}

fn add(
    objects: &Objects,
    kind: Kind,
    name: &Name,
    keys: &Keys,
    existing: Option<(Keys, Origin)>,
    control_socket: &Path,
    file: &str,
) -> Result<Outcome, Refusal> {
    let new = read(kind, name, keys)?;
    if let Some((before, origin)) = existing {
        let differences = differences(&before, &keys_of(&new, kind, name));
        if differences.is_empty() {
            return Ok(unchanged(objects, format!("{kind} {name} was there already")));
        }
        let remedy = match origin {
            Origin::File { line } => format!("change it in {file}:{line} and run `culvertctl reload`"),
            Origin::Client if matches!(kind, Kind::Mirror | Kind::Pod) => {
                format!("remove that one first: `culvertctl {kind} del {name}`")
            }
            Origin::Client => format!("use `culvertctl {kind} set {name}`"),
        };
        let differences = match differences.as_slice() {
            [others @ .., last] if !others.is_empty() => format!("{} and {last}", others.join(", ")),
            one => one.concat(),
        };
        return Err(Refusal::Exists(format!("there is a {kind} {name} with another {differences}; {remedy}")));
    }
    let (count, most) = match kind {
        Kind::Network => (objects.networks.len(), MAX_NETWORKS),
        Kind::Port => (objects.ports.len(), MAX_PORTS),
        Kind::Mirror => (objects.mirrors.len(), MAX_NETWORKS),
        Kind::Pod => (objects.pods.len(), MAX_PODS),
    };
    if count >= most {
        return Err(Refusal::TooMany(format!("there are {most} {kind}s already; remove one first")));
    }
    let wanted = objects.clone().with(new);
    refuse_conflicts(&wanted, kind, name, control_socket)?;
    Ok(Outcome { objects: wanted, changed: true, note: String::new() })
}

fn set(
    objects: &Objects,
    kind: Kind,
    name: &Name,
    before: &Keys,
    keys: &Keys,
    unset: &[String],
    control_socket: &Path,
) -> Result<Outcome, Refusal> {
    if let Some(unknown) = unset.iter().find(|key| !is_key(kind, key)) {
        let problem = "is no key that culvertd knows here".to_owned();
        let remedy = format!("see `culvertctl {kind} set --help`");
        let key = format!("{kind}.{}", unknown.escape_debug());
        let mistake = Mistake { file: String::new(), line: None, key, value: None, problem, remedy };
        return Err(Refusal::Mistakes(vec![mistake]));
    }
    let is_given = |key: &str| keys.iter().any(|(given, _)| *given == key);
    let stays = |(key, _): &(&str, String)| *key != "name" && !is_given(key) && !unset.iter().any(|gone| gone == key);
    let after: Keys = before.iter().filter(|pair| stays(pair)).chain(keys).cloned().collect();
    let new = read(kind, name, &after)?;
    if keys_of(&new, kind, name) == *before {
        return Ok(unchanged(objects, format!("{kind} {name} was like that already")));
    }
    // The rules blame the later one of two: that must be this object.
    let moved = without(objects, kind, name).with(new.clone());
    refuse_conflicts(&moved, kind, name, control_socket)?;
    let mut wanted = objects.clone();
    let note = match kind {
        Kind::Network => {
            replace(&mut wanted.networks, new.networks);
            String::new()
        }
        Kind::Port => {
            let note = reopening(objects, &new, name);
            replace(&mut wanted.ports, new.ports);
            note
        }
        Kind::Mirror => {
            replace(&mut wanted.mirrors, new.mirrors);
            String::new()
        }
        Kind::Pod => {
            replace(&mut wanted.pods, new.pods);
            String::new()
        }
    };
    Ok(Outcome { objects: wanted, changed: true, note })
}

fn remove(objects: &Objects, kind: Kind, name: &Name) -> Result<Outcome, Refusal> {
    let users: Vec<String> = match kind {
        Kind::Network => {
            let ports = objects.ports.iter().filter(|port| port.wanted.network == *name);
            ports.map(|port| format!("port {}", port.wanted.name)).collect()
        }
        Kind::Port => {
            let follows = |port: &&Object<_>| follows(&port.wanted, name);
            let ports = objects.ports.iter().filter(follows).map(|port| format!("port {}", port.wanted.name));
            let uses = |mirror: &&Object<Mirror>| mirror.wanted.to == *name || mirror.wanted.from.contains(name);
            let mirrors = objects.mirrors.iter().filter(uses);
            ports.chain(mirrors.map(|mirror| format!("mirror {}", mirror.wanted.name))).collect()
        }
        Kind::Mirror | Kind::Pod => Vec::new(),
    };
    if !users.is_empty() {
        let shown = users.iter().take(MAX_SHOWN).cloned().collect::<Vec<_>>().join(", ");
        let more = users.len().saturating_sub(MAX_SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        return Err(Refusal::NotNow(format!("{kind} {name} is needed by {shown}{more}; remove or change those first")));
    }
    Ok(Outcome { objects: without(objects, kind, name), changed: true, note: String::new() })
}

fn follows(port: &Port, link: &Name) -> bool {
    matches!(&port.attachment, Attachment::Guest { follow_link: Some(other), .. } if other == link)
}

/// What a port's guest or device notices of a change.
fn reopening(objects: &Objects, new: &Objects, name: &Name) -> String {
    let (Some(before), Some(after)) = (objects.port(name), new.port(name)) else { return String::new() };
    match &after.wanted.attachment {
        _ if before.wanted.stays_open_as(&after.wanted) => String::new(),
        Attachment::Guest { .. } => format!("port {name} is opened anew: its guest has to connect again"),
        Attachment::Nic { .. } => format!("port {name} is opened anew: its device is closed meanwhile"),
    }
}

fn read_name(kind: Kind, name: &str) -> Result<Name, Refusal> {
    Name::parse(name).map_err(|_| {
        let problem = "is not a name".to_owned();
        let remedy = "use 1 to 63 characters of a-z, 0-9 and -".to_owned();
        let value = Some(format!("\"{}\"", name.chars().take(64).collect::<String>().escape_debug()));
        Refusal::Mistakes(vec![Mistake {
            file: String::new(),
            line: None,
            key: format!("{kind}.name"),
            value,
            problem,
            remedy,
        }])
    })
}

fn read(kind: Kind, name: &Name, keys: &Keys) -> Result<Objects, Refusal> {
    let named = std::iter::once(("name", format!("\"{name}\""))).chain(keys.iter().cloned()).collect();
    read_object(kind, &named).map_err(Refusal::Mistakes)
}

/// The object of that name, as keys.
fn existing(objects: &Objects, kind: Kind, name: &Name) -> Option<(Keys, Origin)> {
    match kind {
        Kind::Network => objects.network(name).map(|object| (object.wanted.keys(), object.origin)),
        Kind::Port => objects.port(name).map(|object| (object.wanted.keys(), object.origin)),
        Kind::Mirror => objects.mirror(name).map(|object| (object.wanted.keys(), object.origin)),
        Kind::Pod => objects.pod(name).map(|object| (object.wanted.keys(), object.origin)),
    }
}

fn keys_of(objects: &Objects, kind: Kind, name: &Name) -> Keys {
    existing(objects, kind, name).map(|(keys, _)| keys).unwrap_or_default()
}

/// The keys whose values differ.
fn differences(one: &Keys, other: &Keys) -> Vec<&'static str> {
    let mut keys: Vec<_> = one.iter().chain(other).map(|(key, _)| *key).collect();
    keys.sort_unstable();
    keys.dedup();
    let value = |of: &Keys, key| of.iter().find(|(other, _)| *other == key).map(|(_, value)| value.clone());
    keys.retain(|key| value(one, *key) != value(other, *key));
    keys
}

/// `objects` without one of them.
fn without(objects: &Objects, kind: Kind, name: &Name) -> Objects {
    let mut left = objects.clone();
    match kind {
        Kind::Network => left.networks.retain(|network| network.wanted.name != *name),
        Kind::Port => left.ports.retain(|port| port.wanted.name != *name),
        Kind::Mirror => left.mirrors.retain(|mirror| mirror.wanted.name != *name),
        Kind::Pod => left.pods.retain(|pod| pod.wanted.name != *name),
    }
    left
}

/// Puts each of `new` in the place of the object of its name.
fn replace<T: Named>(objects: &mut [Object<T>], new: Vec<Object<T>>) {
    for object in new {
        if let Some(place) = objects.iter_mut().find(|other| other.wanted.name() == object.wanted.name()) {
            *place = object;
        }
    }
}

/// Refuses what breaks a rule: with the mistakes of the object itself, or with what it does to another one.
fn refuse_conflicts(wanted: &Objects, kind: Kind, name: &Name, control_socket: &Path) -> Result<(), Refusal> {
    let (own, others): (Vec<_>, Vec<_>) =
        conflicts(wanted, control_socket).into_iter().partition(|(of, who, _)| *of == kind && who == name);
    if !own.is_empty() {
        return Err(Refusal::Mistakes(own.into_iter().map(|(_, _, mistake)| mistake).collect()));
    }
    let Some((of, who, Mistake { key, problem, .. })) = others.into_iter().next() else { return Ok(()) };
    let told = format!("{kind} {name} cannot be so because of {of} {who}, whose {key} then {problem}");
    Err(Refusal::NotNow(format!("{told}; change that one first")))
}

/// Objects that a refusal names at most.
const MAX_SHOWN: usize = 8;
