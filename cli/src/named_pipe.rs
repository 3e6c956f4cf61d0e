//! Windows: named pipes that only the user of this process may open, with a timeout for each
//! message.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::OwnedHandle;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::ffi::pipes::{self, OwnerOnly};
use crate::limits::{PIPE_RETRY_DELAY, sleep};

/// Windows returns this error to a client if every instance of the pipe already has a client.
const ERROR_PIPE_BUSY: i32 = 231;

/// With this flag, the server learns which user the client is, but cannot act as that user.
const SECURITY_IDENTIFICATION: u32 = 1 << 16;

#[derive(Debug)]
pub(crate) struct PipeListener {
    path: String,
    /// The instance that the next client opens.
    next: OwnedHandle,
}

impl PipeListener {
    /// Fails if another process has a pipe of this name.
    pub(crate) fn bind(path: &str) -> io::Result<PipeListener> {
        let next = pipes::create(path, true, &OwnerOnly::new()?).map_err(|e| match e.kind() {
            io::ErrorKind::PermissionDenied => io::Error::new(
                io::ErrorKind::AddrInUse,
                "another process has a pipe of this name",
            ),
            _ => e,
        })?;
        Ok(PipeListener {
            path: path.to_owned(),
            next,
        })
    }

    pub(crate) fn accept(&mut self) -> io::Result<PipeStream> {
        pipes::wait_for_client(&self.next)?;
        // If the pipe had no instance for a moment, another process could take its name. So the
        // next instance is created before this client's instance can be closed.
        let next = pipes::create(&self.path, false, &OwnerOnly::new()?)?;
        Ok(PipeStream(File::from(std::mem::replace(
            &mut self.next,
            next,
        ))))
    }
}

#[derive(Debug)]
pub(crate) struct PipeStream(File);

impl PipeStream {
    /// Connects to the pipe. Waits up to `timeout` while other clients use all its instances.
    pub(crate) fn connect(path: &str, timeout: Duration) -> io::Result<PipeStream> {
        let started = Instant::now();
        loop {
            let opened = OpenOptions::new()
                .read(true)
                .write(true)
                .security_qos_flags(SECURITY_IDENTIFICATION)
                .open(path);
            match opened {
                Err(e)
                    if e.raw_os_error() == Some(ERROR_PIPE_BUSY) && started.elapsed() < timeout =>
                {
                    sleep(PIPE_RETRY_DELAY);
                }
                opened => return opened.map(PipeStream),
            }
        }
    }

    /// The pid of the process that created the pipe. Only a client calls this function.
    pub(crate) fn server(&self) -> io::Result<u32> {
        pipes::server_of(&self.0)
    }

    /// Reads a line of up to `bytes` bytes. The newline at its end is missing if the line is
    /// longer, or if the other side disconnected first.
    pub(crate) fn receive(&self, bytes: usize, timeout: Duration) -> io::Result<String> {
        let pipe = self.0.try_clone()?;
        within(timeout, move || {
            let mut line = String::new();
            BufReader::new(pipe.take(bytes as u64)).read_line(&mut line)?;
            Ok(line)
        })
    }

    pub(crate) fn send(&self, line: &str, timeout: Duration) -> io::Result<()> {
        let (mut pipe, line) = (self.0.try_clone()?, line.to_owned());
        within(timeout, move || pipe.write_all(line.as_bytes()))
    }
}

/// Runs the call in a thread of its own, because the call may block. After the timeout, ends the
/// call and fails with `TimedOut`.
fn within<T: Send + 'static>(
    timeout: Duration,
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (sender, receiver) = channel();
    let run = move || {
        // After a timeout the receiver is gone, and the send fails.
        let _late = sender.send(call());
    };
    let thread = std::thread::Builder::new()
        .name("pipe".to_owned())
        .spawn(run)?;
    match receiver.recv_timeout(timeout) {
        Ok(outcome) => outcome,
        Err(RecvTimeoutError::Timeout) => {
            // `interrupt` fails if the call has just ended, or has not begun. A call that has not
            // begun ends at the latest when the other side disconnects.
            let _interrupted = pipes::interrupt(&thread);
            Err(io::ErrorKind::TimedOut.into())
        }
        Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("a thread panicked")),
    }
}
