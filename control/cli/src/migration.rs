//! `culvertctl migration listen`, `connect`, `rate`, `list`, `show` and `del`: the migration proxy of a host without KubeVirt.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use culvert_api::v1;
use serde::{Deserialize, Serialize};

use crate::arguments::{Format, MigrationCommand};
use crate::client::{MigrationClient, refusal};
use crate::output::Align::{Left, Right};
use crate::output::{or_dash, pairs, table};

/// What `listen` prints as JSON and `connect --target` reads: the words of KubeVirt's migration state.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Target {
    target_node_address: String,
    /// The channel of each port.
    target_direct_migration_node_ports: BTreeMap<String, u32>,
}

/// A migration as `list` and `show` print it.
#[derive(Serialize)]
struct Migration {
    name: String,
    role: &'static str,
    network: String,
    address: String,
    ports: BTreeMap<u32, u32>,
    connections: u32,
    connections_total: u64,
    sent_bytes: u64,
    received_bytes: u64,
    sent_bits_per_second: u64,
    received_bits_per_second: u64,
    limit_bits_per_second: Option<u64>,
    error: Option<String>,
}

/// What `connect` prints as JSON.
#[derive(Serialize)]
struct Connected {
    sockets: BTreeMap<u32, String>,
    virsh: String,
}

/// Does what the command says.
pub async fn run(client: &mut MigrationClient, command: MigrationCommand, format: Format) -> Result<String> {
    match command {
        MigrationCommand::Listen { migration, libvirt, disks } => {
            listen(client, migration, libvirt, disks, format).await
        }
        MigrationCommand::Connect { migration, target, address, ports, rate } => {
            let target = match (target, address) {
                (Some(path), None) => Target::read(&path)?,
                (None, Some(address)) => Target::of(address, &ports)?,
                _ => bail!("say where to: --target FILE, or --address ADDRESS and --port PORT=CHANNEL"),
            };
            connect(client, migration, target, rate, format).await
        }
        MigrationCommand::Rate { migration, rate } => {
            let shown = rate.clone();
            let rate = (rate != "none").then_some(rate);
            let request = v1::SetMigrationRateRequest { name: migration.clone(), rate };
            client.set_migration_rate(request).await.map_err(|status| refusal(&status))?;
            done(
                format!(
                    "migration {migration} may send {}",
                    if shown == "none" { "as fast as it goes" } else { &shown }
                ),
                format,
            )
        }
        MigrationCommand::List => list(client, format).await,
        MigrationCommand::Show { migration } => show(client, &migration, format).await,
        MigrationCommand::Del { migration } => {
            let request = v1::RemoveMigrationRequest { name: migration.clone() };
            client.remove_migration(request).await.map_err(|status| refusal(&status))?;
            done(format!("migration {migration} removed"), format)
        }
    }
}

fn done(sentence: String, format: Format) -> Result<String> {
    match format.data() {
        None => Ok(sentence + "\n"),
        Some(data) => data.text(&BTreeMap::from([("done", sentence)])),
    }
}

async fn listen(
    client: &mut MigrationClient,
    migration: String,
    libvirt: Option<PathBuf>,
    disks: bool,
    format: Format,
) -> Result<String> {
    let libvirt = match libvirt {
        Some(path) => path,
        None => LIBVIRT.iter().map(PathBuf::from).find(|path| path.exists()).ok_or_else(|| {
            anyhow!(
                "libvirt does not run here: there is none of {}; name its socket with --libvirt",
                LIBVIRT.join(", ")
            )
        })?,
    };
    let socket = |channel, path: &Path| v1::MigrationSocket { channel, path: path.to_string_lossy().into_owned() };
    let mut targets = vec![socket(CONTROL, &libvirt), socket(MEMORY, Path::new(""))];
    if disks {
        targets.push(socket(DISKS, Path::new("")));
    }
    let request = v1::ListenMigrationRequest { name: migration.clone(), targets };
    let answer = client.listen_migration(request).await.map_err(|status| refusal(&status))?.into_inner();
    let ports = answer.ports.iter().map(|(port, channel)| (port.to_string(), *channel)).collect();
    let target = Target { target_node_address: answer.address, target_direct_migration_node_ports: ports };
    match format.data() {
        Some(data) => data.text(&target),
        None => Ok(format!(
            "migration {migration} may come by network {}; on the host that it leaves:\n  culvertctl migration connect {migration} {}\n",
            answer.network,
            target.as_arguments()
        )),
    }
}

