//! Checks whether a port is free: a server could bind it now, and no reservation has the port,
//! except the asker's own.

use std::io;
use std::time::{Duration, Instant};

use super::port_context::PortContext;
use crate::claim::{BindMode, try_bind};
use crate::link_local;
use crate::model::diagnosis::verdict::{Cause, Verdict};
use crate::model::endpoint::Protocol;
use crate::model::incompleteness::Incompleteness;
use crate::model::port::Port;
use crate::model::server_kind::ServerKind;
use crate::model::state::State;
use crate::namespace::Memo;
use crate::os_error::{OsMessage, is_out_of_descriptors};
use crate::ownership::{Asker, Owned};
use crate::ports;
use crate::residual;
use crate::retry::{ResidualOwner, RetryBudget, block_for};
use crate::sockets::{self, PortTables, Row, Table};

/// The answer of one check.
#[derive(Debug)]
pub(crate) struct Availability {
    pub(crate) verdict: Verdict,
    /// The sockets that keep a server from binding the port. Only an answer with [`Cause::Holder`]
    /// has them.
    blocking: Vec<Row>,
}

impl Availability {
    fn of(verdict: Verdict) -> Self {
        Availability {
            verdict,
            blocking: Vec::new(),
        }
    }

    fn blocked_by(blocking: Vec<Row>) -> Self {
        Availability {
            verdict: Verdict::InUse(Cause::Holder),
            blocking,
        }
    }

    /// If another reservation has the port, returns an answer that says so. Otherwise returns
    /// `self`.
    ///
    /// Exception: an answer with blocking sockets is always returned as it is. So is an answer that
    /// names an error, such as a missing address. A missing permission is not such an error.
    fn unless_reserved(self, context: &PortContext) -> Availability {
        match &self.verdict {
            Verdict::Free
            | Verdict::Privileged
            | Verdict::Forbidden
            | Verdict::InUse(
                Cause::TimeWait
                | Cause::TimeWaitWithoutReuseAddr
                | Cause::Excluded
                | Cause::UnseenClaim
                | Cause::Unexplained,
            ) => match context.conflict() {
                Some(cause) => Availability::of(Verdict::InUse(cause)),
                None => self,
            },
            _ => self,
        }
    }

    /// The sockets whose owners decide whether a retry can help. The list is empty if no socket
    /// explains why the port is busy. `None` if a retry cannot help. For [`Cause::Named`], also
    /// `None` if the Unix sockets cannot be read.
    fn blocking(&self, port: Port) -> Option<Vec<Row>> {
        match self.verdict {
            Verdict::InUse(Cause::Holder) => Some(self.blocking.clone()),
            Verdict::InUse(Cause::Named) => {
                let name = residual::name(port).ok()?;
                Some(name.into_iter().collect())
            }
            Verdict::InUse(Cause::Unexplained | Cause::UnseenClaim) => Some(Vec::new()),
            _ => None,
        }
    }
}

/// A port that is checked, and the retries that are left for it.
#[derive(Debug)]
struct Question {
    /// The position of the port's answer in the list of verdicts.
    index: usize,
    port: Port,
    asker: Asker,
    budget: RetryBudget,
}

/// Checks for each port whether a server of this kind could bind it now, and whether a reservation
/// other than the asker's own blocks it. The verdicts are in the order of the ports.
///
/// The check of a busy port is repeated if a retry can help: the [`ResidualOwner`] of the port is
/// unknown, or all its owners are forked children that have not called exec. Each port has its own
/// retry budget. All budgets run at the same time, so a thousand ports take hardly longer than one.
pub(crate) fn of_each(
    ports: impl IntoIterator<Item = (Port, Asker)>,
    kind: ServerKind,
    budget: impl Fn() -> RetryBudget,
) -> Vec<Verdict> {
    let _memo = Memo::new();
    let ports: Vec<(Port, Asker)> = ports.into_iter().collect();
    let questions = |budget: &dyn Fn() -> RetryBudget| -> Vec<Question> {
        let question = |(index, (port, asker)): (usize, &(Port, Asker))| Question {
            index,
            port: *port,
            asker: *asker,
            budget: budget(),
        };
        ports.iter().enumerate().map(question).collect()
    };
    let mut verdicts = vec![Verdict::Free; ports.len()];
    let started = Instant::now();
    let has_paused = answer(questions(&budget), kind, &mut verdicts);
    if has_paused && verdicts != [Verdict::Free] {
        // Checks all ports again, because answers may be out of date. While one port was retried,
        // another port may have been taken or released. Even a single busy port may be free now: a
        // forked child may have released it during the last search for the owner. A single free
        // port was bound a moment ago, so no second check follows.
        let last = || match ports.len() {
            1 => RetryBudget::none(),
            _ => budget().after(started.elapsed()),
        };
        answer(questions(&last), kind, &mut verdicts);
    }
    verdicts
}

