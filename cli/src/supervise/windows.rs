//! Windows: the command runs in a job object (a group of processes).

use std::io;
use std::marker::PhantomData;
use std::process::{Child, Command};

use crate::command_end::End;
use crate::failure::Failure;
use crate::ffi::windows::{Job, survive_ctrl_c};
use crate::limits::{PROCESS_END_POLL, PROGRESS_INTERVAL};
use crate::listen_wait::{ListenWait, after_end};
use crate::output::console::Console;
use crate::process::ProcessHandle;

/// The job object of this process. If portlease is killed, Windows ends the command and the
/// processes that the command started.
#[derive(Debug)]
pub(crate) struct Supervisor(Option<Job>);

impl Supervisor {
    pub(crate) fn new(console: &Console) -> io::Result<Supervisor> {
        survive_ctrl_c()?;
        let job = Job::enter();
        if let Err(e) = &job {
            console.detail(format_args!(
                "cannot create a job object: {e}; the command continues if portlease is killed"
            ));
        }
        Ok(Supervisor(job.ok()))
    }

    /// Starts the command. [`Supervised::until_end`] waits for it.
    pub(crate) fn start(&mut self, command: &mut Command) -> io::Result<Supervised<'_>> {
        let child = command.spawn()?;
        Ok(Supervised {
            pid: child.id(),
            was_signalled: false,
            child,
            supervisor: PhantomData,
        })
    }
}

/// Releases the job, because the command has ended. The processes that the command started
/// continue to run, as on other systems.
impl Drop for Supervisor {
    fn drop(&mut self) {
        // If the call fails, the processes in the job end with this process.
        let _released = self.0.take().map(Job::release);
    }
}

#[derive(Debug)]
pub(crate) struct Supervised<'a> {
    pub(crate) pid: u32,
    /// Always `false`: this process does not learn of Ctrl-C.
    pub(crate) was_signalled: bool,
    child: Child,
    supervisor: PhantomData<&'a mut Supervisor>,
}

impl Supervised<'_> {
    /// Waits until the command ends. If the command does not listen in time, [`ListenWait::poll`]
    /// ends the command and the processes that it started. Ctrl-C is not passed on, because the
    /// console sends it to the command too.
    pub(crate) fn until_end(
        &mut self,
        console: &Console,
        mut listening: Option<ListenWait>,
    ) -> Result<End, Failure> {
        let cannot = |e: io::Error| Failure::system("wait for the command", &e);
        let process = ProcessHandle::open(self.pid).map_err(cannot)?;
        loop {
            let limit = match listening {
                Some(_) => PROGRESS_INTERVAL,
                None => PROCESS_END_POLL,
            };
            let ended = match &process {
                Some(process) => process.ended_within(limit).map_err(cannot)?,
                None => true,
            };
            if ended {
                let status = self.child.wait().map_err(cannot)?;
                return after_end(console, status, listening, self.was_signalled);
            }
            if let Some(wait) = listening.take() {
                listening = wait.poll(console, self.pid)?;
            }
        }
    }
}

/// Does nothing: [`Supervised::until_end`] checks its [`ListenWait`] every [`PROGRESS_INTERVAL`].
pub(crate) fn wake() {}
