//! Waits until servers answer an HTTP request.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use portlease::{
    Diagnosis, Endpoint, Holder, Process, ProcessState, Protocol, Remedy, check_port_held_by,
    probe_listener, who_holds,
};

use crate::condition::Condition;
use crate::failure::Failure;
use crate::finding::Finding;
use crate::http_probe::{HttpProbe, Problem, ProblemKind};
use crate::limits::{
    CONNECTION_THREADS, HTTP_ATTEMPT_LIMIT, HTTP_RETRY_DELAY, PROGRESS_INTERVAL, WAIT_REPORT_TIME,
    remaining, sleep,
};
use crate::output::console::{Console, progress_line};
use crate::output::report;
use crate::ports::{client_endpoints, port_summary};
use crate::process::{ProcessHandle, watch_failure};
use crate::survey::in_threads;
use crate::text::escape;

/// A request that no server has answered as expected yet.
#[derive(Clone, Debug)]
pub(crate) struct Unanswered {
    pub(crate) endpoint: Endpoint,
    pub(crate) probe: HttpProbe,
    /// Why the last attempt failed. If the timeout of the wait cut that attempt short, the problem
    /// of an earlier attempt stays.
    pub(crate) problem: String,
    /// The kind of the `problem`. `None` until an attempt has failed. Until then, `problem` is the
    /// initial text of [`new`](Self::new).
    kind: Option<ProblemKind>,
}

impl Unanswered {
    /// Creates the value, and sends nothing yet. Fails if the port is not a TCP port (HTTP/1.1
    /// needs TCP), or if a link-local address has no interface.
    pub(crate) fn new(endpoint: Endpoint, probe: &HttpProbe) -> Result<Self, Failure> {
        if endpoint.protocol.is_some_and(|of| of != Protocol::Tcp) {
            return Err(Failure::new(format!(
                "cannot send {probe} to port {endpoint}: expected a TCP port"
            )));
        }
        if let Some(SocketAddr::V6(addr)) = endpoint.socket_addr()
            && addr.ip().is_unicast_link_local()
            && addr.scope_id() == 0
        {
            let ip = addr.ip();
            return Err(Failure::new(format!(
                "cannot send {probe} to port {endpoint}: expected the network interface of the \
                 link-local address, as in [{ip}%eth0]:{}",
                endpoint.port
            )));
        }
        Ok(Unanswered {
            endpoint,
            probe: probe.clone(),
            problem: "the timeout left no time for a request".to_owned(),
            kind: None,
        })
    }

    /// Sends the request once, and waits for the answer for at most `left`. Returns whether the
    /// answer is the expected one. If the attempt fails, updates `problem`.
    ///
    /// Sends nothing if `left` is zero. Also sends nothing if `process` runs and [`endpoint_of`]
    /// finds no endpoint for the process. `is_over` returns whether the time limit of the wait has
    /// passed.
    fn attempt(
        &mut self,
        process: Option<&(u32, Option<ProcessHandle>)>,
        left: Duration,
        is_over: impl Fn() -> bool,
    ) -> bool {
        if left.is_zero() {
            return false;
        }
        let left = left.min(HTTP_ATTEMPT_LIMIT);
        let target = match process {
            // While the process runs, `endpoint_of` omits the addresses of unrelated processes.
            // After the process has ended, a daemon that it started may answer.
            Some((pid, Some(process))) if process.has_ended().is_ok_and(|ended| !ended) => {
                endpoint_of(*pid, self.endpoint)
                    .map_err(|strangers| Problem::of_stranger(*pid, &strangers))
            }
            _ => Ok(self.endpoint),
        };
        let answer = target.and_then(|target| self.probe.ask(self.endpoint, target, left));
        let Err(problem) = answer else {
            return true;
        };
        // If the limit of the wait left too little time for this attempt, keep the problem of an
        // earlier attempt.
        let is_cut_short = problem.is_silence() && left < HTTP_ATTEMPT_LIMIT && is_over();
        if self.kind.is_none() || !is_cut_short {
            self.kind = Some(problem.kind);
            self.problem = problem.text;
        }
        false
    }

