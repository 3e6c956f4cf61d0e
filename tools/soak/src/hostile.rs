//! The hostile second user, who does what a user can: plants files, locks files, binds ports.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::clock::now;

/// Runs the hostile process, until its input is closed.
pub(crate) fn harm() {
    let locks = PathBuf::from(std::env::var_os("PORTLEASE_DIR").unwrap());
    let done = AtomicBool::new(false);
    let (mut planted, mut locked, mut tried) = (0u32, 0u32, 0u32);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _line = io::stdin().read_line(&mut String::new());
            done.store(true, Ordering::Relaxed);
        });
        let mut kept: Vec<File> = Vec::new();
        let mut bound: Vec<Socket> = Vec::new();
        while !done.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(fastrand::u64(1..8)));
            // Unlocks the oldest files and closes the bound sockets, so that the workers can make
            // progress.
            kept.truncate(kept.len().saturating_sub(1).min(8));
            bound.clear();
            // Plants something in place of the lock folder, if the folder was just deleted.
            if !locks.exists() && fastrand::bool() {
                planted += u32::from(plant(&locks));
            }
            let Some(scope) = scope_in(&locks) else {
                continue;
            };
            // Plants only some lock files, so that the workers find free ports.
            if fastrand::u8(..) < 64 {
                planted += u32::from(plant(&scope.join(format!("{}.tcp", fastrand::u16(1024..)))));
                planted += u32::from(plant(
                    &scope.join(format!("{}.udp", fastrand::u16(61_000..))),
                ));
            }
            let names: Vec<PathBuf> = std::fs::read_dir(&scope)
                .into_iter()
                .flatten()
                .flatten()
                .map(|e| e.path())
                .collect();
            if names.is_empty() {
                continue;
            }
            let path = &names[fastrand::usize(..names.len())];
            if let Ok(file) = OpenOptions::new()
                .read(true)
                .custom_flags(NONBLOCK_NOFOLLOW)
                .open(path)
                && file.try_lock().is_ok()
            {
                locked += 1;
                kept.insert(0, file);
            }
            let port = path
                .file_stem()
                .and_then(|stem| stem.to_str()?.parse::<u16>().ok());
            if let Some(port) = port.filter(|_| path.extension().is_some_and(|kind| kind == "tcp"))
            {
                let began = now();
                tried += 1;
                if let Ok(socket) = bind(port) {
                    let report = format!("bound {began} {} {port}\n", now());
                    let _printed = io::stdout().write_all(report.as_bytes());
                    bound.push(socket);
                }
            }
            // Also binds ports that the kernel picks, and closes them at once.
            let _some: Vec<_> = (0..4)
                .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
                .collect();
        }
    });
    let report = format!("did planted {planted}, locked {locked}, tried to bind {tried}\n");
    let _printed = io::stdout().write_all(report.as_bytes());
}

/// O_NONBLOCK and O_NOFOLLOW, so that the files that this process planted neither block nor mislead
/// it.
const NONBLOCK_NOFOLLOW: i32 =
    (rustix::fs::OFlags::NONBLOCK.bits() | rustix::fs::OFlags::NOFOLLOW.bits()) as i32;

fn scope_in(locks: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(locks)
        .ok()?
        .flatten()
        .map(|entry| entry.path());
    entries
        .filter(|path| path.extension().is_none())
        .find(|path| path.is_dir())
}

fn plant(path: &Path) -> bool {
    match fastrand::u8(..5) {
        0 => symlink("/etc/passwd", path).is_ok(),
        1 => {
            let made = Command::new("mkfifo")
                .arg(path)
                .stderr(std::process::Stdio::null())
                .status();
            made.is_ok_and(|status| status.success())
        }
        2 => DirBuilder::new().create(path).is_ok(),
        3 => OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o000)
            .open(path)
            .is_ok(),
        _ => {
            let made = OpenOptions::new().write(true).create_new(true).open(path);
            let false_record = b"portlease 1 1.0\npid 1\nstarted 1\nend 1.0\n";
            made.and_then(|mut file| {
                file.set_permissions(Permissions::from_mode(0o644))?;
                file.write_all(false_record)
            })
            .is_ok()
        }
    }
}

/// Binds without the reuse options. With them the bind over a claim would succeed, as that of a
/// server does.
fn bind(port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
    Ok(socket)
}
