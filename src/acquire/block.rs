//! Reserves several ports at fixed distances from one base number, such as a block of consecutive
//! numbers. This module chooses the base number, and reserves the ports in ascending order.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::{AttemptError, Effort, Request, exact};
use crate::model::attempt_stats::AttemptStats;
use crate::model::offsets::Offsets;
use crate::model::port_set::PortSet;
use crate::ports::{self, EphemeralRange, Tier, stable_order};
use crate::reservation::Reservation;
use crate::retry::{NUMBERS_LOOKED_UP, RetryLevel};

pub(super) fn reserve(
    request: &Request,
    offsets: &Offsets,
    effort: &mut Effort<'_>,
) -> Result<Vec<Reservation>, AttemptError> {
    let ephemeral = &EphemeralRange::refreshed().map_err(AttemptError::range)?;
    let mut search = Search::new(request, offsets, ephemeral);
    let mut prefer = request.prefer.iter().copied();
    let preferred = prefer
        .by_ref()
        .filter(|base| request.allows(*base, offsets));
    if let Some(held) = search.first_of(preferred, RetryLevel::WithTable, effort)? {
        return Ok(held);
    }
    let range = request.allowed.as_ref();
    let level = if range.is_some_and(|range| range.len() == offsets.span()) {
        // The range has room for only one block, so each port gets the retries of an exact number.
        RetryLevel::WithBudget
    } else if request.name.is_some() {
        // A stable name should stand for the same base number in every run. If only old connections
        // occupy a number, it can still be reserved, but only the socket table shows this. So the
        // search reads the table after a refused bind.
        RetryLevel::WithTable
    } else {
        RetryLevel::Once
    };
    if let Some(held) = search.first_of(bases(request, offsets, ephemeral), level, effort)? {
        return Ok(held);
    }
    // If only old connections (such as TIME_WAIT) occupy a number, the number can be reserved. A
    // refused bind does not show this, but the socket table does. So the second pass reads the
    // table.
    if effort.level > RetryLevel::Once {
        let bases = bases(request, offsets, ephemeral).take(NUMBERS_LOOKED_UP);
        let mut again = Search::new(request, offsets, ephemeral);
        if let Some(held) = again.first_of(bases, RetryLevel::WithTable, effort)? {
            return Ok(held);
        }
    }
    search.stats.blocked = request.blocked_in_range(search.stats.tried(), 1);
    Err(AttemptError::NoneFree(Box::new(search.stats)))
}

/// The base numbers at which every port is allowed, in the order in which the search tries them. A
/// base number can occur twice.
fn bases<'a>(
    request: &'a Request,
    offsets: &'a Offsets,
    ephemeral: &Arc<EphemeralRange>,
) -> Box<dyn Iterator<Item = u16> + 'a> {
    let whole = match &request.allowed {
        Some(range) => range.clone(),
        None => ports::lowest()..=u16::MAX,
    };
    let within = |range: &RangeInclusive<u16>| {
        let low = range.start().saturating_sub(offsets.least());
        let high = range.end().checked_sub(offsets.greatest());
        high.map(|high| low..=high)
            .filter(|bases| !bases.is_empty())
    };
    let Some(all) = within(&whole) else {
        return Box::new(std::iter::empty());
    };
    let tier = {
        let ephemeral = ephemeral.clone();
        move |base| {
            let tiers = offsets.ports(base)?.map(|port| ephemeral.tier(port));
            tiers.max()
        }
    };
    let tiers = [Tier::Outside, Tier::Withheld, Tier::Ephemeral].into_iter();
    let bases: Box<dyn Iterator<Item = u16> + 'a> = match (&request.name, &request.allowed) {
        (Some(name), _) => {
            let seed = name.seed;
            Box::new(tiers.flat_map(move |wanted| {
                let (all, tier) = (all.clone(), tier.clone());
                let order = stable_order(seed).filter(move |base| all.contains(base));
                order.filter(move |base| tier(*base) == Some(wanted))
            }))
        }
        (None, Some(_)) if request.claims_every_port().is_ok_and(|claims| claims) => {
            Box::new(ports::shuffled(vec![all]))
        }
        (None, allowed) => {
            let shuffled_tiers = tiers.flat_map(move |wanted| {
                let tier = tier.clone();
                let order = ports::shuffled(vec![all.clone()]);
                order.filter(move |base| tier(*base) == Some(wanted))
            });
            // Without a requested range, the search starts with base numbers whose ports all lie
            // on one side of the ephemeral range. Ports that are far apart may not fit on one
            // side. So the search then tries all base numbers, in the order of `Tier`: base
            // numbers with a port in the ephemeral range come last.
            let ranges = match allowed {
                Some(_) => Vec::new(),
                None => ephemeral.outer_ranges().iter().filter_map(within).collect(),
            };
            Box::new(ports::shuffled(ranges).chain(shuffled_tiers))
        }
    };
    Box::new(bases.filter(|base| request.admits_base(*base, offsets)))
}

struct Search<'a> {
    request: &'a Request,
    offsets: &'a Offsets,
    /// The first base number in the order that the requested name determines; `None` without a
    /// name, and if no base number is allowed.
    first_choice: Option<u16>,
    /// The numbers that were refused or that the caller excludes. The search skips a base number if
    /// one of its ports is among them.
    refused: PortSet,
    stats: AttemptStats,
}

impl<'a> Search<'a> {
    fn new(
        request: &'a Request,
        offsets: &'a Offsets,
        ephemeral: &Arc<EphemeralRange>,
    ) -> Search<'a> {
        Search {
            request,
            offsets,
            first_choice: match request.name {
                Some(_) => bases(request, offsets, ephemeral).next(),
                None => None,
            },
            refused: request.exclude.clone(),
            stats: AttemptStats::of_several(offsets.clone()),
        }
    }

    /// Reserves all ports at the first of these base numbers at which every port can be reserved.
    ///
    /// Tries the first port of each base number with `level`. Most refusals are of the first port,
    /// so a cheap level for this port saves the most time. Tries each further port with `level`,
    /// but at least with `WithTable`. No try exceeds the level of `effort`.
    fn first_of(
        &mut self,
        bases: impl Iterator<Item = u16>,
        level: RetryLevel,
        effort: &mut Effort<'_>,
    ) -> Result<Option<Vec<Reservation>>, AttemptError> {
        for base in bases {
            let ports = || self.offsets.ports(base).into_iter().flatten();
            if ports().any(|port| self.refused.contains(port)) {
                continue;
            }
            let mut held = Vec::with_capacity(self.offsets.count());
            for port in ports() {
                let level = if held.is_empty() {
                    level
                } else {
                    level.max(RetryLevel::WithTable)
                };
                let first_choice = self.first_choice.map(|first| first + (port - base));
                let request = self.request.with_first_choice(first_choice);
                let mut effort = effort.at_most(level);
                match exact::reserve_in(&request, port, EphemeralRange::cached, &mut effort) {
                    Ok(reservation) => held.push(reservation),
                    Err(error) => {
                        error.count(&mut self.stats)?;
                        self.refused.insert(port);
                        break;
                    }
                }
            }
            if held.len() == self.offsets.count() {
                return Ok(Some(held));
            }
        }
        Ok(None)
    }
}