async fn connect(
    client: &mut MigrationClient,
    migration: String,
    target: Target,
    rate: Option<String>,
    format: Format,
) -> Result<String> {
    let address = target.target_node_address;
    let ports =
        target.target_direct_migration_node_ports.into_iter().map(|(port, channel)| Ok((port_number(&port)?, channel)));
    let ports = ports.collect::<Result<_>>()?;
    let request = v1::ConnectMigrationRequest { name: migration.clone(), address, ports, rate };
    let answer = client.connect_migration(request).await.map_err(|status| refusal(&status))?.into_inner();
    let sockets: BTreeMap<u32, String> =
        answer.sockets.into_iter().map(|socket| (socket.channel, socket.path)).collect();
    let virsh = virsh(&migration, &sockets);
    match format.data() {
        Some(data) => data.text(&Connected { sockets, virsh }),
        None => Ok(format!("migration {migration} may leave:\n  {virsh}\n")),
    }
}

/// The command that moves the guest. libvirt's documents call these unix URIs.
fn virsh(migration: &str, sockets: &BTreeMap<u32, String>) -> String {
    let path = |channel: u32| sockets.get(&channel).map_or("", String::as_str);
    let mut command = format!(
        "virsh migrate --live --verbose {migration} 'qemu+unix:///system?socket={}' --migrateuri unix://{}",
        path(CONTROL),
        path(MEMORY)
    );
    if sockets.contains_key(&DISKS) {
        command += &format!(" --copy-storage-all --disks-uri unix://{}", path(DISKS));
    }
    command
}

async fn list(client: &mut MigrationClient, format: Format) -> Result<String> {
    let migrations = ask(client).await?;
    if let Some(data) = format.data() {
        return data.text(&migrations);
    }
    let columns = [
        ("MIGRATION", Left),
        ("ROLE", Left),
        ("NETWORK", Left),
        ("TARGET", Left),
        ("CONNECTIONS", Right),
        ("SENT", Right),
        ("RECEIVED", Right),
        ("RATE", Right),
        ("LIMIT", Right),
        ("ERROR", Left),
    ];
    let rows = migrations.into_iter().map(|migration| {
        let rate = migration.sent_bits_per_second.max(migration.received_bits_per_second);
        vec![
            migration.name,
            migration.role.to_owned(),
            migration.network,
            migration.address,
            migration.connections.to_string(),
            bytes(migration.sent_bytes),
            bytes(migration.received_bytes),
            bits(rate),
            migration.limit_bits_per_second.map_or("-".to_owned(), bits),
            or_dash(migration.error.as_deref().unwrap_or_default()),
        ]
    });
    Ok(table(&columns, rows))
}

async fn show(client: &mut MigrationClient, name: &str, format: Format) -> Result<String> {
    let found = ask(client).await?.into_iter().find(|migration| migration.name == name);
    let migration = found.ok_or_else(|| {
        anyhow!("there is no migration {}; `culvertctl migration list` shows the migrations", name.escape_debug())
    })?;
    if let Some(data) = format.data() {
        return data.text(&migration);
    }
    let ports: Vec<_> = migration.ports.iter().map(|(port, channel)| format!("{port}={channel}")).collect();
    Ok(pairs([
        ("name", migration.name),
        ("role", migration.role.to_owned()),
        ("network", migration.network),
        ("target", migration.address),
        ("ports", ports.join(", ")),
        ("connections", format!("{} open, {} in all", migration.connections, migration.connections_total)),
        ("sent", format!("{}, now {}", bytes(migration.sent_bytes), bits(migration.sent_bits_per_second))),
        ("received", format!("{}, now {}", bytes(migration.received_bytes), bits(migration.received_bits_per_second))),
        ("limit", migration.limit_bits_per_second.map_or("none".to_owned(), bits)),
        ("error", or_dash(migration.error.as_deref().unwrap_or_default())),
    ]))
}

async fn ask(client: &mut MigrationClient) -> Result<Vec<Migration>> {
    let answer = client.list_migrations(v1::ListMigrationsRequest {}).await.map_err(|status| refusal(&status))?;
    Ok(answer.into_inner().migrations.into_iter().map(Migration::from).collect())
}

impl From<v1::Migration> for Migration {
    fn from(migration: v1::Migration) -> Self {
        let role = match migration.role() {
            v1::MigrationRole::Target => "target",
            v1::MigrationRole::Source => "source",
            v1::MigrationRole::Unspecified => "unknown",
        };
        Self {
            name: migration.name,
            role,
            network: migration.network,
            address: migration.address,
            ports: migration.ports.into_iter().collect(),
            connections: migration.connections,
            connections_total: migration.connections_total,
            sent_bytes: migration.sent_bytes,
            received_bytes: migration.received_bytes,
            sent_bits_per_second: migration.sent_rate,
            received_bits_per_second: migration.received_rate,
            limit_bits_per_second: migration.rate,
            error: Some(migration.error).filter(|error| !error.is_empty()),
        }
    }
}

