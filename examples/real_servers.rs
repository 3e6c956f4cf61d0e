//! Starts real servers on reserved ports, by number, and starts each of them again on the same number.
//!
//! ```text
//! cargo run --example real_servers
//! ```
//!
//! The point is in [`two_lives`]: the reservation stays in force from before the first start to after the last stop,
//! and neither start has to release anything first. A server that is not installed is named as skipped, or counts as
//! a failure with `PORTLEASE_NO_SKIP=1`.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use portlease::{Reservation, ReserveOptions};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What there is to know about a kind of server.
struct Server {
    name: &'static str,
    /// Programs that it takes, the server itself first. None at all: a thread of this process.
    programs: &'static [&'static str],
    /// Makes the folder ready, once.
    prepare: fn(&Site) -> io::Result<()>,
    command: fn(&Site) -> Command,
    /// A request that is answered with something that holds [`Site::name`]: proof that it is this server which
    /// answers, and not one that somebody else started there.
    request: fn(&Site) -> Vec<u8>,
}

const SERVERS: [Server; 6] = [
    Server {
        name: "redis-server",
        programs: &["redis-server"],
        prepare: |_| Ok(()),
        command: |s| {
            run(
                &s.programs[0],
                &["--bind", "127.0.0.1", "--save", "", "--port", &s.port()],
            )
        },
        request: |_| b"PING\r\nCONFIG GET dir\r\n".to_vec(),
    },
    Server {
        name: "nginx",
        programs: &["nginx"],
        prepare: |s| std::fs::write(s.folder.join("nginx.conf"), nginx_conf(s)),
        command: |s| {
            run(
                &s.programs[0],
                &["-e", "stderr", "-c", "nginx.conf", "-p", "."],
            )
        },
        request: |_| http_get(),
    },
    Server {
        name: "postgresql",
        programs: &["postgres", "initdb"],
        prepare: |s| {
            system::give(&s.folder)?;
            let how = [
                "--auth=trust",
                "--username=postgres",
                "--no-locale",
                "--no-sync",
                "-D",
                "data",
            ];
            match s.spawn(system::run(&s.programs[1], &how))?.wait()? {
                status if status.success() => Ok(()),
                status => Err(io::Error::other(format!("initdb: {status}"))),
            }
        },
        command: |s| {
            system::run(
                &s.programs[0],
                &[
                    "-D",
                    "data",
                    "-h",
                    "127.0.0.1",
                    "-k",
                    "",
                    "-F",
                    "-p",
                    &s.port(),
                ],
            )
        },
        request: |_| postgres_query("SHOW data_directory"),
    },
    Server {
        name: "python3 -m http.server",
        programs: &["python3"],
        prepare: |s| std::fs::write(s.folder.join("index.html"), s.name()),
        command: |s| {
            run(
                &s.programs[0],
                &["-m", "http.server", "--bind", "127.0.0.1", &s.port()],
            )
        },
        request: |_| http_get(),
    },
    Server {
        name: "node",
        programs: &["node"],
        prepare: |s| std::fs::write(s.folder.join("serve.js"), node_script(s)),
        command: |s| run(&s.programs[0], &["serve.js"]),
        request: |_| http_get(),
    },
    Server {
        name: "a thread (Rust, std)",
        programs: &[],
        prepare: |_| Ok(()),
        command: |_| unreachable!("it has no program"),
        request: |_| http_get(),
    },
];

/// Where one server runs.
struct Site {
    programs: Vec<PathBuf>,
    folder: PathBuf,
    port: u16,
}

impl Site {
    fn port(&self) -> String {
        self.port.to_string()
    }

    /// The folder's name, which no other server has.
    fn name(&self) -> String {
        self.folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }

    fn spawn(&self, mut command: Command) -> io::Result<Child> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())?;
        command.current_dir(&self.folder).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log).spawn()
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }
}

fn nginx_conf(site: &Site) -> String {
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary: String = kinds
        .iter()
        .map(|kind| format!("{kind}_temp_path {kind};\n"))
        .collect();
    format!(
        "daemon off; pid nginx.pid; worker_processes 1;\nevents {{ worker_connections 64; }}\n\
         http {{ access_log off;\n{temporary}server {{ listen 127.0.0.1:{}; return 200 {}; }} }}\n",
        site.port,
        site.name()
    )
}

fn node_script(site: &Site) -> String {
    let (name, port) = (site.name(), site.port);
    format!(
        "require('http').createServer((_, reply) => reply.end('{name}')).listen({port}, '127.0.0.1')"
    )
}

