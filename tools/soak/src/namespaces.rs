//! Threads of one process in network namespaces of their own: each namespace has its own ports.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use portlease::{ErrorKind, Guarantee, Protocol, Reservation, ReserveOptions};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::report::{count, print};

/// A kind of reservation by its name, and the exact number that both namespaces reserve for it.
type Exact = (&'static str, ReserveOptions, u16);

type Port = (u16, Protocol);

/// Runs a process whose threads enter new network namespaces, until its input is closed.
pub(crate) fn work() {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _line = std::io::stdin().read_line(&mut String::new());
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            in_two_namespaces();
        }
    });
}

/// Makes every check of namespaces once, in two threads that hold the same numbers at once.
fn in_two_namespaces() {
    let all = ReserveOptions::new;
    let kinds = [
        ("tcp", all()),
        ("udp", all().udp()),
        ("pair", all().tcp_and_udp()),
        ("plain", all().reuse_addr(false)),
    ];
    let first = fastrand::u16(1024..60_000);
    // The numbers differ from each other, and each is less than 4 * 1200 above `first`.
    let numbers = (0..).map(|at| first + 1200 * at + fastrand::u16(..1000));
    let exact: Vec<Exact> = kinds
        .into_iter()
        .zip(numbers)
        .map(|((name, options), port)| (name, options.port(port), port))
        .collect();
    let (barrier, checked) = (Barrier::new(2), AtomicU32::new(0));
    let ranges = [
        "32768 60999",
        ["1024 65535", "20000 50000"][fastrand::usize(..2)],
    ];
    std::thread::scope(|scope| {
        for (place, range) in ranges.into_iter().enumerate() {
            let visit = Visit {
                place,
                exact: &exact,
                barrier: &barrier,
                checked: &checked,
            };
            scope.spawn(move || {
                // If only this thread ended, the other one would wait at a barrier for ever.
                if let Err(why) = enter_namespace(range) {
                    print(&format!("wrong no new network namespace: {why}"));
                    std::process::exit(1);
                }
                count("network namespaces entered");
                visit.run(range);
            });
        }
    });
    let checked = checked.into_inner();
    print(&format!("count {checked} checks of network namespaces"));
}

fn enter_namespace(range: &str) -> std::io::Result<()> {
    #[expect(
        unsafe_code,
        reason = "rustix has no safe call, because other flags unshare descriptors"
    )]
    // SAFETY: NEWNET moves the sockets that this thread makes from now on, and no others.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    // The program inherits the namespace of this thread.
    Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()?;
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", range)
}

/// One thread's stay in its namespace.
struct Visit<'a> {
    /// The number of the namespace, 0 or 1.
    place: usize,
    exact: &'a [Exact],
    barrier: &'a Barrier,
    checked: &'a AtomicU32,
}

impl Visit<'_> {
    fn run(&self, range: &str) {
        let mut held = Vec::new();
        for (name, options, port) in self.exact {
            match options.clone().reserve() {
                Ok(reservation) => held.push(reservation),
                Err(e) => self.check(false, || format!("{name} {port} is not reserved: {e}")),
            }
        }
        let others = self.exact.iter().map(|(_, _, port)| *port);
        let any = ReserveOptions::new().exclude(others);
        for options in [any.clone(), any.udp()] {
            match options.reserve() {
                Ok(reservation) => held.push(reservation),
                Err(e) => self.check(false, || format!("no number is reserved: {e}")),
            }
        }
        self.check_grades(&held, range);
        // From here on, both namespaces hold the same exact numbers.
        self.barrier.wait();
        self.check_refusals();
        self.check_free(&held);
        self.check_list(&held);
        self.barrier.wait();

        self.check_beside_server(&held);
        self.barrier.wait();

        // One namespace releases what the other one holds.
        if self.place == 0 {
            held.clear();
        }
        self.barrier.wait();
        self.check_list(&held);
        self.check_free(&held);
    }

    /// Counts a check, and reports it if it failed.
    fn check(&self, is_true: bool, what: impl FnOnce() -> String) {
        self.checked.fetch_add(1, Ordering::Relaxed);
        if !is_true {
            let what = what().replace('\n', "; ");
            print(&format!("wrong in namespace {}: {what}", self.place));
        }
    }

    fn check_grades(&self, held: &[Reservation], range: &str) {
        let mut ends = range.split(' ').map(|end| end.parse::<u16>().unwrap_or(0));
        let range = ends.next().unwrap_or(0)..=ends.next().unwrap_or(0);
        for reservation in held {
            let is_plain = reservation.port() == self.exact[3].2;
            let expected = match reservation.protocols() {
                [Protocol::Tcp] if !is_plain => Guarantee::Kernel,
                _ if range.contains(&reservation.port()) => Guarantee::BestEffort,
                _ => Guarantee::Cooperative,
            };
            let grade = reservation.guarantee();
            self.check(grade == expected, || {
                format!("{reservation:?} does not have the grade {expected:?} in {range:?}")
            });
        }
    }

    fn check_refusals(&self) {
        for (name, options, port) in self.exact {
            let second = options.clone().reserve();
            let is_refused = second
                .as_ref()
                .is_err_and(|error| error.kind() == ErrorKind::InUse);
            self.check(is_refused, || {
                format!("a second reservation of {name} {port}: {second:?}")
            });
        }
    }

    fn check_free(&self, held: &[Reservation]) {
        for reservation in held {
            let outcome = portlease::check_port_free(reservation);
            self.check(outcome.is_ok(), || {
                format!("not free for its holder: {outcome:?}")
            });
        }
    }

    /// A list has the namespace's own reservations, and no others.
    fn check_list(&self, held: &[Reservation]) {
        let of_one = |reservation: &Reservation| -> Vec<Port> {
            let port = reservation.port();
            let protocols = reservation.protocols();
            protocols.iter().map(|protocol| (port, *protocol)).collect()
        };
        let sorted = |ports: Vec<Port>| -> BTreeSet<String> {
            let text = |(port, protocol)| format!("{port}/{protocol}");
            ports.into_iter().map(text).collect()
        };
        let own = sorted(held.iter().flat_map(of_one).collect());
        match portlease::reservations() {
            Ok(leases) => {
                let listed = leases.iter().map(|lease| (lease.port(), lease.protocol()));
                let listed = sorted(listed.collect());
                self.check(listed == own, || {
                    format!("the list has {listed:?} instead of {own:?}")
                });
            }
            Err(e) => self.check(false, || format!("no list: {e}")),
        }
    }

    /// Starts a server in one namespace, on a number that both hold. The number must stay free in
    /// the other namespace.
    fn check_beside_server(&self, held: &[Reservation]) {
        let Some(first) = held.first() else {
            self.barrier.wait();
            self.barrier.wait();
            return;
        };
        let server = if self.place == 0 {
            let server = first.listen();
            self.check(server.is_ok(), || format!("no server: {server:?}"));
            server.ok()
        } else {
            None
        };
        self.barrier.wait();
        let outcome = portlease::check_port_free(first);
        let is_served = server.is_some();
        self.check(outcome.is_err() == is_served, || {
            format!("{first} with a server ({is_served}): {outcome:?}")
        });
        self.barrier.wait();
        // No forked child shares the listener: each thread starts a program only before the first
        // barrier.
        drop(server);
    }
}
