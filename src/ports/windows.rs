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

/// The range if netsh reports none: the default of Windows, which is IANA's dynamic range.
const DEFAULT_RANGE: RangeInclusive<u16> = DYNAMIC_FROM..=u16::MAX;

pub(super) fn ephemeral() -> EphemeralRange {
    static RANGE: OnceCell<Option<RangeInclusive<u16>>> = OnceCell::new();
    let range = RANGE.get_or_init(query_range).clone();
    EphemeralRange::new(range, DEFAULT_RANGE, PortSet::default())
}

/// Always 1: no number requires a privilege on Windows.
pub(crate) fn unprivileged_from() -> u16 {
    1
}

/// Whether the number lies in a range that Windows excludes from use. The process asks netsh once
/// for each protocol, and keeps the answer. If netsh fails, no number counts as excluded.
pub(crate) fn is_excluded(protocol: Protocol, port: u16) -> bool {
    static EXCLUDED: [OnceCell<PortSet>; 2] = [OnceCell::new(), OnceCell::new()];
    let (cached, name) = match protocol {
        Protocol::Tcp => (&EXCLUDED[0], "tcp"),
        Protocol::Udp | Protocol::UdpLite => (&EXCLUDED[1], "udp"),
    };
    let query = || parse_table(&output(start_netsh("excludedportrange", name)).unwrap_or_default());
    cached.get_or_init(query).contains(port)
}

/// One range that covers the dynamic ranges of TCP and UDP. netsh is run for them, because no
/// documented function of Windows reports them.
fn query_range() -> Option<RangeInclusive<u16>> {
    // The two netsh processes run at the same time.
    let processes = ["tcp", "udp"].map(|protocol| start_netsh("dynamicportrange", protocol));
    let ranges = processes
        .into_iter()
        .filter_map(|process| parse_start_and_count(&output(process)?));
    ranges.reduce(|one, other| *one.start().min(other.start())..=*one.end().max(other.end()))
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

fn output(process: io::Result<Child>) -> Option<String> {
    let output = process.ok()?.wait_with_output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn netsh_path() -> PathBuf {
    let root = std::env::var_os("SystemRoot").unwrap_or_else(|| OsString::from(r"C:\Windows"));
    PathBuf::from(root).join(r"System32\netsh.exe")
}
