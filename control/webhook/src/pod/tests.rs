//! Pods as KubeVirt makes them, before and after.

use culvert_cni::config::settings::Role;
use proptest::prelude::*;

use super::*;

fn launcher() -> Value {
    serde_json::from_str(include_str!("../../tests/data/virt-launcher.json")).unwrap()
}

fn sidecars() -> Sidecars {
    Sidecars { bindings: vec!["culvert".to_owned(), "culvert-translator".to_owned()], images: vec![] }
}

/// No sidecar is ours then.
fn no_sidecars() -> Sidecars {
    Sidecars { bindings: vec![], images: vec![] }
}

fn interface(name: &str, attachment: Attachment) -> Interface {
    Interface { name: name.to_owned(), attachment }
}

fn in_volume(name: &str, volume: &str, role: Role) -> Interface {
    let path = if volume == "shared-dir" { "/var/lib/cni/usrcni".to_owned() } else { format!("/var/lib/cni/{volume}") };
    interface(name, Attachment::Vhostuser { folder: Folder::Volume { name: volume.to_owned(), path }, role, queues: 4 })
}

fn by_device(name: &str, network: &str) -> Interface {
    interface(name, Attachment::Vhostuser { folder: Folder::Device(network.to_owned()), role: Role::Listen, queues: 4 })
}

fn edited(mut pod: Value, interfaces: &[Interface], sidecars: &Sidecars) -> Value {
    assert_eq!(edit(&mut pod, interfaces, sidecars), Vec::<String>::new());
    pod
}

fn volume<'a>(pod: &'a Value, name: &str) -> Option<&'a Value> {
    pod["spec"]["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == name)
}

fn mount(pod: &Value, of: &str, volume: &str) -> Option<String> {
    mount_of(container(pod, of).unwrap(), volume).map(str::to_owned)
}

fn variable(pod: &Value, of: &str) -> Option<Value> {
    let variables = container(pod, of).unwrap()["env"].as_array().unwrap();
    let found: Vec<_> = variables.iter().filter(|variable| variable["name"] == INTERFACES).collect();
    assert!(found.len() <= 1, "{found:?}");
    found.first().map(|variable| serde_json::from_str(variable["value"].as_str().unwrap()).unwrap())
}

#[test]
fn a_vhostuser_interface_without_device_plugin_gets_the_seeds_volumes() {
    let pod = edited(launcher(), &[in_volume("pod494bb167e44", "shared-dir", Role::Connect)], &sidecars());

    assert_eq!(volume(&pod, "shared-dir"), Some(&json!({"name": "shared-dir", "emptyDir": {}})));
    let item = |name: &str| json!({"path": name, "fieldRef": {"fieldPath": format!("metadata.{name}")}});
    let downward = json!({"name": "podinfo", "downwardAPI": {"items": [item("labels"), item("annotations")]}});
    assert_eq!(volume(&pod, "podinfo"), Some(&downward));
    for container in ["compute", "hook-sidecar-0", "hook-sidecar-1"] {
        assert_eq!(mount(&pod, container, "shared-dir").as_deref(), Some("/var/lib/cni/usrcni"), "{container}");
        assert_eq!(mount(&pod, container, "podinfo").as_deref(), Some("/etc/podnetinfo"), "{container}");
    }
    assert_eq!(mount(&pod, "hook-sidecar-2", "shared-dir"), None, "not ours");
    let expected = json!({"pod494bb167e44": {"folder": "/var/lib/cni/usrcni", "role": "connect", "queues": 4}});
    assert_eq!(variable(&pod, "hook-sidecar-0"), Some(expected));
    assert_eq!(variable(&pod, "compute"), None);
    assert_eq!(variable(&pod, "hook-sidecar-2"), None);
}

#[test]
fn a_vhostuser_interface_with_device_plugin_needs_no_volume() {
    let pod = edited(
        launcher(),
        &[by_device("pod494bb167e44", "blue")],
        &Sidecars { bindings: vec!["culvert".to_owned()], images: vec![] },
    );
    assert_eq!(pod["spec"]["volumes"], launcher()["spec"]["volumes"]);
    let expected = json!({"pod494bb167e44": {"folder": "/var/run/culvert/blue", "role": "listen", "queues": 4}});
    assert_eq!(variable(&pod, "hook-sidecar-0"), Some(expected));
}

