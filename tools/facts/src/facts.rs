//! The facts, and the command line.

use std::fs;
use std::io::{self, Read};
use std::ops::RangeInclusive;
use std::process::ExitCode;

use socket2::Socket;

use crate::sockets::{
    Families, First, Options, SERVED, bound, close_hard, connect, listening, port_of, serve_once,
    unbound,
};

/// The ephemeral range while the facts are checked.
const RANGE: RangeInclusive<u16> = 42000..=42015;
/// How many numbers of the range are claimed, of both parities.
const CLAIMED: u16 = 10;
/// The port of a server outside the range, to which clients connect.
const TARGET: u16 = 43000;
const RANGE_FILE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

pub(crate) fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u16>().map_err(io::Error::other);
    let outcome = match args[..] {
        [] => print_facts(),
        ["restart", times] => number(times).and_then(restart),
        ["hold", port] => number(port).and_then(|port| hold(port, Options::NONE)),
        ["share", port] => number(port).and_then(|port| hold(port, Options::BOTH)),
        ["past", port] => number(port)
            .and_then(|port| serve_once(SERVED, port, Options::REUSE_ADDR, First::Server))
            .map(|()| 0),
        _ => Err(io::Error::other(
            "expected no argument, or `restart N`, `hold PORT`, `share PORT`, `past PORT`",
        )),
    };
    match outcome {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(e) => {
            eprintln!("portlease-facts: {e}");
            ExitCode::from(2)
        }
    }
}

/// Holds the port until stdin ends.
fn hold(port: u16, options: Options) -> io::Result<u32> {
    let _held = Families::of_this_machine().hold(port, options)?;
    println!("up");
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(0)
}

/// Counts how often a server that sets no option cannot bind again, although its client closed
/// first. Returns 0 even then, because old kernels refuse some.
fn restart(times: u16) -> io::Result<u32> {
    let mut refused = 0;
    for _ in 0..times {
        let port = port_of(&bound(SERVED, 0, Options::NONE)?)?;
        serve_once(SERVED, port, Options::NONE, First::Client)?;
        refused += u32::from(bound(SERVED, port, Options::NONE).is_err());
    }
    println!("restarts without SO_REUSEADDR: {refused} of {times} refused by the last connection");
    Ok(0)
}

/// Returns the number of facts that do not hold.
fn print_facts() -> io::Result<u32> {
    let families = Families::of_this_machine();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let ipv6 = if families.has_ipv6 { "yes" } else { "no" };
    println!("kernel {}, IPv6: {ipv6}", release.trim());
    let before = fs::read_to_string(RANGE_FILE)?;
    fs::write(RANGE_FILE, format!("{} {}", RANGE.start(), RANGE.end()))?;
    let mut facts = Facts {
        families,
        wrong: 0,
        claims: Vec::new(),
    };
    let asked = facts.ask();
    fs::write(RANGE_FILE, before)?;
    asked?;
    Ok(facts.wrong)
}

struct Facts {
    families: Families,
    wrong: u32,
    claims: Vec<(u16, Socket)>,
}

impl Facts {
    fn ask(&mut self) -> io::Result<()> {
        for port in RANGE.take(usize::from(CLAIMED)) {
            self.claims.push((port, self.families.claim(port)?));
        }
        self.connects_to_a_claim();
        self.state("claimed", &Options::ALL[1..])?;

        let servers = self.serve(Options::REUSE_ADDR)?;
        self.refuses("served");
        self.assigns_none("served")?;
        drop(servers);
        self.state("after a closed server", &Options::ALL[1..])?;

        for (port, _) in &self.claims {
            serve_once(SERVED, *port, Options::REUSE_ADDR, First::Server)?;
        }
        // A connection in TIME_WAIT keeps the options of its server, so a server with SO_REUSEPORT
        // alone is refused.
        let admitted = [Options::REUSE_ADDR, Options::BOTH];
        self.state("with TIME_WAIT", &admitted)?;

        let servers = self.serve(Options::BOTH)?;
        self.assigns_none("served by a server with both options")?;
        drop(servers);
        self.refuses("after a closed server with both options");
        self.assigns_none("after a closed server with both options")?;
        self.claims.clear();
        self.past_server()
    }

    fn serve(&self, options: Options) -> io::Result<Vec<Socket>> {
        let ports = self.claims.iter().map(|(port, _)| *port);
        ports.map(|port| listening(SERVED, port, options)).collect()
    }

    /// Checks the three facts about claims in one state.
    fn state(&mut self, state: &str, admitted: &[Options]) -> io::Result<()> {
        self.refuses(state);
        self.admits(state, admitted);
        self.assigns_none(state)
    }

