//! The act of reserving: a claim and a lease for one number, for any of several, for many, for a block.

use std::collections::BTreeSet;
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use once_cell::sync::OnceCell;
use parking_lot::RwLock;

use crate::claim::{self, Claim, Manner};
use crate::diagnose;
use crate::endpoint::{Endpoint, Protocol};
use crate::error::{Error, Result, Tally};
use crate::holder::{State, Unseen};
use crate::lease::{self, Held, Refusal};
use crate::pool::{self, Crowding, Ephemeral};
use crate::record::Record;
use crate::reservation::{Guarantee, Reservation};
use crate::table;

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

/// Every so many tries, one looks into the socket table, which costs as much as a hundred of the others.
const LOOK_EVERY: u32 = 64;

fn insist<T>(wish: &Wish, mut attempt: impl FnMut(Effort) -> Result<T, Obstacle>) -> Result<T> {
    let started = Instant::now();
    let mut obstacle = match attempt(Effort::Insist) {
        Ok(value) => return Ok(value),
        Err(obstacle) => obstacle,
    };
    if wish.wait.is_zero() {
        return Err(obstacle.into_error(wish, None));
    }
    let mut tries = 0u32;
    while obstacle.passes() {
        let left = wish.wait.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Err(obstacle.into_error(wish, Some(wish.wait)));
        }
        // Not in step with the others in the queue.
        std::thread::sleep(left.min(POLL.mul_f32(0.75 + fastrand::f32() / 2.0)));
        tries = tries.wrapping_add(1);
        let effort = if tries.is_multiple_of(LOOK_EVERY) { Effort::Look } else { Effort::Glance };
        obstacle = match attempt(effort) {
            Ok(value) => return Ok(value),
            Err(obstacle) => obstacle,
        };
    }
    Err(obstacle.into_error(wish, None))
}

/// How long a number is retried that nobody visible explains: a child forked at this moment shares what was let go
/// until it execs, and a look occupies a number for its microseconds.
const PATIENCE: Duration = Duration::from_millis(100);

/// An explicit number: the lease first, so that whoever is refused learns by whom, then the claim.
fn exact(wish: &Wish, port: u16, effort: Effort) -> Result<Reservation, Obstacle> {
    let keeps_claims = keeps_claims()?;
    let lease = match lease::acquire(Protocol::Tcp, port) {
        Ok(held) => Some(held),
        Err(Refusal::Taken) => return Err(Obstacle::Leased(port)),
        Err(Refusal::Planted { path, cause }) => return Err(Obstacle::Planted(path, cause)),
        Err(Refusal::OutOfDescriptors(cause)) => return Err(fatal("lock", port, cause)),
        // What the kernel guarantees needs no folder.
        Err(Refusal::Unusable(folder)) if keeps_claims && !folder.misconfigured => None,
        Err(Refusal::Unusable(folder)) => {
            return Err(Obstacle::Fatal(Error::lock_folder(&folder.path, folder.cause)));
        }
    };
    let (claim, guarantee) = if keeps_claims {
        (Some(claim_exactly(port, effort)?), Guarantee::Kernel)
    } else {
        claim::could_bind(Protocol::Tcp, None, port, Manner::Exclusive)
            .map_err(|e| refused("bind", port, e))?;
        (None, Guarantee::BestEffort)
    };
    Ok(reservation(wish, port, claim, lease, guarantee))
}

fn claim_exactly(port: u16, effort: Effort) -> Result<Claim, Obstacle> {
    let mut deadline = None;
    let mut pause = Duration::from_micros(20);
    loop {
        match Claim::exact(port) {
            Ok(claim) => return Ok(claim),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
            Err(e) => return Err(refused("bind", port, e)),
        }
        if effort == Effort::Glance {
            return Err(Obstacle::Occupied(port));
        }
        match occupant(port) {
            Occupant::TimeWait => {
                if let Some(claim) = claim_over_time_wait(port)? {
                    return Ok(claim);
                }
                return Err(Obstacle::Occupied(port));
            }
            Occupant::Server => return Err(Obstacle::Occupied(port)),
            Occupant::Passing => {}
        }
        let deadline = *deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
        if effort == Effort::Look || Instant::now() >= deadline {
            return Err(Obstacle::Occupied(port));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(2));
    }
}

/// The bind over TIME_WAIT proves nothing by itself; the table does, before and after it.
fn claim_over_time_wait(port: u16) -> Result<Option<Claim>, Obstacle> {
    let claim = match Claim::over_time_wait(port) {
        Ok(claim) => claim,
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => return Ok(None),
        Err(e) => return Err(refused("bind", port, e)),
    };
    let inode = claim.inode().map_err(|e| fatal("inspect the claim of", port, e))?;
    let sockets = table::sockets(port, Some(Protocol::Tcp)).map_err(|e| fatal("look at", port, e))?;
    let alone = sockets.rows.iter().all(|row| row.state == State::TimeWait || row.inode == inode);
    Ok(alone.then_some(claim))
}

/// What keeps a number from being claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Occupant {
    /// A listener or a connection.
    Server,
    /// Nothing but connections that have ended.
    TimeWait,
    /// Nothing that is seen, or a socket bound and not listening: another's look, or a claim that a child forked at
    /// this moment still has.
    Passing,
}

