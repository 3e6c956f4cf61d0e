//! The act of reserving: a claim and a lease for one number, for any of several, for many, for a block.

mod automatic;
mod exact;

use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use once_cell::sync::OnceCell;

use crate::claim;
use crate::inspect::diagnose;
use crate::lease::{self, LeaseLock, Refusal};
use crate::model::endpoint::{Endpoint, Protocol};
use crate::model::error::{AttemptStats, Error, Result};
use crate::model::port_set::PortSet;
use crate::model::record::{Beneficiary, Record};
use crate::ports;
use crate::ports::services;
use crate::reservation::{ProtocolReservation, Reservation};
use crate::retry::{ResidualOwner, RetryBudget};
use crate::sockets;
use exact::exact;

/// Options that hold together.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) protocols: &'static [Protocol],
    /// The server sets SO_REUSEADDR, and so can bind over a claim.
    pub(crate) reuse_addr: bool,
    pub(crate) port: Option<u16>,
    /// `None` is the kernel's choice.
    pub(crate) allowed: Option<RangeInclusive<u16>>,
    pub(crate) prefer: Vec<u16>,
    pub(crate) exclude: PortSet,
    pub(crate) wait: Duration,
    pub(crate) label: Option<String>,
    pub(crate) on_behalf_of: Option<u32>,
    pub(crate) at: &'static std::panic::Location<'static>,
}

impl Request {
    /// Whether the port is kept by a claim: where that and its server get on with each other.
    fn claims(&self, protocol: Protocol) -> Result<bool, AttemptError> {
        Ok(protocol == Protocol::Tcp && self.reuse_addr && keeps_claims()?)
    }

    /// Whether an automatic pick leaves the number to the common service that uses it: unless it was asked for by range,
    /// or the administrator withheld it from the kernel, perhaps for these tests.
    fn spares(&self, port: u16) -> bool {
        self.allowed.is_none()
            && services::numbers().contains(port)
            && !automatic::range().is_reserved(port)
    }
}

pub(crate) fn reserve(request: &Request) -> Result<Reservation> {
    retry_until_deadline(request, &mut |level| match request.port {
        Some(port) => exact(request, port, level),
        None => any(request, level),
    })
}

pub(crate) fn reserve_many(request: &Request, n: usize) -> Result<Vec<Reservation>> {
    retry_until_deadline(request, &mut |level| {
        (0..n)
            .map(|_| match request.port {
                Some(port) => exact(request, port, level),
                None => any(request, level),
            })
            .collect()
    })
}

pub(crate) fn reserve_block(request: &Request, n: usize) -> Result<Vec<Reservation>> {
    retry_until_deadline(request, &mut |level| match request.port {
        // In ascending order, like everybody: of two who want overlapping blocks, one gets on.
        Some(first) => (0..n)
            .map(|i| exact(request, first + i as u16, level))
            .collect(),
        None => any_block(request, n, level),
    })
}

/// Why a number was not to be had.
#[derive(Debug)]
pub(crate) enum AttemptError {
    Leased(Endpoint),
    Occupied(Endpoint),
    Privileged(Endpoint, io::Error),
    Planted(PathBuf, io::Error),
    NoneFree(AttemptStats),
    /// Another number would fail too.
    Fatal(Error),
}

impl AttemptError {
    fn passes(&self) -> bool {
        matches!(
            self,
            AttemptError::Leased(_) | AttemptError::Occupied(_) | AttemptError::NoneFree(_)
        )
    }

    /// Whether it may be the traces of what was just let go. An exact number was waited for already.
    fn may_be_over(&self) -> bool {
        matches!(self, AttemptError::NoneFree(stats) if !stats.spared && stats.tried() <= FEW)
    }

    fn into_error(self, request: &Request, waited: Option<Duration>) -> Error {
        match self {
            AttemptError::Leased(endpoint) | AttemptError::Occupied(endpoint) => {
                Error::cannot_reserve(endpoint, waited, diagnose::in_use(endpoint))
            }
            AttemptError::Privileged(endpoint, cause) => Error::privileged(endpoint, cause),
            AttemptError::Planted(path, cause) => Error::planted(&path, cause),
            AttemptError::NoneFree(stats) => {
                Error::no_free_port(request.allowed.as_ref(), waited, &stats)
            }
            AttemptError::Fatal(error) => error,
        }
    }
}

