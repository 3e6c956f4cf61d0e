// Compiled alone: what the types of the package promise to a module.
import portlease, { type Report, type Reservation, reserve, reserveMany, whoHolds } from 'portlease'

async function blocks (): Promise<number> {
  await using reserved: Reservation = await reserve({ reuseAddr: false, wait: 1000, label: 'db' })
  const [first] = await reserveMany(2, { block: true, udp: true })
  const report: Report = await whoHolds(first.port)
  const names: string[] = report.holders.flatMap(holder => holder.processes.map(p => p.name))
  await portlease.checkFree([reserved.port, '53/udp'], { wait: 1000 })
  // @ts-expect-error A reservation is not a number.
  const wrong: number = reserved
  return names.length + wrong
}
void blocks