impl Target {
    /// Reads what `listen` has printed as JSON at the target; `-`: standard input.
    fn read(path: &Path) -> Result<Self> {
        let mut text = String::new();
        let limit = |source: &mut dyn Read, text: &mut String| source.take(MAX_TARGET_BYTES).read_to_string(text);
        let read = if path == Path::new("-") {
            limit(&mut std::io::stdin(), &mut text)
        } else {
            std::fs::File::open(path).and_then(|mut file| limit(&mut file, &mut text))
        };
        let name = if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
        read.with_context(|| format!("{name} cannot be read"))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{name} is not what `culvertctl -o json migration listen` prints"))
    }

    /// `ports`: `PORT=CHANNEL` each.
    fn of(address: String, ports: &[String]) -> Result<Self> {
        ensure!(!ports.is_empty(), "name the target's ports: --port PORT=CHANNEL, as its `listen` has printed them");
        let port = |text: &String| {
            let (port, channel) = text.split_once('=').with_context(|| format!("--port {text}: write PORT=CHANNEL"))?;
            let channel = channel.parse().with_context(|| format!("--port {text}: {channel} is no channel"))?;
            Ok((port.to_owned(), channel))
        };
        let ports = ports.iter().map(port).collect::<Result<_>>()?;
        Ok(Self { target_node_address: address, target_direct_migration_node_ports: ports })
    }

    fn as_arguments(&self) -> String {
        let ports =
            self.target_direct_migration_node_ports.iter().map(|(port, channel)| format!(" --port {port}={channel}"));
        format!("--address {}{}", self.target_node_address, ports.collect::<String>())
    }
}

fn port_number(text: &str) -> Result<u32> {
    text.parse().with_context(|| format!("{} is no TCP port", text.escape_debug()))
}

/// So many bytes, in the largest unit that leaves some digits.
fn bytes(count: u64) -> String {
    scaled(count, ["B", "kB", "MB", "GB", "TB"])
}

/// So many bits a second.
fn bits(count: u64) -> String {
    scaled(count, ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"])
}

fn scaled(count: u64, units: [&str; 5]) -> String {
    let mut scale = 1;
    for unit in units {
        if count / scale < 10_000 || unit == units[4] {
            return format!("{} {unit}", count / scale);
        }
        scale *= 1000;
    }
    count.to_string()
}

/// libvirt's, in the order in which its own tools look: of virtqemud, and of libvirtd.
const LIBVIRT: [&str; 2] = ["/run/libvirt/virtqemud-sock", "/run/libvirt/libvirt-sock"];
const CONTROL: u32 = 0;
const MEMORY: u32 = 49152;
const DISKS: u32 = 49153;
const MAX_TARGET_BYTES: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_target_prints_is_read() {
        let text = r#"{"targetNodeAddress":"172.21.42.7","targetDirectMigrationNodePorts":{"38211":49152,"40101":0}}"#;
        let target: Target = serde_json::from_str(text).unwrap();
        assert_eq!(target.as_arguments(), "--address 172.21.42.7 --port 38211=49152 --port 40101=0");
        let again = Target::of("172.21.42.7".to_owned(), &["38211=49152".to_owned(), "40101=0".to_owned()]).unwrap();
        assert_eq!(serde_json::to_string(&again).unwrap(), text);
        for (ports, problem) in
            [(&[][..], "name the target's ports"), (&["1"], "write PORT=CHANNEL"), (&["1=x"], "x is no channel")]
        {
            let ports: Vec<_> = ports.iter().map(|text: &&str| (*text).to_owned()).collect();
            let error = Target::of("::1".to_owned(), &ports).err().unwrap().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn the_command_of_libvirt_has_the_sockets() {
        let mut sockets =
            BTreeMap::from([(0, "/m/vm-a-source.sock".to_owned()), (49152, "/m/vm-a-49152-source.sock".to_owned())]);
        let command = "virsh migrate --live --verbose vm-a 'qemu+unix:///system?socket=/m/vm-a-source.sock' \
                       --migrateuri unix:///m/vm-a-49152-source.sock";
        assert_eq!(virsh("vm-a", &sockets), command);
        sockets.insert(49153, "/m/vm-a-49153-source.sock".to_owned());
        let disks = " --copy-storage-all --disks-uri unix:///m/vm-a-49153-source.sock";
        assert_eq!(virsh("vm-a", &sockets), format!("{command}{disks}"));
    }

    #[test]
    fn numbers_are_short() {
        for (count, text) in
            [(0, "0 B"), (9_999, "9999 B"), (10_000, "10 kB"), (12_345_678, "12 MB"), (u64::MAX, "18446744 TB")]
        {
            assert_eq!(bytes(count), text);
        }
    }
}
