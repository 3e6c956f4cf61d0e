//! Unix: one thread polls the socket of the keeper, and the handle of the process that the ports
//! are reserved for.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::keeper::address::{Bound, Peer};
use crate::keeper::holding::Holding;
use crate::limits::{
    KEEPER_CLIENT_TIMEOUT, RELEASE_LINE_BYTES, SERVE_RETRY_DELAY, TIMER_STEP, sleep,
};
use crate::process::ProcessHandle;

const ROOT: u32 = 0;

#[derive(Debug)]
pub(crate) struct ReleaseListener(Bound);

impl ReleaseListener {
    /// `has_unrecorded` says whether the keeper holds a port that no lock file records.
    pub(crate) fn bind(has_unrecorded: bool) -> io::Result<ReleaseListener> {
        let bound = Bound::new(std::process::id(), has_unrecorded)?;
        Ok(ReleaseListener(bound))
    }

    pub(crate) fn serve(
        self,
        holding: &mut Holding,
        process: Option<ProcessHandle>,
    ) -> io::Result<()> {
        serve_releases(&self.0.0, holding, process.as_ref())
    }
}

/// Answers the requests of `release` and `list`. Returns once all ports are released, the time of
/// `--for` is over, or `process` has ended. The ports are reserved for `process`.
fn serve_releases(
    listener: &UnixListener,
    holding: &mut Holding,
    process: Option<&ProcessHandle>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let mut client: Option<ReleaseClient> = None;
    while !holding.is_over() {
        let process_fd = process.and_then(ProcessHandle::poll_fd);
        let poll_again = process.and_then(ProcessHandle::poll_again);
        let deadline = client.as_ref().map(|client| client.deadline);
        let deadlines = [holding.until, deadline, poll_again];
        let next = deadlines.into_iter().flatten().min();
        let left = next.map(|next| next.saturating_duration_since(Instant::now()));
        // Adds one timer step, so that the deadline has passed if poll(2) times out.
        let timeout = left.and_then(|left| Timespec::try_from(left + TIMER_STEP).ok());
        let requested = match &client {
            Some(client) => PollFd::new(&client.stream, PollFlags::IN),
            None => PollFd::new(listener, PollFlags::IN),
        };
        let mut fds = vec![requested];
        if let Some(process) = &process_fd {
            fds.push(PollFd::new(process, PollFlags::IN));
        }
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let (is_requested, has_ended) = (ready.next() == Some(true), ready.next() == Some(true));
        let has_ended = match process {
            Some(process) if process_fd.is_none() => process.has_ended()?,
            _ => has_ended,
        };
        if has_ended {
            break;
        }
        if client
            .as_ref()
            .is_some_and(|client| client.deadline <= Instant::now())
        {
            client = None;
        } else if is_requested {
            client = match client {
                Some(client) => client.read(holding),
                None => ReleaseClient::accept(listener)?,
            };
        }
    }
    Ok(())
}

/// A client (`release` or `list`) that has not sent its whole request yet.
#[derive(Debug)]
struct ReleaseClient {
    stream: UnixStream,
    request: Vec<u8>,
    deadline: Instant,
}

impl ReleaseClient {
    /// Returns `None` if the accept fails. If the client's user is unknown, or is neither root nor
    /// the keeper's user, closes the connection and returns `None`.
    fn accept(listener: &UnixListener) -> io::Result<Option<ReleaseClient>> {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => return Ok(None),
            // The usual cause is a lack of descriptors or memory. The keeper goes on, because its
            // ports must stay reserved.
            Err(_) => {
                sleep(SERVE_RETRY_DELAY);
                return Ok(None);
            }
        };
        let (Ok(peer), Ok(own)) = (Peer::of(&stream), Peer::own()) else {
            return Ok(None);
        };
        let is_allowed = [ROOT, own.uid].contains(&peer.uid);
        stream.set_nonblocking(true)?;
        Ok(is_allowed.then(|| ReleaseClient {
            stream,
            request: Vec::new(),
            deadline: Instant::now() + KEEPER_CLIENT_TIMEOUT,
        }))
    }

    /// Reads what the client has sent, and answers the request once it is complete. Returns the
    /// client only if more of its request must be read.
    fn read(mut self, holding: &mut Holding) -> Option<ReleaseClient> {
        let mut bytes = [0; RELEASE_LINE_BYTES];
        match self.stream.read(&mut bytes) {
            Ok(count) if count > 0 => self.request.extend(&bytes[..count]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Some(self),
            Ok(_) | Err(_) => return None,
        }
        match self.request.iter().position(|byte| *byte == b'\n') {
            Some(end) => {
                let reply = holding.answer(&String::from_utf8_lossy(&self.request[..end]));
                // The send fails if the client has closed the connection, or reads too slowly.
                let _answered = self.send(&format!("{reply}\n"));
                None
            }
            None => (self.request.len() < RELEASE_LINE_BYTES).then_some(self),
        }
    }

    /// Waits until the client reads, because a list of many ports may exceed the socket's buffer.
    fn send(&self, reply: &str) -> io::Result<()> {
        self.stream.set_nonblocking(false)?;
        self.stream.set_write_timeout(Some(KEEPER_CLIENT_TIMEOUT))?;
        (&self.stream).write_all(reply.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_exceeds_the_buffer_of_the_socket_arrives_whole() {
        let (stream, mut other) = UnixStream::pair().unwrap();
        stream.set_nonblocking(true).unwrap();
        let client = ReleaseClient {
            stream,
            request: Vec::new(),
            deadline: Instant::now(),
        };
        let reading = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            other.read_to_end(&mut bytes).unwrap();
            bytes.len()
        });
        client.send(&"x".repeat(4 << 20)).unwrap();
        drop(client);
        assert_eq!(reading.join().unwrap(), 4 << 20);
    }
}
