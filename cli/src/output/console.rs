//! [`Console`]: prints answers on stdout, and notes, errors and progress on stderr.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};
use clap::ColorChoice;
use portlease::{Diagnosis, ServerKind};
use serde::Serialize;

use crate::args::OutputArgs;
use crate::condition::Condition;
use crate::failure::Failure;
use crate::finding::Finding;
use crate::limits::{HELP_PER_PORT, PROGRESS_DELAY, PROGRESS_INTERVAL};
use crate::output::report;
use crate::stdout;

const BOLD: Style = Style::new().bold();
const HELP: Style = AnsiColor::Green.on_default();
const ERROR: Style = AnsiColor::Red.on_default().bold();

/// Prints the output of a command. With `--color auto`, `anstream` reads the variables NO_COLOR,
/// CLICOLOR_FORCE and CLICOLOR, in this order. If none of them decides, only a terminal gets
/// colours.
#[derive(Clone, Debug)]
pub(crate) struct Console {
    json: bool,
    quiet: bool,
    verbose: bool,
}

impl Console {
    pub(crate) fn new(output: &OutputArgs) -> Self {
        let choice = match output.color {
            // If the variable CI is set, `anstream` would print colours on a dumb terminal too.
            ColorChoice::Auto if terminal_is_dumb() && !colours_are_forced() => {
                anstream::ColorChoice::Never
            }
            ColorChoice::Auto => anstream::ColorChoice::Auto,
            ColorChoice::Always => anstream::ColorChoice::Always,
            ColorChoice::Never => anstream::ColorChoice::Never,
        };
        choice.write_global();
        Console {
            json: output.json,
            quiet: output.quiet,
            verbose: output.verbose,
        }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Prints the answer. With `-q` prints nothing, because the exit code is the answer.
    pub(crate) fn answer(&self, text: impl fmt::Display) -> Result<(), Failure> {
        if self.quiet {
            Ok(())
        } else {
            write_line(anstream::stdout(), text)
        }
    }

    /// Prints the answer with the headline in bold and `help:` in green.
    pub(crate) fn report(&self, report: impl fmt::Display) -> Result<(), Failure> {
        self.answer(coloured(&report.to_string()))
    }

    /// The note on a port that has passed its check. If the check was whether a server with
    /// SO_REUSEADDR can bind the port, this function diagnoses the port again. If the port is still
    /// free, the note is then the full report.
    fn passed(&self, finding: &Finding, condition: Condition) -> String {
        let Finding { endpoint, .. } = finding;
        if condition == Condition::Free(ServerKind::ReuseAddr) {
            let diagnosis = portlease::diagnose(*endpoint);
            if diagnosis.is_free() {
                return report::full(&diagnosis, finding.asked);
            }
        }
        format!("port {endpoint} is {}", condition.word())
    }

    /// Prints the report on a port that fails its check. With `-v`, the report is full, and a port
    /// that passes gets a note.
    pub(crate) fn finding(&self, finding: &Finding, condition: Condition) -> Result<(), Failure> {
        let Some(problem) = &finding.problem else {
            if self.verbose {
                self.detail(self.passed(finding, condition));
            }
            return Ok(());
        };
        self.report(if self.verbose {
            report::full(problem, finding.asked)
        } else {
            report::headline_and_help(problem, finding.asked)
        })
    }

    /// Prints the reports on several ports. If more than [`HELP_PER_PORT`] ports fail and `-v` is
    /// not set, prints only the headlines and then one help line for all.
    pub(crate) fn findings(
        &self,
        findings: &[Finding],
        condition: Condition,
    ) -> Result<(), Failure> {
        let failed = findings
            .iter()
            .filter_map(|finding| finding.problem.as_ref());
        let failed: Vec<&Diagnosis> = failed.collect();
        if self.verbose || failed.len() <= HELP_PER_PORT {
            return findings
                .iter()
                .try_for_each(|finding| self.finding(finding, condition));
        }
        let asked = findings
            .first()
            .map(|finding| finding.asked)
            .unwrap_or_default();
        for problem in &failed {
            self.report(problem.headline())?;
        }
        match report::help_for_all(&failed, asked) {
            Some(help) => self.answer(format_args!("{HELP}help:{HELP:#} {help}")),
            None => Ok(()),
        }
    }

    /// Prints the answer, also with `-q`. Returns `false` if the reader has closed stdout. Fails if
    /// this process was started with a closed stdout.
    pub(crate) fn print_always(&self, text: impl fmt::Display) -> Result<bool, Failure> {
        if stdout::is_stdout_closed_at_start() {
            return Err(Failure::new("cannot write the answer: stdout is closed"));
        }
        try_write_line(anstream::stdout(), text)
    }

    /// Prints a script or a man page, also with `-q`.
    pub(crate) fn document(&self, text: &[u8]) -> Result<(), Failure> {
        self.print_always(String::from_utf8_lossy(text).trim_end())
            .map(drop)
    }

    /// Prints an object on one line, also with `-q`. Returns `false` if the reader has closed
    /// stdout.
    pub(crate) fn print_json(&self, object: &impl Serialize) -> Result<bool, Failure> {
        self.print_always(to_json(object)?)
    }

    /// Prints a note on stderr. Prints nothing with `-q`. Ignores a failure to write.
    pub(crate) fn note(&self, text: impl fmt::Display) {
        if !self.quiet {
            let _written = write_line(anstream::stderr(), format_args!("portlease: {text}"));
        }
    }

    /// Prints a note on stderr, but only with `-v`.
    pub(crate) fn detail(&self, text: impl fmt::Display) {
        if self.verbose {
            self.note(text);
        }
    }

    /// Prints a line on stderr for a machine, also with `-q`, and without the prefix `portlease:`.
    pub(crate) fn machine_line(&self, line: impl fmt::Display) {
        let _written = write_line(anstream::stderr(), line);
    }

    /// Prints an object on stderr. `run` uses this function, because its stdout belongs to the
    /// command that it runs.
    pub(crate) fn json_on_stderr(&self, object: &impl Serialize) -> Result<(), Failure> {
        write_line(anstream::stderr(), to_json(object)?)
    }

    pub(crate) fn error(&self, failure: &Failure) {
        let text = format!("{ERROR}portlease:{ERROR:#} {}", report::failure(failure));
        let _written = write_line(anstream::stderr(), text);
    }

    /// Replaces the progress line; `None` clears it. Does nothing if [`Console::shows_progress`] is
    /// `false`.
    pub(crate) fn progress(&self, line: Option<&str>) {
        if self.shows_progress() {
            let columns = terminal_size::terminal_size_of(io::stderr())
                .map_or(usize::MAX, |(width, _)| usize::from(width.0));
            let line = cut(line.unwrap_or_default(), columns.saturating_sub(1));
            let mut err = io::stderr().lock();
            let _shown = write!(err, "\r\u{1b}[K{line}").and_then(|()| err.flush());
        }
    }

    /// Whether stderr shows progress lines: it is a terminal that can erase a line, and `-q` is not
    /// set.
    pub(crate) fn shows_progress(&self) -> bool {
        let can_erase = std::env::var_os("TERM").is_some() && !terminal_is_dumb();
        !self.quiet && can_erase && io::stderr().is_terminal()
    }

    /// Calls `work`. If the call takes longer than [`PROGRESS_DELAY`], reports on stderr what the
    /// call waits for. `limit` is the maximum wait inside `work`. If `limit` is zero, or with `-q`,
    /// reports nothing.
    pub(crate) fn while_waiting<T>(
        &self,
        waiting_for: &str,
        limit: Duration,
        work: impl FnOnce() -> T,
    ) -> T {
        if limit.is_zero() || self.quiet {
            return work();
        }
        let (done, is_done) = channel::<()>();
        let started = Instant::now();
        let show = move || {
            if is_done.recv_timeout(PROGRESS_DELAY) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            if !self.shows_progress() {
                let limit = humantime::format_duration(limit);
                self.note(format_args!("waiting up to {limit} for {waiting_for}"));
                return;
            }
            loop {
                self.progress(Some(&progress_line(waiting_for, started, limit)));
                if is_done.recv_timeout(PROGRESS_INTERVAL) != Err(RecvTimeoutError::Timeout) {
                    self.progress(None);
                    return;
                }
            }
        };
        std::thread::scope(|scope| {
            // If the thread cannot start, `work` still runs, without progress.
            let shown = std::thread::Builder::new().spawn_scoped(scope, show);
            let outcome = work();
            drop((done, shown));
            outcome
        })
    }
}

/// Whether `TERM` says that the terminal has no control sequences.
fn terminal_is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term.is_empty() || term == "dumb")
}