fn http_get() -> Vec<u8> {
    b"GET / HTTP/1.0\r\n\r\n".to_vec()
}

/// A start-up message of protocol 3.0 and a simple query, both with their lengths, in network byte order.
fn postgres_query(query: &str) -> Vec<u8> {
    let startup = b"\0\x03\0\0user\0postgres\0database\0postgres\0\0";
    let mut bytes = (startup.len() as u32 + 4).to_be_bytes().to_vec();
    bytes.extend_from_slice(startup);
    bytes.push(b'Q');
    bytes.extend_from_slice(&(query.len() as u32 + 5).to_be_bytes());
    bytes.extend_from_slice(query.as_bytes());
    bytes.push(0);
    bytes
}

/// A server that runs, stopped when this is dropped.
enum Running {
    Program(Child),
    Thread {
        addr: SocketAddr,
        stop: Arc<AtomicBool>,
        thread: Option<JoinHandle<()>>,
    },
}

impl Running {
    fn start(server: &Server, site: &Site) -> io::Result<Running> {
        if server.programs.is_empty() {
            return Running::start_thread(site);
        }
        Ok(Running::Program(site.spawn((server.command)(site))?))
    }

    fn start_thread(site: &Site) -> io::Result<Running> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, site.port))?;
        let (addr, stop, name) = (
            listener.local_addr()?,
            Arc::new(AtomicBool::new(false)),
            site.name(),
        );
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                // The client notices whatever fails here.
                let _noticed = client.read(&mut [0; 512]);
                let _noticed =
                    client.write_all(format!("HTTP/1.0 200 OK\r\n\r\n{name}").as_bytes());
            }
        });
        Ok(Running::Thread {
            addr,
            stop,
            thread: Some(thread),
        })
    }

    /// Asks it to end, and insists when it does not.
    fn stop(&mut self) -> io::Result<()> {
        match self {
            Running::Program(child) => {
                let deadline = Instant::now() + Duration::from_secs(10);
                if child.try_wait()?.is_none() {
                    system::ask_to_end(child)?;
                }
                while child.try_wait()?.is_none() {
                    if Instant::now() > deadline {
                        child.kill()?;
                        child.wait()?;
                        return Err(io::Error::other(
                            "did not end when asked to, and was killed",
                        ));
                    }
                    std::thread::sleep(POLL);
                }
            }
            Running::Thread { addr, stop, thread } => {
                if let Some(thread) = thread.take() {
                    stop.store(true, Ordering::SeqCst);
                    // A connection, so that it looks.
                    drop(TcpStream::connect(*addr)?);
                    thread
                        .join()
                        .map_err(|_| io::Error::other("the thread panicked"))?;
                }
            }
        }
        Ok(())
    }

    fn has_ended(&mut self) -> io::Result<Option<String>> {
        match self {
            Running::Program(child) => Ok(child.try_wait()?.map(|status| status.to_string())),
            Running::Thread { .. } => Ok(None),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(e) = self.stop() {
            eprintln!("stopping a server: {e}");
        }
    }
}

const POLL: Duration = Duration::from_millis(2);

/// One request and its answer.
fn talk(server: &Server, site: &Site) -> io::Result<()> {
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, site.port))?;
    connection.set_read_timeout(Some(Duration::from_secs(2)))?;
    connection.write_all(&(server.request)(site))?;
    let (mut answer, mut part, name) = (Vec::new(), [0; 4096], site.name());
    loop {
        let n = connection.read(&mut part)?;
        answer.extend_from_slice(&part[..n]);
        if answer
            .windows(name.len())
            .any(|window| window == name.as_bytes())
        {
            return Ok(());
        }
        if n == 0 {
            let answer = String::from_utf8_lossy(&answer).into_owned();
            return Err(io::Error::other(format!(
                "somebody else's answer: {answer:?}"
            )));
        }
    }
}

/// Starts the server and returns once it has answered; how long that took.
fn start(server: &Server, site: &Site) -> Outcome<(Running, Duration)> {
    let started = Instant::now();
    let mut running = Running::start(server, site)?;
    loop {
        let failed = match talk(server, site) {
            Ok(()) => return Ok((running, started.elapsed())),
            Err(e) => e,
        };
        if let Some(status) = running.has_ended()? {
            return Err(format!("ended without an answer: {status}").into());
        }
        if started.elapsed() > Duration::from_secs(30) {
            return Err(format!("no answer for 30 s; the last attempt: {failed}").into());
        }
        std::thread::sleep(POLL);
    }
}

