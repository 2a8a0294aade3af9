//! GC: removes the attachments of one network that the runtime does not know any more. All of them are tried, whatever fails.

use crate::attachment::ipam;
use crate::config::settings::Places;
use crate::config::{Config, Input};
use crate::environment::{AttachmentId, Variables, Verb};
use crate::error::{Code, Error};
use crate::ipam::Ipam;
use crate::record::Records;
use crate::thing::Remover;
use crate::verb::del::PATIENCE;
use crate::version::Version;

/// Answers GC.
///
/// # Errors
/// [`Code::Remains`] when something could not be removed; after everything was tried.
pub fn run(version: Version, variables: &Variables, input: &Input) -> Result<(), Error> {
    if !version.has_gc_and_status() {
        return Err(Error::new(Code::Version, format!("cniVersion {version} has no GC")));
    }
    let config: Config = input.lenient()?;
    if config.valid_attachments.is_none() {
        let details = "without it every attachment would be removed";
        return Err(Error::with(Code::Config, "cni.dev/valid-attachments is missing", details));
    }
    let places = Places::of(&config)?;
    let records = Records::new(&places.state_dir, config.network_name()?);
    let mut errors = Vec::new();
    let ipam = ipam(variables, &config, input).unwrap_or_else(|error| {
        errors.push(error);
        None
    });
    for id in records.list()?.into_iter().filter(|id| !config.is_valid(id)) {
        errors.extend(collect(&records, &places, &id, ipam.as_ref()));
    }
    if let Some(error) = ipam.and_then(|ipam| ipam.pass(Verb::Gc).err()) {
        errors.push(error);
    }
    if errors.is_empty() {
        return Ok(());
    }
    let details = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    Err(Error::with(Code::Remains, "not everything could be removed", details))
}

fn collect(records: &Records, places: &Places, id: &AttachmentId, ipam: Option<&Ipam<'_>>) -> Vec<Error> {
    let record = match records.find(id, PATIENCE) {
        Ok(Some(record)) => record,
        Ok(None) => return Vec::new(),
        Err(error) => return vec![error],
    };
    eprintln!("culvert-cni: {id} is unknown to the runtime: it is removed");
    let contents = record.contents.clone();
    let mut errors = Remover::new(places, &contents.control_socket).remove(&contents.things);
    errors.extend(ipam.and_then(|ipam| ipam.del(Some(id)).err()));
    if errors.is_empty() {
        errors.extend(record.remove().err());
    }
    errors
}