    fn say(&mut self, state: &str, fact: &str, exceptions: &[String]) {
        if exceptions.is_empty() {
            println!("fact: {state}: {fact}: ok");
        } else {
            self.wrong += 1;
            println!("fact: {state}: {fact}: BAD: {}", exceptions.join("; "));
        }
    }

    fn connects_to_a_claim(&mut self) {
        let port = *RANGE.start();
        let refused = |outcome: io::Result<()>| {
            outcome.is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
        };
        let mut bad = Vec::new();
        for address in self.families.loopbacks() {
            let socket = unbound(address, Options::NONE);
            if !refused(socket.and_then(|socket| connect(&socket, address, port))) {
                bad.push(address.name.to_owned());
            }
        }
        self.say("claimed", "a connection is refused at once", &bad);
    }

    fn refuses(&mut self, state: &str) {
        let port = *RANGE.start();
        let in_use = |outcome: io::Result<Socket>| {
            outcome.is_err_and(|e| e.kind() == io::ErrorKind::AddrInUse)
        };
        let mut bad = Vec::new();
        if !in_use(self.families.claim(port)) {
            bad.push("a second claim".to_owned());
        }
        for address in self.families.addresses() {
            if !in_use(bound(address, port, Options::NONE)) {
                bad.push(address.name.to_owned());
            }
        }
        let fact = "a second claim and a bind without options are refused";
        self.say(state, fact, &bad);
    }

    fn admits(&mut self, state: &str, admitted: &[Options]) {
        let mut bad = Vec::new();
        for address in self.families.addresses() {
            for options in admitted {
                if let Err(e) = listening(address, *RANGE.start(), *options) {
                    bad.push(format!("{} with {options:?}: {e}", address.name));
                }
            }
        }
        self.say(state, "a server with a reuse option can listen", &bad);
    }

    /// Takes numbers that the kernel assigns, in each way, until the kernel has none left.
    fn assigns_none(&mut self, state: &str) -> io::Result<()> {
        let mut bad = Vec::new();
        let mut given = 0;
        for options in Options::ALL {
            for address in self.families.addresses() {
                let binds = || bound(address, 0, options);
                let how = format!("bind port 0 on {} with {options:?}", address.name);
                given += self.take_all(&how, binds, &mut bad)?;
                let listens = || listening(address, 0, options);
                let how = format!("listen on port 0 of {} with {options:?}", address.name);
                given += self.take_all(&how, listens, &mut bad)?;
                let unbound_listens = || {
                    let socket = unbound(address, options)?;
                    socket.listen(1)?;
                    Ok(socket)
                };
                let how = format!("listen without a bind, with {options:?}");
                given += self.take_all(&how, unbound_listens, &mut bad)?;
            }
            for address in self.families.loopbacks() {
                let target = listening(address, TARGET, Options::REUSE_ADDR)?;
                let connects = || {
                    let socket = unbound(address, options)?;
                    close_hard(&socket)?;
                    connect(&socket, address, TARGET)?;
                    close_hard(&target.accept()?.0)?;
                    Ok(socket)
                };
                let how = format!("connect to {} with {options:?}", address.name);
                given += self.take_all(&how, connects, &mut bad)?;
            }
        }
        if given == 0 {
            bad.push("the kernel assigned no number at all, so this proves nothing".to_owned());
        }
        let fact = format!("none of {given} assigned numbers is a claimed one");
        self.say(state, &fact, &bad);
        Ok(())
    }

    fn take_all(
        &self,
        how: &str,
        take: impl Fn() -> io::Result<Socket>,
        bad: &mut Vec<String>,
    ) -> io::Result<usize> {
        let mut taken = Vec::new();
        while let (Ok(socket), true) = (take(), taken.len() <= RANGE.len()) {
            let port = port_of(&socket)?;
            if self.claims.iter().any(|(claimed, _)| *claimed == port) {
                bad.push(format!("{how}: {port}"));
            }
            taken.push(socket);
        }
        Ok(taken.len())
    }

    /// The second way to claim: over the connections that an earlier server left.
    fn past_server(&mut self) -> io::Result<()> {
        let port = RANGE.end() + 100;
        serve_once(SERVED, port, Options::REUSE_ADDR, First::Server)?;
        let mut bad = Vec::new();
        if bound(SERVED, port, Options::NONE).is_ok() {
            bad.push("a bind without options succeeds".to_owned());
        }
        match self.families.hold(port, Options::BOTH) {
            Ok(claim) => {
                if let Err(e) = listening(SERVED, port, Options::REUSE_ADDR) {
                    bad.push(format!("a server over the claim: {e}"));
                }
                drop(claim);
            }
            Err(e) => bad.push(format!("the claim: {e}")),
        }
        let fact = "TIME_WAIT admits a claim that sets its options first";
        self.say("after a server on an unclaimed port", fact, &bad);
        Ok(())
    }
}
