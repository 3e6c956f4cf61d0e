//! [`Console`]: the answer on stdout, everything else on stderr, as loud as was asked for.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use clap::ColorChoice;
use serde::Serialize;

use crate::args::OutputArgs;
use crate::condition::Condition;
use crate::failure::Failure;
use crate::finding::Finding;
use crate::output::report;

const BOLD: Style = Style::new().bold();
const HELP: Style = AnsiColor::Green.on_default();
const ERROR: Style = AnsiColor::Red.on_default().bold();

/// Where a command speaks. Colours are taken out on the way to anything but a terminal.
#[derive(Clone, Debug)]
pub(crate) struct Console {
    json: bool,
    quiet: bool,
    verbose: bool,
}

impl Console {
    pub(crate) fn new(output: &OutputArgs) -> Self {
        let choice = match output.color {
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

    /// Says the answer. With `-q` the exit code says it alone.
    pub(crate) fn answer(&self, text: impl fmt::Display) -> Result<(), Failure> {
        if self.quiet {
            Ok(())
        } else {
            write_line(anstream::stdout(), text)
        }
    }

    /// A report of the library: a headline, facts, help.
    pub(crate) fn report(&self, report: impl fmt::Display) -> Result<(), Failure> {
        self.answer(colored(&report.to_string()))
    }

    pub(crate) fn finding(&self, finding: &Finding, condition: Condition) -> Result<(), Failure> {
        let Some(problem) = &finding.problem else {
            let is = if condition == Condition::Free {
                "is free"
            } else {
                "is listening"
            };
            self.detail(format_args!("port {} {is}", finding.endpoint));
            return Ok(());
        };
        self.report(if self.verbose {
            report::full(problem)
        } else {
            report::headline_and_help(problem)
        })
    }

    /// The answer of a command that was called for nothing else: with `-q` too. Tells whether anybody reads it.
    pub(crate) fn print_always(&self, text: impl fmt::Display) -> Result<bool, Failure> {
        write_whole(anstream::stdout(), text)
    }

    /// Files, rather than answers: nothing is taken out of them or added.
    pub(crate) fn document(&self, text: &[u8]) -> Result<(), Failure> {
        self.print_always(String::from_utf8_lossy(text).trim_end())
            .map(drop)
    }

    pub(crate) fn print_json(&self, object: &impl Serialize) -> Result<bool, Failure> {
        self.print_always(to_json(object)?)
    }

    /// What goes on meanwhile. That stderr cannot be written is no reason to stop.
    pub(crate) fn note(&self, text: impl fmt::Display) {
        if !self.quiet {
            let _told = write_line(anstream::stderr(), format_args!("portlease: {text}"));
        }
    }

    /// The same for those who want to know more.
    pub(crate) fn detail(&self, text: impl fmt::Display) {
        if self.verbose {
            self.note(text);
        }
    }

    /// A line on stderr for a machine.
    pub(crate) fn machine_line(&self, line: impl fmt::Display) {
        let _told = write_line(anstream::stderr(), line);
    }

    /// The object of a command whose stdout belongs to somebody else.
    pub(crate) fn json_on_stderr(&self, object: &impl Serialize) -> Result<(), Failure> {
        write_line(anstream::stderr(), to_json(object)?)
    }

    pub(crate) fn error(&self, failure: &Failure) {
        let text = format!("{ERROR}portlease:{ERROR:#} {}", report::failure(failure));
        let _told = write_line(anstream::stderr(), text);
    }

    /// A line that the next one replaces, for a person at a terminal; `None` wipes it.
    pub(crate) fn progress(&self, line: Option<&str>) {
        if self.shows_progress() {
            let mut err = io::stderr().lock();
            let _shown =
                write!(err, "\r\u{1b}[K{}", line.unwrap_or_default()).and_then(|()| err.flush());
        }
    }

    pub(crate) fn shows_progress(&self) -> bool {
        !self.quiet && io::stderr().is_terminal()
    }
}

fn to_json(object: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(object).map_err(|e| Failure::new(format!("cannot write JSON: {e}")))
}

/// A reader that has gone has read enough: that is no failure.
fn write_line(out: impl Write, text: impl fmt::Display) -> Result<(), Failure> {
    write_whole(out, text).map(drop)
}

/// A line, whole and at once; `false` if the reader has gone.
fn write_whole(mut out: impl Write, text: impl fmt::Display) -> Result<bool, Failure> {
    match out
        .write_all(format!("{text}\n").as_bytes())
        .and_then(|()| out.flush())
    {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Failure::system("write the answer", &e)),
    }
}

fn colored(report: &str) -> String {
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
