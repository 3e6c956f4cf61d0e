//! The processes of a soak, and the lines that they print.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::place::{Place, is_root};

/// The users that the processes of a soak run as, if root runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    Own,
    Nobody,
    Hostile,
    /// Neither the workers' user nor the hostile one, and not root.
    Other,
}

impl User {
    pub(crate) fn id(self) -> Option<u32> {
        match self {
            _ if !is_root() => None,
            User::Own => None,
            User::Nobody => Some(65534),
            User::Hostile => Some(65533),
            User::Other => Some(65532),
        }
    }
}

/// A process of the soak, with the number that identifies it in the ledger.
pub(crate) struct Process {
    pub(crate) number: usize,
    pub(crate) user: User,
    process: Child,
    pub(crate) stdin: Option<ChildStdin>,
}

pub(crate) enum Event {
    Line(String),
    /// The process closed its output.
    End,
}

/// Receives the events of every process, each with the number of the process.
pub(crate) struct Events {
    sender: Sender<(usize, Event)>,
    receiver: Receiver<(usize, Event)>,
}

impl Events {
    pub(crate) fn new() -> Events {
        let (sender, receiver) = channel();
        Events { sender, receiver }
    }

    pub(crate) fn next(&self, at_most: Duration) -> Option<(usize, Event)> {
        self.receiver.recv_timeout(at_most).ok()
    }
}

impl Process {
    pub(crate) fn start(
        place: &Place,
        events: &Events,
        number: usize,
        args: &[&str],
        user: User,
    ) -> Process {
        let mut command = command(place, user);
        command.args(args);
        Process::of(command, events, number, user)
    }

    pub(crate) fn of(mut command: Command, events: &Events, number: usize, user: User) -> Process {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let (stdin, stdout) = (process.stdin.take(), process.stdout.take().unwrap());
        let sender = events.sender.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                if sender.send((number, Event::Line(line))).is_err() {
                    return;
                }
            }
            // At the end of the soak there is no receiver.
            let _closed = sender.send((number, Event::End));
        });
        Process {
            number,
            user,
            process,
            stdin,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The pid cannot be another process's yet, because this one has not been reaped.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.process.id() as i32) {
            let _zombie = kill_process(pid, signal);
        }
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        let _ended = self.process.kill();
        let _status = self.process.wait();
    }

    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().ok().flatten()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The program of the soak, to run as this user.
pub(crate) fn command(place: &Place, user: User) -> Command {
    let mut command = Command::new(place.program("soak"));
    command
        .env("PORTLEASE_DIR", place.locks())
        .env_remove("PORTLEASE_RANGE")
        .current_dir(place.path());
    if let Some(id) = user.id() {
        command.uid(id).gid(id);
    }
    command
}
