//! Parses the command line, calls the command, and turns its outcome into the exit code.

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::args::{Args, Command};
use crate::commands::{check, completions, list, man, release, reserve, run, serve, wait, who};
use crate::exit;
use crate::failure::Failure;
use crate::keeper::hold::run_keeper;
use crate::keeper::messages::KEEPER_ARG;
use crate::output::console::Console;
use crate::signals;

pub(crate) fn main() -> ExitCode {
    // The keeper is not a command of `Args`: help, completions and man pages would list it.
    if std::env::args_os().skip(1).eq([KEEPER_ARG]) {
        // The keeper's stderr is /dev/null. It reports failures to `reserve` over its socket.
        return ExitCode::from(run_keeper().unwrap_or_else(|failure| failure.code()));
    }
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // If stderr is closed, the failed print cannot be reported either.
            let _printed = error.print();
            return ExitCode::from(match error.use_stderr() {
                true if is_run_command() => exit::RUN_FAILED,
                true => exit::FAILED,
                false => exit::YES,
            });
        }
    };
    let console = Console::new(&args.output);
    let outcome = install_sigint(&args.command).and_then(|()| dispatch(&console, &args.command));
    ExitCode::from(outcome.unwrap_or_else(|failure| {
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
        Command::Completions(args) => completions::completions(console, args),
        Command::Man(args) => man::man(console, args),
        Command::Wait(args) => wait::wait(console, args),
        Command::List => list::list(console),
    }
}

fn install_sigint(command: &Command) -> Result<(), Failure> {
    match command {
        // `run` passes signals on to its command.
        Command::Run(_) => Ok(()),
        // `serve` handles the signal itself, because it removes its socket before it exits.
        Command::Serve(_) => Ok(()),
        _ => signals::exit_on_interrupt(),
    }
}

/// Whether the arguments that failed to parse belong to `run`. Its exit codes are those of the
/// command it runs, so a usage error there must not be 2.
fn is_run_command() -> bool {
    let lenient = Args::command().ignore_errors(true).try_get_matches();
    lenient.is_ok_and(|matches| matches.subcommand_name() == Some("run"))
}
