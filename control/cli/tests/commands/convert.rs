//! `culvertctl convert`, which needs no culvertd: what it prints and writes, and how it ends.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

const MACHINE: &str = "\
# Anna's.
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {name: vm, namespace: lab}
spec:
  template:
    spec:
      domain:
        devices:
          interfaces:
            - name: default
              passt: {} # the pod's
            - name: blue
              vhostuser: {}
      networks:
        - {name: default, pod: {}}
        - {name: blue, multus: {networkName: lab/blue}}
";

fn converted() -> String {
    MACHINE
        .replace("passt: {}", "binding: {name: culvert-translator}")
        .replace("vhostuser: {}", "binding: {name: culvert}")
}

const WARNING: &str = "14: warning: VirtualMachine lab/vm, interface blue: NetworkAttachmentDefinition lab/blue must be one \
                       for culvert-cni (control/deploy/networks)\n";

/// A folder with the machine in `vm.yaml`, and the same converted in `new.yaml`.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "vm.yaml", MACHINE);
    write(&folder, "new.yaml", &converted());
    folder
}

fn write(folder: &TempDir, name: &str, text: &str) {
    std::fs::write(folder.path().join(name), text).unwrap();
}

fn read(folder: &TempDir, name: &str) -> String {
    std::fs::read_to_string(folder.path().join(name)).unwrap()
}

/// Runs it in the folder: the exit code, what it printed, and what it told.
fn run(folder: &TempDir, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = command(folder.path(), arguments);
    told(&command.stdin(Stdio::null()).output().unwrap())
}

