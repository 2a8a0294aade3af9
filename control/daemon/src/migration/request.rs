//! What clients ask of the migration proxy, checked field by field.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use culvert_api::v1;
use culvert_migration::{Channel, Offered, Proxy, Wanted};
use tonic::Status;

use crate::config::rate;
use crate::name::Name;

/// A guest that is to come.
///
/// # Errors
/// Which field is wrong, and what it should be.
pub fn listen(proxy: &Proxy, request: v1::ListenMigrationRequest) -> Result<(Name, Offered), Status> {
    let name = named(&request.name)?;
    let count = request.targets.len();
    let targets = request.targets.into_iter().map(|wanted| target(proxy, &name, wanted));
    let targets = targets.collect::<Result<BTreeMap<_, _>, _>>()?;
    check_once(count, targets.len())?;
    Ok((name, Offered { targets }))
}

/// A guest that is to leave.
///
/// # Errors
/// Which field is wrong, and what it should be.
pub fn connect(request: v1::ConnectMigrationRequest) -> Result<(Name, Wanted), Status> {
    let v1::ConnectMigrationRequest { name, address, ports, rate } = request;
    let name = named(&name)?;
    let address = address.parse().map_err(|_| {
        let shown: String = address.chars().take(MAX_SHOWN).collect();
        Status::invalid_argument(format!(
            "{shown:?} is no address; write what the target has answered, like 172.21.42.2"
        ))
    })?;
    let count = ports.len();
    let ports = ports.into_iter().map(|(port, number)| Ok((channel(number)?, self::port(port)?)));
    let ports: BTreeMap<Channel, u16> = ports.collect::<Result<_, Status>>()?;
    check_once(count, ports.len())?;
    Ok((name, Wanted { address, ports, rate: bits(rate)? }))
}

/// The name of a migration.
///
/// # Errors
/// It is none.
pub fn named(name: &str) -> Result<Name, Status> {
    let wrong = |_| Status::invalid_argument("the migration's name is none; use 1 to 63 characters of a-z, 0-9 and -");
    Name::parse(name).map_err(wrong)
}

/// Bits a second; `None`: as fast as it goes.
///
/// # Errors
/// It is no rate.
pub fn bits(rate: Option<String>) -> Result<Option<u64>, Status> {
    rate.map(|text| rate::read(&text).map_err(|wrong| Status::invalid_argument(format!("the rate {wrong}"))))
        .transpose()
}

/// Where a channel's bytes go to.
fn target(proxy: &Proxy, migration: &Name, wanted: v1::MigrationSocket) -> Result<(Channel, PathBuf), Status> {
    let channel = channel(wanted.channel)?;
    if wanted.path.is_empty() && channel != Channel::Control {
        return Ok((channel, proxy.socket(migration.as_str(), channel)));
    }
    let path = Path::new(&wanted.path);
    if !path.is_absolute() || wanted.path.contains(char::is_control) || wanted.path.len() > MAX_PATH_BYTES {
        let example = "/run/libvirt/libvirt-sock";
        return Err(Status::invalid_argument(format!(
            "the path of channel {channel} must be absolute, without control characters, and of at most {MAX_PATH_BYTES} bytes, \
             like {example}"
        )));
    }
    Ok((channel, path.to_owned()))
}

fn channel(number: u32) -> Result<Channel, Status> {
    let wrong = || Status::invalid_argument(format!("there is no channel {number}; there are 0, 49152 and 49153"));
    Channel::from_number(number).ok_or_else(wrong)
}

fn port(number: u32) -> Result<u16, Status> {
    let wrong = || Status::invalid_argument(format!("{number} is no TCP port; write what the target has answered"));
    u16::try_from(number).ok().filter(|port| *port > 0).ok_or_else(wrong)
}

/// `count`: what was named; `distinct`: how many are left.
fn check_once(count: usize, distinct: usize) -> Result<(), Status> {
    if count == distinct { Ok(()) } else { Err(Status::invalid_argument("a channel is named twice; name each once")) }
}

/// Longest path of a socket (unix(7)).
const MAX_PATH_BYTES: usize = 107;
/// What of a text is shown, in characters.
const MAX_SHOWN: usize = 64;
