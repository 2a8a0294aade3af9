//! Going to the background: whoever started us goes on once guests can connect, and not before.
//!
//! [`enter`] forks. The parent waits for the child's word and ends: with status 0 and the process's number written, or
//! with 1 when the child has failed and said why. The child calls [`Ready::tell`] at the end of the start.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;

use rustix::process::Pid;

use crate::process::{Forked, fork};

/// The child's way to tell that it is ready.
#[derive(Debug)]
pub struct Ready {
    parent: PipeWriter,
    /// /dev/null, opened while it could be.
    nowhere: File,
}

/// What was opened while there were a file system and rights.
#[derive(Debug)]
pub struct Prepared {
    pipe: (PipeReader, PipeWriter),
    nowhere: File,
}

/// Opens what [`enter`] needs.
///
/// # Errors
/// The kernel's reason.
pub fn prepare() -> io::Result<Prepared> {
    Ok(Prepared { pipe: io::pipe()?, nowhere: File::options().read(true).write(true).open("/dev/null")? })
}

/// Returns in the child; the parent ends here. `pid_file` gets the child's number.
///
/// # Errors
/// The kernel's reason not to make a process.
pub fn enter(prepared: Prepared, pid_file: Option<File>) -> io::Result<Ready> {
    let Prepared { pipe: (mut reader, writer), nowhere } = prepared;
    match fork()? {
        Forked::Child => {
            drop(reader);
            // Fails only for the leader of a group, which a new process is not.
            let _ = rustix::process::setsid();
            Ok(Ready { parent: writer, nowhere })
        }
        Forked::Parent(child) => {
            drop(writer);
            let status = match reader.read(&mut [0]) {
                Ok(1) => pid_file.map_or(Ok(()), |file| write_pid(file, child)),
                // The child has told why.
                _ => std::process::exit(1),
            };
            if let Err(error) = &status {
                let _ = writeln!(io::stderr(), "culvert-translator: the pid file cannot be written: {error}");
            }
            // Without the destructors: the names of sockets are the child's.
            std::process::exit(i32::from(status.is_err()));
        }
    }
}

impl Ready {
    /// Leaves the terminal. What goes wrong from now on is told by the log alone.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn leave_terminal(&self) -> io::Result<()> {
        rustix::stdio::dup2_stdin(self.nowhere.as_fd())?;
        rustix::stdio::dup2_stdout(self.nowhere.as_fd())?;
        rustix::stdio::dup2_stderr(self.nowhere.as_fd())?;
        Ok(())
    }

    /// Lets whoever started us go on.
    pub fn tell(mut self) {
        // If the parent was killed meanwhile, there is nobody to tell.
        let _ = self.parent.write_all(&[0]);
    }
}

/// Writes a process's number as other programs read it.
///
/// # Errors
/// The kernel's reason.
pub fn write_pid(mut file: File, pid: Pid) -> io::Result<()> {
    writeln!(file, "{}", pid.as_raw_nonzero())
}