    /// Returns `true` if a server answered, but not as expected.
    pub(crate) fn is_answered(&self) -> bool {
        self.kind == Some(ProblemKind::Answer)
    }

    pub(crate) fn headline(&self) -> String {
        let Unanswered {
            endpoint,
            probe,
            problem,
            ..
        } = self;
        format!("port {endpoint} does not answer {probe} as expected: {problem}")
    }
}

/// Why no server answered, as far as the sockets show it.
#[derive(Debug)]
pub(crate) enum Obstacle {
    /// No server listens where the request was sent, or an unexpected process listens there.
    NoListener(Box<Finding>),
    /// A server listens, but one of its processes is halted: suspended, frozen or stopped by a
    /// debugger.
    Halted { cause: String, help: String },
    /// A server listens, but something else prevents connections to it, such as a packet filter.
    Blocked { cause: String, help: Option<String> },
}

impl Obstacle {
    /// Finds out in several threads why each request failed. The result for a request is `None` if
    /// the sockets do not show the reason. `pid` is the process that should have answered. It is
    /// `None` if the wait expected no process, or if the process has ended.
    pub(crate) fn find_each(requests: &[Unanswered], pid: Option<u32>) -> Vec<Option<Obstacle>> {
        let endpoints: Vec<Endpoint> = requests.iter().map(|request| request.endpoint).collect();
        let findings = Finding::all(&endpoints, Condition::Listening, true);
        let find = |part: &[(&Unanswered, &Finding)]| {
            let mut part = part.iter();
            let (request, _) = part.find(|(_, finding)| finding.problem.is_none())?;
            Obstacle::of_listener(request, pid)
        };
        let pairs: Vec<_> = requests.iter().zip(&findings).collect();
        let found = in_threads(&pairs, 1, find);
        let obstacle = |(finding, found): (Finding, Option<Obstacle>)| match finding.problem {
            Some(_) => Some(Obstacle::NoListener(Box::new(finding))),
            None => found,
        };
        findings.into_iter().zip(found).map(obstacle).collect()
    }

    /// Finds out why a request to a port with a listener failed.
    fn of_listener(request: &Unanswered, pid: Option<u32>) -> Option<Obstacle> {
        let endpoint = request.endpoint;
        // If the endpoint has no address or is `localhost`, the requests go only to 127.0.0.1 and
        // ::1. A server that listens only on other addresses receives no request.
        let tried = client_endpoints(endpoint);
        if tried.len() > 1 {
            let found = Finding::all(&tried, Condition::Listening, true);
            if found.iter().all(|finding| finding.problem.is_some()) {
                let first = found.into_iter().next();
                return first.map(|finding| Obstacle::NoListener(Box::new(finding)));
            }
        }
        // The addresses to which the requests went. `endpoint_of` omits an address on which an
        // unrelated process listens.
        let target = match pid.map(|pid| (pid, endpoint_of(pid, endpoint))) {
            Some((pid, Err(strangers))) => {
                let served = strangers.into_iter().find(has_listener)?;
                let finding = Finding::new(served.endpoint()?, Condition::HeldBy(pid), true);
                return Some(Obstacle::NoListener(Box::new(finding)));
            }
            Some((_, Ok(target))) => target,
            None => endpoint,
        };
        // If the request got a connection, nothing keeps connections from the listener. So
        // `blocked`, which connects again, is called only after a request without a connection.
        let is_unconnected = matches!(
            request.kind,
            Some(ProblemKind::SilentConnect | ProblemKind::NoConnection)
        );
        let blocked = is_unconnected.then(|| blocked(target)).flatten();
        match &blocked {
            Some(Obstacle::Blocked { help: Some(_), .. }) => blocked,
            // A halted process accepts no connections, so the queue of its listener fills up. The
            // halted process is then the cause to report.
            _ => halted(request).or(blocked),
        }
    }

