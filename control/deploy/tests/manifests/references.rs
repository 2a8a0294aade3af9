//! What one object says of another: names, selectors, ports, volumes.

use serde_json::Value;

use crate::files::root;
use crate::kustomize::{CLUSTER_SCOPED, build, kind, name};
use crate::objects::{images, object, overlays};
use crate::typed;

fn of_kind<'a>(objects: &'a [Value], wanted: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| kind(object) == wanted).collect()
}

fn workloads(objects: &[Value]) -> Vec<&Value> {
    objects.iter().filter(|object| ["DaemonSet", "Deployment"].contains(&kind(object))).collect()
}

fn list<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    value.pointer(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn containers(workload: &Value) -> Vec<&Value> {
    let paths = ["/spec/template/spec/initContainers", "/spec/template/spec/containers"];
    paths.iter().flat_map(|path| list(workload, path)).collect()
}

/// Whether all of a selector's labels are among these.
fn selects(selector: &Value, labels: &Value) -> bool {
    selector
        .as_object()
        .is_some_and(|wanted| !wanted.is_empty() && wanted.iter().all(|(key, value)| &labels[key] == value))
}

#[test]
fn every_overlay_is_of_known_keys_and_each_object_is_there_once() {
    for (overlay, objects) in overlays() {
        let mut seen = std::collections::BTreeSet::new();
        for object in &objects {
            typed::check(object).unwrap_or_else(|error| panic!("{overlay}: {}: {error}", name(object)));
            assert!(seen.insert((kind(object), name(object))), "{overlay}: {} is there twice", name(object));
            if !CLUSTER_SCOPED.contains(&kind(object)) {
                assert_eq!(object["metadata"]["namespace"], "culvert-system", "{overlay}: {}", name(object));
            }
        }
        for wanted in ["ConfigMap", "DaemonSet", "Deployment", "MutatingWebhookConfiguration", "Namespace", "Service"] {
            assert!(!of_kind(&objects, wanted).is_empty(), "{overlay}: no {wanted}");
        }
    }
    for folder in ["networks", "examples"] {
        build(&root().join(folder)).iter().for_each(|object| typed::check(object).unwrap());
    }
}

#[test]
fn selectors_find_the_pods_that_they_are_for() {
    for (overlay, objects) in overlays() {
        for workload in workloads(&objects) {
            let labels = &workload["spec"]["template"]["metadata"]["labels"];
            assert!(selects(&workload["spec"]["selector"]["matchLabels"], labels), "{overlay}: {}", name(workload));
        }
        let deployment = object(&objects, ("Deployment", "culvert-webhook"));
        let labels = &deployment["spec"]["template"]["metadata"]["labels"];
        let service = object(&objects, ("Service", "culvert-webhook"));
        assert!(selects(&service["spec"]["selector"], labels));
        let budget = object(&objects, ("PodDisruptionBudget", "culvert-webhook"));
        assert!(selects(&budget["spec"]["selector"]["matchLabels"], labels));
        let pods = workloads(&objects).into_iter().map(|workload| &workload["spec"]["template"]["metadata"]["labels"]);
        assert_eq!(pods.filter(|labels| selects(&service["spec"]["selector"], labels)).count(), 1, "{overlay}");
    }
}

#[test]
fn the_api_server_reaches_the_webhook() {
    for (overlay, objects) in overlays() {
        let deployment = object(&objects, ("Deployment", "culvert-webhook"));
        let container = containers(deployment)[0];
        for (kind, path) in
            [("MutatingWebhookConfiguration", "/mutate"), ("ValidatingWebhookConfiguration", "/validate")]
        {
            let configuration = object(&objects, (kind, "culvert-webhook"));
            let [webhook] = list(configuration, "/webhooks") else { panic!("{overlay}") };
            let to = &webhook["clientConfig"]["service"];
            assert_eq!((to["path"].as_str(), to["namespace"].as_str()), (Some(path), Some("culvert-system")));
            let service = object(&objects, ("Service", to["name"].as_str().unwrap()));
            let port = list(service, "/spec/ports").iter().find(|port| port["port"] == to["port"]).unwrap();
            let named = list(container, "/ports").iter().find(|named| named["name"] == port["targetPort"]).unwrap();
            assert_eq!(named["containerPort"], 8443);
            for probe in ["readinessProbe", "livenessProbe"] {
                let get = &container[probe]["httpGet"];
                assert_eq!((&get["port"], get["scheme"].as_str()), (&named["name"], Some("HTTPS")), "{probe}");
            }
            // Its certificate's authority is known in one of the two ways.
            let injected = configuration["metadata"]["annotations"]["cert-manager.io/inject-ca-from"].as_str();
            let written = webhook["clientConfig"]["caBundle"].as_str();
            assert!(injected == Some("culvert-system/culvert-webhook") || written.is_some(), "{overlay}: {kind}");
        }
    }
}

/// What has interfaces, the webhook is asked about; and of instances that run, it is not.
#[test]
fn the_webhook_is_asked_about_every_kind_with_interfaces() {
    let resource = |kind: &str| format!("{}s", kind.to_lowercase());
    for (_, objects) in overlays() {
        let configuration = object(&objects, ("ValidatingWebhookConfiguration", "culvert-webhook"));
        let rules = list(configuration, "/webhooks/0/rules");
        let operations = |group: &str, resource: &str| {
            let is_it = |rule: &&Value| {
                list(rule, "/apiGroups").iter().any(|known| known == group)
                    && list(rule, "/resources").iter().any(|known| known == resource)
            };
            rules.iter().find(is_it).unwrap_or_else(|| panic!("no rule for {resource}"))["operations"].clone()
        };
        for kind in culvert_convert::kinds::KINDS {
            let expected = match kind.name {
                "VirtualMachineInstance" => serde_json::json!(["CREATE"]),
                _ => serde_json::json!(["CREATE", "UPDATE"]),
            };
            assert_eq!(operations(kind.group, &resource(kind.name)), expected, "{}", kind.name);
        }
        operations("kubevirt.io", "kubevirts");
        assert_eq!(list(configuration, "/webhooks")[0]["failurePolicy"], "Ignore");
    }
}

#[test]
fn accounts_roles_configurations_and_secrets_that_are_named_are_there() {
    for (overlay, objects) in overlays() {
        let is_there = |wanted: &str, named: &str| {
            assert!(
                of_kind(&objects, wanted).iter().any(|object| name(object) == named),
                "{overlay}: {wanted} {named}"
            );
        };
        for workload in workloads(&objects) {
            let pod = &workload["spec"]["template"]["spec"];
            is_there("ServiceAccount", pod["serviceAccountName"].as_str().unwrap());
            for volume in list(pod, "/volumes") {
                if let Some(named) = volume["configMap"]["name"].as_str() {
                    is_there("ConfigMap", named);
                }
                if let Some(named) = volume["secret"]["secretName"].as_str() {
                    let by_certificate =
                        of_kind(&objects, "Certificate").iter().any(|it| it["spec"]["secretName"] == named);
                    if !by_certificate {
                        is_there("Secret", named);
                    }
                }
            }
        }
        for binding in of_kind(&objects, "ClusterRoleBinding") {
            is_there("ClusterRole", binding["roleRef"]["name"].as_str().unwrap());
            for subject in list(binding, "/subjects") {
                is_there("ServiceAccount", subject["name"].as_str().unwrap());
                assert_eq!(subject["namespace"], "culvert-system");
            }
        }
        for certificate in of_kind(&objects, "Certificate") {
            is_there("Issuer", certificate["spec"]["issuerRef"]["name"].as_str().unwrap());
        }
    }
}

#[test]
fn mounts_are_of_volumes_and_volumes_are_mounted() {
    for (overlay, objects) in overlays() {
        for workload in workloads(&objects) {
            let volumes: Vec<_> =
                list(workload, "/spec/template/spec/volumes").iter().map(|volume| &volume["name"]).collect();
            let containers = containers(workload);
            let mounts: Vec<_> = containers
                .iter()
                .flat_map(|container| list(container, "/volumeMounts"))
                .map(|mount| &mount["name"])
                .collect();
            for mount in &mounts {
                assert!(volumes.contains(mount), "{overlay}: {}: no volume {mount}", name(workload));
            }
            for volume in &volumes {
                assert!(mounts.contains(volume), "{overlay}: {}: nobody mounts {volume}", name(workload));
            }
        }
    }
}

#[test]
fn images_are_those_of_the_kustomization_in_one_version() {
    let images = images();
    for image in &images {
        assert_eq!(image.new_tag, env!("CARGO_PKG_VERSION"), "{}", image.name);
    }
    let expected: Vec<_> = images.iter().map(|image| format!("{}:{}", image.new_name, image.new_tag)).collect();
    for (overlay, objects) in overlays() {
        for workload in workloads(&objects) {
            for container in containers(workload) {
                let image = container["image"].as_str().unwrap().to_owned();
                assert!(expected.contains(&image), "{overlay}: {} has {image}", name(workload));
            }
        }
    }
}

#[test]
fn only_what_must_be_is_privileged() {
    for (overlay, objects) in overlays() {
        for workload in workloads(&objects) {
            for container in containers(workload) {
                let security = &container["securityContext"];
                let what = format!("{overlay}: {} {}", name(workload), container["name"]);
                assert_eq!(security["readOnlyRootFilesystem"], true, "{what}");
                assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault", "{what}");
                assert_eq!(security["capabilities"]["drop"], serde_json::json!(["ALL"]), "{what}");
                let is_daemon = name(workload) == "culvertd";
                let by_vfio = is_daemon && overlay == "full";
                assert_eq!(security["privileged"].as_bool().unwrap_or(false), by_vfio, "{what}");
                assert_eq!(security["allowPrivilegeEscalation"], by_vfio, "{what}");
                assert_eq!(list(security, "/capabilities/add").is_empty(), !is_daemon, "{what}");
            }
        }
    }
}
