//! What wishes do to what is wanted: whose an object is, repeated wishes, and the sentences of refusals.

use std::path::Path;

use culvertd::change::{Change, Outcome, Refusal, Verb, admit, apply};
use culvertd::config::{Config, Keys, Kind, Machine, Objects, conflicts};
use proptest::prelude::*;

use crate::objects::{CONTROL_SOCKET, objects, read};

/// Network blue, ports vm-a and uplink0, and mirror watch from a file; port vm-b of a client.
fn start() -> Objects {
    let file = "[[network]]\nname = \"blue\"\n[[port]]\nname = \"vm-a\"\nnetwork = \"blue\"\nsocket = \"/a\"\nvlan = 10\n\
                [[port]]\nname = \"uplink0\"\nnetwork = \"blue\"\ndevice = \"net_null0\"\n\
                [[mirror]]\nname = \"watch\"\nfrom = [\"vm-a\"]\nto = \"uplink0\"\n";
    let machine = Machine { cores: [0].into(), memory_mb: 4096 };
    let file = Config::parse(file, "f.toml", &machine, &Objects::default()).unwrap().objects;
    file.with(read("[[port]]\nname = \"vm-b\"\nnetwork = \"blue\"\nsocket = \"/b\"\nmtu = 9000\n"))
}

fn keys(pairs: &[(&'static str, &str)]) -> Keys {
    pairs.iter().map(|(key, value)| (*key, (*value).to_owned())).collect()
}

fn add(kind: Kind, name: &str, pairs: &[(&'static str, &str)]) -> Change {
    Change { kind, name: name.to_owned(), verb: Verb::Add(keys(pairs)) }
}

fn set(name: &str, pairs: &[(&'static str, &str)], unset: &[&str]) -> Change {
    let unset = unset.iter().map(|key| (*key).to_owned()).collect();
    Change { kind: Kind::Port, name: name.to_owned(), verb: Verb::Set { keys: keys(pairs), unset } }
}

fn remove(kind: Kind, name: &str) -> Change {
    Change { kind, name: name.to_owned(), verb: Verb::Remove }
}

fn outcome(objects: &Objects, change: &Change) -> Result<Outcome, Refusal> {
    apply(objects, change, Path::new(CONTROL_SOCKET), "f.toml")
}

/// The refusal of a change: its kind and its sentences.
#[track_caller]
fn refused(objects: &Objects, change: &Change) -> (&'static str, String) {
    match outcome(objects, change).unwrap_err() {
        Refusal::Mistakes(mistakes) => {
            ("mistakes", mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        }
        Refusal::Exists(sentence) => ("exists", sentence),
        Refusal::Missing(sentence) => ("missing", sentence),
        Refusal::NotNow(sentence) => ("not now", sentence),
        Refusal::TooMany(sentence) => ("too many", sentence),
    }
}

const VM_C: [(&str, &str); 2] = [("network", "\"blue\""), ("socket", "\"/c\"")];

#[test]
fn adding_setting_and_removing() {
    let added = outcome(&start(), &add(Kind::Port, "vm-c", &VM_C)).unwrap();
    assert!(added.changed && added.note.is_empty());
    let again = outcome(&added.objects, &add(Kind::Port, "vm-c", &VM_C)).unwrap();
    let expected = Outcome { objects: added.objects, changed: false, note: "port vm-c was there already".to_owned() };
    assert_eq!(again, expected);

    let change = set("vm-c", &[("vlan", "10"), ("qinq", "true")], &[]);
    let set_once = outcome(&again.objects, &change).unwrap();
    assert_eq!(
        set_once.objects,
        start().with(read("[[port]]\nname = \"vm-c\"\nnetwork = \"blue\"\nsocket = \"/c\"\nvlan = 10\nqinq = true"))
    );
    assert!(set_once.changed && set_once.note.is_empty());
    let set_twice = outcome(&set_once.objects, &change).unwrap();
    assert_eq!((set_twice.changed, set_twice.note.as_str()), (false, "port vm-c was like that already"));
    let unset = outcome(&set_once.objects, &set("vm-c", &[], &["vlan", "qinq", "mtu"])).unwrap();
    assert_eq!(unset.objects, again.objects);

    let removed = outcome(&unset.objects, &remove(Kind::Port, "vm-c")).unwrap();
    assert_eq!((removed.objects.clone(), removed.changed), (start(), true));
    let gone = outcome(&removed.objects, &remove(Kind::Port, "vm-c")).unwrap();
    assert_eq!((gone.changed, gone.note.as_str()), (false, "there was no port vm-c"));
}

#[test]
fn networks_and_mirrors_change_as_well() {
    let green = outcome(&start(), &add(Kind::Network, "green", &[("snooping", "true")])).unwrap().objects;
    let change = Verb::Set { keys: keys(&[("mac_age", "\"5s\"")]), unset: vec!["snooping".to_owned()] };
    let green =
        outcome(&green, &Change { kind: Kind::Network, name: "green".to_owned(), verb: change }).unwrap().objects;
    assert_eq!(green, start().with(read("[[network]]\nname = \"green\"\nmac_age = \"5s\"")));
    assert_eq!(outcome(&green, &remove(Kind::Network, "green")).unwrap().objects, start());

    let mirror = [("from", "[\"vm-b\"]"), ("to", "\"uplink0\"")];
    let mirrored = outcome(&start(), &add(Kind::Mirror, "m", &mirror)).unwrap().objects;
    assert_eq!(mirrored.mirrors.len(), 2);
    assert_eq!(outcome(&mirrored, &remove(Kind::Mirror, "m")).unwrap().objects, start());
}

#[test]
fn a_pod_comes_and_goes() {
    let launcher = [("folders", "[\"/a\", \"/b\"]"), ("netns", "\"/n\""), ("tap", "\"tap0\"")];
    let known = outcome(&start(), &add(Kind::Pod, "launcher", &launcher)).unwrap();
    assert!(known.changed);
    let again = outcome(&known.objects, &add(Kind::Pod, "launcher", &launcher)).unwrap();
    assert_eq!((again.changed, again.note.as_str()), (false, "pod launcher was there already"));
    assert_eq!(
        outcome(&known.objects, &add(Kind::Pod, "launcher", &[("folders", "[\"/a\"]")])).unwrap_err(),
        Refusal::Exists(
            "there is a pod launcher with another folders, netns and tap; remove that one first: `culvertctl pod del \
             launcher`"
                .to_owned()
        )
    );
    assert_eq!(outcome(&known.objects, &remove(Kind::Pod, "launcher")).unwrap().objects, start());
    let gone = outcome(&start(), &remove(Kind::Pod, "launcher")).unwrap();
    assert_eq!((gone.changed, gone.note.as_str()), (false, "there was no pod launcher"));
}

/// What opens a port anew is said.
#[test]
fn who_sets_a_key_that_reopens_is_told() {
    let note =
        |pairs: &[(&'static str, &str)], unset: &[&str]| outcome(&start(), &set("vm-b", pairs, unset)).unwrap().note;
    assert_eq!(note(&[("queues", "2")], &[]), "port vm-b is opened anew: its guest has to connect again");
    assert_eq!(
        note(&[("device", "\"net_null1\"")], &["socket"]),
        "port vm-b is opened anew: its device is closed meanwhile"
    );
    assert_eq!(note(&[("isolated", "true")], &[]), "");
    assert_eq!(note(&[("description", "\"for people\"")], &[]), "");
    for place in [("socket_root", "\"/\""), ("owner", "\"107:107\""), ("label", "\"a:b:c\"")] {
        assert_eq!(note(&[place], &[]), "port vm-b is opened anew: its guest has to connect again", "{place:?}");
    }
}

#[test]
fn an_object_of_the_file_is_changed_in_the_file() {
    let remedy = "stands in f.toml:4; change it there and run `culvertctl reload`";
    let expected = ("not now", format!("port vm-a {remedy}"));
    assert_eq!(refused(&start(), &set("vm-a", &[("vlan", "11")], &[])), expected);
    assert_eq!(refused(&start(), &remove(Kind::Port, "vm-a")), expected);
    // To add what the file has already is no change.
    let same = [("network", "\"blue\""), ("socket", "\"/a\""), ("vlan", "10")];
    assert!(!outcome(&start(), &add(Kind::Port, "vm-a", &same)).unwrap().changed);
    assert_eq!(
        refused(&start(), &add(Kind::Port, "vm-a", &[("network", "\"blue\""), ("socket", "\"/a\""), ("mtu", "68"), ("isolated", "true")])),
        (
            "exists",
            "there is a port vm-a with another isolated, mtu and vlan; change it in f.toml:4 and run `culvertctl reload`"
                .to_owned()
        )
    );
    assert_eq!(
        refused(&start(), &add(Kind::Port, "vm-b", &[("network", "\"blue\""), ("socket", "\"/b\"")])),
        ("exists", "there is a port vm-b with another mtu; use `culvertctl port set vm-b`".to_owned())
    );
}

#[test]
fn mistakes_are_told_in_the_words_of_the_file() {
    let mistakes = |change: &Change, sentences: &str| {
        assert_eq!(refused(&start(), change), ("mistakes", sentences.to_owned()));
    };
    mistakes(
        &add(Kind::Port, "vm-c", &[("network", "\"bleu\""), ("socket", "\"/b\""), ("mtu", "9000")]),
        "port.network = \"bleu\": is no network; did you mean \"blue\"?\nport.socket = \"/b\": is the socket of port vm-b as \
         well, which was added at run time; give each port a socket of its own",
    );
    mistakes(
        &add(Kind::Port, "vm-c", &[("network", "\"blue\""), ("vlan", "0"), ("trunk", "[\"x\"]")]),
        "port.socket or device: is missing; add socket = \"/run/culvert/ports/vm-a/vhost.sock\" for a guest or device = \
         \"0000:03:00.0\" for a NIC\nport.vlan = 0: is out of range; write a number from 1 to 4094\nport.trunk = \"x\": is no \
         range of VLANs; write a number from 1 to 4094, or a range of them like \"30-39\"\nport.trunk = [\"x\"]: stands \
         beside vlan; keep vlan for one VLAN or trunk for several, not both",
    );
    mistakes(
        &add(Kind::Network, "../x", &[]),
        "network.name = \"../x\": is not a name; use 1 to 63 characters of a-z, 0-9 and -",
    );
    mistakes(
        &set("vm-b", &[], &["colour"]),
        "port.colour: is no key that culvertd knows here; see `culvertctl port set --help`",
    );
    mistakes(&set("vm-b", &[], &["network"]), "port.network: is missing; add a line such as network = \"blue\"");
    mistakes(
        &set("vm-b", &[("socket", "\"/run/c.sock\"")], &[]),
        "port.socket = \"/run/c.sock\": is the control socket; give the port a socket of its own",
    );
    // The one that is set is to blame, not the one that was added after it.
    let objects = outcome(&start(), &add(Kind::Port, "vm-c", &VM_C)).unwrap().objects;
    assert_eq!(
        refused(&objects, &set("vm-b", &[("socket", "\"/c\"")], &[])).1,
        "port.socket = \"/c\": is the socket of port vm-c as well, which was added at run time; give each port a socket of its own"
    );
}

#[test]
fn what_others_need_stays() {
    let needed = |objects: &Objects, change: &Change, sentence: &str| {
        assert_eq!(refused(objects, change), ("not now", sentence.to_owned()));
    };
    let green = outcome(&start(), &add(Kind::Network, "green", &[])).unwrap().objects;
    let mut objects = green;
    for number in 0..9 {
        let (name, socket) = (format!("g{number}"), format!("\"/g{number}\""));
        objects = outcome(&objects, &add(Kind::Port, &name, &[("network", "\"green\""), ("socket", &socket)]))
            .unwrap()
            .objects;
    }
    needed(
        &objects,
        &remove(Kind::Network, "green"),
        "network green is needed by port g0, port g1, port g2, port g3, port g4, port g5, port g6, port g7 and 1 more; remove \
         or change those first",
    );
    let nic = [("network", "\"blue\""), ("device", "\"net_null1\"")];
    let objects = outcome(&start(), &add(Kind::Port, "nic", &nic)).unwrap().objects;
    let objects = outcome(&objects, &set("vm-b", &[("follow_link", "\"nic\"")], &[])).unwrap().objects;
    needed(&objects, &remove(Kind::Port, "nic"), "port nic is needed by port vm-b; remove or change those first");
    needed(
        &objects,
        &set("nic", &[("socket", "\"/n\"")], &["device"]),
        "port nic cannot be so because of port vm-b, whose port.follow_link then is no port with a device; change that one first",
    );
    let mirror = [("from", "[\"vm-a\"]"), ("to", "\"nic\"")];
    let objects = outcome(&objects, &add(Kind::Mirror, "m", &mirror)).unwrap().objects;
    needed(
        &objects,
        &remove(Kind::Port, "nic"),
        "port nic is needed by port vm-b, mirror m; remove or change those first",
    );
}

#[test]
fn what_is_not_there_cannot_be_set() {
    let expected = ("missing", "there is no port vm-z; `culvertctl port list` shows the ports".to_owned());
    assert_eq!(refused(&start(), &set("vm-z", &[("vlan", "1")], &[])), expected);
}

#[test]
fn there_is_an_end_to_ports() {
    let mut text = "[[network]]\nname = \"blue\"\n".to_owned();
    for number in 0..1024 {
        text.push_str(&format!("[[port]]\nname = \"p{number}\"\nnetwork = \"blue\"\nsocket = \"/p{number}\"\n"));
    }
    let expected = ("too many", "there are 1024 ports already; remove one first".to_owned());
    assert_eq!(refused(&read(&text), &add(Kind::Port, "vm-c", &VM_C)), expected);
}

/// After a restart with another file, the file wins, and what hangs on a client's object that is left out goes with it.
#[test]
fn objects_that_do_not_fit_the_file_any_more_are_left_out() {
    let clients = read(
        "[[port]]\nname = \"vm-a\"\nnetwork = \"blue\"\nsocket = \"/x\"\n[[port]]\nname = \"vm-c\"\nnetwork = \"red\"\nsocket = \
         \"/c\"\n[[port]]\nname = \"vm-d\"\nnetwork = \"blue\"\nsocket = \"/d\"\n[[mirror]]\nname = \"m\"\nfrom = [\"vm-d\"]\nto = \
         \"vm-c\"\n",
    );
    let file = start().of_clients(false);
    let (objects, left_out) = admit(file.clone(), clients, Path::new(CONTROL_SOCKET));
    let kept = "[[port]]\nname = \"vm-d\"\nnetwork = \"blue\"\nsocket = \"/d\"\n";
    assert_eq!(objects, file.with(read(kept)));
    let about = "which was added at run time, does not fit the configuration file and is left out:";
    assert_eq!(
        left_out,
        [
            format!(
                "port vm-a, {about} port.name = \"vm-a\": is the port name of line 4 as well; give each port a name of its own"
            ),
            format!(
                "port vm-c, {about} port.network = \"red\": is no network; `culvertctl network list` shows the networks"
            ),
            format!("mirror m, {about} mirror.to = \"vm-c\": is no port; did you mean \"vm-a\"?"),
        ]
    );
}

proptest! {
    /// Whatever is wished for, what is wanted keeps the rules, and a wish that was fulfilled changes nothing a second time.
    #[test]
    fn wishes_keep_the_rules(objects in objects(), others in objects()) {
        let mut wanted = objects;
        for port in &others.ports {
            let keys: Keys = port.wanted.keys().into_iter().filter(|(key, _)| *key != "name").collect();
            let name = port.wanted.name.to_string();
            let add = Change { kind: Kind::Port, name: name.clone(), verb: Verb::Add(keys.clone()) };
            let set = Change { kind: Kind::Port, name: name.clone(), verb: Verb::Set { keys, unset: vec![] } };
            for change in [add, set, remove(Kind::Port, &name)] {
                if let Ok(outcome) = outcome(&wanted, &change) {
                    prop_assert!(conflicts(&outcome.objects, Path::new(CONTROL_SOCKET)).is_empty());
                    prop_assert_eq!(outcome.changed, outcome.objects != wanted);
                    wanted = outcome.objects;
                    let again = apply(&wanted, &change, Path::new(CONTROL_SOCKET), "f.toml").unwrap();
                    prop_assert!(!again.changed && again.objects == wanted);
                }
            }
        }
    }
}