/// Writes the answer to each question into `verdicts`. Returns `true` if a check was repeated.
fn answer(mut open: Vec<Question>, kind: ServerKind, verdicts: &mut [Verdict]) -> bool {
    let mut has_paused = false;
    loop {
        let found = look_at_each(&mut open, kind);
        let answered = open.into_iter().zip(found);
        let (free, busy): (Vec<_>, Vec<(Question, Availability)>) =
            answered.partition(|(_, found)| found.verdict == Verdict::Free);
        for (question, found) in free {
            verdicts[question.index] = found.verdict;
        }
        let blocking: Vec<Option<Vec<Row>>> = busy
            .iter()
            .map(|(question, found)| found.blocking(question.port))
            .collect();
        let rows: Vec<Vec<Row>> = blocking.iter().flatten().cloned().collect();
        let mut owners = residual::owner_of_each(&rows).into_iter();
        let mut pause: Option<Duration> = None;
        open = Vec::new();
        for ((mut question, found), blocking) in busy.into_iter().zip(blocking) {
            let owner = blocking.and_then(|_| owners.next());
            let owner = owner.unwrap_or(ResidualOwner::Process);
            match question.budget.next_pause(|| owner) {
                Some(next) => {
                    pause = Some(pause.map_or(next, |shortest| shortest.min(next)));
                    open.push(question);
                }
                None => verdicts[question.index] = found.verdict,
            }
        }
        match pause {
            Some(pause) => block_for(pause),
            None => return has_paused,
        }
        has_paused = true;
    }
}

/// Checks the port once, by a bind. If the kernel refuses the bind, the function reads the reason
/// from the socket table. It does not search for the processes of the sockets, because that search
/// is slow.
pub(crate) fn look(
    port: Port,
    kind: ServerKind,
    asker: Asker,
    budget: &mut RetryBudget,
) -> Availability {
    match bind(port, kind, asker, budget) {
        Bound::Answered(found) => found,
        Bound::Refused(context) => explain(&context, kind, budget, &PortTables::EachPort),
    }
}

/// Checks each of the ports as [`look`] does. If there are many refused ports, one read of the
/// socket table serves all of them.
fn look_at_each(questions: &mut [Question], kind: ServerKind) -> Vec<Availability> {
    let bind = |question: &mut Question| {
        let Question { port, asker, .. } = *question;
        bind(port, kind, asker, &mut question.budget)
    };
    let bound: Vec<Bound> = questions.iter_mut().map(bind).collect();
    let refused = |bound: &Bound| match bound {
        Bound::Answered(_) => None,
        Bound::Refused(context) => Some(Some(context.port.protocol)),
    };
    // If the whole table cannot be read, `explain` reads the sockets of each port separately.
    let tables = PortTables::of(bound.iter().filter_map(refused));
    let tables = tables.unwrap_or(PortTables::EachPort);
    let explain = |(bound, question): (Bound, &mut Question)| match bound {
        Bound::Answered(found) => found,
        Bound::Refused(context) => explain(&context, kind, &mut question.budget, &tables),
    };
    bound.into_iter().zip(questions).map(explain).collect()
}

/// What the bind of a port shows.
enum Bound {
    Answered(Availability),
    /// The kernel reported "address in use". The socket table can show the reason.
    Refused(Box<PortContext>),
}

/// Binds the port without the reuse options, and closes the socket at once.
fn bind(port: Port, kind: ServerKind, asker: Asker, budget: &mut RetryBudget) -> Bound {
    let answered = |verdict| Bound::Answered(Availability::of(verdict));
    if port.protocol == Protocol::UdpLite {
        let text = "portlease does not bind UDP-Lite ports, and can only report who holds them";
        return answered(Verdict::CannotTell {
            text: text.to_owned(),
            is_denied: false,
        });
    }
    let context = match PortContext::read(port, asker) {
        Ok(context) => context,
        Err(cause) => return answered(Verdict::cannot_tell(&cause)),
    };
    // A forked child may have a copy of this check's socket. The copy would keep a server without
    // the reuse options from binding. So `BindMode::Plain` waits until no copy is left.
    //
    // A server without the reuse options may follow this check in two cases. `kind` is `Plain`, or
    // the asker's own reservation has no claim (a bound socket). A claim would keep that server
    // from binding anyway.
    let mode = match (kind, context.own) {
        (ServerKind::Plain, _) | (_, Some(Owned { claim: None })) => BindMode::Plain,
        _ => BindMode::Exclusive,
    };
    let found = match try_bind(port, mode, budget) {
        Ok(()) => Availability::of(Verdict::Free),
        Err(e) => match refusal(port, &e) {
            None => return Bound::Refused(Box::new(context)),
            Some(verdict @ (Verdict::Privileged | Verdict::Forbidden)) => {
                // This process lacks the permission for the bind. A listener can still show that
                // the port is taken.
                let rows = listeners(port, &PortTables::EachPort);
                if rows.is_empty() {
                    Availability::of(verdict)
                } else {
                    Availability::blocked_by(rows)
                }
            }
            Some(verdict) => Availability::of(verdict),
        },
    };
    Bound::Answered(found.unless_reserved(&context))
}