    pub(crate) fn cause(&self) -> Option<String> {
        match self {
            Obstacle::NoListener(finding) => finding.problem.as_ref().map(Diagnosis::cause),
            Obstacle::Halted { cause, .. } | Obstacle::Blocked { cause, .. } => Some(cause.clone()),
        }
    }

    pub(crate) fn help(&self) -> Option<String> {
        match self {
            Obstacle::NoListener(finding) => {
                let problem = finding.problem.as_ref();
                problem.and_then(|problem| report::help(problem, finding.asked))
            }
            Obstacle::Halted { help, .. } => Some(help.clone()),
            Obstacle::Blocked { help, .. } => help.clone(),
        }
    }

    /// The report in text.
    pub(crate) fn text(&self) -> String {
        match self {
            Obstacle::NoListener(finding) => finding
                .problem
                .as_ref()
                .map_or_else(String::new, |problem| {
                    report::headline_and_help(problem, finding.asked)
                }),
            Obstacle::Halted { cause, .. } | Obstacle::Blocked { cause, .. } => {
                report::with_help(cause.clone(), self.help())
            }
        }
    }

    /// The report in text for a server that was ended after the check. The report omits remedies
    /// that need the running server, such as resuming it.
    pub(crate) fn text_after_end(&self) -> String {
        match self {
            Obstacle::NoListener(finding) => match &finding.problem {
                Some(problem) => {
                    report::after_end(problem, problem.remedies().to_vec(), finding.asked)
                }
                None => String::new(),
            },
            Obstacle::Halted { cause, .. } => cause.clone(),
            Obstacle::Blocked { .. } => self.text(),
        }
    }
}

/// Returns [`Obstacle::Blocked`] if something prevents connections to a listener. Connects once to
/// each of the [`client_endpoints`], until one shows an obstacle.
fn blocked(target: Endpoint) -> Option<Obstacle> {
    let find = |endpoint: Endpoint| {
        let (_, blocker) = probe_listener(endpoint, WAIT_REPORT_TIME);
        Some((endpoint, blocker?))
    };
    let mut found = client_endpoints(target).into_iter();
    let (endpoint, blocker) = found.find_map(find)?;
    let shown = Endpoint {
        protocol: None,
        ..endpoint
    };
    Some(Obstacle::Blocked {
        cause: format!("a socket listens on {shown}, but {blocker}"),
        help: blocker.remedy().as_ref().map(ToString::to_string),
    })
}

/// Returns [`Obstacle::Halted`] if all visible processes of a listener are halted. The kernel may
/// give connections to this listener even if another listener on the port serves.
///
/// A listener can have both halted and running processes. Such a listener causes this result only
/// if two conditions hold:
///
/// - No listener has only halted processes.
/// - The last attempt got no answer.
fn halted(request: &Unanswered) -> Option<Obstacle> {
    let endpoint = request.endpoint;
    let holders = who_holds(endpoint).ok()?;
    let is_halted = |process: &Process| {
        use ProcessState::{Frozen, Suspended, Traced};
        matches!(process.state, Suspended | Traced | Frozen)
    };
    let servers = holders.iter().filter(|holder| holder.is_server());
    let servers = servers.filter(|holder| holder.processes.iter().any(is_halted));
    let (whole, shared): (Vec<&Holder>, Vec<&Holder>) =
        servers.partition(|holder| holder.processes.iter().all(is_halted));
    let is_shared = whole.is_empty() && request.kind != Some(ProblemKind::Answer);
    let listeners = if is_shared { shared } else { whole };
    let processes = listeners.iter().flat_map(|holder| &holder.processes);
    let mut processes: Vec<&Process> = processes.filter(|process| is_halted(process)).collect();
    let first = *processes.first()?;
    processes.retain(|process| process.state == first.state);
    let (state, help) = match first.state {
        ProcessState::Suspended => {
            let mut pids: Vec<u32> = processes.iter().map(|process| process.pid).collect();
            pids.sort_unstable();
            pids.dedup();
            let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
            let pids = pids.join(" ");
            (
                "suspended",
                format!("resume pid {pids} with kill -CONT {pids}"),
            )
        }
        ProcessState::Traced => (
            "stopped by its debugger",
            format!("resume pid {} in its debugger", first.pid),
        ),
        ProcessState::Frozen => {
            let mut remedies = listeners.iter().flat_map(|listener| listener.remedies());
            let thaw = remedies.find(|remedy| matches!(remedy, Remedy::Thaw { .. }))?;
            ("frozen", thaw.to_string())
        }
        _ => return None,
    };
    let name = format!("{} (pid {})", escape(&first.name), first.pid);
    let cause = match is_shared {
        false => format!("{name}, which listens on port {endpoint}, is {state}"),
        true => format!(
            "{name}, which shares the listener on port {endpoint}, is {state}: the kernel may give \
             the connection to this process"
        ),
    };
    Some(Obstacle::Halted { cause, help })
}