#[test]
fn the_translators_binding_gets_its_volume_whether_it_has_a_definition_or_not() {
    let with_definition = edited(launcher(), &[interface("net1", Attachment::Translator)], &no_sidecars());
    assert_eq!(mount(&with_definition, "hook-sidecar-1", "culvert-translator"), None);
    let without = edited(launcher(), &[], &sidecars());
    for (pod, containers) in
        [(with_definition, &["compute"][..]), (without, &["compute", "hook-sidecar-0", "hook-sidecar-1"])]
    {
        let empty = json!({"name": "culvert-translator", "emptyDir": {}});
        assert_eq!(volume(&pod, "culvert-translator"), Some(&empty));
        for container in containers {
            let path = mount(&pod, container, "culvert-translator");
            assert_eq!(path.as_deref(), Some("/var/run/culvert-translator"), "{container}");
        }
        assert_eq!(volume(&pod, "shared-dir"), None);
        assert_eq!(mount(&pod, "hook-sidecar-2", "culvert-translator"), None);
    }
}

#[test]
fn doing_it_twice_is_doing_it_once() {
    let interfaces = [
        in_volume("a", "shared-dir", Role::Listen),
        in_volume("b", "other", Role::Listen),
        by_device("c", "blue"),
        interface("net4", Attachment::Translator),
    ];
    let once = edited(launcher(), &interfaces, &sidecars());
    assert_eq!(edited(once.clone(), &interfaces, &sidecars()), once);
    assert_eq!(mount(&once, "compute", "other").as_deref(), Some("/var/lib/cni/other"));
}

#[test]
fn what_is_said_of_interfaces_follows_when_another_webhook_has_changed_them() {
    let once = edited(launcher(), &[in_volume("a", "shared-dir", Role::Listen)], &sidecars());
    let twice = edited(once, &[in_volume("b", "shared-dir", Role::Listen)], &sidecars());
    let expected = json!({"b": {"folder": "/var/lib/cni/usrcni", "role": "listen", "queues": 4}});
    assert_eq!(variable(&twice, "hook-sidecar-0"), Some(expected));
}

#[test]
fn volumes_and_mounts_that_are_there_stay_and_are_told_to_the_sidecar() {
    let mut pod = launcher();
    let own = json!({"name": "shared-dir", "hostPath": {"path": "/var/lib/vhost"}});
    pod["spec"]["volumes"].as_array_mut().unwrap().push(own.clone());
    let own_mount = json!({"name": "shared-dir", "mountPath": "/var/lib/cni/usrspcni"});
    pod["spec"]["containers"][0]["volumeMounts"].as_array_mut().unwrap().push(own_mount);

    let pod = edited(pod, &[in_volume("a", "shared-dir", Role::Listen)], &sidecars());
    assert_eq!(volume(&pod, "shared-dir"), Some(&own));
    assert_eq!(mount(&pod, "hook-sidecar-0", "shared-dir").as_deref(), Some("/var/lib/cni/usrspcni"));
    let expected = json!({"a": {"folder": "/var/lib/cni/usrspcni", "role": "listen", "queues": 4}});
    assert_eq!(variable(&pod, "hook-sidecar-0"), Some(expected));
}

#[test]
fn a_place_that_another_volume_has_is_left_to_it_and_said() {
    let mut pod = launcher();
    let other = json!({"name": "mine", "mountPath": "/var/lib/cni/usrcni/"});
    pod["spec"]["containers"][0]["volumeMounts"].as_array_mut().unwrap().push(other);
    let undone = edit(&mut pod, &[in_volume("a", "shared-dir", Role::Listen)], &sidecars());
    assert_eq!(undone.len(), 1, "{undone:?}");
    assert!(undone[0].contains("container compute has another volume at /var/lib/cni/usrcni"), "{undone:?}");
    assert_eq!(mount(&pod, "compute", "shared-dir"), None);
}

#[test]
fn a_pod_of_which_nothing_is_ours_stays_as_it_is() {
    for interfaces in [vec![], vec![interface("net1", Attachment::Other)]] {
        assert_eq!(edited(launcher(), &interfaces, &no_sidecars()), launcher());
    }
}

