//! A bond: several devices that are one port, DPDK's net_bonding.
//!
//! DPDK wants the member devices opened first and then named, each without its arguments. Here they are written in
//! place: `net_bonding0,mode=1,member=(net_tap0,iface=a),member=0000:3b:00.0`. The key is `slave` in releases before
//! 23.11 and `member` since; both are understood.

use dpdk_sys as ffi;

use crate::device::{Device, Diagnosis};

/// Takes the members out of a bond's arguments. Gives those to open, and the arguments as DPDK wants them.
pub(crate) fn split(arguments: &str) -> Result<(Vec<Device>, String), Diagnosis> {
    let mut members = Vec::new();
    let mut rest = Vec::new();
    for argument in top_level(arguments)? {
        let member = ["member=", "slave="].iter().find_map(|key| argument.strip_prefix(key));
        let Some(member) = member else {
            rest.push(argument.to_owned());
            continue;
        };
        let text = member.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')).unwrap_or(member);
        let device = Device::parse(text).map_err(|diagnosis| {
            Diagnosis::new(format!("its member {text}: {}", diagnosis.reason), diagnosis.remedy)
        })?;
        if !device.members.is_empty() {
            return Err(Diagnosis::new(format!("its member {} is a bond itself", device.name), "bond the devices"));
        }
        rest.push(format!("{}={}", KEY, device.name));
        members.push(device);
    }
    if members.is_empty() {
        let remedy = "name them, as member=0000:3b:00.0 or member=(net_tap0,iface=NAME)";
        return Err(Diagnosis::new("the bond has no members", remedy));
    }
    Ok((members, rest.join(",")))
}

/// Splits at the commas that are not within parentheses.
fn top_level(arguments: &str) -> Result<Vec<&str>, Diagnosis> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0_usize, 0);
    for (place, letter) in arguments.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' if depth == 0 => return Err(unbalanced()),
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.extend(arguments.get(start..place));
                start = place + 1;
            }
            _ => {}
        }
    }
    if depth > 0 {
        return Err(unbalanced());
    }
    parts.extend(arguments.get(start..));
    Ok(parts)
}

fn unbalanced() -> Diagnosis {
    Diagnosis::new("the parentheses of its members do not match", "write each as member=(DEVICE,KEY=VALUE)")
}

/// How this release of DPDK names members.
const KEY: &str = if ffi::CULVERT_DPDK_RELEASE < 2311 { "slave" } else { "member" };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_taken_out() {
        let text = "mode=1,member=(net_tap0,iface=a,mac=fixed),primary=net_tap0,slave=3b:00.0,lsc_poll_period_ms=5";
        let (members, rest) = split(text).unwrap();
        let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
        assert_eq!(names, ["net_tap0", "0000:3b:00.0"]);
        assert_eq!(members[0].arguments, "iface=a,mac=fixed");
        let expected = format!("mode=1,{KEY}=net_tap0,primary=net_tap0,{KEY}=0000:3b:00.0,lsc_poll_period_ms=5");
        assert_eq!(rest, expected);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (text, expected) in [
            ("mode=1", "no members"),
            ("mode=1,member=(net_tap0", "do not match"),
            ("mode=1,member=net_tap0)", "do not match"),
            ("member=eth 0", "neither a PCI address nor a virtual device"),
            ("member=(net_bonding1,member=net_ring0)", "net_bonding1 is a bond itself"),
        ] {
            let diagnosis = split(text).unwrap_err();
            assert!(diagnosis.reason.contains(expected), "{text}: {diagnosis:?}");
        }
    }
}
