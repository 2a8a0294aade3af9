//! The demo's second half: a guest on the primary network of a pod, through culvert-translator, and a world with servers.

use std::fs;

use anyhow::{Result, ensure};
use culvert_system::console::Console;
use culvert_system::dns;
use culvert_system::guest::Guest;
use culvert_system::place::Place;
use culvert_system::qemu::{GuestOptions, Transport};
use culvert_system::translator::{POD, Pod, Translator, WORLD, configure, run_in};

use crate::Demo;

/// Starts a translator and a guest, and makes the guest talk to the world. `log` becomes the translator's log, whatever happens.
pub fn converse(demo: &mut Demo, log: &mut String) -> Result<()> {
    let pod = Pod::new()?;
    let mut translator = None;
    let shown = talk(demo, &pod, &mut translator);
    if let Some(translator) = &mut translator {
        *log = translator.console().transcript();
    }
    shown
}

fn talk(demo: &mut Demo, pod: &Pod, started: &mut Option<Translator>) -> Result<()> {
    let page = pod.path("www");
    fs::create_dir(&page)?;
    fs::write(page.join("index.html"), "Greetings from the world\n")?;
    let place = Place { namespace: Some(pod.world().name().to_owned()), ..Place::default() };
    let folder = page.display().to_string();
    let _pages = Console::start_in(&place, "httpd", "busybox", &["httpd", "-f", "-p", "80", "-h", &folder])?;
    for address in ["198.51.100.1:53", "[2001:db8:2::1]:53"] {
        dns::serve(pod.world(), address)?;
    }
    demo.step("start culvert-translator in a pod", || {
        *started = Some(pod.translator("vm-c", Transport::VhostUser, "-t 8080:80")?);
        Ok("with the command line of passt".to_owned())
    })?;
    let Some(translator) = started else { return Ok(()) };
    let mut guest = GuestOptions { tools: true, ..translator.guest("vm-c", 3) }.boot()?;
    demo.step("boot a guest on it", || {
        guest.wait_booted()?;
        let (user, rights) = (translator.status("Uid:")?, translator.status("CapEff:")?);
        let user = user.split_whitespace().next().unwrap_or_default();
        ensure!(rights == "0000000000000000", "the translator has kept the capabilities {rights}");
        Ok(format!("over vhost-user; the translator is user {user} and has no capability"))
    })?;
    demo.step("vm-c asks for addresses", || {
        let [v4, v6] = configure(&mut guest)?;
        let given = [v4.value("ip_address"), v6.value("ip6_address")];
        ensure!(given == POD, "it was given {given:?}");
        Ok(format!("DHCP: {}, router advertisement and DHCPv6: {}, the pod's own", given[0], given[1]))
    })?;
    demo.step("vm-c resolves a name", || {
        let found = guest.check("dig +short www.culvert.test A && dig +short www.culvert.test AAAA")?;
        let found: Vec<&str> = found.lines().collect();
        ensure!(found == WORLD, "it found {found:?}");
        Ok(format!("www.culvert.test is {}", found.join(" and ")))
    })?;
    for version in [4, 6] {
        demo.step(&format!("vm-c fetches a page over IPv{version}"), || {
            fetch(&mut guest, &format!("curl -sS -{version} http://www.culvert.test/"))
        })?;
    }
    guest.check("mkdir -p /tmp/www && echo Greetings from vm-c >/tmp/www/index.html && httpd -h /tmp/www")?;
    for address in [POD[0], "[2001:db8:1::15]"] {
        demo.step("the world fetches one from vm-c", || {
            let page = run_in(pod.world(), &format!("curl -sS --max-time 20 http://{address}:8080/"))?;
            ensure!(page.contains("from vm-c"), "it got:\n{page}");
            Ok(format!("\"{}\", from port 8080 of {address}, forwarded to its port 80", page.trim()))
        })?;
    }
    Ok(())
}

/// What the guest got, in quotes.
fn fetch(guest: &mut Guest, command: &str) -> Result<String> {
    let page = guest.check(command)?;
    ensure!(page.contains("from the world"), "it got:\n{page}");
    Ok(format!("\"{}\"", page.trim()))
}
