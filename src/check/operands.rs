//! [`Operands`]: the operands of one check, and the results for them.

use crate::model::diagnosis::Diagnosis;
use crate::model::diagnosis::verdict::Verdict;
use crate::model::error::Result as PortResult;
use crate::model::port::Port;
use crate::model::to_endpoint::ToEndpoint;
use crate::ownership::Asker;

/// The operands of one check, such as numbers, addresses and reservations, with their ports. A
/// reservation of TCP and UDP has two ports.
pub(super) struct Operands {
    /// One result per operand. A result starts as an error if the operand names no port.
    results: Vec<Result<(), Diagnosis>>,
    pub(super) ports: Vec<OperandPort>,
}

#[derive(Clone, Copy)]
pub(super) struct OperandPort {
    pub(super) port: Port,
    pub(super) asker: Asker,
    /// The index of the operand in the field `results`.
    operand: usize,
}

impl Operands {
    /// `ports_of` returns the ports of an operand.
    pub(super) fn new<P: ToEndpoint>(
        operands: impl IntoIterator<Item = P>,
        ports_of: impl Fn(&P) -> PortResult<Vec<Port>>,
    ) -> Operands {
        let mut all = Operands {
            results: Vec::new(),
            ports: Vec::new(),
        };
        for operand in operands {
            let result = ports_of(&operand).map(|ports| {
                let position = all.results.len();
                all.ports.extend(ports.into_iter().map(|port| OperandPort {
                    port,
                    asker: Asker::of(&operand),
                    operand: position,
                }));
            });
            all.results
                .push(result.map_err(|e| Diagnosis::of_operand(&e)));
        }
        all
    }

    /// Returns one result per operand. If ports of the operand failed, the result is the report on
    /// the first failed port. An operand that names no port keeps its error.
    ///
    /// `verdicts` has an entry for each of `ports`, in the same order: `None` if the port passed.
    pub(super) fn results(
        mut self,
        verdicts: impl IntoIterator<Item = Option<Verdict>>,
        report: impl FnOnce(Vec<(OperandPort, Verdict)>) -> Vec<Diagnosis>,
    ) -> Vec<Result<(), Diagnosis>> {
        let failed = self.ports.iter().zip(verdicts);
        let mut failed: Vec<(OperandPort, Verdict)> = failed
            .filter_map(|(port, verdict)| Some((*port, verdict?)))
            .collect();
        failed.dedup_by_key(|(port, _)| port.operand);
        let operands: Vec<usize> = failed.iter().map(|(port, _)| port.operand).collect();
        for (operand, report) in operands.into_iter().zip(report(failed)) {
            self.results[operand] = Err(report);
        }
        self.results
    }
}