/// Finds out which sockets or reservations made the kernel refuse the bind. The answer can still be
/// `Free`: the refused bind set no reuse option, but a server of this kind may set one.
fn explain(
    context: &PortContext,
    kind: ServerKind,
    budget: &mut RetryBudget,
    tables: &PortTables,
) -> Availability {
    find_blocking(context, kind, budget, tables).unless_reserved(context)
}

fn find_blocking(
    context: &PortContext,
    kind: ServerKind,
    budget: &mut RetryBudget,
    tables: &PortTables,
) -> Availability {
    let port = context.port;
    let mut admits_server = || match kind {
        ServerKind::ReuseAddr => try_bind(port, BindMode::Server, budget).is_ok(),
        ServerKind::ReusePort => try_bind(port, BindMode::ReusePort, budget).is_ok(),
        ServerKind::Plain => false,
    };
    let admitted = admits_server();
    // On Linux, reading only the listeners takes 1/10 to 1/100 of the time of reading every socket,
    // depending on the size of the kernel's tables. The listeners are usually enough.
    if !admitted {
        let rows = listeners(port, tables);
        if !rows.is_empty() {
            return Availability::blocked_by(rows);
        }
    }
    let table = match tables.sockets(port.number, Some(port.protocol)) {
        Ok(table) => table,
        Err(e) if is_out_of_descriptors(&e) => return Availability::of(Verdict::cannot_tell(&e)),
        // This system has no socket table, or the table cannot be read.
        Err(_) => Table {
            rows: Vec::new(),
            unseen: vec![Incompleteness::Sockets(port.protocol)],
        },
    };
    // For a server without the reuse options, every claim (a socket that this crate has bound)
    // blocks the port, even the caller's own claim.
    let is_over_claim = |row: &Row| kind != ServerKind::Plain && context.is_claim(row);
    let unseen_claim = cfg!(target_os = "linux")
        && port.protocol == Protocol::Tcp
        && table.unseen.iter().any(|reason| reason.is_of_bound());
    let mut others = table.rows;
    others.retain(|row| row.matches_addr(port.ip, port.scope_id) && !is_over_claim(row));
    let has_others = !others.is_empty();
    let waits = others.iter().any(|row| row.state == State::TimeWait);
    // Listening and bound sockets block the port. If the trial bind of a server has failed, other
    // sockets block the port too. The code below handles sockets in TIME_WAIT.
    others.retain(|row| match row.state {
        State::TimeWait => false,
        State::Listen | State::Bound => true,
        _ => !admitted,
    });
    if !others.is_empty() {
        Availability::blocked_by(others)
    } else if admitted || waits && admits_server() {
        // The first or the second trial bind succeeded. If only the second bind succeeded, the
        // socket that blocked the first bind has been closed since.
        if context.own.is_some() || has_others {
            Availability::of(Verdict::Free)
        } else if unseen_claim {
            Availability::of(Verdict::InUse(Cause::UnseenClaim))
        } else {
            unexplained(port)
        }
    } else if waits {
        let admits_reuse_addr =
            kind != ServerKind::ReuseAddr && try_bind(port, BindMode::Server, budget).is_ok();
        Availability::of(Verdict::InUse(if admits_reuse_addr {
            Cause::TimeWaitWithoutReuseAddr
        } else {
            Cause::TimeWait
        }))
    } else {
        unexplained(port)
    }
}

/// The answer if no socket explains the refusal. The system may exclude the number from use, as
/// Windows does.
fn unexplained(port: Port) -> Availability {
    let cause = if ports::is_excluded(port.protocol, port.number) {
        Cause::Excluded
    } else {
        Cause::Unexplained
    };
    Availability::of(Verdict::InUse(cause))
}

/// The sockets that would answer on the port: TCP sockets that listen, and UDP sockets without a
/// peer. Empty if the socket table cannot be read.
fn listeners(port: Port, tables: &PortTables) -> Vec<Row> {
    let mut rows = tables
        .listening(port.number, port.protocol)
        .unwrap_or_default();
    rows.retain(|row| row.matches_addr(port.ip, port.scope_id));
    rows
}

