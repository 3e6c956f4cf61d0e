//! [`Console`]: the answer on stdout, everything else on stderr, as loud as was asked for.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use clap::ColorChoice;
use serde::Serialize;

use crate::advice::for_shells;
use crate::args::Voice;
use crate::failure::Failure;

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
    pub(crate) fn new(voice: &Voice) -> Self {
        let choice = match voice.color {
            ColorChoice::Auto => anstream::ColorChoice::Auto,
            ColorChoice::Always => anstream::ColorChoice::Always,
            ColorChoice::Never => anstream::ColorChoice::Never,
        };
        choice.write_global();
        Console {
            json: voice.json,
            quiet: voice.quiet,
            verbose: voice.verbose,
        }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    pub(crate) fn is_verbose(&self) -> bool {
        self.verbose
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
        self.answer(painted(&for_shells(&report.to_string())))
    }

    /// Says the answer as one object on a line, with `-q` too: whoever asks for it reads it.
    pub(crate) fn object(&self, object: &impl Serialize) -> Result<(), Failure> {
        write_line(anstream::stdout(), in_json(object)?)
    }

    /// The answer of a command that was called for nothing else: with `-q` too. Tells whether anybody reads it.
    pub(crate) fn deliver(&self, text: impl fmt::Display) -> Result<bool, Failure> {
        write_whole(anstream::stdout(), text)
    }

    pub(crate) fn deliver_object(&self, object: &impl Serialize) -> Result<bool, Failure> {
        self.deliver(in_json(object)?)
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
    pub(crate) fn aside(&self, line: impl fmt::Display) {
        let _told = write_line(anstream::stderr(), line);
    }

    /// The object of a command whose stdout belongs to somebody else.
    pub(crate) fn object_aside(&self, object: &impl Serialize) -> Result<(), Failure> {
        write_line(anstream::stderr(), in_json(object)?)
    }

    pub(crate) fn complain(&self, failure: &Failure) {
        let text = format!("{ERROR}portlease:{ERROR:#} {failure}");
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

fn in_json(object: &impl Serialize) -> Result<String, Failure> {
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

fn painted(report: &str) -> String {
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

/// Control characters escaped: a name from another process must not move the cursor or forge a line.
pub(crate) fn shown(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || turns(c) {
            out.extend(c.escape_default())
        } else {
            out.push(c)
        }
    }
    out
}
