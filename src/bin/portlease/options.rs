//! The crate's options, from those of the command line.

use portlease::{Protocol, ReserveOptions};

use crate::args::Manner;

pub(crate) fn options(
    manner: &Manner,
    protocol: Protocol,
    number: Option<u16>,
    label: Option<&str>,
) -> ReserveOptions {
    let mut options =
        ReserveOptions::new().reuse_addr(!manner.no_reuse_addr).wait(manner.wait.unwrap_or_default());
    if protocol == Protocol::Udp {
        options = options.udp();
    }
    if let Some(number) = number {
        options = options.port(number);
    }
    match manner.label.as_deref().or(label) {
        Some(label) => options.label(label),
        None => options,
    }
}
