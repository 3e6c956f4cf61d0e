//! The dynamic port range and the excluded ranges of Windows, as netsh reports them.

use std::ffi::OsString;
use std::io;
use std::ops::RangeInclusive;
use std::os::windows::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use once_cell::sync::OnceCell;

use super::settings::{parse_start_and_count, parse_table};
use super::{DYNAMIC_FROM, EphemeralRange};
use crate::model::endpoint::Protocol;
use crate::model::port_set::PortSet;
use crate::os_error::is_exhaustion;

/// The range if netsh reports none. Windows uses IANA's dynamic range by default.
const DEFAULT_RANGE: RangeInclusive<u16> = DYNAMIC_FROM..=u16::MAX;

pub(super) fn ephemeral() -> io::Result<EphemeralRange> {
    static RANGE: OnceCell<Option<RangeInclusive<u16>>> = OnceCell::new();
    // An error is not kept, so the next call runs netsh again.
    let range = match RANGE.get_or_try_init(query_range) {
        Err(error) if is_exhaustion(&error) => return Err(error),
        range => range.ok().cloned().flatten(),
    };
    Ok(EphemeralRange::new(
        range,
        DEFAULT_RANGE,
        PortSet::default(),
    ))
}

/// Always 1: no number requires a privilege on Windows.
pub(crate) fn unprivileged_from() -> u16 {
    1
}

/// Whether the number lies in a range that Windows excludes from use. The process runs netsh once
/// for each protocol, and keeps the answer. If netsh is missing, no number counts as excluded. If
/// netsh cannot be run now, this call returns `false`, and the next call runs netsh again.
pub(crate) fn is_excluded(protocol: Protocol, port: u16) -> bool {
    static EXCLUDED: [OnceCell<PortSet>; 2] = [OnceCell::new(), OnceCell::new()];
    let (cached, name) = match protocol {
        Protocol::Tcp => (&EXCLUDED[0], "tcp"),
        Protocol::Udp | Protocol::UdpLite => (&EXCLUDED[1], "udp"),
    };
    let query = || output(start_netsh("excludedportrange", name)).map(|text| parse_table(&text));
    let excluded = cached.get_or_try_init(query);
    excluded.is_ok_and(|excluded| excluded.contains(port))
}

/// One range that covers the dynamic ranges of TCP and UDP; `None` if netsh reports neither. The
/// ranges come from netsh, because no documented function of Windows reports them.
fn query_range() -> io::Result<Option<RangeInclusive<u16>>> {
    // The two netsh processes run at the same time.
    let processes = ["tcp", "udp"].map(|protocol| start_netsh("dynamicportrange", protocol));
    let mut ranges = Vec::new();
    for process in processes {
        ranges.extend(parse_start_and_count(&output(process)?));
    }
    let cover = |one: RangeInclusive<u16>, other: RangeInclusive<u16>| {
        *one.start().min(other.start())..=*one.end().max(other.end())
    };
    Ok(ranges.into_iter().reduce(cover))
}

fn start_netsh(setting: &str, protocol: &str) -> io::Result<Child> {
    /// Without this flag netsh opens a console window if the calling program has no console.
    const CREATE_NO_WINDOW: u32 = 0x0800_0000;
    let mut netsh = Command::new(netsh_path());
    netsh
        .args(["interface", "ipv4", "show", setting, protocol])
        .creation_flags(CREATE_NO_WINDOW);
    netsh
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
}

/// The text that netsh prints. Empty if this system has no netsh.
fn output(process: io::Result<Child>) -> io::Result<String> {
    match process {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        process => {
            let output = process?.wait_with_output()?;
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        }
    }
}

fn netsh_path() -> PathBuf {
    let root = std::env::var_os("SystemRoot").unwrap_or_else(|| OsString::from(r"C:\Windows"));
    PathBuf::from(root).join(r"System32\netsh.exe")
}
