//! [`EphemeralUsage`]: how many numbers of the ephemeral range have a TCP socket, by its state.

use std::fmt;
use std::ops::RangeInclusive;

use super::endpoint::Protocol;
use super::incompleteness::Incompleteness;
use super::state::State;
use super::text::RangeText;

/// How many numbers of the ephemeral range have a TCP socket, and in which state.
///
/// The kernel takes a number of the ephemeral range for an outgoing connection and for
/// `bind(…, 0)`. Each number counts once: as listening if one of its sockets listens, else as
/// bound, else as connected, else as in TIME_WAIT. The claim (the bound socket) of a reservation
/// counts as bound.
///
/// [`Holders::ephemeral_usage`](crate::Holders::ephemeral_usage) returns this value. `Display`
/// prints it:
///
/// ```text
/// 300 of the 300 ephemeral TCP ports 41000-41299 are in use: 10 bound, 290 in TIME_WAIT
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EphemeralUsage {
    range: RangeInclusive<u16>,
    ports: usize,
    counts: [usize; 4],
    unseen: Vec<Incompleteness>,
}

/// How a number is used. If the sockets of a number have different uses, the number counts under
/// the use that is listed first here.
#[derive(Clone, Copy)]
enum Use {
    Listening,
    Bound,
    Connected,
    TimeWait,
}

impl Use {
    const ALL: [Use; 4] = [Use::Listening, Use::Bound, Use::Connected, Use::TimeWait];

    fn of(state: State) -> Use {
        match state {
            State::Listen => Use::Listening,
            State::Bound => Use::Bound,
            State::TimeWait => Use::TimeWait,
            _ => Use::Connected,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Use::Listening => "listening",
            Use::Bound => "bound",
            Use::Connected => "connected",
            Use::TimeWait => "in TIME_WAIT",
        }
    }

    /// `reason` says what could not be read. Returns `true` if the count of this use is therefore
    /// unknown. If the result is `false`, the count may be inexact.
    fn is_hidden_by(self, reason: Incompleteness) -> bool {
        match reason {
            Incompleteness::Sockets(_) | Incompleteness::Descriptors(_) => true,
            Incompleteness::Bound(_) => matches!(self, Use::Bound),
            Incompleteness::Ownerless => matches!(self, Use::Connected | Use::TimeWait),
            _ => false,
        }
    }
}

impl EphemeralUsage {
    /// Counts the numbers in use. `sockets` has the number and the state of each TCP socket.
    /// `is_ephemeral` returns whether the kernel may choose a number: `range` contains the number,
    /// and `net.ipv4.ip_local_reserved_ports` does not.
    pub(crate) fn new(
        range: RangeInclusive<u16>,
        is_ephemeral: impl Fn(u16) -> bool,
        sockets: impl IntoIterator<Item = (u16, State)>,
        mut unseen: Vec<Incompleteness>,
    ) -> Self {
        let mut uses = vec![None; range.len()];
        for (port, state) in sockets {
            if range.contains(&port) && is_ephemeral(port) {
                let at = &mut uses[usize::from(port - range.start())];
                let this = Use::of(state) as usize;
                *at = Some(at.map_or(this, |other: usize| other.min(this)));
            }
        }
        let count = |this: Use| uses.iter().filter(|at| **at == Some(this as usize)).count();
        unseen.retain(|reason| !reason.is_of_processes());
        EphemeralUsage {
            ports: range.clone().filter(|port| is_ephemeral(*port)).count(),
            counts: Use::ALL.map(count),
            range,
            unseen,
        }
    }

    /// The usage if no TCP socket could be read.
    pub(crate) fn unread(range: RangeInclusive<u16>, is_ephemeral: impl Fn(u16) -> bool) -> Self {
        let unseen = vec![Incompleteness::Sockets(Protocol::Tcp)];
        EphemeralUsage::new(range, is_ephemeral, [], unseen)
    }

    /// Whether at least half of the numbers are in use, as far as the sockets could be read.
    /// `bind(…, 0)` is then usually slow: the kernel first searches either the odd or the even
    /// numbers, and that half is probably used up.
    pub(crate) fn is_crowded(&self) -> bool {
        self.in_use() * 2 >= self.ports
    }

    fn count(&self, this: Use) -> Option<usize> {
        let is_hidden = self.unseen.iter().any(|reason| this.is_hidden_by(*reason));
        (!is_hidden).then_some(self.counts[this as usize])
    }

    /// The ephemeral range of this network namespace.
    pub fn range(&self) -> RangeInclusive<u16> {
        self.range.clone()
    }

    /// How many numbers of the range the kernel can assign. These are all numbers except those that
    /// the administrator withheld (`net.ipv4.ip_local_reserved_ports`).
    pub fn ports(&self) -> usize {
        self.ports
    }

    /// How many of the [`ports`](EphemeralUsage::ports) have a TCP socket. The true number can be
    /// higher if the usage is not [complete](EphemeralUsage::is_complete).
    pub fn in_use(&self) -> usize {
        self.counts.iter().sum()
    }

