//! The reports on a port without the expected listener.

use super::expected::Expected;
use super::facts::{facts_of_each, lacks_listener, note_other_protocol};
use super::own_listeners::OwnListeners;
use super::probe;
use crate::model::diagnosis::verdict::Verdict;
use crate::model::diagnosis::{Diagnosis, Facts};
use crate::model::holder::Holder;
use crate::model::port::Port;
use crate::namespace::Namespace;
use crate::sockets::{self, ScanDepth};

/// A report of a port on which the expected process does not listen, or does not listen alone. If
/// no socket listens on the port, a connection shows whether a packet filter redirects the port:
/// see [`after_waiting_for_any`]. `asked` has all ports of the call.
pub(crate) fn not_listening(
    port: Port,
    verdict: Verdict,
    expected: &Expected,
    asked: &[Port],
) -> Diagnosis {
    let mut each = not_listening_each(vec![(port, verdict)], expected, asked);
    each.pop().expect("one port has one report")
}

/// Returns what `look` finds for the process `pid`. If `look` finds nothing, `pid` may have started
/// its server through other programs, such as npm and a shell. So the function calls `look` for
/// each of `leaves`, the descendants of `pid` that have no children. If `look` finds something for
/// every leaf, returns the first leaf with its result.
fn of_server<T>(pid: u32, leaves: &[u32], look: impl Fn(u32) -> Option<T>) -> Option<(u32, T)> {
    if let Some(found) = look(pid) {
        return Some((pid, found));
    }
    let found = leaves.iter().map(|leaf| Some((*leaf, look(*leaf)?)));
    found.collect::<Option<Vec<_>>>()?.into_iter().next()
}

/// What [`not_listening`] returns for each of these ports, in their order.
pub(crate) fn not_listening_each(
    ports: Vec<(Port, Verdict)>,
    expected: &Expected,
    asked: &[Port],
) -> Vec<Diagnosis> {
    if ports.is_empty() {
        return Vec::new();
    }
    let process_of_thread = expected.pid().and_then(sockets::process_of_thread);
    let runs = |pid: &u32| sockets::is_running(*pid).unwrap_or(true);
    let running = expected.pid().filter(runs);
    // The calling process may have descendants of any kind, not only servers. So if the calling
    // process itself is expected, this function does not examine the descendants.
    let others = running.filter(|pid| *pid != std::process::id());
    let leaves = others.map(sockets::leaves).unwrap_or_default();
    let halted = running.and_then(|pid| of_server(pid, &leaves, sockets::halt));
    let is_elsewhere = |pid| Namespace::differs_from_that_of(pid).then_some(());
    let in_other_network = running.and_then(|pid| of_server(pid, &leaves, is_elsewhere));
    let in_other_network = in_other_network.map(|(pid, ())| pid);
    // If the listeners of the expected process cannot be read, the report omits them.
    let own_listeners = OwnListeners::of(expected, asked).unwrap_or_default();
    let report = |((port, _), facts): (&(Port, Verdict), Facts)| {
        let mut facts = with_redirection(*port, facts);
        let holders = facts.holders.iter().flatten();
        let stranger = holders
            .filter(|socket| socket.answers() && !expected.has(socket))
            .min_by_key(|socket| socket.processes.is_empty())
            .cloned();
        let processes = stranger.iter().flat_map(|stranger| &stranger.processes);
        if stranger.is_some() {
            facts.elsewhere.retain(|other| expected.has(other));
        }
        let is_shared = matches!(facts.verdict, Verdict::SharedWithStranger(_));
        let listens = is_shared || stranger.is_some() && !facts.elsewhere.is_empty();
        let mut meant = processes.filter(|process| expected.may_mean(process, listens));
        let probably_meant = meant.next().map(|process| process.pid).zip(expected.pid());
        let (instead, of_same_reserver) = own_listeners.beside(*port);
        Diagnosis::new(Facts {
            expected: Some(running),
            process_of_thread,
            // A process can be halted: stopped or frozen. That explains only why a listener is
            // missing. If the expected process shares the port with an unrelated process, no
            // listener is missing.
            halted: halted.clone().filter(|_| lacks_listener(&facts.verdict)),
            in_other_network: in_other_network.filter(|_| lacks_listener(&facts.verdict)),
            stranger,
            probably_meant,
            instead,
            of_same_reserver,
            ..facts
        })
    };
    let mut facts = facts_of_each(ports.clone(), ScanDepth::Complete);
    note_other_protocol(&mut facts, asked, Some(expected));
    ports.iter().zip(facts).map(report).collect()
}

/// The report on a wait that has timed out and expects no particular process. `asked` has all ports
/// of a wait for listeners, and is empty after a wait until ports are free. `last_listener` is for
/// [`Facts::last_listener`].
///
/// If the verdict is [`Verdict::NotListening`], and this machine has the address of the port, the
/// function connects with [`probe::redirected`], to find out whether a packet filter redirects the
/// port.
pub(crate) fn after_waiting_for_any(
    port: Port,
    verdict: Verdict,
    last_listener: Option<Holder>,
    asked: &[Port],
) -> Diagnosis {
    let mut each = facts_of_each(vec![(port, verdict)], ScanDepth::Complete);
    note_other_protocol(&mut each, asked, None);
    let facts = each.pop().expect("one port has one set of facts");
    Diagnosis::new(Facts {
        last_listener,
        ..with_redirection(port, facts)
    })
}

fn with_redirection(port: Port, mut facts: Facts) -> Facts {
    let mut sockets = facts.holders.iter().flatten();
    let is_silent = match facts.verdict {
        Verdict::NotListening => true,
        Verdict::NotHeldBy(_) => !sockets.any(Holder::answers),
        _ => false,
    };
    // A connection to an address that this machine lacks would reach another machine.
    if is_silent && !facts.lacks_address {
        facts.redirected = probe::redirected(port);
    }
    facts
}
