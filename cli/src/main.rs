//! `portlease`: checks ports, and reserves them for servers in any language.
//!
//! The command uses only the public API of the library. It prints answers on stdout, and everything
//! else on stderr.

#[cfg(target_os = "linux")]
mod args;
#[cfg(target_os = "linux")]
mod caller;
#[cfg(target_os = "linux")]
mod commands;
#[cfg(target_os = "linux")]
mod condition;
#[cfg(target_os = "linux")]
mod dispatch;
#[cfg(target_os = "linux")]
mod ending;
#[cfg(target_os = "linux")]
mod exit;
#[cfg(target_os = "linux")]
mod failure;
#[cfg(target_os = "linux")]
mod finding;
#[cfg(target_os = "linux")]
mod help;
#[cfg(target_os = "linux")]
mod http_probe;
#[cfg(target_os = "linux")]
mod http_wait;
#[cfg(target_os = "linux")]
mod keeper;
#[cfg(target_os = "linux")]
mod leaks;
#[cfg(target_os = "linux")]
mod limits;
#[cfg(target_os = "linux")]
mod number_args;
#[cfg(target_os = "linux")]
mod orphans;
#[cfg(target_os = "linux")]
mod output;
#[cfg(target_os = "linux")]
mod port_server;
#[cfg(target_os = "linux")]
mod ports;
#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
mod reserve_options;
#[cfg(target_os = "linux")]
mod signals;
#[cfg(target_os = "linux")]
mod stop_plan;
#[cfg(target_os = "linux")]
mod text;
#[cfg(target_os = "linux")]
mod wait_loop;

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    dispatch::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    eprintln!(
        "portlease: this command supports only Linux so far; the library supports other systems too"
    );
    ExitCode::from(2)
}