/// The main job: start, talk, stop, and all of it again on the same number. How long each start took.
fn two_lives(server: &Server, site: &Site, reservation: &Reservation) -> Outcome<[Duration; 2]> {
    (server.prepare)(site)?;
    let (mut running, first) = start(server, site)?;
    running.stop()?;
    if TcpStream::connect(reservation.addr()).is_ok() {
        return Err("somebody answers although the server has ended".into());
    }
    if ReserveOptions::new().port(site.port).reserve().is_ok() {
        return Err("the number was given away between two starts".into());
    }
    let (mut running, again) = start(server, site)?;
    running.stop()?;
    Ok([first, again])
}

/// The program's path. Debian keeps servers where an ordinary user's PATH does not look.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let postgres = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let folders = std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .chain(postgres.map(|version| version.path().join("bin")));
    folders
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

fn run(program: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}

/// PostgreSQL refuses to run as root: then as nobody.
#[cfg(unix)]
mod system {
    use super::*;

    const NOBODY: u32 = 65534;

    pub(super) fn run(program: &Path, args: &[&str]) -> Command {
        if !rustix::process::geteuid().is_root() {
            return super::run(program, args);
        }
        let mut setpriv = Command::new("setpriv");
        setpriv.args([
            format!("--reuid={NOBODY}"),
            format!("--regid={NOBODY}"),
            "--clear-groups".to_owned(),
        ]);
        setpriv.arg(program).args(args);
        setpriv
    }

    pub(super) fn give(folder: &Path) -> io::Result<()> {
        match rustix::process::geteuid().is_root() {
            true => std::os::unix::fs::chown(folder, Some(NOBODY), Some(NOBODY)),
            false => Ok(()),
        }
    }

    pub(super) fn ask_to_end(child: &mut Child) -> io::Result<()> {
        let pid = rustix::process::Pid::from_child(child);
        Ok(rustix::process::kill_process(
            pid,
            rustix::process::Signal::TERM,
        )?)
    }
}

#[cfg(not(unix))]
mod system {
    use super::*;

    pub(super) use super::run;

    pub(super) fn give(_folder: &Path) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn ask_to_end(child: &mut Child) -> io::Result<()> {
        child.kill()
    }
}

/// Says so, here and in the file named by PORTLEASE_SKIPS, which a CI job sums up.
fn skip(server: &Server) -> io::Result<()> {
    let line = format!("skipped: {}: not installed", server.name);
    println!("{line}");
    match std::env::var_os("PORTLEASE_SKIPS") {
        Some(file) => writeln!(
            OpenOptions::new().create(true).append(true).open(file)?,
            "{line}"
        ),
        None => Ok(()),
    }
}

fn main() -> Outcome<ExitCode> {
    let may_skip = std::env::var_os("PORTLEASE_NO_SKIP").is_none_or(|value| value != "1");
    let mut ok = true;
    // All of them at once, as a test of several servers does.
    let reservations = ReserveOptions::new()
        .label("real_servers")
        .reserve_many(SERVERS.len())?;

    println!(
        "{:<24}{:>6}  {:<10}{:>16}{:>16}  result",
        "server", "port", "guarantee", "first answer", "restarted"
    );
    for (server, reservation) in SERVERS.iter().zip(&reservations) {
        let Some(programs) = server
            .programs
            .iter()
            .map(|program| find(program))
            .collect()
        else {
            skip(server)?;
            ok &= may_skip;
            continue;
        };
        let folder = tempfile::Builder::new().prefix("portlease-").tempdir()?;
        let site = Site {
            programs,
            folder: folder.path().canonicalize()?,
            port: reservation.port(),
        };
        let (times, result) = match two_lives(server, &site, reservation) {
            Ok(lives) => (
                lives.map(|t| format!("{:.1} ms", t.as_secs_f64() * 1e3)),
                "ok".to_owned(),
            ),
            Err(e) => (["-", "-"].map(str::to_owned), format!("FAILED: {e}")),
        };
        let (port, guarantee) = (site.port, format!("{:?}", reservation.guarantee()));
        println!(
            "{:<24}{port:>6}  {guarantee:<10}{:>16}{:>16}  {result}",
            server.name, times[0], times[1]
        );
        if result != "ok" {
            ok = false;
            let mut log = String::new();
            File::open(site.log())
                .and_then(|mut file| file.read_to_string(&mut log))
                .unwrap_or_default();
            log.lines().for_each(|line| println!("    {line}"));
        }
    }
    Ok(if ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
