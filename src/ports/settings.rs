//! Parses the texts in which Linux, sysctl(8) and netsh report ranges of ports.

use std::ops::RangeInclusive;

#[cfg(any(target_os = "linux", target_os = "android", windows, test, fuzzing))]
use crate::model::port_set::PortSet;

/// Parses a set of ports as Linux prints it: `8080,9000-9010`. `None` if any part is malformed.
#[cfg(any(target_os = "linux", target_os = "android", test, fuzzing))]
pub(super) fn parse_list(text: &str) -> Option<PortSet> {
    let number = |text: &str| text.trim().parse::<u16>().ok();
    let mut ports = PortSet::default();
    for item in text.split(',').filter(|item| !item.trim().is_empty()) {
        let range = match item.split_once('-') {
            Some((low, high)) => number(low)?..=number(high)?,
            None => number(item).map(|n| n..=n)?,
        };
        if range.is_empty() {
            return None;
        }
        ports.extend(range);
    }
    Some(ports)
}

/// Parses a range such as `32768\t60999`. The two numbers can also be on two lines.
#[cfg(any(unix, test, fuzzing))]
pub(super) fn parse_pair(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_whitespace().map(|n| n.parse::<u16>().ok());
    let range = numbers.next()??..=numbers.next()??;
    (!range.is_empty()).then_some(range)
}

/// Parses a table that netsh prints, in any language. Each line that starts with two numbers, such
/// as `50000 50059 *`, is a range. Other lines are skipped.
#[cfg(any(windows, test, fuzzing))]
pub(super) fn parse_table(text: &str) -> PortSet {
    let range = |line: &str| {
        let mut words = line.split_whitespace().map(|word| word.parse::<u16>().ok());
        Some(words.next()??..=words.next()??)
    };
    text.lines().filter_map(range).flatten().collect()
}

/// Parses a range that netsh prints, in any language. The first line that ends in a number has the
/// start, such as `Start Port : 49152`. The next line that ends in a number has the count, such as
/// `Number of Ports : 16384`.
#[cfg(any(windows, test, fuzzing))]
pub(super) fn parse_start_and_count(text: &str) -> Option<RangeInclusive<u16>> {
    let last_number = |line: &str| line.split_whitespace().next_back()?.parse::<u16>().ok();
    let mut numbers = text.lines().filter_map(last_number);
    let (start, count) = (numbers.next()?, numbers.next()?);
    Some(start..=start.checked_add(count.checked_sub(1)?)?)
}

/// For tests: every range that any parser of this file finds in a text.
#[cfg(any(test, fuzzing))]
pub(crate) fn every_range_in(text: &str) -> Vec<RangeInclusive<u16>> {
    let sets = [parse_list(text).unwrap_or_default(), parse_table(text)];
    let ranges = [parse_pair(text), parse_start_and_count(text)];
    let of_sets = sets
        .iter()
        .flat_map(|set| set.ranges_within(0..=u16::MAX))
        .collect::<Vec<_>>();
    of_sets
        .into_iter()
        .chain(ranges.into_iter().flatten())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(set: &PortSet) -> Vec<RangeInclusive<u16>> {
        set.ranges_within(0..=u16::MAX)
    }

    #[test]
    fn the_forms_of_linux_are_parsed() {
        assert_eq!(parse_pair("32768\t60999\n"), Some(32768..=60999));
        assert_eq!(parse_pair("60999 32768"), None);
        assert_eq!(parse_pair("x"), None);
        assert_eq!(parse_list("\n"), Some(PortSet::default()));
        let listed = parse_list("8080,9000-9010\n").unwrap();
        assert_eq!(ranges(&listed), [8080..=8080, 9000..=9010]);
        assert_eq!(parse_list("8080,x"), None);
        assert_eq!(parse_list("9010-9000"), None);
    }

    #[test]
    fn the_forms_of_netsh_are_parsed() {
        let netsh = "\r\nProtocol tcp Dynamic Port Range\r\n-------\r\n\
                     Start Port      : 49152\r\nNumber of Ports : 16384\r\n";
        assert_eq!(parse_start_and_count(netsh), Some(49152..=65535));
        let german = "Startport : 1025\nAnzahl : 64511\n";
        assert_eq!(parse_start_and_count(german), Some(1025..=65535));
        let excluded = "\r\nProtocol tcp Port Exclusion Ranges\r\n\r\n\
                        Start Port    End Port\r\n----------    --------\r\n\
                        \x20     5357        5357\r\n     50000       50059     *\r\n\r\n\
                        * - Administered port exclusions.";
        let parsed = parse_table(excluded);
        assert_eq!(ranges(&parsed), [5357..=5357, 50000..=50059]);
        let odd = ["", "Start : 49152", "a : 60000\nb : 6000", "a : 1\nb : 0"];
        for text in odd {
            assert_eq!(parse_start_and_count(text), None, "{text:?}");
        }
    }
}
