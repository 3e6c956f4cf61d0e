//! Subjects that only Linux has. The comment names what each needs of it.

use crate::support::args::Args;

mod clock; // libfaketime
mod compile_fail; // trybuild, which is a dependency on Unix alone
mod crash; // strace
mod faults; // mount namespaces, limits of descriptors
mod guarantee; // the claim
mod handoff; // inherited descriptors
mod namespaces; // network namespaces
mod servers; // servers from Debian packages, stopped by signals
mod spawning; // fork
mod time_wait; // SO_REUSEADDR, as the kernel's table shows it

/// The helper processes of these modules.
pub(crate) fn run_helper(name: &str, args: &Args) {
    match name {
        "binds-beside-spawning-threads" => spawning::bind::bind_beside_spawning_threads(),
        "checks-beside-spawning-threads" => spawning::bind::check_beside_spawning_threads(),
        "checks-over-time-wait" => spawning::bind::check_over_time_wait_beside_spawning_threads(),
        "reserves-beside-spawning-threads" => {
            spawning::release::reserve_beside_spawning_threads(args);
        }
        "reserves-beside-slow-child" => spawning::slow_exec::reserve_beside_slow_child(),
        "closes-beside-slow-child" => spawning::slow_exec::close_beside_slow_child(),
        "inherits" => handoff::serve_inherited(),
        "crash" => crash::reserve_and_release(args),
        "assigned-ports" => guarantee::report_assigned_ports(args),
        "assignments" => guarantee::assignments_in_namespace(),
        "self-connections" => guarantee::self_connections_in_namespace(),
        "link-local" => namespaces::link_local_in_namespace(),
        "used-up-range" => faults::used_up_range_in_namespace(),
        other => panic!("no such helper: {other}"),
    }
}
