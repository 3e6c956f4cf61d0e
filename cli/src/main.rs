//! `portlease`: checks ports, and reserves them for servers in any language.
//!
//! This program uses only the public API of the library. It prints answers on stdout, and
//! everything else on stderr. Exception: `run` prints its JSON answer on stderr, because the
//! command that it runs uses stdout.

mod args;
mod caller;
mod command_end;
mod commands;
mod condition;
mod dispatch;
mod duration;
mod ending;
mod exit;
mod failure;
mod ffi;
mod finding;
mod help;
mod http_probe;
mod http_wait;
mod inherited_sockets;
mod interruption;
mod keeper;
mod leaks;
mod limits;
mod listen_wait;
#[cfg(windows)]
mod named_pipe;
mod number_args;
mod orphans;
mod output;
mod placeholders;
mod port_server;
mod ports;
mod process;
mod process_stat;
mod process_tree;
#[cfg(unix)]
mod received_signals;
mod refusal;
mod reserve_options;
mod restarts;
mod server_address;
#[cfg(unix)]
mod signals;
mod silent_ports;
mod spawning;
mod starters;
mod stdout;
mod stop_plan;
mod supervise;
mod survey;
mod text;
mod wait_loop;
#[cfg(unix)]
mod watcher;

use std::process::ExitCode;

fn main() -> ExitCode {
    dispatch::main()
}
