//! Defines the command line. clap derives the parser, the help, the completions and the man pages
//! from this definition.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::ArgPredicate;
use clap::{ArgGroup, ColorChoice, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use serde::{Deserialize, Serialize};

use crate::duration::parse_duration;
use crate::help;
use crate::http_probe::{HttpProbe, NamedProbe};
use crate::limits::{DEFAULT_STOP_TIMEOUT, DEFAULT_WAIT};
use crate::number_args::{NumberArgs, number_from};
use crate::output::variables::FormatArgs;
use crate::ports::{NamedPort, PortList, parse_port, parse_reserved};

const PORTS: &str = "60315, 8000-8010, 53/udp, 127.0.0.1:8080, [::1]:8080, or a list such as \
                     5432,6379";

/// Check ports, show who holds them, and reserve them for servers in any language
#[derive(Debug, Parser)]
#[command(name = "portlease", version, after_help = help::MAIN, max_term_width = 110)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The heading of the output options in `--help`. Options with a heading come below the options of
/// each command.
const OUTPUT: &str = "Output";

#[derive(Debug, clap::Args)]
pub(crate) struct OutputArgs {
    /// Print the answer as a JSON object on one line. `run` prints it on stderr, and with --leaks
    /// prints a second object
    #[arg(long, global = true, help_heading = OUTPUT)]
    pub(crate) json: bool,
    /// Print only errors; the exit code is the answer. `reserve` still prints its numbers
    #[arg(short, long, global = true, help_heading = OUTPUT, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Print full reports, and more notes on stderr
    #[arg(short, long, global = true, help_heading = OUTPUT)]
    pub(crate) verbose: bool,
    /// When to colour the output; auto follows the terminal, NO_COLOR and CLICOLOR_FORCE
    #[arg(
        long, global = true, help_heading = OUTPUT, value_name = "WHEN",
        default_value_t = ColorChoice::Auto
    )]
    pub(crate) color: ColorChoice,
}

