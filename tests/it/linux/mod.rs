//! What is made of Linux: each module names that in its first line, or here.

use crate::support::Words;

mod clock; // libfaketime
mod compile_fail; // trybuild: a dependency of Unix alone
mod crash; // strace
mod faults; // mounts, limits of descriptors, modes of files
pub(crate) mod guarantee; // the claim
mod handoff; // inherited descriptors
mod identity; // names and descriptors of processes, by /proc
mod namespaces; // network namespaces
mod programs; // servers of Debian's packages, stopped by signals
mod reports; // the numbers that this system assigns, from /proc
mod servers; // as `programs`
mod spawning; // fork
mod time_wait; // SO_REUSEADDR, as the kernel's table has it
mod users; // setpriv, links, fifos

/// The parts of these.
pub(crate) fn play(role: &str, words: &Words) {
    match role {
        "binds-beside-spawning-threads" => spawning::bind_beside_spawning_threads(),
        "checker" => spawning::checks_beside_spawning_threads(),
        "checker-over-time-wait" => spawning::checks_over_time_wait_beside_spawning_threads(),
        "inherited" => handoff::serve_inherited(),
        "racer" => guarantee::race(words),
        "crash" => crash::play(words),
        "spawner" => spawning::re_reserve_beside_spawning_threads(words),
        "reserves-beside-stuck-child" => spawning::reserve_beside_stuck_child(),
        "closes-beside-stuck-child" => spawning::close_beside_stuck_child(),
        "draws" => guarantee::draws_in_namespace(),
        "self-connections" => guarantee::self_connections_in_namespace(),
        "used-up" => faults::used_up_range_in_namespace(),
        other => panic!("no such role: {other}"),
    }
}
