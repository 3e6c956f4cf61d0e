//! Asks the running kernel, by trying, what a claim relies on. A claim is a TCP socket that is
//! bound without the reuse options, gets both of them afterwards, and never listens.
//!
//! ```text
//! portlease-facts              print each fact on a line, as "ok" or as "BAD" with what differs
//! portlease-facts restart N    restart a server without SO_REUSEADDR N times, and count refusals
//! portlease-facts hold PORT    bind PORT without options and without listening, until stdin ends
//! portlease-facts share PORT   the same, with both reuse options set before the bind
//! portlease-facts past PORT    leave a connection in TIME_WAIT, of a server with SO_REUSEADDR
//! ```
//!
//! The first form narrows the ephemeral range to a few numbers. Run it as root, in a network
//! namespace or a machine of its own: `unshare -n sh -c 'ip link set lo up; portlease-facts'`.

#[cfg(target_os = "linux")]
mod facts;
#[cfg(target_os = "linux")]
mod sockets;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    facts::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("portlease relies on these facts on Linux alone");
}