/// How a wait for answers ended.
#[derive(Debug)]
pub(crate) enum HttpOutcome {
    Answered,
    TimedOut(Vec<Unanswered>),
    /// The process `pid` of [`until_answered`] ended before these requests were answered.
    ProcessEnded(Vec<Unanswered>),
}

/// A request in the queue of [`until_answered`].
struct Queued {
    /// The position of the request among all requests.
    index: usize,
    request: Unanswered,
    /// When to send the request at the earliest.
    due: Instant,
}

/// Repeats each request until it gets one expected answer. Stops when `limit` has passed since
/// `started`, or when the process `pid` has ended.
///
/// Threads take the requests from a queue, and put each failed request back. If every request has a
/// thread, a server that does not answer delays no request to another server.
pub(crate) fn until_answered(
    requests: Vec<Unanswered>,
    started: Instant,
    limit: Duration,
    pid: Option<u32>,
) -> Result<HttpOutcome, Failure> {
    let process = match pid {
        Some(pid) => Some((
            pid,
            ProcessHandle::open(pid).map_err(|e| watch_failure(pid, &e))?,
        )),
        None => None,
    };
    let threads = requests.len().min(CONNECTION_THREADS);
    let requests = requests.into_iter().enumerate();
    let queue: Mutex<VecDeque<Queued>> = Mutex::new(
        requests
            .map(|(index, request)| Queued {
                index,
                request,
                due: started,
            })
            .collect(),
    );
    let queue = || queue.lock().unwrap_or_else(PoisonError::into_inner);
    // Returns the requests that never got the expected answer. The `bool` says whether the process
    // had ended at the last try.
    let work = || -> Result<Vec<(Queued, bool)>, Failure> {
        let mut failed = Vec::new();
        loop {
            let (next, waiting) = {
                let mut queue = queue();
                (queue.pop_front(), queue.len() + 1)
            };
            // If the queue is empty, other threads repeat the requests that are left.
            let Some(mut next) = next else {
                return Ok(failed);
            };
            let left = remaining(limit, started);
            sleep(next.due.saturating_duration_since(Instant::now()).min(left));
            // Each thread may have to send this number of requests in the time that is left.
            let turns = u32::try_from(waiting.div_ceil(threads)).unwrap_or(u32::MAX);
            let left = remaining(limit, started) / turns;
            if next.request.attempt(process.as_ref(), left, || {
                remaining(limit, started).is_zero()
            }) {
                continue;
            }
            // This check comes after the request, because an answer counts even if the process has
            // ended.
            let has_ended = match &process {
                Some((pid, Some(process))) => {
                    process.has_ended().map_err(|e| watch_failure(*pid, &e))?
                }
                Some((_, None)) => true,
                None => false,
            };
            if has_ended || started.elapsed() >= limit {
                failed.push((next, has_ended));
            } else {
                next.due = Instant::now() + HTTP_RETRY_DELAY;
                queue().push_back(next);
            }
        }
    };
    let mut failed = Vec::new();
    for part in in_threads(&vec![(); threads], 1, |_| work()) {
        failed.extend(part?);
    }
    failed.sort_by_key(|(queued, _)| queued.index);
    let has_ended = failed.iter().any(|(_, has_ended)| *has_ended);
    let failed: Vec<_> = failed.into_iter().map(|(of, _)| of.request).collect();
    Ok(match failed.is_empty() {
        true => HttpOutcome::Answered,
        false if has_ended => HttpOutcome::ProcessEnded(failed),
        false => HttpOutcome::TimedOut(failed),
    })
}

