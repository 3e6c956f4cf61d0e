//! `portlease`: preflight checks, and reservations for servers in any language.
//!
//! A thin reader of the crate's public API. Answers go to stdout, everything else to stderr.

mod args;
mod caller;
mod commands;
mod condition;
mod exit;
mod failure;
mod finding;
mod keeper;
mod limits;
mod output;
mod port_server;
mod ports;
mod process;
mod reserve_options;
mod signals;
mod text;
mod wait_loop;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Args, Command};
use commands::{check, completions, list, man, release, reserve, run, serve, wait, who};
use failure::Failure;
use output::console::Console;

fn main() -> ExitCode {
    // Not in the definition, whose every word is completed and described for people.
    if std::env::args_os()
        .skip(1)
        .eq([keeper::messages::KEEPER_ARG])
    {
        // Its stderr is nobody's: what fails before it has answered, it answers.
        return ExitCode::from(keeper::hold::run_keeper().unwrap_or_else(|failure| failure.code()));
    }
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Nobody is left to be told.
            let _told = error.print();
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
        // It passes them on.
        Command::Run(_) => Ok(()),
        // It takes its socket along.
        Command::Serve(_) => Ok(()),
        _ => signals::exit_on_interrupt(),
    }
}

/// Whether the arguments that could not be read were those of `run`, whose 2 is its command's.
fn is_run_command() -> bool {
    let lenient = Args::command().ignore_errors(true).try_get_matches();
    lenient.is_ok_and(|matches| matches.subcommand_name() == Some("run"))
}