// With `defer`, clap defines only the options of the command that is called. Without `defer`, each
// call takes 0.2 ms longer.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum Command {
    /// Check that all ports are free, and report each one that is not
    #[command(
        after_help = "Exit codes: 0 all ports pass the check, 1 some fail, 2 usage error or \
                      failure, 3 none fail but some could not be checked"
    )]
    Check(CheckArgs),
    /// Show who holds a port: its sockets in every state, their processes, and reservations
    #[command(
        after_help = "Exit codes: 0 something holds the port, 1 nothing holds it, 2 usage error or \
                      failure, 3 nothing found but something could not be read"
    )]
    Who(WhoArgs),
    /// Run a command with reserved ports
    ///
    /// Each port number is in the environment variable NAME, and replaces {NAME} in the command's
    /// arguments. ${NAME} is left to the shell, and {{NAME}} becomes {NAME}.
    /// The ports stay reserved until the command ends. A signal to portlease, or to its process
    /// group, reaches the command once. If portlease is killed, the command ends too.
    #[command(after_help = help::RUN)]
    Run(RunArgs),
    /// Reserve ports for the calling shell, and print their numbers
    ///
    /// Use it as in PORT=$(portlease reserve). A small keeper process holds the ports until the
    /// shell ends or `portlease release` releases them. If the caller is a subshell, or a wrapper
    /// such as timeout or sudo, the ports are held for the shell that waits for the caller. On
    /// Linux, an `sh -c` that ends after this call is treated like a subshell. To name the shell
    /// explicitly, pass --pid $$. For ports that outlive every process of a script, pass --for 30m.
    #[command(after_help = help::RESERVE)]
    Reserve(ReserveArgs),
    /// Release ports that were reserved with `portlease reserve`
    #[command(
        after_help = "Exit codes: 0 all released, 1 some were not reserved with \
                      `portlease reserve` by this user, 2 usage error or failure"
    )]
    Release(ReleaseArgs),
    /// Run a port server for portpicker clients (Python, C++), and reserve the ports it grants
    ///
    /// Clients find the server by the environment variable PORTSERVER_ADDRESS. A client sends a
    /// process id, and its reservation ends when that process ends.
    #[command(display_order = 100)]
    Serve(ServeArgs),
    /// Stop the servers that listen on ports, and check that the ports are free
    ///
    /// Each server gets SIGTERM (PostgreSQL and uWSGI get SIGINT), and SIGKILL if it has not ended
    /// after the DURATION of --timeout. Windows has no SIGTERM, so each server is ended at once
    /// there. Clients, pid 1, ancestors of portlease and processes that this user cannot see are
    /// never stopped. If a service, a container or a supervisor would restart a server, portlease
    /// does not stop that server, and prints how to stop it for good.
    #[command(after_help = help::STOP)]
    Stop(StopArgs),
    /// Print the completion script for a shell
    #[command(display_order = 101)]
    Completions(CompletionsArgs),
    /// Print the man page of portlease or of one of its commands
    #[command(display_order = 102)]
    Man(ManArgs),
    /// Wait until servers listen on ports, or until ports are free
    #[command(after_help = help::WAIT)]
    Wait(WaitArgs),
    /// List the live reservations on this machine
    #[command(
        after_help = "Exit codes: 0 success, also if no port is reserved, 2 usage error or \
                      failure, 3 nothing found but something could not be read"
    )]
    List,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    #[arg(
        required = true, value_name = "PORT", allow_negative_numbers = true,
        help = format!("Ports to check: {PORTS}; TCP by default")
    )]
    pub(crate) ports: Vec<PortList>,
    /// Wait up to DURATION for the check to pass
    #[arg(
        long, visible_alias = "timeout", value_name = "DURATION", value_parser = parse_duration,
        allow_hyphen_values = true
    )]
    pub(crate) wait: Option<Duration>,
    /// Check instead that a server listens on each port
    #[arg(long)]
    pub(crate) listening: bool,
    /// Check that servers without SO_REUSEADDR and SO_REUSEPORT can bind
    #[arg(long, conflicts_with = "listening")]
    pub(crate) no_reuse_addr: bool,
    /// Also write a JUnit report to FILE, for CI servers
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct WhoArgs {
    #[arg(
        value_name = "PORT", allow_negative_numbers = true,
        help = format!("Ports to inspect: {PORTS}; every protocol by default. Without a PORT, \
                        show every TCP socket that listens")
    )]
    pub(crate) ports: Vec<PortList>,
    /// Show only the listeners of process PID. Fails if no process with this id runs
    #[arg(
        long, value_name = "PID", value_parser = parse_pid, allow_negative_numbers = true,
        conflicts_with = "ports"
    )]
    pub(crate) pid: Option<u32>,
    /// Show only listeners of processes whose working directory is DIR or below it. Linux only
    #[arg(long, value_name = "DIR", conflicts_with = "ports")]
    pub(crate) under: Option<PathBuf>,
    /// Show the full command line of each process, which may contain secrets
    #[arg(long)]
    pub(crate) command_line: bool,
    /// Connect to the port, and report the result
    #[arg(long)]
    pub(crate) probe: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// Reserve any free port, or port N, and pass its number in the environment variable NAME. May
    /// be repeated; without --port and --listen, one port is passed as PORT
    #[arg(long = "port", value_name = "NAME[=N][/udp]")]
    pub(crate) ports: Vec<NamedPort>,
    /// For each NAME without N, reserve a number that is derived from NAME and the project. The
    /// number is the same in each run, unless it is in use
    #[arg(long)]
    pub(crate) stable: bool,
    #[command(flatten)]
    pub(crate) shared: SharedReserveArgs,
    /// If the command does not listen on all ports within DURATION (30s if DURATION is omitted),
    /// stop it and the processes that it started, and fail. Also fail if it ends before it listens.
    /// With --both, wait for TCP listeners only
    #[arg(
        long, value_name = "DURATION", value_parser = parse_duration,
        num_args = 0..=1, require_equals = true, default_missing_value = DEFAULT_WAIT,
        default_value_if("http", ArgPredicate::IsPresent, DEFAULT_WAIT)
    )]
    pub(crate) wait_listening: Option<Duration>,
    /// Like --wait-listening, but also wait until the command answers an HTTP GET of PATH on the
    /// port NAME with STATUS. NAME defaults to the first TCP port, and STATUS to any status from
    /// 200 to 299
    #[arg(long, value_name = "[NAME:]PATH[=STATUS]")]
    pub(crate) http: Vec<NamedProbe>,
    /// Like --port, but also pass the command a socket on 127.0.0.1. A TCP socket already listens,
    /// and a UDP socket is only bound. The command finds the socket through LISTEN_FDS,
    /// LISTEN_FDNAMES and LISTEN_PID, as under systemd. May be repeated. Not on Windows
    #[arg(long, value_name = "NAME[=N][/udp]", conflicts_with = "label")]
    pub(crate) listen: Vec<NamedPort>,
    /// Pass the sockets of --listen as the descriptors N, N+1 and so on, as uvicorn --fd N expects,
    /// and do not set the LISTEN_* variables
    #[arg(
        long, value_name = "N", value_parser = clap::value_parser!(u16),
        allow_negative_numbers = true, requires = "listen"
    )]
    pub(crate) fd: Option<u16>,
    /// After the command has ended, find listeners that it or its daemons left behind. Linux only
    #[arg(long, value_enum, value_name = "ACTION")]
    pub(crate) leaks: Option<LeakAction>,
    /// Command to run, with its arguments. Without `--`, put the options of portlease before it
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// What `run` does about the listeners that its command left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LeakAction {
    /// Print each listener with its process
    Report,
    /// Print each listener. If there is one, exit with 1 instead of 0
    Fail,
    /// Print each listener. Send its process SIGTERM (SIGINT to PostgreSQL and uWSGI), and SIGKILL
    /// if it has not ended after 5 s
    Stop,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ReserveArgs {
    #[command(flatten)]
    pub(crate) selection: PortSelection,
    /// Hold the ports until process PID ends, instead of until the calling shell ends. `job` stands
    /// for the job of GitHub Actions or Azure Pipelines
    #[arg(long, value_name = "PID|job", allow_hyphen_values = true)]
    pub(crate) pid: Option<HoldingProcess>,
    /// Hold the ports for DURATION, even if the calling shell ends earlier. With --pid, hold them
    /// until DURATION has passed or process PID ends, whichever comes first
    #[arg(
        long = "for", value_name = "DURATION", value_parser = parse_duration,
        allow_hyphen_values = true
    )]
    pub(crate) hold_for: Option<Duration>,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

