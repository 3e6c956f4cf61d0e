//! The act of reserving: a claim and a lease for one number, for any of several, for many, for a block.

mod ephemeral;
mod exact;

use std::collections::BTreeSet;
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use once_cell::sync::OnceCell;

use crate::claim::{self, Claim};
use crate::diagnose;
use crate::endpoint::{Endpoint, Protocol};
use crate::error::{Error, Result, Tally};
use crate::lease::Held;
use crate::pool;
use crate::record::Record;
use crate::reservation::{Guarantee, Reservation};
use crate::table;
use exact::exact;

/// Options that hold together.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) port: Option<u16>,
    /// `None` is the kernel's choice.
    pub(crate) allowed: Option<RangeInclusive<u16>>,
    pub(crate) prefer: Vec<u16>,
    pub(crate) exclude: BTreeSet<u16>,
    pub(crate) wait: Duration,
    pub(crate) label: Option<String>,
    pub(crate) at: &'static std::panic::Location<'static>,
}

pub(crate) fn reserve(wish: &Wish) -> Result<Reservation> {
    insist(wish, |effort| match wish.port {
        Some(port) => exact(wish, port, effort),
        None => any(wish, effort),
    })
}

pub(crate) fn reserve_many(wish: &Wish, n: usize) -> Result<Vec<Reservation>> {
    insist(wish, |effort| {
        (0..n)
            .map(|_| match wish.port {
                Some(port) => exact(wish, port, effort),
                None => any(wish, effort),
            })
            .collect()
    })
}

pub(crate) fn reserve_block(wish: &Wish, n: usize) -> Result<Vec<Reservation>> {
    insist(wish, |effort| match wish.port {
        // In ascending order, like everybody: of two who want overlapping blocks, one gets on.
        Some(first) => (0..n).map(|i| exact(wish, first + i as u16, effort)).collect(),
        None => any_block(wish, n, effort),
    })
}

/// Why a number was not to be had.
#[derive(Debug)]
pub(crate) enum Obstacle {
    Leased(u16),
    Occupied(u16),
    Privileged(u16, io::Error),
    Planted(PathBuf, io::Error),
    NoneFree(Tally),
    /// Another number would fail too.
    Fatal(Error),
}

impl Obstacle {
    fn passes(&self) -> bool {
        matches!(self, Obstacle::Leased(_) | Obstacle::Occupied(_) | Obstacle::NoneFree(_))
    }

    fn into_error(self, wish: &Wish, waited: Option<Duration>) -> Error {
        let in_use = |port| {
            let endpoint = Endpoint::of(port, Protocol::Tcp);
            Error::cannot_reserve(endpoint, waited, diagnose::in_use(endpoint))
        };
        match self {
            Obstacle::Leased(port) | Obstacle::Occupied(port) => in_use(port),
            Obstacle::Privileged(port, cause) => Error::privileged(Endpoint::of(port, Protocol::Tcp), cause),
            Obstacle::Planted(path, cause) => Error::planted(&path, cause),
            Obstacle::NoneFree(tally) => Error::no_free_port(wish.allowed.as_ref(), waited, &tally),
            Obstacle::Fatal(error) => error,
        }
    }
}

/// How much a number is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effort {
    /// One try.
    Glance,
    /// A look into the socket table as well: what only TIME_WAIT occupies can be had.
    Look,
    /// And patience with whatever nobody visible explains.
    Insist,
}

/// While a wait lasts, a try this often. A waiter that is asleep costs nothing; a try costs some microseconds.
const POLL: Duration = Duration::from_micros(900);

/// A try that takes long, because it walks a range, is paused after for this many times as long.
const PAUSE_PER_TRY: u32 = 20;

/// Every so many tries, one looks into the socket table, which costs as much as a hundred of the others.
const LOOK_EVERY: u32 = 64;

fn insist<T>(wish: &Wish, mut attempt: impl FnMut(Effort) -> Result<T, Obstacle>) -> Result<T> {
    let started = Instant::now();
    let mut effort = Effort::Insist;
    for tries in 1u32.. {
        let before = Instant::now();
        let obstacle = match attempt(effort) {
            Ok(value) => return Ok(value),
            Err(obstacle) => obstacle,
        };
        if wish.wait.is_zero() || !obstacle.passes() {
            return Err(obstacle.into_error(wish, None));
        }
        let left = wish.wait.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Err(obstacle.into_error(wish, Some(wish.wait)));
        }
        let glanced = effort == Effort::Glance;
        let pause = if glanced { POLL.max(before.elapsed() * PAUSE_PER_TRY) } else { POLL };
        // Not in step with the others in the queue.
        std::thread::sleep(left.min(pause.mul_f32(0.75 + fastrand::f32() / 2.0)));
        effort = if tries.is_multiple_of(LOOK_EVERY) { Effort::Look } else { Effort::Glance };
    }
    unreachable!("a wait ends by time")
}

