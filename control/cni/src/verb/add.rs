//! ADD: makes an attachment whole, or not at all.

use serde_json::Value;

use crate::attachment::{Attachment, Plan, ipam, refuse_duplicate};
use crate::config::{Config, Input};
use crate::daemon::Daemon;
use crate::environment::Variables;
use crate::error::{Code, Error};
use crate::ipam::Ipam;
use crate::record::{Contents, Record, Records};
use crate::result::{CniResult, Interface};
use crate::thing::Remover;
use crate::verb::del::PATIENCE;
use crate::version::Version;

/// Answers ADD with the result.
///
/// # Errors
/// Any; then nothing of it is left.
pub fn run(version: Version, variables: &Variables, input: &Input) -> Result<Value, Error> {
    let config: Config = input.config()?;
    let attachment = Attachment::of(version, variables, &config)?;
    let records = Records::new(&attachment.places.state_dir, &attachment.network_name);
    if records.is_complete(&attachment.id) {
        let message = format!("{} is there already", attachment.id);
        return Err(Error::with(Code::Exists, message, "DEL it first"));
    }
    clear(&records, &attachment)?;
    let plan = attachment.plan()?;
    let ipam = if plan.has_interface() {
        refuse_duplicate(&attachment)?;
        ipam(variables, &config, input)?
    } else {
        None
    };
    if plan.needs_daemon() {
        // Before anything is made that would have to be undone.
        Daemon::connect(&attachment.places.control_socket)?;
    }
    let contents =
        Contents { control_socket: attachment.places.control_socket.clone(), things: plan.things(&attachment) };
    let mut record = records.create(&attachment.id, contents)?;
    let made = make(&plan, &attachment, ipam.as_ref()).and_then(|made| record.complete().map(|()| made));
    match made {
        Ok((interfaces, addresses)) => Ok(attachment.previous.with(version, interfaces, addresses).to_json(version)),
        Err(error) => {
            undo(record, &attachment, ipam.as_ref());
            Err(error)
        }
    }
}

type Made = (Vec<Interface>, Option<CniResult>);

fn make(plan: &Plan, attachment: &Attachment, ipam: Option<&Ipam<'_>>) -> Result<Made, Error> {
    let addresses = ipam.map(Ipam::add).transpose()?;
    Ok((plan.make(attachment, addresses.as_ref())?, addresses))
}

/// Removes what an earlier call of this attachment left when it was killed.
fn clear(records: &Records, attachment: &Attachment) -> Result<(), Error> {
    let Some(record) = records.find(&attachment.id, PATIENCE)? else { return Ok(()) };
    eprintln!("culvert-cni: an earlier ADD of {} was not finished; what it left is removed", attachment.id);
    let contents = record.contents.clone();
    if let Some(error) = Remover::new(&attachment.places, &contents.control_socket).remove(&contents.things).pop() {
        return Err(error);
    }
    record.remove()
}

fn undo(record: Record, attachment: &Attachment, ipam: Option<&Ipam<'_>>) {
    let failed = ipam.map(|ipam| ipam.del(None)).and_then(Result::err);
    let contents = &record.contents;
    let mut errors = Remover::new(&attachment.places, &contents.control_socket).remove(&contents.things);
    errors.extend(failed);
    for error in &errors {
        eprintln!("culvert-cni: undoing ADD: {error}; DEL or GC tries again");
    }
    if errors.is_empty()
        && let Err(error) = record.remove()
    {
        eprintln!("culvert-cni: undoing ADD: {error}");
    }
}
