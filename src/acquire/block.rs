//! Consecutive numbers, each leased and claimed in ascending order.

use std::ops::RangeInclusive;

use super::{AttemptError, Effort, Request, exact};
use crate::model::attempt_stats::AttemptStats;
use crate::ports::{self, EphemeralRange};
use crate::reservation::Reservation;
use crate::retry::RetryLevel;

pub(super) fn reserve(
    request: &Request,
    n: usize,
    effort: &mut Effort<'_>,
) -> Result<Vec<Reservation>, AttemptError> {
    let ranges = match &request.allowed {
        Some(range) => vec![range.clone()],
        None => EphemeralRange::refreshed().block_ranges(),
    };
    let block = |first: u16| Some(first..=first.checked_add(u16::try_from(n - 1).ok()?)?);
    let firsts: Vec<_> = ranges
        .iter()
        .filter(|range| n <= range.len())
        .map(|range| *range.start()..=range.end() - (n - 1) as u16)
        .collect();
    let admitted = || {
        let blocks = ports::shuffled(firsts.clone()).filter_map(block);
        blocks.filter(|block| block.clone().all(|port| request.admits(port)))
    };
    // Of a range, numbers that clients refuse are better than none.
    let is_blocked = |block: &RangeInclusive<u16>| block.clone().any(ports::is_blocked);
    let others = admitted().filter(|block| !is_blocked(block));
    let blocked = admitted().filter(is_blocked);
    let mut stats = AttemptStats::of_block(n);
    // A refused number rules out every block that contains it.
    let mut refused = request.exclude.clone();
    let preferred = request.prefer.iter().copied().filter_map(block);
    let preferred = preferred.filter(|block| request.allows(block.clone()));
    for block in preferred.chain(others).chain(blocked) {
        if refused.within(block.clone()).next().is_some() {
            continue;
        }
        let mut held = Vec::with_capacity(n);
        for port in block {
            let level = if held.is_empty() {
                RetryLevel::Once
            } else {
                RetryLevel::WithTable
            };
            match exact::reserve(request, port, &mut effort.at_most(level)) {
                Ok(reservation) => held.push(reservation),
                Err(error) => {
                    error.count(&mut stats)?;
                    refused.insert(port);
                    break;
                }
            }
        }
        if held.len() == n {
            return Ok(held);
        }
    }
    Err(AttemptError::NoneFree(Box::new(stats)))
}
