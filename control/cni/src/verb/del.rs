//! DEL: removes what ADD made. It succeeds whatever there is: a runtime that is told of a failure keeps the pod. What cannot be
//! removed stays on record, and GC tries again.

use std::time::Duration;

use crate::attachment::ipam;
use crate::config::settings::Places;
use crate::config::{Config, Input};
use crate::environment::Variables;
use crate::error::Error;
use crate::name;
use crate::record::Records;
use crate::thing::{Remover, Thing};

/// Answers DEL.
///
/// # Errors
/// For variables and input that name no attachment.
pub fn run(variables: &Variables, input: &Input) -> Result<(), Error> {
    let id = variables.attachment()?;
    let config: Config = input.lenient()?;
    let mut errors = Vec::new();
    match ipam(variables, &config, input) {
        Ok(ipam) => errors.extend(ipam.and_then(|ipam| ipam.del(None).err())),
        Err(error) => errors.push(error),
    }
    let (Ok(places), Ok(network)) = (Places::of(&config), config.network_name()) else {
        // ADD has refused it.
        return Ok(());
    };
    match Records::new(&places.state_dir, network).find(&id, PATIENCE) {
        Ok(Some(record)) => {
            let contents = record.contents.clone();
            errors.extend(Remover::new(&places, &contents.control_socket).remove(&contents.things));
            if errors.is_empty() {
                errors.extend(record.remove().err());
            }
        }
        Ok(None) => {
            // Nothing is known of it; what its name tells can be removed.
            let things = [Thing::Port { name: name::port(&id) }];
            errors.extend(Remover::new(&places, &places.control_socket).remove(&things));
        }
        Err(error) => errors.push(error),
    }
    for error in errors {
        eprintln!("culvert-cni: DEL of {id}: {error}; GC tries again");
    }
    Ok(())
}

/// How long another call for the same attachment may take before this one gives up.
pub const PATIENCE: Duration = Duration::from_secs(20);
