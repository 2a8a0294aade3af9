//! The status page in a browser, at the width of a desk and of a telephone: what is on it, that nothing is cut off, and that a name is no
//! HTML. Where there is no Chromium (`apt-get install chromium-headless-shell`, 200 MB, which ci/setup does not do) this says so, and looks
//! at what the page gets alone.
#![allow(clippy::indexing_slicing, reason = "a test")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use culvert_system::daemon::Node;
use serde_json::{Value, json};

const ADDRESS: &str = "127.0.0.1:9477";
const BROWSERS: [&str; 3] = ["chromium-headless-shell", "chromium", "chrome-headless-shell"];
const LIMIT: Duration = Duration::from_secs(60);
/// In a description, which any client may write.
const HOSTILE: &str = "<img src=x onerror=document.title='broken'>";

/// A browser that is told what to do by two pipes (the DevTools protocol, messages end with a 0).
struct Browser {
    child: Child,
    to: File,
    from: File,
    buffer: Vec<u8>,
    session: Option<String>,
    number: u64,
}

impl Browser {
    fn start(program: &str, node: &Node) -> Result<Self> {
        let (read, to) = std::io::pipe()?;
        let (from, write) = std::io::pipe()?;
        let own = std::process::id();
        // bash opens our ends where Chromium looks for them.
        let script = format!(
            "exec {program} --headless --no-sandbox --disable-gpu --no-first-run --user-data-dir={} --remote-debugging-pipe \
             about:blank 3</proc/{own}/fd/{} 4>/proc/{own}/fd/{}",
            node.path("browser").display(),
            read.as_raw_fd(),
            write.as_raw_fd()
        );
        let child = Command::new("bash").args(["-c", &script]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let (to, from) = (File::from(OwnedFd::from(to)), File::from(OwnedFd::from(from)));
        let mut browser = Self { child, to, from, buffer: Vec::new(), session: None, number: 0 };
        // Once it answers, it has the ends; ours are to go, so that its end is noticed.
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}))?["targetId"].clone();
        drop((read, write));
        let attached = browser.call("Target.attachToTarget", json!({"targetId": target, "flatten": true}))?;
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        Ok(browser)
    }

    fn call(&mut self, method: &str, parameters: Value) -> Result<Value> {
        self.number += 1;
        let mut message = json!({"id": self.number, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.to.write_all(format!("{message}\0").as_bytes())?;
        loop {
            let mut answer = self.next()?;
            if answer["id"] == self.number {
                ensure!(answer["error"].is_null(), "{method}: {answer}");
                return Ok(answer["result"].take());
            }
        }
    }

    fn next(&mut self) -> Result<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == 0) {
                let message: Vec<u8> = self.buffer.drain(..=end).collect();
                return Ok(serde_json::from_slice(&message[..end])?);
            }
            let mut bytes = [0; 65_536];
            let count = self.from.read(&mut bytes)?;
            ensure!(count > 0, "the browser has ended");
            self.buffer.extend_from_slice(&bytes[..count]);
        }
    }

    /// What an expression is on the page.
    fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let mut result = self
            .call("Runtime.evaluate", json!({"expression": expression, "returnByValue": true, "awaitPromise": true}))?;
        ensure!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        Ok(result["result"]["value"].take())
    }

    fn wait(&mut self, expression: &str) -> Result<()> {
        let start = Instant::now();
        while self.evaluate(expression)? != true {
            if start.elapsed() > LIMIT {
                bail!("{expression} does not come; the page: {}", self.evaluate("document.body.innerText")?);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn get(path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(ADDRESS)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn the_page_shows_the_node_at_any_width() -> Result<()> {
    let mut node = Node::new()?;
    *node.config() = node.config().replace("metrics_address = \"off\"", &format!("metrics_address = \"{ADDRESS}\""));
    // A device that always has frames, of which few are let in.
    node.add_nic("uplink0", "net_null0,size=512", "rx_rate = \"10mbit\"");
    let long = format!("vm-{}", "long-".repeat(11));
    let daemon = node.start()?;
    let socket = node.path("long.sock");
    let add = ["port", "add", &format!("{long}x"), "--network", "blue", "--socket", &socket.display().to_string()];
    let ctl = culvert_system::paths::program("culvertctl")?;
    let added = Command::new(ctl)
        .arg("--socket")
        .arg(node.path("culvertd.sock"))
        .args(add)
        .args(["--description", HOSTILE])
        .status()?;
    ensure!(added.success(), "the port is not added");

    let start = Instant::now();
    while !get("/api/node.json").unwrap_or_default().contains("long-x") {
        ensure!(start.elapsed() < LIMIT, "there is no status");
        std::thread::sleep(Duration::from_millis(50));
    }
    let page = get("/")?;
    ensure!(page.contains("content-security-policy: default-src 'none'"), "{page}");
    let found = BROWSERS.into_iter().find(|name| Command::new(name).arg("--version").output().is_ok());
    let Some(program) = found else {
        println!("No Chromium is here: the page was not looked at. apt-get install chromium-headless-shell");
        return daemon.stop();
    };

    let mut browser = Browser::start(program, &node).context("the browser does not start")?;
    for (width, mobile) in [(1280, false), (390, true)] {
        let screen = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": mobile});
        browser.call("Emulation.setDeviceMetricsOverride", screen)?;
        browser.call("Page.navigate", json!({"url": format!("http://{ADDRESS}/")}))?;
        // Rates come with the second answer.
        browser.wait("document.body !== null && /rx[^]*[1-9][0-9.]* [kMG]?bit\\/s, /.test(document.body.innerText)")?;
        for text in ["Network blue · 2 ports", "uplink0", "net_null", "● up", "● waiting", HOSTILE, "Worker on core 0"]
        {
            let is_there = browser.evaluate(&format!("document.body.innerText.includes({})", json!(text)))?;
            ensure!(is_there == true, "{text} is not on the page: {}", browser.evaluate("document.body.innerText")?);
        }
        ensure!(browser.evaluate("document.title")? == "Culvert" && browser.evaluate("document.images.length")? == 0);
        let cut_off = browser.evaluate(CUT_OFF)?;
        ensure!(cut_off == json!([]), "at {width} pixels: {cut_off}");
        let overlapping = browser.evaluate(OVERLAPPING)?;
        ensure!(overlapping == json!([]), "at {width} pixels: {overlapping}");
    }
    // The policy holds: what a page of ours does not do, is not done.
    let refused = browser.evaluate("fetch('http://127.0.0.2:1/').then(() => false, () => true)")?;
    ensure!(refused == true, "the page asks elsewhere");
    let script = "document.body.append(Object.assign(document.createElement('script'), {textContent: 'document.title = 1'})); document.title";
    ensure!(browser.evaluate(script)? == "Culvert", "a foreign script was run");
    daemon.stop()
}

/// What reaches beyond the screen, or holds more than it shows.
const CUT_OFF: &str = "[...document.querySelectorAll('body, body *')].filter((one) => one.getBoundingClientRect().right > innerWidth + 1 \
     || (one.clientWidth > 0 && one.scrollWidth > one.clientWidth + 1 && getComputedStyle(one).display !== 'inline')) \
     .map((one) => one.tagName + ' ' + one.textContent.slice(0, 40))";
/// Cards that lie over each other.
const OVERLAPPING: &str = "(() => { const all = [...document.querySelectorAll('.card, h1, h2')].map((one) => [one.textContent.slice(0, 20), \
     one.getBoundingClientRect()]).filter(([, box]) => box.width > 0); return all.flatMap(([name, a], index) => all.slice(index + 1) \
     .filter(([, b]) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1) \
     .map(([other]) => name + ' and ' + other)); })()";