/// The same with `text` on its standard input.
fn piped(text: &[u8], arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = command(Path::new("/"), arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // One whose arguments are wrong ends without reading.
    if let Err(error) = child.stdin.take().unwrap().write_all(text) {
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    }
    told(&child.wait_with_output().unwrap())
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_culvertctl"));
    command.current_dir(folder).arg("convert").args(arguments);
    command
}

fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn standard_input_is_printed_converted() {
    for arguments in [&[][..], &["-"]] {
        let (code, printed, told) = piped(MACHINE.as_bytes(), arguments);
        assert_eq!((code, printed), (Some(0), converted()));
        assert_eq!(told, format!("culvertctl: standard input:{WARNING}"));
    }
    assert_eq!(piped(converted().as_bytes(), &[]), (Some(0), converted(), String::new()));
    assert_eq!(piped(b"", &[]), (Some(0), String::new(), String::new()));
}

#[test]
fn a_file_is_printed_and_stays() {
    let folder = folder();
    let (code, printed, told) = run(&folder, &["vm.yaml"]);
    assert_eq!((code, printed, told), (Some(0), converted(), format!("culvertctl: vm.yaml:{WARNING}")));
    assert_eq!(read(&folder, "vm.yaml"), MACHINE);
}

#[test]
fn a_diff_can_be_applied_by_patch() {
    let folder = folder();
    let (code, diff, _) = run(&folder, &["--diff", "vm.yaml", "new.yaml"]);
    assert_eq!(code, Some(0));
    assert_eq!(
        diff,
        "\
--- vm.yaml
+++ vm.yaml
@@ -9,9 +9,9 @@
         devices:
           interfaces:
             - name: default
-              passt: {} # the pod's
+              binding: {name: culvert-translator} # the pod's
             - name: blue
-              vhostuser: {}
+              binding: {name: culvert}
       networks:
         - {name: default, pod: {}}
         - {name: blue, multus: {networkName: lab/blue}}
"
    );
    assert_eq!(read(&folder, "vm.yaml"), MACHINE);
    write(&folder, "diff", &diff);
    let input = std::fs::File::open(folder.path().join("diff")).unwrap();
    let patched = Command::new("patch").args(["-s", "-p0"]).current_dir(&folder).stdin(input).status().unwrap();
    assert!(patched.success());
    assert_eq!(read(&folder, "vm.yaml"), converted());
}

#[test]
fn files_are_written_in_place_once() {
    let folder = folder();
    std::fs::set_permissions(folder.path().join("vm.yaml"), PermissionsExt::from_mode(0o640)).unwrap();
    symlink("vm.yaml", folder.path().join("link.yaml")).unwrap();
    let untouched = std::fs::metadata(folder.path().join("new.yaml")).unwrap().ino();

    let (code, printed, _) = run(&folder, &["-i", "link.yaml", "new.yaml"]);
    assert_eq!(code, Some(0));
    assert_eq!(
        printed,
        "link.yaml:12: VirtualMachine lab/vm, interface default: passt: {} -> binding: {name: culvert-translator}\n\
         link.yaml:14: VirtualMachine lab/vm, interface blue: vhostuser: {} -> binding: {name: culvert}\n"
    );
    assert_eq!(read(&folder, "vm.yaml"), converted());
    assert!(folder.path().join("link.yaml").is_symlink());
    assert_eq!(std::fs::metadata(folder.path().join("vm.yaml")).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(std::fs::metadata(folder.path().join("new.yaml")).unwrap().ino(), untouched, "nothing to write");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 3, "nothing is left behind");

    assert_eq!(run(&folder, &["-i", "-d", "vm.yaml"]), (Some(0), String::new(), String::new()));
}

#[test]
fn a_mistake_in_one_file_leaves_all_as_they_are_and_every_mistake_is_told() {
    let folder = folder();
    write(&folder, "broken.yaml", &MACHINE.replace("            - name: blue", "           - name: blue"));
    write(&folder, "two.yaml", &MACHINE.replace("vhostuser: {}", "vhostuser: {}\n              bridge: {}"));
    let (code, printed, told) = run(&folder, &["-i", "vm.yaml", "broken.yaml", "two.yaml", "absent.yaml"]);
    assert_eq!((code, printed.as_str()), (Some(1), ""));
    let lines: Vec<_> = told.lines().collect();
    assert!(lines[0].starts_with("culvertctl: broken.yaml:13:12: this is not YAML: "), "{told}");
    assert_eq!(
        lines[1..],
        [
            "culvertctl: two.yaml:14:15: VirtualMachine lab/vm, interface blue: vhostuser and bridge; leave one of them",
            "culvertctl: absent.yaml cannot be read: No such file or directory (os error 2)"
        ]
    );
    assert_eq!(read(&folder, "vm.yaml"), MACHINE);
    let (code, _, told) = piped(b"kind: \xff", &[]);
    assert_eq!((code, told.as_str()), (Some(1), "culvertctl: standard input:1:7: this is not UTF-8\n"));
}

#[test]
fn check_tells_by_its_exit_code() {
    let folder = folder();
    let (code, printed, _) = run(&folder, &["--check", "new.yaml", "vm.yaml"]);
    assert_eq!((code, printed.lines().count()), (Some(4), 2));
    assert_eq!(run(&folder, &["--check", "new.yaml"]), (Some(0), String::new(), String::new()));
    assert_eq!(read(&folder, "vm.yaml"), MACHINE);
}

#[test]
fn json_for_programs() {
    let folder = folder();
    let (code, printed, _) = run(&folder, &["-o", "json", "vm.yaml", "new.yaml"]);
    assert_eq!(code, Some(0));
    let report: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((&report[0]["file"], &report[0]["changed"]), (&"vm.yaml".into(), &true.into()));
    assert_eq!((&report[1]["file"], &report[1]["changed"]), (&"new.yaml".into(), &false.into()));
    assert_eq!(
        report[0]["changes"][1],
        serde_json::json!({
            "line": 14, "object": "VirtualMachine lab/vm", "interface": "blue", "from": "vhostuser: {}", "binding": "culvert",
        })
    );
    assert_eq!(report[0]["warnings"][0]["line"], 14);
    assert!(report[0]["diff"].as_str().unwrap().starts_with("--- vm.yaml\n"));
}

#[test]
fn bindings_may_have_other_names() {
    let arguments = ["--translator-binding=own-l4", "--vhostuser-binding", "own", "--all-passt"];
    let text = MACHINE.replace("vhostuser: {}", "binding: {name: passt}");
    let (code, printed, _) = piped(text.as_bytes(), &arguments);
    assert_eq!(code, Some(0));
    assert_eq!(printed, text.replace("passt: {}", "binding: {name: own-l4}").replace("name: passt", "name: own-l4"));
    let (code, _, told) = piped(text.as_bytes(), &["--vhostuser-binding", "No"]);
    let expected = "culvertctl: --vhostuser-binding: \"No\" is no name of a binding: use lower case letters, digits and \
                    dashes, with a letter first\n";
    assert_eq!((code, told.as_str()), (Some(1), expected));
}

#[test]
fn wrong_command_lines() {
    let folder = folder();
    for (arguments, expected) in [
        (
            &["vm.yaml", "new.yaml"][..],
            "error: several files would be printed as one: add --diff, --in-place or --check\n",
        ),
        (&["-i"], "error: --in-place needs files: standard input cannot be written\n"),
        (&["-i", "vm.yaml", "-"], "error: --in-place needs files: standard input cannot be written\n"),
        (&["--check", "-i", "vm.yaml"], "error: the argument '--check' cannot be used with '--in-place'\n"),
    ] {
        let (code, _, told) = run(&folder, arguments);
        assert_eq!(code, Some(2), "{arguments:?}");
        assert!(told.starts_with(expected) && told.contains("Usage: culvertctl convert"), "{arguments:?}: {told}");
    }
    assert_eq!(read(&folder, "vm.yaml"), MACHINE);
}
