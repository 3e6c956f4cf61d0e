//! [`Trial`]: which servers could bind the port.

use std::fmt;
use std::net::IpAddr;

/// One bind that was tried and undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trial {
    pub(crate) ip: IpAddr,
    pub(crate) reuse_addr: bool,
    pub(crate) admitted: bool,
}

/// Which servers could bind: `with SO_REUSEADDR could bind everywhere; without it nowhere`. Where that option is not a
/// server's, as on Windows, without the option's name.
pub(super) struct Trials<'a>(pub(super) &'a [Trial]);

impl fmt::Display for Trials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let both = self.0.iter().any(|trial| trial.reuse_addr);
        if both && self.0.iter().all(|trial| trial.admitted) {
            return f.write_str("could bind everywhere, with SO_REUSEADDR and without");
        }
        let names: &[_] = match both {
            true => &[
                (true, "with SO_REUSEADDR could bind"),
                (false, "; without it"),
            ],
            false => &[(false, "could bind")],
        };
        for &(reuse_addr, name) in names {
            let of = |admitted: bool| {
                let asker = self
                    .0
                    .iter()
                    .filter(|trial| trial.reuse_addr == reuse_addr && trial.admitted == admitted);
                asker
                    .map(|trial| trial.ip.to_string())
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            let (admitted, refused) = (of(true), of(false));
            match (admitted.as_str(), refused.as_str()) {
                (_, "") => write!(f, "{name} everywhere")?,
                ("", _) => write!(f, "{name} nowhere")?,
                (some, others) => write!(f, "{name} {some}, and not {others}")?,
            }
        }
        Ok(())
    }
}