/// The preferred numbers, then any allowed one.
fn any(wish: &Wish, effort: Effort) -> Result<Reservation, Obstacle> {
    let mut tally = Tally::default();
    if let Some(reservation) = first_of(wish, wish.prefer.iter().copied(), Effort::Look, &mut tally)? {
        return Ok(reservation);
    }
    match &wish.allowed {
        Some(range) => {
            let numbers = pool::shuffled(range.clone()).filter(|port| !wish.exclude.contains(port));
            if let Some(reservation) = first_of(wish, numbers, Effort::Glance, &mut tally)? {
                return Ok(reservation);
            }
            if effort != Effort::Glance {
                let numbers = pool::shuffled(range.clone()).filter(|port| !wish.exclude.contains(port));
                let numbers = numbers.take(LOOKED_AT_MOST);
                if let Some(reservation) = first_of(wish, numbers, Effort::Look, &mut Tally::default())? {
                    return Ok(reservation);
                }
            }
        }
        None => match ephemeral::pick(wish, &mut tally)? {
            Some(reservation) => return Ok(reservation),
            None if effort != Effort::Glance => {
                let numbers = ephemeral::range().draws().filter(|port| !wish.exclude.contains(port));
                let numbers = numbers.take(LOOKED_AT_MOST);
                if let Some(reservation) = first_of(wish, numbers, Effort::Look, &mut Tally::default())? {
                    return Ok(reservation);
                }
            }
            None => {}
        },
    }
    Err(Obstacle::NoneFree(tally))
}

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
    let range = wish.allowed.clone().unwrap_or_else(|| ephemeral::range().range());
    let mut tally = Tally::default();
    let last_first = usize::from(*range.end()) + 1 - n.min(range.len());
    let firsts = wish.prefer.iter().copied().chain(pool::shuffled(*range.start()..=last_first as u16));
    let fits = |first: &u16| {
        usize::from(*first) + n - 1 <= usize::from(u16::MAX)
            && wish.exclude.range(*first..=*first + (n - 1) as u16).next().is_none()
    };
    let effort = if effort == Effort::Insist { Effort::Look } else { effort };
    // A number that was refused rules out every block that holds it.
    let mut refused = BTreeSet::new();
    for first in firsts.filter(fits) {
        let block = first..=first + (n - 1) as u16;
        if refused.range(block.clone()).next().is_some() {
            continue;
        }
        let mut held = Vec::with_capacity(n);
        for port in block {
            match exact(wish, port, if held.is_empty() { Effort::Glance } else { effort }) {
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
    tally.block = Some(n);
    Err(Obstacle::NoneFree(tally))
}

fn keeps_claims() -> Result<bool, Obstacle> {
    match claim::kernel_keeps_claims() {
        Ok(answer) => Ok(answer.is_ok()),
        Err(cause) => Err(fatal("test the kernel's claim on", 0, cause)),
    }
}

fn refused(act: &'static str, port: u16, cause: io::Error) -> Obstacle {
    match cause.kind() {
        io::ErrorKind::AddrInUse => Obstacle::Occupied(port),
        io::ErrorKind::PermissionDenied => Obstacle::Privileged(port, cause),
        _ => fatal(act, port, cause),
    }
}

fn fatal(act: &'static str, port: u16, cause: io::Error) -> Obstacle {
    Obstacle::Fatal(Error::system(act, (port > 0).then_some(Endpoint::of(port, Protocol::Tcp)), cause))
}

/// The reservation of what was got, with its record written.
fn complete(
    wish: &Wish,
    port: u16,
    claim: Option<Claim>,
    mut lease: Option<Held>,
    guarantee: Guarantee,
) -> Reservation {
    let socket = claim.as_ref().map_or(0, |claim| claim.inode().unwrap_or(0));
    if let Some(held) = &mut lease {
        // The record is a note for people: without space for it the lease holds all the same, and a look says that
        // it has none.
        let _noted = held.publish(&record(wish, socket));
    }
    Reservation::new(port, claim, lease, guarantee, wish.label.clone(), socket)
}

fn record(wish: &Wish, socket: u64) -> Record {
    static PROCESS: OnceCell<(u64, String)> = OnceCell::new();
    let pid = std::process::id();
    let (started, program) = PROCESS.get_or_init(|| {
        let program = std::env::current_exe().map(|path| path.to_string_lossy().into_owned());
        (table::started(pid).unwrap_or(0), program.unwrap_or_default())
    });
    Record {
        pid,
        started: *started,
        program: program.clone(),
        test: test_name(),
        at: format!("{}:{}", wish.at.file(), wish.at.line()),
        label: wish.label.clone().unwrap_or_default(),
        since: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        socket,
    }
}

/// The name of the thread, which is how cargo test says it, or what nextest says; empty where nobody does.
fn test_name() -> String {
    static NEXTEST: OnceCell<String> = OnceCell::new();
    let thread = std::thread::current();
    match thread.name() {
        Some(name) if name != "main" => name.to_owned(),
        _ => NEXTEST.get_or_init(|| std::env::var("NEXTEST_TEST_NAME").unwrap_or_default()).clone(),
    }
}
