//! [`Trial`]: the result of one trial bind, and the text of several results.

use std::fmt;
use std::net::IpAddr;

/// The result of one trial bind. The crate closes the socket of the trial at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trial {
    pub(crate) ip: IpAddr,
    pub(crate) reuse_addr: bool,
    pub(crate) admitted: bool,
}

/// Prints which servers could bind. Example:
/// `with SO_REUSEADDR could bind everywhere; without it nowhere`.
///
/// The text does not name SO_REUSEADDR on systems where servers do not set it, such as Windows.
pub(super) struct Trials<'a>(pub(super) &'a [Trial]);

impl fmt::Display for Trials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names_option = self.0.iter().any(|trial| trial.reuse_addr);
        if names_option && self.0.iter().all(|trial| trial.admitted) {
            return f.write_str("could bind everywhere, with SO_REUSEADDR and without");
        }
        if names_option {
            f.write_str("with SO_REUSEADDR could bind")?;
            self.fmt_places(true, f)?;
            f.write_str("; without it")?;
        } else {
            f.write_str("could bind")?;
        }
        self.fmt_places(false, f)
    }
}

impl Trials<'_> {
    /// Writes where a server could bind: `everywhere`, `nowhere`, or the addresses of both
    /// outcomes. `reuse_addr` says whether the server sets SO_REUSEADDR.
    fn fmt_places(&self, reuse_addr: bool, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses = |admitted: bool| {
            let matching =
                |trial: &&Trial| trial.reuse_addr == reuse_addr && trial.admitted == admitted;
            let addresses: Vec<String> = self
                .0
                .iter()
                .filter(matching)
                .map(|trial| trial.ip.to_string())
                .collect();
            addresses.join(", ")
        };
        match (addresses(true).as_str(), addresses(false).as_str()) {
            // Every bind with this `reuse_addr` failed for another reason than a busy port, so
            // none of these binds is recorded as a trial.
            ("", "") => f.write_str(" at no address that was tried"),
            (_, "") => f.write_str(" everywhere"),
            ("", _) => f.write_str(" nowhere"),
            (admitted, refused) => write!(f, " {admitted}, but not {refused}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_its_text() {
        let text = |trials: &[(&str, bool, bool)]| {
            let trials: Vec<Trial> = trials
                .iter()
                .map(|&(ip, reuse_addr, admitted)| Trial {
                    ip: ip.parse().unwrap(),
                    reuse_addr,
                    admitted,
                })
                .collect();
            Trials(&trials).to_string()
        };
        let (v4, v6) = ("127.0.0.1", "::1");
        assert_eq!(
            text(&[(v4, true, true), (v4, false, true)]),
            "could bind everywhere, with SO_REUSEADDR and without"
        );
        assert_eq!(
            text(&[(v4, true, true), (v4, false, false)]),
            "with SO_REUSEADDR could bind everywhere; without it nowhere"
        );
        assert_eq!(
            text(&[
                (v4, true, true),
                (v6, true, false),
                (v4, false, false),
                (v6, false, true)
            ]),
            "with SO_REUSEADDR could bind 127.0.0.1, but not ::1; without it ::1, but not 127.0.0.1"
        );
        assert_eq!(text(&[(v4, false, true)]), "could bind everywhere");
        assert_eq!(text(&[(v4, false, false)]), "could bind nowhere");
    }
}
