//! Parses the command line, calls the command, and turns its outcome into the exit code.

use std::io::ErrorKind;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::args::{Args, Command};
use crate::commands::{
    check, completions, list, man, release, reserve, run, serve, stop, wait, who,
};
use crate::exit;
use crate::failure::Failure;
use crate::keeper::hold::run_keeper;
use crate::keeper::messages::KEEPER_ARG;
use crate::output::console::Console;
#[cfg(unix)]
use crate::watcher::{WATCHER_ARG, run_watcher};

pub(crate) fn main() -> ExitCode {
    // `reserve` starts this program as a keeper (the process that holds the ports). The keeper is
    // not a command of `Args`, so help, completions and man pages do not list it.
    if std::env::args_os().skip(1).eq([KEEPER_ARG]) {
        // The keeper's stderr is the null device, so nothing is printed here. If a reservation
        // fails, the keeper sends the error to `reserve` over their link.
        return ExitCode::from(run_keeper().unwrap_or_else(|failure| failure.code()));
    }
    // `run` starts this program as a watcher (a process that ends the command if `run` is killed).
    #[cfg(unix)]
    if std::env::args_os().skip(1).eq([WATCHER_ARG]) {
        return ExitCode::from(run_watcher().unwrap_or_else(|failure| failure.code()));
    }
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let printed = error.print();
            return ExitCode::from(match error.use_stderr() {
                true if is_run_command() => exit::RUN_FAILED,
                true => exit::FAILED,
                // A reader such as `head` may close the pipe early. That is no failure.
                false if printed.is_err_and(|e| e.kind() != ErrorKind::BrokenPipe) => exit::FAILED,
                false => exit::YES,
            });
        }
    };
    let console = Console::new(&args.output);
    ExitCode::from(dispatch(&console, &args.command).unwrap_or_else(|failure| {
        console.error(&failure);
        failure.code()
    }))
}

fn dispatch(console: &Console, command: &Command) -> Result<u8, Failure> {
    match command {
        Command::Check(args) => check::check(console, args),
        Command::Who(args) => who::who(console, args),
        Command::Run(args) => {
            run::run(console, args).map_err(|failure| failure.with_code(exit::RUN_FAILED))
        }
        Command::Reserve(args) => reserve::reserve(console, args),
        Command::Release(args) => release::release(console, args),
        Command::Serve(args) => serve::serve(console, args),
        Command::Stop(args) => stop::stop(console, args),
        Command::Completions(args) => completions::completions(console, args),
        Command::Man(args) => man::man(console, args),
        Command::Wait(args) => wait::wait(console, args),
        Command::List => list::list(console),
    }
}

/// Returns `true` if the arguments that failed to parse belong to `run`. A usage error of `run` has
/// the code 125, because 2 may be the exit code of its command.
fn is_run_command() -> bool {
    let lenient = Args::command().ignore_errors(true).try_get_matches();
    lenient.is_ok_and(|matches| matches.subcommand_name() == Some("run"))
}
