//! Reserves a block of consecutive numbers, in ascending order, without an exact first number.

use std::ops::RangeInclusive;

use super::{AttemptError, Effort, Request, exact};
use crate::model::attempt_stats::AttemptStats;
use crate::model::port_set::PortSet;
use crate::ports::{self, EphemeralRange};
use crate::reservation::Reservation;
use crate::retry::{NUMBERS_LOOKED_UP, RetryLevel};

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
    let mut search = Search::new(request, n);
    let preferred = request.prefer.iter().copied().filter_map(block);
    let preferred = preferred.filter(|block| request.allows(block.clone()));
    if let Some(held) = search.first_of(preferred, RetryLevel::WithTable, effort)? {
        return Ok(held);
    }
    if let Some(held) = search.first_of(admitted(), RetryLevel::Once, effort)? {
        return Ok(held);
    }
    // The second pass reads the socket table. A number that only old connections (such as
    // TIME_WAIT) occupy can be reserved, and only the table shows that it is one.
    if effort.level > RetryLevel::Once {
        let blocks = admitted().take(NUMBERS_LOOKED_UP);
        let mut again = Search::new(request, n);
        if let Some(held) = again.first_of(blocks, RetryLevel::WithTable, effort)? {
            return Ok(held);
        }
    }
    search.stats.blocked = request.blocked_in_range();
    Err(AttemptError::NoneFree(Box::new(search.stats)))
}

struct Search<'a> {
    request: &'a Request,
    n: usize,
    /// The numbers that were refused or that the caller excludes. A block that contains one of them
    /// is skipped.
    refused: PortSet,
    stats: AttemptStats,
}

impl<'a> Search<'a> {
    fn new(request: &'a Request, n: usize) -> Search<'a> {
        Search {
            request,
            n,
            refused: request.exclude.clone(),
            stats: AttemptStats::of_block(n),
        }
    }

    /// Reserves the first of these blocks in which every number can be reserved. The first number
    /// of a block is refused most often, so `level` sets how hard to try for it. For the further
    /// numbers a refused bind also leads to a read of the socket table (`WithTable`).
    fn first_of(
        &mut self,
        blocks: impl Iterator<Item = RangeInclusive<u16>>,
        level: RetryLevel,
        effort: &mut Effort<'_>,
    ) -> Result<Option<Vec<Reservation>>, AttemptError> {
        for block in blocks {
            if self.refused.within(block.clone()).next().is_some() {
                continue;
            }
            let mut held = Vec::with_capacity(self.n);
            for port in block {
                let level = if held.is_empty() {
                    level
                } else {
                    RetryLevel::WithTable
                };
                match exact::reserve(self.request, port, &mut effort.at_most(level)) {
                    Ok(reservation) => held.push(reservation),
                    Err(error) => {
                        error.count(&mut self.stats)?;
                        self.refused.insert(port);
                        break;
                    }
                }
            }
            if held.len() == self.n {
                return Ok(Some(held));
            }
        }
        Ok(None)
    }
}
