//! What Windows assigns by itself, and what it assigns to nobody: netsh.

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

/// Windows' own is IANA's.
const DEFAULT_RANGE: RangeInclusive<u16> = DYNAMIC_FROM..=u16::MAX;

pub(super) fn ephemeral() -> EphemeralRange {
    static RANGE: OnceCell<Option<RangeInclusive<u16>>> = OnceCell::new();
    let range = RANGE.get_or_init(reported).clone();
    EphemeralRange::new(range, DEFAULT_RANGE, PortSet::default())
}

/// The first number that requires no privilege.
pub(crate) fn unprivileged_from() -> u16 {
    1
}

/// Whether the number is kept from everybody, as the system reported it when this process first asked.
pub(crate) fn is_excluded(protocol: Protocol, port: u16) -> bool {
    static EXCLUDED: [OnceCell<PortSet>; 2] = [OnceCell::new(), OnceCell::new()];
    let (kept, name) = match protocol {
        Protocol::Tcp => (&EXCLUDED[0], "tcp"),
        Protocol::Udp | Protocol::UdpLite => (&EXCLUDED[1], "udp"),
    };
    let ask = || parse_table(&answer(show("excludedportrange", name)).unwrap_or_default());
    kept.get_or_init(ask).contains(port)
}

/// By netsh: no documented call of the system tells the dynamic range. TCP and UDP have one each, and the pool
/// keeps off both.
fn reported() -> Option<RangeInclusive<u16>> {
    let asked = ["tcp", "udp"].map(|protocol| show("dynamicportrange", protocol));
    // Both run by now.
    let ranges = asked
        .into_iter()
        .filter_map(|asked| parse_start_and_count(&answer(asked)?));
    ranges.reduce(|one, other| *one.start().min(other.start())..=*one.end().max(other.end()))
}

fn show(what: &str, protocol: &str) -> io::Result<Child> {
    /// No window of its own for a program without one.
    const CREATE_NO_WINDOW: u32 = 0x0800_0000;
    let mut netsh = Command::new(netsh());
    netsh
        .args(["interface", "ipv4", "show", what, protocol])
        .creation_flags(CREATE_NO_WINDOW);
    netsh
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
}

fn answer(asked: io::Result<Child>) -> Option<String> {
    let output = asked.ok()?.wait_with_output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn netsh() -> PathBuf {
    let root = std::env::var_os("SystemRoot").unwrap_or_else(|| OsString::from(r"C:\Windows"));
    PathBuf::from(root).join(r"System32\netsh.exe")
}
