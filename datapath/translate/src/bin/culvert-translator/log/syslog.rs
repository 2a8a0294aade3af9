//! The system's log, by the datagram socket /dev/log (RFC 3164 as syslogd, rsyslog and journald read it there).

use std::io;
use std::os::unix::net::UnixDatagram;

use tracing::Level;

/// A connection to the system's log. If its reader ends, what follows is lost.
#[derive(Debug)]
pub struct Syslog {
    socket: UnixDatagram,
}

impl Syslog {
    /// Connects.
    ///
    /// # Errors
    /// There is no system's log.
    pub fn connect() -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect("/dev/log")?;
        // A log that is not read must not stop a guest.
        socket.set_nonblocking(true)?;
        Ok(Self { socket })
    }

    /// Logs one line, without line end.
    pub fn write(&self, level: Level, text: &str) {
        let severity = match level {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        let line = format!("<{}>culvert-translator[{}]: {text}", DAEMON | severity, std::process::id());
        let _ = self.socket.send(line.as_bytes());
    }
}

/// Facility 3, system daemons.
const DAEMON: u8 = 3 << 3;