fn occupant(port: u16) -> Occupant {
    let Ok(sockets) = table::sockets(port, Some(Protocol::Tcp)) else { return Occupant::Passing };
    let count = |states: fn(State) -> bool| sockets.rows.iter().filter(|row| states(row.state)).count();
    let passing = count(|state| state == State::Bound);
    let ended = count(|state| state == State::TimeWait);
    if passing + ended < sockets.rows.len() {
        Occupant::Server
    } else if ended > 0 && passing == 0 && !sockets.unseen.contains(&Unseen::Bound) {
        Occupant::TimeWait
    } else {
        Occupant::Passing
    }
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
        None => match ephemeral(wish, &mut tally)? {
            Some(reservation) => return Ok(reservation),
            None if effort != Effort::Glance => {
                let numbers = ephemeral_range().draws().filter(|port| !wish.exclude.contains(port));
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

/// How many draws of the kernel's own are worth while: each one that does not do stays claimed meanwhile, so that
/// the kernel does not offer it again.
const KERNEL_DRAWS: usize = 32;

/// More draws than this fail only where next to nothing is free.
const OWN_DRAWS: usize = 1024;

/// After so many misses in a row the range is nearly used up.
const MISSES: u32 = 64;

/// A number of the ephemeral range: the claim first, since the kernel chooses, then the lease.
fn ephemeral(wish: &Wish, tally: &mut Tally) -> Result<Option<Reservation>, Obstacle> {
    let keeps_claims = keeps_claims()?;
    let crowding = Crowding::of_this_process();
    let mut kept = Vec::new();
    let mut adopt = |claim: Claim, tally: &mut Tally| -> Result<Option<Reservation>, Obstacle> {
        if wish.exclude.contains(&claim.port()) {
            tally.excluded += 1;
            kept.push(claim);
            return Ok(None);
        }
        match adopt(wish, claim, keeps_claims)? {
            Ok(reservation) => Ok(Some(reservation)),
            Err((claim, obstacle)) => {
                kept.push(claim);
                count(obstacle, tally)?;
                Ok(None)
            }
        }
    };
    for _ in 0..KERNEL_DRAWS {
        if crowding.is_on() {
            break;
        }
        let before = Instant::now();
        match Claim::any() {
            Ok(claim) => {
                crowding.note(&ephemeral_range_with(claim.port()).range(), claim.port(), before.elapsed());
                if let Some(reservation) = adopt(claim, tally)? {
                    return Ok(Some(reservation));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => crowding.note_exhausted(),
            Err(e) => return Err(fatal("bind", 0, e)),
        }
    }
    let pool = ephemeral_range();
    let mut numbers = pool.draws().filter(|port| !wish.exclude.contains(port)).take(OWN_DRAWS);
    let mut misses = 0;
    while let Some(port) = numbers.next() {
        let claim = match Claim::exact(port) {
            Ok(claim) => claim,
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                misses += 1;
                tally.in_use += 1;
                continue;
            }
            Err(e) => return Err(refused("bind", port, e)),
        };
        let scarce = misses >= MISSES || pool.range().len() <= MISSES as usize;
        if scarce && !leaves_spare(&mut numbers, pool.spare(), tally) {
            tally.spared = true;
            return Ok(None);
        }
        if let Some(reservation) = adopt(claim, tally)? {
            return Ok(Some(reservation));
        }
    }
    Ok(None)
}

/// Whether so many more numbers can be claimed: with none left, no connection can be made either.
fn leaves_spare(numbers: &mut impl Iterator<Item = u16>, spare: usize, tally: &mut Tally) -> bool {
    let mut free = Vec::with_capacity(spare);
    while free.len() < spare {
        match numbers.next().map(Claim::exact) {
            Some(Ok(claim)) => free.push(claim),
            Some(Err(_)) => tally.in_use += 1,
            None => return false,
        }
    }
    true
}

/// A lease for a number that is claimed already. A number that cannot be leased comes back, still claimed.
fn adopt(
    wish: &Wish,
    claim: Claim,
    keeps_claims: bool,
) -> Result<Result<Reservation, (Claim, Obstacle)>, Obstacle> {
    let port = claim.port();
    let lease = match lease::acquire(Protocol::Tcp, port) {
        Ok(held) => Some(held),
        Err(Refusal::Taken) => return Ok(Err((claim, Obstacle::Leased(port)))),
        Err(Refusal::Planted { path, cause }) => return Ok(Err((claim, Obstacle::Planted(path, cause)))),
        Err(Refusal::OutOfDescriptors(cause)) => return Err(fatal("lock", port, cause)),
        Err(Refusal::Unusable(folder)) if keeps_claims && !folder.misconfigured => None,
        Err(Refusal::Unusable(folder)) => {
            return Err(Obstacle::Fatal(Error::lock_folder(&folder.path, folder.cause)));
        }
    };
    let (claim, guarantee) =
        if keeps_claims { (Some(claim), Guarantee::Kernel) } else { (None, Guarantee::BestEffort) };
    Ok(Ok(reservation(wish, port, claim, lease, guarantee)))
}

/// Consecutive numbers, each leased and claimed in ascending order.
fn any_block(wish: &Wish, n: usize, effort: Effort) -> Result<Vec<Reservation>, Obstacle> {
    let range = wish.allowed.clone().unwrap_or_else(|| ephemeral_range().range());
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

static EPHEMERAL: RwLock<Option<Arc<Ephemeral>>> = RwLock::new(None);

/// As the kernel reported it when this process first asked.
fn ephemeral_range() -> Arc<Ephemeral> {
    if let Some(known) = EPHEMERAL.read().as_ref() {
        return known.clone();
    }
    EPHEMERAL.write().insert(Arc::new(Ephemeral::read())).clone()
}

/// The same, read again if the kernel chose a number that it does not hold.
fn ephemeral_range_with(port: u16) -> Arc<Ephemeral> {
    let known = ephemeral_range();
    if known.range().contains(&port) {
        return known;
    }
    EPHEMERAL.write().insert(Arc::new(Ephemeral::read())).clone()
}

fn reservation(
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
