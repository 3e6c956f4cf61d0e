//! [`NumberArgs`]: the options of `run` and `reserve` for the choice of numbers and protocols.

use std::fmt;
use std::str::FromStr;

use portlease::{Endpoint, ReserveOptions};
use serde::{Deserialize, Serialize};

use crate::ports::{InvalidPort, PortList, parse_port};

/// The heading of the options of [`NumberArgs`] in `--help`.
const NUMBERS: &str = "Choice of numbers";

// The numbers from which portlease chooses, and the protocols for which it reserves them. A doc
// comment here would replace the help text of `run` and `reserve`.
#[derive(Clone, Debug, Default, clap::Args, Serialize, Deserialize)]
pub(crate) struct NumberArgs {
    /// Choose only numbers from LOW to HIGH
    #[arg(long, value_name = "LOW-HIGH", allow_hyphen_values = true, help_heading = NUMBERS)]
    pub(crate) range: Option<NumberRange>,
    /// Try these numbers first, such as 6379 or 8000-8010,9000; if none is free, choose another one
    #[arg(long, value_name = "PORTS", allow_hyphen_values = true, help_heading = NUMBERS)]
    pub(crate) prefer: Vec<Numbers>,
    /// Choose none of these numbers
    #[arg(long, value_name = "PORTS", allow_hyphen_values = true, help_heading = NUMBERS)]
    pub(crate) exclude: Vec<Numbers>,
    /// Choose a multiple of N, such as an even number for RTP. With --block or --offsets of
    /// `reserve`, only the base number must be a multiple of N
    #[arg(
        long, value_name = "N", value_parser = number_from(1), allow_hyphen_values = true,
        help_heading = NUMBERS
    )]
    pub(crate) aligned: Option<u16>,
    /// Reserve each number for TCP and for UDP
    #[arg(long, help_heading = NUMBERS)]
    pub(crate) both: bool,
}

impl NumberArgs {
    /// Adds these choices to the options of the library.
    pub(crate) fn apply(&self, mut options: ReserveOptions) -> ReserveOptions {
        if let Some(NumberRange(low, high)) = self.range {
            options = options.range(low..=high);
        }
        let flat = |lists: &[Numbers]| lists.iter().flat_map(|list| list.0.clone()).collect();
        let (prefer, exclude): (Vec<u16>, Vec<u16>) = (flat(&self.prefer), flat(&self.exclude));
        options = options.prefer(prefer).exclude(exclude);
        if let Some(multiple) = self.aligned {
            options = options.aligned(multiple);
        }
        if self.both {
            options = options.tcp_and_udp();
        }
        options
    }

    /// The numbers that `--range`, `--exclude` and `--aligned` allow.
    pub(crate) fn allowed(&self) -> impl Iterator<Item = u16> {
        let NumberRange(low, high) = self.range.unwrap_or(NumberRange(1, u16::MAX));
        let is_excluded = |number: &u16| self.exclude.iter().any(|list| list.0.contains(number));
        let multiple = self.aligned.unwrap_or(1);
        (low..=high).filter(move |number| number.is_multiple_of(multiple) && !is_excluded(number))
    }

    /// The name of an option that the user set to influence the choice of numbers, or `None`. With
    /// a port server the option is an error.
    pub(crate) fn chooses(&self) -> Option<&'static str> {
        match self {
            NumberArgs { range: Some(_), .. } => Some("--range"),
            NumberArgs { prefer, .. } if !prefer.is_empty() => Some("--prefer"),
            NumberArgs { exclude, .. } if !exclude.is_empty() => Some("--exclude"),
            NumberArgs {
                aligned: Some(_), ..
            } => Some("--aligned"),
            _ => None,
        }
    }
}

/// An inclusive range of numbers, such as `20000-29999`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NumberRange(u16, u16);

impl NumberRange {
    pub(crate) fn contains(self, number: u16) -> bool {
        (self.0..=self.1).contains(&number)
    }
}

impl fmt::Display for NumberRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0, self.1)
    }
}

impl FromStr for NumberRange {
    type Err = InvalidPort;

    fn from_str(text: &str) -> Result<Self, InvalidPort> {
        let Some((low, high)) = text.split_once('-') else {
            return Err(InvalidPort::new(format!(
                "{text:?} is not a range: expected LOW-HIGH, as in 20000-29999"
            )));
        };
        let range = NumberRange(parse_port(low)?, parse_port(high)?);
        if range.0 > range.1 {
            return Err(InvalidPort::new(format!(
                "range {text:?} is empty: expected LOW-HIGH with LOW <= HIGH"
            )));
        }
        Ok(range)
    }
}

/// Parses a number from `low` to 65535.
pub(crate) fn number_from(low: u16) -> impl Fn(&str) -> Result<u16, InvalidPort> + Clone {
    move |text| match text.parse::<i64>() {
        Ok(number) => {
            let fits = u16::try_from(number).ok().filter(|number| *number >= low);
            fits.ok_or_else(|| {
                InvalidPort::new(format!(
                    "{number} is out of range: expected a number from {low} to 65535"
                ))
            })
        }
        Err(_) => Err(InvalidPort::new(format!(
            "{text:?} is not a number: expected a number from {low} to 65535"
        ))),
    }
}

/// Numbers without an address or a protocol, such as `8000-8010,9000`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Numbers(Vec<u16>);

impl FromStr for Numbers {
    type Err = InvalidPort;

    fn from_str(text: &str) -> Result<Self, InvalidPort> {
        let list: PortList = text.parse()?;
        let number = |endpoint: Endpoint| match endpoint {
            Endpoint {
                port,
                ip: None,
                protocol: None,
                ..
            } => Ok(port),
            other => Err(InvalidPort::new(format!(
                "{other} names an address or a protocol: expected numbers such as 8000-8010,9000"
            ))),
        };
        let numbers = PortList::endpoints(&[list]).into_iter().map(number);
        numbers.collect::<Result<_, _>>().map(Numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_numbers_are_read() {
        assert_eq!(
            "20000-29999".parse::<NumberRange>().unwrap(),
            NumberRange(20000, 29999)
        );
        assert_eq!(
            "80-81,90".parse::<Numbers>().unwrap(),
            Numbers(vec![80, 81, 90])
        );
        for (text, reason) in [
            ("20000", "is not a range"),
            ("9-8", "is empty"),
            ("0-8", "port 0"),
            ("1-70000", "70000"),
        ] {
            let error = text.parse::<NumberRange>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
        for text in ["127.0.0.1:80", "80/udp", "x", ""] {
            assert!(text.parse::<Numbers>().is_err(), "{text:?}");
        }
    }
}
