//! Windows: one thread accepts the clients of a named pipe, and each client has a thread. Another
//! thread waits for the process that the ports are reserved for.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Instant;

use crate::keeper::client::release_pipe;
use crate::keeper::holding::Holding;
use crate::limits::{
    KEEPER_CLIENT_TIMEOUT, PROCESS_END_POLL, RELEASE_LINE_BYTES, SERVE_RETRY_DELAY, sleep,
};
use crate::named_pipe::{PipeListener, PipeStream};
use crate::process::ProcessHandle;

#[derive(Debug)]
pub(crate) struct ReleaseListener(PipeListener);

#[derive(Debug)]
enum Event {
    /// A client sent a request, and waits for the answer.
    Request(String, PipeStream),
    /// The process that the ports are reserved for has ended, or cannot be watched any longer.
    Ended(io::Result<()>),
}

impl ReleaseListener {
    pub(crate) fn bind(_has_unrecorded: bool) -> io::Result<ReleaseListener> {
        let path = release_pipe(std::process::id());
        Ok(ReleaseListener(PipeListener::bind(&path)?))
    }

    /// Answers release requests until all ports are released, the time of `--for` is over, or the
    /// process that the ports are reserved for ends.
    pub(crate) fn serve(
        self,
        holding: &mut Holding,
        process: Option<ProcessHandle>,
    ) -> io::Result<()> {
        let (sender, receiver) = channel();
        let requests = sender.clone();
        spawn("clients", move || accept_clients(self.0, &requests))?;
        if let Some(process) = process {
            spawn("process", move || {
                // The send fails if the keeper is about to end.
                let _late = sender.send(Event::Ended(wait_for_end(&process)));
            })?;
        }
        while !holding.is_over() {
            let left = holding
                .until
                .map(|until| until.saturating_duration_since(Instant::now()));
            let event = match left {
                Some(left) => receiver.recv_timeout(left),
                None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match event {
                Ok(Event::Request(request, client)) => {
                    let answer = format!("{}\n", holding.answer(request.trim_end()));
                    // The send fails if the client has left. The answer fits into the buffer of the
                    // pipe, so the send does not wait until the client reads.
                    let _sent = client.send(&answer, KEEPER_CLIENT_TIMEOUT);
                }
                Ok(Event::Ended(outcome)) => return outcome,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(io::Error::other("the threads of the keeper have ended"));
                }
            }
        }
        Ok(())
    }
}

fn wait_for_end(process: &ProcessHandle) -> io::Result<()> {
    while !process.ended_within(PROCESS_END_POLL)? {}
    Ok(())
}

fn accept_clients(mut listener: PipeListener, requests: &Sender<Event>) {
    loop {
        let accepted = listener.accept().and_then(|client| {
            let requests = requests.clone();
            spawn("client", move || {
                // A client that sends nothing in time gets no answer.
                let received = client.receive(RELEASE_LINE_BYTES, KEEPER_CLIENT_TIMEOUT);
                if let Ok(request) = received {
                    // The send fails if the keeper is about to end.
                    let _late = requests.send(Event::Request(request, client));
                }
            })
        });
        // Usually memory, handles or threads are used up. The keeper goes on, because its ports
        // must stay reserved.
        if accepted.is_err() {
            sleep(SERVE_RETRY_DELAY);
        }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(run).map(drop)
}