/// The process that `reserve --pid` names. `job` stands for the process that runs the CI job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HoldingProcess {
    Pid(u32),
    Job,
}

impl FromStr for HoldingProcess {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "job" => Ok(HoldingProcess::Job),
            pid => match parse_pid(pid) {
                Ok(pid) => Ok(HoldingProcess::Pid(pid)),
                Err(expected) => Err(format!("{expected}, or \"job\"")),
            },
        }
    }
}

// The ports to reserve. `reserve` sends this value to the keeper, the process that holds the ports.
// A doc comment here would replace the help text of `reserve`.
#[derive(Clone, Debug, clap::Args, Serialize, Deserialize)]
pub(crate) struct PortSelection {
    /// Number of ports to reserve, printed one per line
    #[arg(
        short = 'n', long, value_name = "N", default_value_t = 1,
        value_parser = number_from(1), allow_hyphen_values = true
    )]
    pub(crate) count: u16,
    /// Reserve UDP ports instead of TCP ports
    #[arg(long, conflicts_with = "both")]
    pub(crate) udp: bool,
    /// Reserve consecutive numbers
    #[arg(long)]
    pub(crate) block: bool,
    /// Reserve the numbers at these offsets from one base number, such as 0,10000 for a node of a
    /// Redis Cluster
    #[arg(
        long, value_name = "N,N...", value_delimiter = ',', value_parser = number_from(0),
        allow_hyphen_values = true,
        conflicts_with_all = ["count", "block"]
    )]
    pub(crate) offsets: Vec<u16>,
    /// Reserve a number that is derived from TEXT and the project. The number is the same in each
    /// run, unless it is in use
    #[arg(long, value_name = "TEXT", conflicts_with = "port")]
    pub(crate) name: Option<String>,
    /// Reserve exactly port N. With --block, reserve the block that starts at N. With --offsets, N
    /// is the base number
    #[arg(long, value_name = "N", value_parser = parse_port, allow_hyphen_values = true)]
    pub(crate) port: Option<u16>,
    #[command(flatten)]
    pub(crate) shared: SharedReserveArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ReleaseArgs {
    #[arg(
        required = true,
        value_name = "PORT",
        value_parser = parse_reserved,
        allow_negative_numbers = true,
        help = "Ports to release: 60315, 60315/udp, 8000-8010, or a list such as 5432,6379; \
                both protocols by default. Ports of `reserve --both` are always released for both \
                protocols"
    )]
    pub(crate) ports: Vec<PortList>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    /// Listen on ADDRESS. On Unix, ADDRESS is the path of a Unix socket. On Linux it can also be
    /// @NAME, an abstract Unix socket. On Windows it is @NAME, the named pipe \\.\pipe\NAME
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) address: String,
    /// Reserve for servers that set neither SO_REUSEADDR nor SO_REUSEPORT
    #[arg(long)]
    pub(crate) no_reuse_addr: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct StopArgs {
    #[arg(
        required = true, value_name = "PORT", allow_negative_numbers = true,
        help = format!("Ports to free by stopping their servers: {PORTS}; TCP by default")
    )]
    pub(crate) ports: Vec<PortList>,
    /// Send SIGKILL to a server that still runs DURATION after the first signal
    #[arg(
        long, value_name = "DURATION", value_parser = parse_duration, allow_hyphen_values = true,
        default_value = DEFAULT_STOP_TIMEOUT
    )]
    pub(crate) timeout: Duration,
    /// Stop only processes whose working directory is DIR or below it. Linux only
    #[arg(long, value_name = "DIR")]
    pub(crate) under: Option<PathBuf>,
    /// Print which processes would be stopped, and signal none
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    /// Shell that reads the script
    pub(crate) shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// Command to describe, such as run
    pub(crate) command: Option<String>,
}