/// More numbers than this are not all ailed by what passes.
const FEW: usize = 64;

/// How much a number is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum RetryLevel {
    /// One try.
    QuickStatus,
    /// A look into the socket table as well: what only TIME_WAIT occupies can be had.
    Look,
    /// And some patience with what was let go just now, and a forked child still has.
    Prefer,
    /// And with whatever nobody visible explains.
    Insist,
}

impl RetryLevel {
    /// Whether to try again, after a pause.
    fn persists(self, budget: &mut RetryBudget, left: impl FnOnce() -> ResidualOwner) -> bool {
        match self {
            RetryLevel::QuickStatus | RetryLevel::Look => false,
            RetryLevel::Prefer => budget.pause_unless_others(left),
            RetryLevel::Insist => budget.pause_while(left),
        }
    }
}

/// A waiter tries again after an eighth of the time it has waited, within these bounds: a port is had soon after it
/// is let go, and a long wait costs next to nothing.
const POLL: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(10));
const POLL_SHARE: u32 = 8;

/// A try that takes long, because it walks a range, is paused after for this many times as long, and no longer than
/// this. The quickest one so far tells: another may have been kept off the processor.
const PAUSE_PER_TRY: u32 = 20;
const PAUSE_MOST: Duration = Duration::from_secs(1);

/// Every so many tries, one looks into the socket table, which costs as much as a hundred of the others.
const LOOK_EVERY: u32 = 48;

