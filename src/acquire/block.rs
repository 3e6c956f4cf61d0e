//! Consecutive numbers, each leased and claimed in ascending order.

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
    let firsts = ranges
        .iter()
        .filter(|range| n <= range.len())
        .map(|range| *range.start()..=range.end() - (n - 1) as u16)
        .collect();
    let firsts = ports::shuffled(firsts).filter(|first| {
        block(*first).is_some_and(|mut block| block.all(|port| request.admits(port)))
    });
    let mut stats = AttemptStats::of_block(n);
    // A refused number rules out every block that contains it.
    let mut refused = request.exclude.clone();
    let preferred = request.prefer.iter().copied().filter_map(block);
    let preferred = preferred.filter(|block| request.allows(block.clone()));
    for block in preferred.chain(firsts.filter_map(block)) {
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