// The options that `run` and `reserve` share. A doc comment here would replace the help text of
// both commands.
#[derive(Clone, Debug, clap::Args, Serialize, Deserialize)]
pub(crate) struct SharedReserveArgs {
    /// Reserve for servers that set neither SO_REUSEADDR nor SO_REUSEPORT
    #[arg(long)]
    pub(crate) no_reuse_addr: bool,
    /// Wait up to DURATION for a port that is in use
    #[arg(
        long, alias = "timeout", value_name = "DURATION", value_parser = parse_duration,
        allow_hyphen_values = true
    )]
    pub(crate) wait: Option<Duration>,
    /// Label for the reservation, shown in reports about the port
    #[arg(long, value_name = "TEXT")]
    pub(crate) label: Option<String>,
    #[command(flatten)]
    pub(crate) numbers: NumberArgs,
}

#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("condition").required(true).args(["listening", "free", "http"]))]
pub(crate) struct WaitArgs {
    #[arg(
        required = true, value_name = "PORT", allow_negative_numbers = true,
        help = format!("Ports to wait for: {PORTS}; TCP by default")
    )]
    pub(crate) ports: Vec<PortList>,
    /// Wait until a server listens on each port
    #[arg(long)]
    pub(crate) listening: bool,
    /// Wait until all ports are free
    #[arg(long)]
    pub(crate) free: bool,
    /// Wait until each port has a listening socket that has stayed open for DURATION. Use it for a
    /// server that closes its socket and opens it again while it initializes
    #[arg(
        long = "for", value_name = "DURATION", value_parser = parse_duration,
        allow_hyphen_values = true,
        conflicts_with = "free"
    )]
    pub(crate) steady: Option<Duration>,
    /// Wait until a server answers an HTTP GET of PATH with STATUS (200 to 299 if omitted) on each
    /// port. If PORT has no address, an answer of 127.0.0.1 or ::1 is enough
    #[arg(long, value_name = "PATH[=STATUS]", conflicts_with = "no_reuse_addr")]
    pub(crate) http: Option<HttpProbe>,
    /// With --free, wait until a server that sets neither SO_REUSEADDR nor SO_REUSEPORT can bind
    #[arg(long, conflicts_with = "listening")]
    pub(crate) no_reuse_addr: bool,
    /// Time out after DURATION
    #[arg(
        long, value_name = "DURATION", value_parser = parse_duration, allow_hyphen_values = true,
        default_value = DEFAULT_WAIT
    )]
    pub(crate) timeout: Duration,
    /// Stop waiting when the process PID ends. With --listening or --http, count only listeners of
    /// PID and of processes that PID started
    #[arg(long, value_name = "PID", value_parser = parse_pid, allow_negative_numbers = true)]
    pub(crate) pid: Option<u32>,
}

fn parse_pid(text: &str) -> Result<u32, String> {
    const LARGEST: u32 = i32::MAX.cast_unsigned();
    let pid = text.parse().ok().filter(|pid| (1..=LARGEST).contains(pid));
    pid.ok_or_else(|| format!("expected a process id from 1 to {LARGEST}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_definition_passes_claps_own_checks() {
        <super::Args as clap::CommandFactory>::command().debug_assert();
    }

    /// Without `allow_negative_numbers` or `allow_hyphen_values`, clap rejects a negative
    /// number, and advises to pass the number after `--`.
    #[test]
    fn every_number_and_duration_may_be_negative_for_the_parser() {
        let numbers = [
            "DURATION", "LOW-HIGH", "N", "N,N...", "PID", "PID|job", "PORT", "PORTS",
        ];
        let mut command = <super::Args as clap::CommandFactory>::command();
        command.build();
        let mut checked = 0;
        for command in command.get_subcommands() {
            for arg in command.get_arguments() {
                let names = arg.get_value_names().unwrap_or_default();
                let is_number = names.iter().any(|name| numbers.contains(&name.as_str()));
                if !is_number || arg.is_require_equals_set() {
                    continue;
                }
                checked += 1;
                assert!(
                    arg.is_allow_hyphen_values_set() || arg.is_allow_negative_numbers_set(),
                    "{} of {}",
                    arg.get_id(),
                    command.get_name()
                );
            }
        }
        assert!(
            checked > 20,
            "the control: {checked} arguments were checked"
        );
    }
}
