//! What the command line may say: the definition behind the parser and the help.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::RangedI64ValueParser;
use clap::{ArgGroup, ColorChoice, Parser, Subcommand};
use clap_complete::Shell;
use portlease::Endpoint;
use serde::{Deserialize, Serialize};

use crate::limits::DEFAULT_WAIT;
use crate::ports::{NamedPort, PortList, parse_port};

const EXIT_CODES: &str = "\
Exit codes: 0 yes, 1 no, 2 bad usage or failure, 3 nothing found but something could not be read; 130 after Ctrl-C. \
`portlease run` returns its command's, or 125 if it failed itself, 126 and 127 as a shell does.

Environment: PORTLEASE_DIR is the lock folder (/tmp/portlease), PORTLEASE_RANGE=LOW-HIGH the only numbers for \
automatic picks. PORTSERVER_ADDRESS is a port server, as portpicker's, that they are taken from.";

const PORTS: &str =
    "60315, 5432,6379, 8000-8010, 53/udp, 127.0.0.1:8080 or [::1]:8080; TCP unless said";

/// Checks ports, says who holds them, and reserves them for servers in any language.
#[derive(Debug, Parser)]
#[command(name = "portlease", version, after_help = EXIT_CODES, max_term_width = 110)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where every command has them in its help: below its own.
const OUTPUT: &str = "Output";

/// How much is said, and in which form.
#[derive(Debug, clap::Args)]
pub(crate) struct OutputArgs {
    /// Answer with one JSON object
    #[arg(long, global = true, help_heading = OUTPUT)]
    pub(crate) json: bool,
    /// Say nothing but errors: the exit code is the answer. `reserve` prints its numbers all the same
    #[arg(short, long, global = true, help_heading = OUTPUT, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say more
    #[arg(short, long, global = true, help_heading = OUTPUT)]
    pub(crate) verbose: bool,
    /// Colour the output; by itself only on a terminal, and not under NO_COLOR
    #[arg(long, global = true, help_heading = OUTPUT, value_name = "WHEN", default_value_t = ColorChoice::Auto)]
    pub(crate) color: ColorChoice,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Are all of these ports free? One report for each that is not
    #[command(
        after_help = "Exit codes: 0 all free, 1 some not, 3 could not tell, 2 bad usage or failure"
    )]
    Check(CheckArgs),
    /// Who holds a port: every socket on it, in every state, with its processes, and the reservations
    #[command(
        after_help = "Exit codes: 0 somebody holds it, 1 nobody, 3 nothing found and something could not be read"
    )]
    Who(WhoArgs),
    /// Run a command with reserved ports
    ///
    /// Each number is in the environment under its NAME, and replaces {NAME} in the command's arguments. The
    /// reservation lasts as long as the command; signals are passed on to it.
    #[command(
        after_help = "Exit codes: the command's, 128+N if signal N ended it; 125 if portlease failed, \
                            126 if the command cannot be executed, 127 if it does not exist"
    )]
    Run(RunArgs),
    /// Reserve ports for the calling shell, and print their numbers
    ///
    /// As in PORT=$(portlease reserve). A small keeper process holds them until the shell ends, or until portlease
    /// release. In a pipe or a list the caller is a subshell; then the keeper goes by the shell around it. --pid $$ says
    /// it outright.
    Reserve(ReserveArgs),
    /// End a keeper's hold of ports
    #[command(
        after_help = "Exit codes: 0 released, 1 some were not held by a keeper of yours, 2 failure"
    )]
    Release(ReleaseArgs),
    /// Serve portpicker's clients, in Python and C++: a port server with real claims behind its numbers
    ///
    /// Name its address to them by PORTSERVER_ADDRESS. A number goes back when the process that asked for it has ended.
    Serve(ServeArgs),
    /// Print completions for a shell
    Completions(CompletionsArgs),
    /// Print the man page, of portlease or of one of its commands
    Man(ManArgs),
    /// Wait until servers listen on ports, or let go of them
    #[command(
        after_help = "Exit codes: 0 as wished, 1 not in time, 2 the process ended first, bad usage or failure"
    )]
    Wait(WaitArgs),
    /// The live reservations on this machine
    List,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    #[arg(required = true, value_name = "PORT", help = format!("Ports: {PORTS}"))]
    pub(crate) ports: Vec<PortList>,
    /// Wait up to so long for it to be true
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) wait: Option<Duration>,
    /// Ask the opposite: does a server listen on each of them?
    #[arg(long)]
    pub(crate) listening: bool,
    /// Write a JUnit report too, for CI servers
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct WhoArgs {
    /// A port as 60315, 60315/udp, 127.0.0.1:60315 or [::1]:60315; every protocol unless said
    pub(crate) port: Endpoint,
    /// Show the full command line of each process. It may hold secrets
    #[arg(long)]
    pub(crate) command_line: bool,
    /// Connect once, and say what a client meets
    #[arg(long)]
    pub(crate) probe: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// Reserve a port, any or number N, and name its variable; PORT unless said. May be repeated
    #[arg(long = "port", value_name = "NAME[=N][/udp]")]
    pub(crate) ports: Vec<NamedPort>,
    #[command(flatten)]
    pub(crate) shared: SharedReserveArgs,
    /// The command must listen on all of them within so long (30s unless said), or it is ended and that is an error
    #[arg(
        long, value_name = "DURATION", value_parser = humantime::parse_duration,
        num_args = 0..=1, require_equals = true, default_missing_value = DEFAULT_WAIT
    )]
    pub(crate) wait_listening: Option<Duration>,
    /// What to run
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ReserveArgs {
    #[command(flatten)]
    pub(crate) selection: PortSelection,
    /// Hold them until this process ends, instead of the shell that called
    #[arg(long, value_name = "PID", value_parser = pid())]
    pub(crate) pid: Option<u32>,
}