#[test]
fn pods_of_other_shapes_stay_as_they_are() {
    let shapes = [
        json!(null),
        json!([]),
        json!({"spec": 1}),
        json!({"spec": {"containers": {"name": "compute"}}}),
        json!({"spec": {"containers": [1, null, {"name": 7}]}}),
    ];
    for shape in shapes {
        assert_eq!(edited(shape.clone(), &[in_volume("a", "shared-dir", Role::Listen)], &sidecars()), shape);
    }
    // What the API server would refuse anyway does not stop the rest.
    let odd = json!({"spec": {"volumes": "x", "containers": [{"name": "compute", "volumeMounts": 3, "env": {}}]}});
    assert_eq!(edited(odd.clone(), &[in_volume("a", "shared-dir", Role::Listen)], &sidecars()), odd);
}

#[test]
fn lists_that_are_not_there_are_made() {
    let bare = json!({"spec": {"containers": [{"name": "compute"}]}});
    let pod = edited(bare, &[in_volume("a", "shared-dir", Role::Listen)], &sidecars());
    assert_eq!(pod["spec"]["volumes"].as_array().unwrap().len(), 2);
    assert_eq!(mount(&pod, "compute", "podinfo").as_deref(), Some("/etc/podnetinfo"));
}

#[test]
fn one_volume_is_at_one_place_whatever_two_definitions_say() {
    let mut second = in_volume("b", "shared-dir", Role::Connect);
    if let Attachment::Vhostuser { folder: Folder::Volume { path, .. }, .. } = &mut second.attachment {
        *path = "/var/lib/cni/usrspcni".to_owned();
    }
    let pod = edited(launcher(), &[in_volume("a", "shared-dir", Role::Listen), second], &sidecars());
    let expected = json!({
        "a": {"folder": "/var/lib/cni/usrcni", "role": "listen", "queues": 4},
        "b": {"folder": "/var/lib/cni/usrcni", "role": "connect", "queues": 4},
    });
    assert_eq!(variable(&pod, "hook-sidecar-0"), Some(expected));
}

/// JSON that often has the keys and names that matter here.
fn json_like_a_pod() -> impl Strategy<Value = Value> {
    const WORDS: &[&str] =
        &["compute", "hook-sidecar-0", "shared-dir", "podinfo", "culvert", "CULVERT_INTERFACES", "x"];
    const KEYS: &[&str] =
        &["spec", "containers", "volumes", "volumeMounts", "env", "name", "mountPath", "value", "image"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        proptest::sample::select(WORDS).prop_map(Value::from),
    ];
    let tree = leaf.prop_recursive(6, 64, 6, |inner| {
        let object = prop::collection::vec((proptest::sample::select(KEYS), inner.clone()), 0..6);
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(Value::from),
            object.prop_map(|pairs| Value::Object(
                pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
            )),
        ]
    });
    (tree.clone(), tree.clone(), tree).prop_map(|(containers, mounts, volumes)| {
        let compute = json!({"name": "compute", "volumeMounts": mounts, "env": containers});
        json!({"spec": {"containers": [compute, containers], "volumes": volumes}})
    })
}

proptest! {
    /// Whatever the pod is: nothing that was there goes (but a variable of ours), and twice is once.
    #[test]
    fn any_pod_can_be_edited_and_stays_so(pod in json_like_a_pod()) {
        let interfaces = [in_volume("a", "shared-dir", Role::Listen), interface("net2", Attachment::Translator)];
        let mut once = pod.clone();
        edit(&mut once, &interfaces, &sidecars());
        let mut twice = once.clone();
        edit(&mut twice, &interfaces, &sidecars());
        prop_assert_eq!(&once, &twice);
        let before = pod["spec"]["volumes"].as_array().map_or(&[][..], Vec::as_slice);
        let after = once["spec"]["volumes"].as_array().map_or(&[][..], Vec::as_slice);
        prop_assert!(after.starts_with(before));
        let mut patched = pod.clone();
        json_patch::patch(&mut patched, &json_patch::diff(&pod, &once)).unwrap();
        prop_assert_eq!(patched, once);
    }
}
