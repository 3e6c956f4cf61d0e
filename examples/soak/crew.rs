//! The processes of a soak, and what they say.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::place::{Place, is_root};

/// The users that the processes of a soak run as, where it may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    Own,
    Nobody,
    Hostile,
}

impl User {
    pub(crate) fn id(self) -> Option<u32> {
        match self {
            _ if !is_root() => None,
            User::Own => None,
            User::Nobody => Some(65534),
            User::Hostile => Some(65533),
        }
    }
}

/// A process of ours, by the number that the ledger knows it by.
pub(crate) struct Member {
    pub(crate) number: usize,
    process: Child,
    pub(crate) stdin: Option<ChildStdin>,
}

pub(crate) enum Heard {
    Line(String),
    /// It closed its output.
    End,
}

/// Every line of every process, as it comes.
pub(crate) struct Ears {
    sender: Sender<(usize, Heard)>,
    receiver: Receiver<(usize, Heard)>,
}

impl Ears {
    pub(crate) fn new() -> Ears {
        let (sender, receiver) = channel();
        Ears { sender, receiver }
    }

    pub(crate) fn hear(&self, at_most: Duration) -> Option<(usize, Heard)> {
        self.receiver.recv_timeout(at_most).ok()
    }
}

impl Member {
    pub(crate) fn start(
        place: &Place,
        ears: &Ears,
        number: usize,
        role: &[&str],
        user: User,
    ) -> Member {
        let mut command = command(place, user);
        command
            .args(role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let (stdin, stdout) = (process.stdin.take(), process.stdout.take().unwrap());
        let sender = ears.sender.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                if sender.send((number, Heard::Line(line))).is_err() {
                    return;
                }
            }
            // Nobody listens once it is all over.
            let _over = sender.send((number, Heard::End));
        });
        Member {
            number,
            process,
            stdin,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// It was not waited for yet, so its number is its own.
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

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The soak's own program, to run as this user.
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