fn retry_until_deadline<T>(
    request: &Request,
    attempt: &mut dyn FnMut(RetryLevel) -> Result<T, AttemptError>,
) -> Result<T> {
    let started = Instant::now();
    let mut level = RetryLevel::Insist;
    let mut budget = RetryBudget::new();
    let mut quickest: Option<Duration> = None;
    for tries in 1u32.. {
        let before = Instant::now();
        let error = match attempt(level) {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        // A pick from a few numbers meets the same as an exact one: all of them were let go just now, and a child
        // forked at this moment still has them.
        if request.wait.is_zero() && error.may_be_over() && budget.pause_while(|| left(request)) {
            level = RetryLevel::QuickStatus;
            continue;
        }
        if request.wait.is_zero() || !error.passes() {
            return Err(error.into_error(request, None));
        }
        let waited = started.elapsed();
        let left = request.wait.saturating_sub(waited);
        if left.is_zero() {
            return Err(error.into_error(request, Some(request.wait)));
        }
        let mut pause = (waited / POLL_SHARE).clamp(POLL.0, POLL.1);
        if level == RetryLevel::QuickStatus {
            let took = before.elapsed();
            if let Some(quickest) = quickest {
                pause = pause.max((quickest.min(took) * PAUSE_PER_TRY).min(PAUSE_MOST));
            }
            quickest = Some(quickest.map_or(took, |quickest| quickest.min(took)));
        }
        // Not in step with the others in the queue.
        std::thread::sleep(left.min(pause * fastrand::u32(75..125) / 100));
        level = if tries.is_multiple_of(LOOK_EVERY) {
            RetryLevel::Look
        } else {
            RetryLevel::QuickStatus
        };
    }
    unreachable!("a wait ends by time")
}

/// Who has the few numbers that will do: the one of them that there is most reason to wait for.
fn left(request: &Request) -> ResidualOwner {
    let endpoints = |port: u16| {
        request
            .protocols
            .iter()
            .map(move |protocol| Endpoint::of(port, *protocol))
    };
    let few = numbers(request).take(FEW).flat_map(endpoints);
    few.map(diagnose::left)
        .max()
        .unwrap_or(ResidualOwner::Others)
}

/// The preferred numbers, then any allowed one.
fn any(request: &Request, level: RetryLevel) -> Result<Reservation, AttemptError> {
    let mut stats = AttemptStats::default();
    let preferred = request.prefer.iter().copied();
    if let Some(reservation) = first_of(
        request,
        preferred,
        level.min(RetryLevel::Prefer),
        &mut stats,
    )? {
        return Ok(reservation);
    }
    let of_the_kernel = request.allowed.is_none()
        && request.protocols == [Protocol::Tcp]
        && request.claims(Protocol::Tcp)?;
    if of_the_kernel {
        if let Some(reservation) = automatic::pick(request, &mut stats)? {
            return Ok(reservation);
        }
    } else if let Some(reservation) = first_of(
        request,
        numbers(request),
        RetryLevel::QuickStatus,
        &mut stats,
    )? {
        return Ok(reservation);
    }
    // What only TIME_WAIT occupies is better than nothing, unless the last free numbers were left on purpose.
    if level != RetryLevel::QuickStatus && !stats.spared {
        let numbers = numbers(request).take(LOOKED_AT_MOST);
        if let Some(reservation) = first_of(
            request,
            numbers,
            RetryLevel::Look,
            &mut AttemptStats::default(),
        )? {
            return Ok(reservation);
        }
    }
    Err(AttemptError::NoneFree(stats))
}

/// The numbers an automatic pick tries by itself, in order.
fn numbers(request: &Request) -> impl Iterator<Item = u16> {
    let numbers: Box<dyn Iterator<Item = u16>> = match &request.allowed {
        Some(range) => Box::new(ports::shuffled(vec![range.clone()])),
        None => {
            let pool = automatic::range();
            // The kernel's own numbers last: only a claim keeps those.
            Box::new(
                pool.non_ephemeral()
                    .take(TRIED_AT_MOST)
                    .chain(pool.draws().take(TRIED_AT_MOST)),
            )
        }
    };
    numbers.filter(|port| !request.exclude.contains(*port) && !request.spares(*port))
}

/// What a pick without a preference tries, of this range and without these numbers.
#[cfg(any(test, fuzzing))]
pub(crate) fn numbers_of(
    allowed: Option<RangeInclusive<u16>>,
    exclude: PortSet,
) -> impl Iterator<Item = u16> {
    let request = Request {
        protocols: &[Protocol::Udp],
        reuse_addr: true,
        port: None,
        allowed,
        prefer: Vec::new(),
        exclude,
        wait: Duration::ZERO,
        label: None,
        on_behalf_of: None,
        at: std::panic::Location::caller(),
    };
    numbers(&request).collect::<Vec<_>>().into_iter()
}

/// A machine on which so many numbers are taken has other troubles; some ten microseconds each.
const TRIED_AT_MOST: usize = 4096;

/// A look into the table costs some hundred microseconds.
const LOOKED_AT_MOST: usize = 256;

fn first_of(
    request: &Request,
    numbers: impl Iterator<Item = u16>,
    level: RetryLevel,
    stats: &mut AttemptStats,
) -> Result<Option<Reservation>, AttemptError> {
    for port in numbers {
        match exact(request, port, level) {
            Ok(reservation) => return Ok(Some(reservation)),
            Err(error) => count(error, stats)?,
        }
    }
    Ok(None)
}

fn count(error: AttemptError, stats: &mut AttemptStats) -> Result<(), AttemptError> {
    match error {
        AttemptError::Leased(_) => stats.reserved += 1,
        AttemptError::Occupied(_) => stats.in_use += 1,
        AttemptError::Privileged(..) => stats.privileged += 1,
        AttemptError::Planted(path, _) => stats.note_planted(path),
        fatal => return Err(fatal),
    }
    Ok(())
}

/// Consecutive numbers, each leased and claimed in ascending order.
fn any_block(
    request: &Request,
    n: usize,
    level: RetryLevel,
) -> Result<Vec<Reservation>, AttemptError> {
    let ranges = request
        .allowed
        .clone()
        .map_or_else(|| automatic::range().block_ranges(), |range| vec![range]);
    let block = |first: u16| Some(first..=first.checked_add(u16::try_from(n - 1).ok()?)?);
    let longer = ranges.iter().filter(|range| n <= range.len());
    let firsts = longer
        .map(|range| *range.start()..=range.end() - (n - 1) as u16)
        .collect();
    let firsts = ports::shuffled(firsts).filter(|first| {
        block(*first).is_some_and(|mut block| !block.any(|port| request.spares(port)))
    });
    let level = level.min(RetryLevel::Look);
    let mut stats = AttemptStats::of_block(n);
    // A number that was refused rules out every block that holds it.
    let mut refused = request.exclude.clone();
    for block in request
        .prefer
        .iter()
        .copied()
        .chain(firsts)
        .filter_map(block)
    {
        if refused.within(block.clone()).next().is_some() {
            continue;
        }
        let mut held = Vec::with_capacity(n);
        for port in block {
            match exact(
                request,
                port,
                if held.is_empty() {
                    RetryLevel::QuickStatus
                } else {
                    level
                },
            ) {
                Ok(reservation) => held.push(reservation),
                Err(error) => {
                    count(error, &mut stats)?;
                    refused.insert(port);
                    break;
                }
            }
        }
        if held.len() == n {
            return Ok(held);
        }
    }
    Err(AttemptError::NoneFree(stats))
}

/// A lease, or none where the folder cannot be used and the port is kept by a claim all the same.
fn lease_for(endpoint: Endpoint, claims: bool) -> Result<Option<LeaseLock>, AttemptError> {
    match lease::acquire(endpoint.protocol.unwrap_or(Protocol::Tcp), endpoint.port) {
        Ok(held) => Ok(Some(held)),
        Err(Refusal::Taken) => Err(AttemptError::Leased(endpoint)),
        Err(Refusal::Planted { path, cause }) => Err(AttemptError::Planted(path, cause)),
        Err(Refusal::OutOfDescriptors(cause)) => Err(fatal("lock", endpoint, cause)),
        Err(Refusal::Unusable(folder)) if claims && !folder.misconfigured => Ok(None),
        Err(Refusal::Unusable(folder)) => Err(AttemptError::Fatal(Error::lock_folder(
            &folder.path,
            folder.cause,
        ))),
    }
}

fn keeps_claims() -> Result<bool, AttemptError> {
    match claim::kernel_keeps_claims() {
        Ok(answer) => Ok(answer.is_ok()),
        Err(cause) => Err(fatal("test the kernel's claim on", ANY, cause)),
    }
}

/// The operand where the kernel was to choose.
const ANY: Endpoint = Endpoint {
    port: 0,
    ip: None,
    protocol: Some(Protocol::Tcp),
};

fn refused(act: &'static str, endpoint: Endpoint, cause: io::Error) -> AttemptError {
    match cause.kind() {
        io::ErrorKind::AddrInUse => AttemptError::Occupied(endpoint),
        io::ErrorKind::PermissionDenied => AttemptError::Privileged(endpoint, cause),
        _ => fatal(act, endpoint, cause),
    }
}

fn fatal(act: &'static str, endpoint: Endpoint, cause: io::Error) -> AttemptError {
    AttemptError::Fatal(Error::system(
        act,
        Some(endpoint).filter(|endpoint| *endpoint != ANY),
        cause,
    ))
}

/// The reservation of what was got, with its records written.
fn complete(request: &Request, mut parts: Vec<ProtocolReservation>) -> Reservation {
    let mut record = record(request);
    for part in &mut parts {
        record.socket = part.socket();
        part.publish(&record);
    }
    Reservation::new(parts, request.label.clone())
}

fn record(request: &Request) -> Record {
    static PROCESS: OnceCell<(u64, String)> = OnceCell::new();
    let pid = std::process::id();
    let (started, program) = PROCESS.get_or_init(|| {
        let program = std::env::current_exe().map(|path| path.to_string_lossy().into_owned());
        (
            sockets::started(pid).unwrap_or(0),
            program.unwrap_or_default(),
        )
    });
    Record {
        pid,
        started: *started,
        program: program.clone(),
        test: test_name(),
        at: format!("{}:{}", request.at.file(), request.at.line()),
        label: request.label.clone().unwrap_or_default(),
        since: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default(),
        socket: 0,
        on_behalf_of: request.on_behalf_of.and_then(|pid| {
            let started = sockets::started(pid)?;
            Some(Beneficiary { pid, started })
        }),
    }
}

/// The name of the thread, which is how cargo test says it, or what nextest says; empty where nobody does.
fn test_name() -> String {
    static NEXTEST: OnceCell<String> = OnceCell::new();
    let thread = std::thread::current();
    match thread.name() {
        Some(name) if name != "main" => name.to_owned(),
        _ => NEXTEST
            .get_or_init(|| std::env::var("NEXTEST_TEST_NAME").unwrap_or_default())
            .clone(),
    }
}