/// Whether the variable `CLICOLOR_FORCE` asks for colours wherever the output goes.
fn colours_are_forced() -> bool {
    std::env::var_os("CLICOLOR_FORCE").is_some_and(|value| !value.is_empty())
}

pub(crate) fn progress_line(waiting_for: &str, started: Instant, limit: Duration) -> String {
    let (elapsed, total) = (started.elapsed().as_secs(), limit.as_secs_f64());
    format!("waiting for {waiting_for}: {elapsed} s of {total} s")
}

/// Cuts the line to the columns of the terminal. If the terminal wrapped a progress line, the next
/// progress line could not replace it.
fn cut(line: &str, columns: usize) -> String {
    match line.chars().count() > columns {
        true if columns > 0 => line.chars().take(columns - 1).chain(['…']).collect(),
        true => String::new(),
        false => line.to_owned(),
    }
}

fn to_json(object: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(object).map_err(|e| Failure::new(format!("cannot write JSON: {e}")))
}

/// Writes a line. It is no failure if the reader has closed the stream early, as `head` does.
fn write_line(out: impl Write, text: impl fmt::Display) -> Result<(), Failure> {
    try_write_line(out, text).map(drop)
}

/// Writes the text and a line break. Returns `false` if the reader has closed the stream.
fn try_write_line(mut out: impl Write, text: impl fmt::Display) -> Result<bool, Failure> {
    match out
        .write_all(format!("{text}\n").as_bytes())
        .and_then(|()| out.flush())
    {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Failure::system("write the answer", &e)),
    }
}

fn coloured(report: &str) -> String {
    let mut text = String::with_capacity(report.len() + 32);
    for (n, line) in report.lines().enumerate() {
        if n > 0 {
            text.push('\n');
        }
        match line.strip_prefix("help: ") {
            Some(help) => text += &format!("{HELP}help:{HELP:#} {help}"),
            None if n == 0 => text += &format!("{BOLD}{line}{BOLD:#}"),
            None => text += line,
        }
    }
    text
}
