//! `portlease`: preflight checks, and reservations for servers in any language.
//!
//! A thin reader of the crate's public API. Answers go to stdout, everything else to stderr.

mod advice;
mod annotation;
mod args;
mod caller;
mod check;
mod console;
mod failure;
mod json;
mod junit;
mod keeper;
mod list;
mod manual;
mod options;
mod ports;
mod portserver;
mod process;
mod release;
mod reserve;
mod run;
mod serve;
mod signals;
mod table;
mod vigil;
mod wait;
mod who;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Args, Command};
use console::Console;
use failure::Failure;

/// What an exit code says, where a command has no codes of its own.
mod exit {
    pub(crate) const YES: u8 = 0;
    pub(crate) const NO: u8 = 1;
    /// Bad usage, or a failure: never "no".
    pub(crate) const FAILED: u8 = 2;
    /// Nothing was found, and something could not be read.
    pub(crate) const UNTOLD: u8 = 3;
    /// `run` failed before its command started.
    pub(crate) const RUN_FAILED: u8 = 125;
}

fn main() -> ExitCode {
    // Not in the definition, whose every word is completed and described for people.
    if std::env::args_os().skip(1).eq([keeper::WORD]) {
        // Its stderr is nobody's: what fails before it has answered, it answers.
        return ExitCode::from(keeper::keep().unwrap_or_else(|failure| failure.code()));
    }
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Nobody is left to be told.
            let _told = error.print();
            return ExitCode::from(match error.use_stderr() {
                true if asks_to_run() => exit::RUN_FAILED,
                true => exit::FAILED,
                false => exit::YES,
            });
        }
    };
    let console = Console::new(&args.voice);
    let outcome = heed_interrupts(&args.command).and_then(|()| obey(&console, &args.command));
    ExitCode::from(outcome.unwrap_or_else(|failure| {
        console.complain(&failure);
        failure.code()
    }))
}

fn obey(console: &Console, command: &Command) -> Result<u8, Failure> {
    match command {
        Command::Check(args) => check::check(console, args),
        Command::Who(args) => who::who(console, args),
        Command::Run(args) => {
            run::run(console, args).map_err(|failure| failure.with_code(exit::RUN_FAILED))
        }
        Command::Reserve(args) => reserve::reserve(console, args),
        Command::Release(args) => release::release(console, args),
        Command::Serve(args) => serve::serve(console, args),
        Command::Completions(args) => manual::completions(console, args),
        Command::Man(args) => manual::man(console, args),
        Command::Wait(args) => wait::wait(console, args),
        Command::List => list::list(console),
    }
}

fn heed_interrupts(command: &Command) -> Result<(), Failure> {
    match command {
        // It passes them on.
        Command::Run(_) => Ok(()),
        // It takes its socket along.
        Command::Serve(_) => Ok(()),
        _ => signals::exit_on_interrupt(),
    }
}

/// Whether the arguments that could not be read were those of `run`, whose 2 is its command's.
fn asks_to_run() -> bool {
    let lenient = Args::command().ignore_errors(true).try_get_matches();
    lenient.is_ok_and(|matches| matches.subcommand_name() == Some("run"))
}
