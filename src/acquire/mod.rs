//! The act of reserving: a claim and a lease for one number, for any of several, for many, for a block.

mod ephemeral;
mod exact;

use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use once_cell::sync::OnceCell;

use crate::claim;
use crate::diagnose;
use crate::endpoint::{Endpoint, Protocol};
use crate::error::{Error, Result, Tally};
use crate::lease::{self, Held, Refusal};
use crate::patience::{LeftTo, Patience};
use crate::pool;
use crate::port_set::PortSet;
use crate::record::{Beneficiary, Record};
use crate::reservation::{Part, Reservation};
use crate::services;
use crate::table;
use exact::exact;

/// Options that hold together.
#[derive(Debug)]
pub(crate) struct Wish {
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

impl Wish {
    /// Whether the port is kept by a claim: where that and its server get on with each other.
    fn claims(&self, protocol: Protocol) -> Result<bool, Obstacle> {
        Ok(protocol == Protocol::Tcp && self.reuse_addr && keeps_claims()?)
    }

    /// Whether an automatic pick leaves the number to the common service that uses it: unless it was asked for by range,
    /// or the administrator withheld it from the kernel, perhaps for these tests.
    fn spares(&self, port: u16) -> bool {
        self.allowed.is_none()
            && services::numbers().contains(port)
            && !ephemeral::range().is_reserved(port)
    }
}

pub(crate) fn reserve(wish: &Wish) -> Result<Reservation> {
    insist(wish, &mut |effort| match wish.port {
        Some(port) => exact(wish, port, effort),
        None => any(wish, effort),
    })
}

pub(crate) fn reserve_many(wish: &Wish, n: usize) -> Result<Vec<Reservation>> {
    insist(wish, &mut |effort| {
        (0..n)
            .map(|_| match wish.port {
                Some(port) => exact(wish, port, effort),
                None => any(wish, effort),
            })
            .collect()
    })
}

pub(crate) fn reserve_block(wish: &Wish, n: usize) -> Result<Vec<Reservation>> {
    insist(wish, &mut |effort| match wish.port {
        // In ascending order, like everybody: of two who want overlapping blocks, one gets on.
        Some(first) => (0..n)
            .map(|i| exact(wish, first + i as u16, effort))
            .collect(),
        None => any_block(wish, n, effort),
    })
}

/// Why a number was not to be had.
#[derive(Debug)]
pub(crate) enum Obstacle {
    Leased(Endpoint),
    Occupied(Endpoint),
    Privileged(Endpoint, io::Error),
    Planted(PathBuf, io::Error),
    NoneFree(Tally),
    /// Another number would fail too.
    Fatal(Error),
}

impl Obstacle {
    fn passes(&self) -> bool {
        matches!(
            self,
            Obstacle::Leased(_) | Obstacle::Occupied(_) | Obstacle::NoneFree(_)
        )
    }

    /// Whether it may be the traces of what was just let go. An exact number was waited for already.
    fn may_be_over(&self) -> bool {
        matches!(self, Obstacle::NoneFree(tally) if !tally.spared && tally.tried() <= FEW)
    }

    fn into_error(self, wish: &Wish, waited: Option<Duration>) -> Error {
        match self {
            Obstacle::Leased(endpoint) | Obstacle::Occupied(endpoint) => {
                Error::cannot_reserve(endpoint, waited, diagnose::in_use(endpoint))
            }
            Obstacle::Privileged(endpoint, cause) => Error::privileged(endpoint, cause),
            Obstacle::Planted(path, cause) => Error::planted(&path, cause),
            Obstacle::NoneFree(tally) => Error::no_free_port(wish.allowed.as_ref(), waited, &tally),
            Obstacle::Fatal(error) => error,
        }
    }
}

/// More numbers than this are not all ailed by what passes.
const FEW: usize = 64;

/// How much a number is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Effort {
    /// One try.
    Glance,
    /// A look into the socket table as well: what only TIME_WAIT occupies can be had.
    Look,
    /// And some patience with what was let go just now, and a forked child still has.
    Prefer,
    /// And with whatever nobody visible explains.
    Insist,
}