/// Which numbers a keeper is to hold.
#[derive(Clone, Debug, clap::Args, Serialize, Deserialize)]
pub(crate) struct PortSelection {
    /// So many ports, a number on each line
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) count: u16,
    /// UDP ports instead of TCP ports
    #[arg(long)]
    pub(crate) udp: bool,
    /// With consecutive numbers
    #[arg(long)]
    pub(crate) block: bool,
    /// Exactly this number, or the first of the block
    #[arg(long, value_name = "N", value_parser = parse_port)]
    pub(crate) port: Option<u16>,
    #[command(flatten)]
    pub(crate) shared: SharedReserveArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ReleaseArgs {
    #[arg(
        required = true,
        value_name = "PORT",
        help = "Ports: 60315, 60315/udp, 5432,6379 or 8000-8010; of either protocol unless said"
    )]
    pub(crate) ports: Vec<PortList>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    /// Where to listen: @NAME in the abstract namespace, or a path
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) address: String,
    /// The servers set neither SO_REUSEADDR nor SO_REUSEPORT
    #[arg(long)]
    pub(crate) no_reuse_addr: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// The command, as in run
    pub(crate) command: Option<String>,
}

/// How a reservation is made, whatever its number.
#[derive(Clone, Debug, clap::Args, Serialize, Deserialize)]
pub(crate) struct SharedReserveArgs {
    /// The server sets neither SO_REUSEADDR nor SO_REUSEPORT
    #[arg(long)]
    pub(crate) no_reuse_addr: bool,
    /// Queue up to so long for a port that is busy
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) wait: Option<Duration>,
    /// A name for the reservation, shown to whoever finds the port taken
    #[arg(long, value_name = "TEXT")]
    pub(crate) label: Option<String>,
}

#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("condition").required(true).args(["listening", "free"]))]
pub(crate) struct WaitArgs {
    #[arg(required = true, value_name = "PORT", help = format!("Ports: {PORTS}"))]
    pub(crate) ports: Vec<PortList>,
    /// Until a server listens on each of them
    #[arg(long)]
    pub(crate) listening: bool,
    /// Until all of them are free
    #[arg(long)]
    pub(crate) free: bool,
    /// Give up after so long
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = DEFAULT_WAIT)]
    pub(crate) timeout: Duration,
    /// Give up when this process ends
    #[arg(long, value_name = "PID", value_parser = pid())]
    pub(crate) pid: Option<u32>,
}

fn pid() -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(i32::MAX))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_definition_holds_together() {
        <super::Args as clap::CommandFactory>::command().debug_assert();
    }
}