/// Whether this machine lacks the address of the port. The function binds the address, but not the
/// port: the kernel chooses another number, so a server that starts now is not disturbed.
pub(super) fn lacks_address(port: Port) -> bool {
    let any_number = Port {
        number: 0,
        protocol: Protocol::Udp,
        ..port
    };
    let is_lacking = |e: io::Error| refusal(port, &e) == Some(Verdict::NoSuchAddress);
    port.ip.is_some()
        && try_bind(any_number, BindMode::Plain, &mut RetryBudget::none()).is_err_and(is_lacking)
}

/// What the error of a bind means. `None` for "address in use", because the socket table shows the
/// reason.
fn refusal(port: Port, error: &io::Error) -> Option<Verdict> {
    match error.kind() {
        io::ErrorKind::AddrInUse => None,
        io::ErrorKind::AddrNotAvailable => Some(Verdict::NoSuchAddress),
        // The kernel refuses this link-local address without a scope id. The bind had no scope id,
        // because no interface has the address.
        io::ErrorKind::InvalidInput
            if cfg!(target_os = "linux")
                && port.scope_id == 0
                && port.ip.is_some_and(link_local::needs_interface) =>
        {
            Some(Verdict::NoSuchAddress)
        }
        io::ErrorKind::PermissionDenied if ports::is_privileged(port.number) => {
            Some(Verdict::Privileged)
        }
        io::ErrorKind::PermissionDenied => Some(Verdict::Forbidden),
        _ if is_out_of_descriptors(error) => Some(Verdict::cannot_tell(error)),
        _ => Some(Verdict::CannotBind(OsMessage(error).to_string())),
    }
}

/// What can be known about a port without a bind. If the sockets on the port give several answers,
/// the variant that is declared first counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum QuickStatus {
    /// The port is in use or reserved. A check of the reservations and listeners shows this at low
    /// cost.
    Busy,
    /// The port is in use. Only a read of every socket shows this, which costs more.
    BusyExpensive,
    /// The port may be free. Only a bind can answer.
    MaybeFree,
}

/// Checks without a bind whether the port is in use. A wait that bound the port in each poll could
/// keep a starting server from binding.
pub(crate) fn quick_status(port: Port, asker: Asker) -> io::Result<QuickStatus> {
    let context = PortContext::read(port, asker)?;
    if context.conflict().is_some() {
        return Ok(QuickStatus::Busy);
    }
    let table = match sockets::listening_or_all(port.number, port.protocol) {
        Ok(table) => table,
        Err(e) if e.kind() == io::ErrorKind::Unsupported => return Ok(QuickStatus::MaybeFree),
        Err(e) => return Err(e),
    };
    let is_other = |row: &&Row| row.matches_addr(port.ip, port.scope_id) && !context.is_claim(row);
    let others = table.rows.iter().filter(is_other);
    let status = |row: &Row| match row.state {
        State::Listen => QuickStatus::Busy,
        State::Bound if port.protocol != Protocol::Tcp => QuickStatus::Busy,
        State::Bound | State::Connected => QuickStatus::BusyExpensive,
        // The port is the source port of a client, so a server usually cannot bind. The last arm is
        // for connections that a server accepted: another server may bind beside them.
        _ if row.client => QuickStatus::BusyExpensive,
        _ => QuickStatus::MaybeFree,
    };
    Ok(others.map(status).min().unwrap_or(QuickStatus::MaybeFree))
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};

    use super::*;
    use crate::reserve::options::ReserveOptions;

    #[test]
    fn a_quick_status_shows_without_a_bind_that_a_port_is_in_use() {
        let status = |number: u16, protocol| {
            quick_status(Port::new(number, protocol), Asker::Process).unwrap()
        };
        let reserved = ReserveOptions::new().tcp_and_udp().reserve().unwrap();
        let number = reserved.port();
        assert_eq!(
            status(number, Protocol::Tcp),
            QuickStatus::MaybeFree,
            "its own"
        );
        let port = Port::new(number, Protocol::Udp);
        let of_another = quick_status(port, Asker::NewReservation).unwrap();
        assert_eq!(of_another, QuickStatus::Busy, "reserved by another");

        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let number = udp.local_addr().unwrap().port();
        assert_eq!(status(number, Protocol::Udp), QuickStatus::Busy);
        udp.connect((Ipv4Addr::LOCALHOST, 9)).unwrap();
        assert_eq!(status(number, Protocol::Udp), QuickStatus::BusyExpensive);

        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        let number = server.local_addr().unwrap().port();
        assert_eq!(status(number, Protocol::Tcp), QuickStatus::Busy);
        let number = client.local_addr().unwrap().port();
        assert_eq!(status(number, Protocol::Tcp), QuickStatus::BusyExpensive);
    }
}
