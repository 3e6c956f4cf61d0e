//! The harm that the supervisor does to the processes and to their lock folder.

use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::clock::{MILLISECOND, SECOND, now};
use crate::place::set_mode;
use crate::supervisor::Soak;
use crate::worker::LONG_LIVED;

impl Soak {
    /// Does one act of harm, picked at random.
    pub(crate) fn harm(&mut self) {
        match fastrand::u8(..100) {
            0..30 => {
                let Some(at) = self.short_lived() else { return };
                let mut worker = self.workers.swap_remove(at);
                if self
                    .stopped
                    .is_some_and(|(number, _)| number == worker.number)
                {
                    self.stopped = None;
                }
                // The reservations of the worker end in the ledger just before the kill. The last
                // lines that the worker printed are still taken.
                let at = now();
                worker.kill();
                self.take_all(worker.number);
                self.ledger.end(worker.number, at);
                self.ledger.count("kill -9");
                self.start_worker();
            }
            30..60 if self.stopped.is_none() => {
                let at = fastrand::usize(..self.workers.len() + self.sweepers.len());
                let process = self.workers.iter().chain(&self.sweepers).nth(at);
                let Some(process) = process else { return };
                process.signal(Signal::STOP);
                self.stopped = Some((process.number, now() + fastrand::u64(1..200) * MILLISECOND));
                self.ledger.count("SIGSTOP and SIGCONT");
            }
            60..72 => {
                let from = now();
                remove(&self.place.locks());
                self.ledger.trouble(from, now());
                self.ledger.count("lock folder deleted");
            }
            72..90 if self.closed.is_none() => {
                let locks = self.place.locks();
                let within = std::fs::read_dir(&locks)
                    .into_iter()
                    .flatten()
                    .flatten()
                    .map(|e| e.path());
                let folders: Vec<PathBuf> = within
                    .filter(|path| is_folder(path))
                    .chain([locks.clone()])
                    .collect();
                if !is_folder(&locks) {
                    return;
                }
                let length = fastrand::u64(5..300) * MILLISECOND;
                // On a busy machine the folders may stay unwritable for longer. `undo` then notes
                // that time.
                self.ledger.trouble(now(), now() + length + SECOND);
                folders.iter().for_each(|path| set_mode(path, 0o555));
                self.closed = Some((folders, now() + length));
                self.ledger.count("lock folder made unwritable");
            }
            90..95 => {
                let mut sweeper = self
                    .sweepers
                    .swap_remove(fastrand::usize(..self.sweepers.len()));
                if self
                    .stopped
                    .is_some_and(|(number, _)| number == sweeper.number)
                {
                    self.stopped = None;
                }
                sweeper.kill();
                self.ledger.count("kill -9 of a sweeper");
                self.start_sweeper(sweeper.user);
            }
            _ => {}
        }
    }

    /// The index of a worker that may be killed.
    fn short_lived(&self) -> Option<usize> {
        let short_lived: Vec<usize> = (0..self.workers.len())
            .filter(|at| self.workers[*at].number >= LONG_LIVED)
            .collect();
        if short_lived.is_empty() {
            None
        } else {
            Some(short_lived[fastrand::usize(..short_lived.len())])
        }
    }

    pub(crate) fn undo(&mut self, time: u64) {
        if let Some((number, _)) = self.stopped.take_if(|(_, until)| *until <= time)
            && let Some(process) = (self.workers.iter())
                .chain(&self.sweepers)
                .find(|process| process.number == number)
        {
            process.signal(Signal::CONT);
        }
        if let Some((folders, until)) = self.closed.take_if(|(_, until)| *until <= time) {
            folders
                .iter()
                .filter(|path| is_folder(path))
                .for_each(|path| set_mode(path, 0o1777));
            self.ledger.trouble(until.min(time), now());
        }
    }
}

fn is_folder(path: &Path) -> bool {
    // Does not follow a link, which the second user may have planted.
    std::fs::symlink_metadata(path).is_ok_and(|about| about.is_dir())
}

/// Retries, because other processes create files in the folder meanwhile.
fn remove(path: &Path) {
    for _ in 0..50 {
        let removed = std::fs::remove_dir_all(path).or_else(|_| std::fs::remove_file(path));
        if removed.is_ok() || std::fs::symlink_metadata(path).is_err() {
            return;
        }
    }
}
