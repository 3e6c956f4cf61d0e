//! Tests of subjects that only Linux has. A comment beside a module names what its tests need.

use crate::support::args::Args;

mod clock; // libfaketime
mod compile_fail; // rustc
mod crash; // strace
mod descriptors; // limits of descriptors
mod faults; // mount namespaces, limits of descriptors
mod freezer; // control groups
mod guarantee; // the claim
mod handoff; // inherited descriptors
mod link_local; // two interfaces of a network namespace
mod namespaces; // network namespaces
mod past_server; // connections that a server left, by their state
mod range_change; // the ephemeral range of a network namespace
mod range_usage; // namespaces with few ephemeral ports
mod refused; // how long a refusal takes, with daemons
mod remedies;
mod retries; // fork, sockets without a visible owner
mod sandbox; // Landlock
mod servers; // servers from Debian packages, stopped by signals
mod spawning; // fork
mod supervisors; // supervisors from Debian packages, pip and npm
mod time_wait; // SO_REUSEADDR, as the kernel's table shows it
mod used_up_range; // namespaces with few ephemeral ports
mod whose;

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
        "reserves-range-beside-slow-child" => {
            spawning::slow_exec::reserve_range_beside_slow_child();
        }
        "closes-beside-slow-child" => spawning::slow_exec::close_beside_slow_child(),
        "forks-and-waits" => spawning::without_exec::fork_and_wait(args),
        "becomes-daemon" => spawning::without_exec::become_daemon(),
        "reserves-in-forked-child" => spawning::without_exec::reserve_in_forked_child(),
        "leaks-in-children" => spawning::leak::leak_in_children(),
        "leaks-without-proc" => spawning::leak::leak_without_proc(),
        "forks-first-process" => spawning::without_exec::fork_first_process(),
        "checks-while-forking" => crate::lock_folder::forks::check_while_forking(),
        "waits-without-proc" => faults::wait_without_proc(),
        "closes-descriptors" => faults::close_descriptors_and_go_on(),
        "writes-no-file" => faults::reserve_without_writing(),
        "out-of-descriptors" => descriptors::ask_without_descriptors(args),
        "changes-namespace" => namespaces::reserve_in_several_namespaces(),
        "asks-about-many-ports" => crate::report::many::ask(),
        "calls-beside-forked-child" => retries::call_beside_forked_child(args),
        "check-beside-forked-children" => retries::check_beside_forked_children(),
        "releases-beside-forked-child" => retries::release_beside_forked_child(),
        "inherits" => handoff::serve_inherited(),
        "passes-variables" => handoff::environment::pass_variables(),
        "passes-descriptors" => handoff::descriptors::pass_descriptors(),
        "leaks-in-forked-children" => spawning::leak::leak_in_forked_children(),
        "crash" => crash::reserve_and_release(args),
        "assigned-ports" => guarantee::report_assigned_ports(args),
        "assignments" => guarantee::assignments_in_namespace(),
        "self-connections" => guarantee::self_connections_in_namespace(),
        "link-local" => link_local::addresses_of_two_interfaces(),
        "bound-to-interface" => link_local::server_of_one_interface(),
        "past-servers" => past_server::reserve_after_past_servers(),
        "past-servers-race" => past_server::race_after_past_servers(),
        "ipv6-beside-used-up-range" => used_up_range::attack_over_ipv6(args),
        "ipv6-switched-on" => used_up_range::switch_ipv6_on(),
        "process-for-each-number" => used_up_range::reserve_by_a_process_each(),
        "range-of-two" => used_up_range::reserve_in_a_range_of_two(),
        "few-of-many" => used_up_range::reserve_few_of_many(),
        "range-narrowed" => used_up_range::reserve_in_a_narrowed_range(),
        "range-in-time-wait" => used_up_range::reserve_beside_time_wait(),
        "range-half-used-up" => used_up_range::reserve_beside_half_of_the_range(),
        "many-udp" => used_up_range::reserve_udp_beyond_the_first_thousands(),
        "only-number" => namespaces::reserve_the_only_number(),
        "follows-sysctl" => remedies::follow_sysctl(),
        "redirected" => remedies::wait_for_redirected(),
        "subreaper" => whose::adopt_a_daemon(),
        "changed-range" => range_change::change_the_range(),
        "crowded-range" => range_usage::report_a_crowded_range(),
        "used-up-range" => faults::used_up_range_in_namespace(),
        other => panic!("no such helper: {other}"),
    }
}
