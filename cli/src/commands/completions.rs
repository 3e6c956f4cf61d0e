//! `portlease completions`: prints the completion script of a shell. clap generates the script from
//! the definition of the command line.

use clap::CommandFactory;

use crate::args::{Args, CompletionsArgs};
use crate::exit;
use crate::failure::Failure;
use crate::output::console::Console;

pub(crate) fn completions(console: &Console, args: &CompletionsArgs) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "portlease", &mut script);
    console.document(&script)?;
    Ok(exit::YES)
}