    /// How many numbers have a socket that listens. `None` if such sockets could not be read.
    pub fn listening(&self) -> Option<usize> {
        self.count(Use::Listening)
    }

    /// How many numbers have a bound socket, such as the claim of a reservation, and no listening
    /// socket. `None` if bound sockets could not be read, as on most kernels before Linux 6.8.
    pub fn bound(&self) -> Option<usize> {
        self.count(Use::Bound)
    }

    /// How many numbers have only connections, at least one of them not in TIME_WAIT. `None` if
    /// connections could not be read.
    pub fn connected(&self) -> Option<usize> {
        self.count(Use::Connected)
    }

    /// How many numbers have only connections in TIME_WAIT. `None` if such connections could not be
    /// read.
    pub fn time_wait(&self) -> Option<usize> {
        self.count(Use::TimeWait)
    }

    /// Whether every TCP socket was read.
    pub fn is_complete(&self) -> bool {
        self.unseen.is_empty()
    }

    /// What could not be read, one sentence for each reason. Empty if the usage is complete.
    pub fn unseen(&self) -> Vec<String> {
        self.unseen.iter().map(ToString::to_string).collect()
    }
}

impl fmt::Display for EphemeralUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ports == 0 {
            let range = RangeText(&self.range);
            return write!(
                f,
                "the kernel can assign no TCP port of {range}: the administrator withholds all of \
                 them"
            );
        }
        let in_use = self.in_use();
        let at_least = if self.is_complete() { "" } else { "at least " };
        if in_use > 0 || self.is_complete() {
            write!(f, "{at_least}{in_use} of ")?;
        } else {
            f.write_str("an unknown number of ")?;
        }
        let (ports, range) = (self.ports, RangeText(&self.range));
        write!(f, "the {ports} ephemeral TCP ports {range} are in use")?;
        let counted = Use::ALL.map(|this| (this.text(), self.counts[this as usize]));
        let mut separator = ": ";
        for (text, count) in counted.into_iter().filter(|(_, count)| *count > 0) {
            write!(f, "{separator}{count} {text}")?;
            separator = ", ";
        }
        for reason in &self.unseen {
            write!(f, "; {reason}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::incompleteness::UnseenBound;

    const WITHHELD: u16 = 41001;

    fn usage(sockets: &[(u16, State)], unseen: Vec<Incompleteness>) -> EphemeralUsage {
        let sockets = sockets.iter().copied();
        EphemeralUsage::new(41000..=41004, |port| port != WITHHELD, sockets, unseen)
    }

    #[test]
    fn each_number_counts_once_by_its_most_important_socket() {
        let sockets = [
            (41000, State::TimeWait),
            (41000, State::Bound),
            (41000, State::Listen),
            (41000, State::Established),
            (41002, State::TimeWait),
            (41002, State::TimeWait),
            (41003, State::TimeWait),
            (41003, State::SynSent),
            (WITHHELD, State::Bound),
            (40999, State::Bound),
            (41005, State::Bound),
        ];
        let usage = usage(&sockets, vec![Incompleteness::PidNamespace]);
        assert_eq!((usage.ports(), usage.in_use()), (4, 3));
        let counts = [usage.listening(), usage.bound(), usage.connected()];
        assert_eq!(counts, [Some(1), Some(0), Some(1)]);
        assert_eq!(usage.time_wait(), Some(1));
        assert!(usage.is_complete() && usage.is_crowded());
        assert_eq!(
            usage.to_string(),
            "3 of the 4 ephemeral TCP ports 41000-41004 are in use: 1 listening, 1 connected, 1 in \
             TIME_WAIT"
        );
    }

    #[test]
    fn what_could_not_be_read_is_not_counted_as_zero() {
        let hidden = usage(
            &[(41000, State::TimeWait)],
            vec![Incompleteness::Bound(UnseenBound::OldKernel)],
        );
        assert_eq!((hidden.bound(), hidden.time_wait()), (None, Some(1)));
        assert!(!hidden.is_complete() && !hidden.is_crowded());
        assert_eq!(
            hidden.to_string(),
            "at least 1 of the 4 ephemeral TCP ports 41000-41004 are in use: 1 in TIME_WAIT; TCP \
             sockets that are bound without listening could not be read: Linux before 6.8 hides \
             them"
        );
        let unread = EphemeralUsage::unread(41000..=41004, |port| port != WITHHELD);
        let counts = [unread.listening(), unread.bound(), unread.connected()];
        assert_eq!(counts, [None, None, None]);
        assert_eq!(unread.time_wait(), None);
        assert_eq!(
            unread.to_string(),
            "an unknown number of the 4 ephemeral TCP ports 41000-41004 are in use; the tcp \
             sockets could not be read"
        );
    }

    #[test]
    fn a_range_without_an_assignable_number_is_used_up() {
        let none = EphemeralUsage::new(41000..=41000, |_| false, [], Vec::new());
        assert!(none.is_crowded());
        assert_eq!(
            none.to_string(),
            "the kernel can assign no TCP port of 41000-41000: the administrator withholds all of \
             them"
        );
    }
}