impl Effort {
    /// Whether to try again, after a pause.
    fn persists(self, patience: &mut Patience, left: impl FnOnce() -> LeftTo) -> bool {
        match self {
            Effort::Glance | Effort::Look => false,
            Effort::Prefer => patience.pause_unless_others(left),
            Effort::Insist => patience.pause_while(left),
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

fn insist<T>(wish: &Wish, attempt: &mut dyn FnMut(Effort) -> Result<T, Obstacle>) -> Result<T> {
    let started = Instant::now();
    let mut effort = Effort::Insist;
    let mut patience = Patience::new();
    let mut quickest: Option<Duration> = None;
    for tries in 1u32.. {
        let before = Instant::now();
        let obstacle = match attempt(effort) {
            Ok(value) => return Ok(value),
            Err(obstacle) => obstacle,
        };
        // A pick from a few numbers meets the same as an exact one: all of them were let go just now, and a child
        // forked at this moment still has them.
        if wish.wait.is_zero() && obstacle.may_be_over() && patience.pause_while(|| left(wish)) {
            effort = Effort::Glance;
            continue;
        }
        if wish.wait.is_zero() || !obstacle.passes() {
            return Err(obstacle.into_error(wish, None));
        }
        let waited = started.elapsed();
        let left = wish.wait.saturating_sub(waited);
        if left.is_zero() {
            return Err(obstacle.into_error(wish, Some(wish.wait)));
        }
        let mut pause = (waited / POLL_SHARE).clamp(POLL.0, POLL.1);
        if effort == Effort::Glance {
            let took = before.elapsed();
            if let Some(quickest) = quickest {
                pause = pause.max((quickest.min(took) * PAUSE_PER_TRY).min(PAUSE_MOST));
            }
            quickest = Some(quickest.map_or(took, |quickest| quickest.min(took)));
        }
        // Not in step with the others in the queue.
        std::thread::sleep(left.min(pause * fastrand::u32(75..125) / 100));
        effort = if tries.is_multiple_of(LOOK_EVERY) {
            Effort::Look
        } else {
            Effort::Glance
        };
    }
    unreachable!("a wait ends by time")
}

/// Who has the few numbers that will do: the one of them that there is most reason to wait for.
fn left(wish: &Wish) -> LeftTo {
    let endpoints = |port: u16| {
        wish.protocols
            .iter()
            .map(move |protocol| Endpoint::of(port, *protocol))
    };
    let few = numbers(wish).take(FEW).flat_map(endpoints);
    few.map(diagnose::left).max().unwrap_or(LeftTo::Others)
}

/// The preferred numbers, then any allowed one.
fn any(wish: &Wish, effort: Effort) -> Result<Reservation, Obstacle> {
    let mut tally = Tally::default();
    let preferred = wish.prefer.iter().copied();
    if let Some(reservation) = first_of(wish, preferred, effort.min(Effort::Prefer), &mut tally)? {
        return Ok(reservation);
    }
    let of_the_kernel = wish.allowed.is_none()
        && wish.protocols == [Protocol::Tcp]
        && wish.claims(Protocol::Tcp)?;
    if of_the_kernel {
        if let Some(reservation) = ephemeral::pick(wish, &mut tally)? {
            return Ok(reservation);
        }
    } else if let Some(reservation) = first_of(wish, numbers(wish), Effort::Glance, &mut tally)? {
        return Ok(reservation);
    }
    // What only TIME_WAIT occupies is better than nothing, unless the last free numbers were left on purpose.
    if effort != Effort::Glance && !tally.spared {
        let numbers = numbers(wish).take(LOOKED_AT_MOST);
        if let Some(reservation) = first_of(wish, numbers, Effort::Look, &mut Tally::default())? {
            return Ok(reservation);
        }
    }
    Err(Obstacle::NoneFree(tally))
}

/// The numbers an automatic pick tries by itself, in order.
fn numbers(wish: &Wish) -> impl Iterator<Item = u16> {
    let numbers: Box<dyn Iterator<Item = u16>> = match &wish.allowed {
        Some(range) => Box::new(pool::shuffled(vec![range.clone()])),
        None => {
            let pool = ephemeral::range();
            // The kernel's own numbers last: only a claim keeps those.
            Box::new(
                pool.quiet()
                    .take(TRIED_AT_MOST)
                    .chain(pool.draws().take(TRIED_AT_MOST)),
            )
        }
    };
    numbers.filter(|port| !wish.exclude.contains(*port) && !wish.spares(*port))
}

/// What a pick without a preference tries, of this range and without these numbers.
#[cfg(any(test, fuzzing))]
pub(crate) fn numbers_of(
    allowed: Option<RangeInclusive<u16>>,
    exclude: PortSet,
) -> impl Iterator<Item = u16> {
    let wish = Wish {
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
    numbers(&wish).collect::<Vec<_>>().into_iter()
}

/// A machine on which so many numbers are taken has other troubles; some ten microseconds each.
const TRIED_AT_MOST: usize = 4096;

/// A look into the table costs some hundred microseconds.
const LOOKED_AT_MOST: usize = 256;

fn first_of(
    wish: &Wish,
    numbers: impl Iterator<Item = u16>,
    effort: Effort,
    tally: &mut Tally,
) -> Result<Option<Reservation>, Obstacle> {
    for port in numbers {
        match exact(wish, port, effort) {
            Ok(reservation) => return Ok(Some(reservation)),
            Err(obstacle) => count(obstacle, tally)?,
        }
    }
    Ok(None)
}

fn count(obstacle: Obstacle, tally: &mut Tally) -> Result<(), Obstacle> {
    match obstacle {
        Obstacle::Leased(_) => tally.reserved += 1,
        Obstacle::Occupied(_) => tally.in_use += 1,
        Obstacle::Privileged(..) => tally.privileged += 1,
        Obstacle::Planted(path, _) => tally.note_planted(path),
        fatal => return Err(fatal),
    }
    Ok(())
}

/// Consecutive numbers, each leased and claimed in ascending order.
fn any_block(wish: &Wish, n: usize, effort: Effort) -> Result<Vec<Reservation>, Obstacle> {
    let ranges = wish
        .allowed
        .clone()
        .map_or_else(|| ephemeral::range().block_ranges(), |range| vec![range]);
    let block = |first: u16| Some(first..=first.checked_add(u16::try_from(n - 1).ok()?)?);
    let longer = ranges.iter().filter(|range| n <= range.len());
    let firsts = longer
        .map(|range| *range.start()..=range.end() - (n - 1) as u16)
        .collect();
    let firsts = pool::shuffled(firsts).filter(|first| {
        block(*first).is_some_and(|mut block| !block.any(|port| wish.spares(port)))
    });
    let effort = effort.min(Effort::Look);
    let mut tally = Tally::of_block(n);
    // A number that was refused rules out every block that holds it.
    let mut refused = wish.exclude.clone();
    for block in wish.prefer.iter().copied().chain(firsts).filter_map(block) {
        if refused.within(block.clone()).next().is_some() {
            continue;
        }
        let mut held = Vec::with_capacity(n);
        for port in block {
            match exact(
                wish,
                port,
                if held.is_empty() {
                    Effort::Glance
                } else {
                    effort
                },
            ) {
                Ok(reservation) => held.push(reservation),
                Err(obstacle) => {
                    count(obstacle, &mut tally)?;
                    refused.insert(port);
                    break;
                }
            }
        }
        if held.len() == n {
            return Ok(held);
        }
    }
    Err(Obstacle::NoneFree(tally))
}

/// A lease, or none where the folder cannot be used and the port is kept by a claim all the same.
fn lease_for(endpoint: Endpoint, claims: bool) -> Result<Option<Held>, Obstacle> {
    match lease::acquire(endpoint.protocol.unwrap_or(Protocol::Tcp), endpoint.port) {
        Ok(held) => Ok(Some(held)),
        Err(Refusal::Taken) => Err(Obstacle::Leased(endpoint)),
        Err(Refusal::Planted { path, cause }) => Err(Obstacle::Planted(path, cause)),
        Err(Refusal::OutOfDescriptors(cause)) => Err(fatal("lock", endpoint, cause)),
        Err(Refusal::Unusable(folder)) if claims && !folder.misconfigured => Ok(None),
        Err(Refusal::Unusable(folder)) => Err(Obstacle::Fatal(Error::lock_folder(
            &folder.path,
            folder.cause,
        ))),
    }
}

fn keeps_claims() -> Result<bool, Obstacle> {
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

fn refused(act: &'static str, endpoint: Endpoint, cause: io::Error) -> Obstacle {
    match cause.kind() {
        io::ErrorKind::AddrInUse => Obstacle::Occupied(endpoint),
        io::ErrorKind::PermissionDenied => Obstacle::Privileged(endpoint, cause),
        _ => fatal(act, endpoint, cause),
    }
}

fn fatal(act: &'static str, endpoint: Endpoint, cause: io::Error) -> Obstacle {
    Obstacle::Fatal(Error::system(
        act,
        Some(endpoint).filter(|endpoint| *endpoint != ANY),
        cause,
    ))
}

/// The reservation of what was got, with its records written.
fn complete(wish: &Wish, mut parts: Vec<Part>) -> Reservation {
    let mut record = record(wish);
    for part in &mut parts {
        record.socket = part.socket();
        part.publish(&record);
    }
    Reservation::new(parts, wish.label.clone())
}

fn record(wish: &Wish) -> Record {
    static PROCESS: OnceCell<(u64, String)> = OnceCell::new();
    let pid = std::process::id();
    let (started, program) = PROCESS.get_or_init(|| {
        let program = std::env::current_exe().map(|path| path.to_string_lossy().into_owned());
        (
            table::started(pid).unwrap_or(0),
            program.unwrap_or_default(),
        )
    });
    Record {
        pid,
        started: *started,
        program: program.clone(),
        test: test_name(),
        at: format!("{}:{}", wish.at.file(), wish.at.line()),
        label: wish.label.clone().unwrap_or_default(),
        since: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default(),
        socket: 0,
        on_behalf_of: wish.on_behalf_of.and_then(|pid| {
            let started = table::started(pid)?;
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