/// Returns the endpoint for a request that the process `pid`, or a process that it started, must
/// answer. An address is suitable if one of these processes listens on it and no unrelated process
/// does. If no address is suitable, returns the report on each address.
///
/// If `endpoint` has no address or is `localhost`, it stands for 127.0.0.1 and ::1. If only one of
/// these addresses is suitable, the result has only that address. So no unrelated process gets the
/// request.
fn endpoint_of(pid: u32, endpoint: Endpoint) -> Result<Endpoint, Vec<Diagnosis>> {
    let mut held = Vec::new();
    let mut strangers = Vec::new();
    for endpoint in client_endpoints(endpoint) {
        match check_port_held_by(endpoint, pid) {
            // An address also counts as suitable if the sockets cannot be checked, or if the owner
            // of a listener is hidden.
            Err(diagnosis) if diagnosis.could_tell() && !has_hidden_listener(&diagnosis) => {
                strangers.push(diagnosis);
            }
            _ => held.push(endpoint),
        }
    }
    match held[..] {
        [] => Err(strangers),
        [only] => Ok(only),
        // Both loopback addresses are suitable.
        _ => Ok(endpoint),
    }
}

fn listeners(diagnosis: &Diagnosis) -> impl Iterator<Item = &Holder> {
    let holders = diagnosis.holders().into_iter().flatten();
    holders.filter(|holder| holder.is_server())
}

fn has_listener(diagnosis: &Diagnosis) -> bool {
    listeners(diagnosis).next().is_some()
}

fn has_hidden_listener(diagnosis: &Diagnosis) -> bool {
    listeners(diagnosis).any(|holder| holder.hidden)
}

/// Calls [`until_answered`] in a thread, and shows the progress until it returns. All requests
/// have the same `probe`.
pub(crate) fn wait_for_answers(
    console: &Console,
    probe: &HttpProbe,
    requests: Vec<Unanswered>,
    started: Instant,
    limit: Duration,
    pid: Option<u32>,
) -> Result<HttpOutcome, Failure> {
    let endpoints: Vec<Endpoint> = requests.iter().map(|request| request.endpoint).collect();
    let list = format!("{probe} on {}", port_summary(&endpoints));
    let (sender, receiver) = channel();
    // The send cannot fail, because the receiver exists until the outcome arrives.
    let wait = move || sender.send(until_answered(requests, started, limit, pid));
    let thread = std::thread::Builder::new()
        .name("http".to_owned())
        .spawn(wait);
    thread.map_err(|e| Failure::system("start a thread", &e))?;
    let mut is_noted = console.shows_progress();
    let outcome = loop {
        match receiver.recv_timeout(PROGRESS_INTERVAL) {
            Ok(outcome) => break outcome?,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Failure::new("cannot wait: the waiting thread panicked"));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        console.progress(Some(&progress_line(&list, started, limit)));
        if !is_noted {
            is_noted = true;
            let limit = humantime::format_duration(limit);
            console.note(format_args!("waiting up to {limit} for {list}"));
        }
    };
    console.progress(None);
    Ok(outcome)
}
