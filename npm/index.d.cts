/** The command failed. The message is its report: what happened, and what to do. */
export class PortleaseError extends Error {}
/** A port is not free. The message names the holder. */
export class PortInUseError extends PortleaseError {}
/** No server listened in time. The message says what was found instead. */
export class NotListeningError extends PortleaseError {}

/** A number, or a text as the command takes it: `'53/udp'`, `'127.0.0.1:8080'`, `'8000-8010'`. */
export type Port = number | string

export interface ReserveOptions {
  /** Reserve exactly this number. With `block`, it is the first number of the block. */
  port?: number
  udp?: boolean
  /**
   * Pass false for a server that sets neither SO_REUSEADDR nor SO_REUSEPORT. Node's servers set
   * SO_REUSEADDR.
   */
  reuseAddr?: boolean
  /** How many milliseconds to wait for a port that is in use. */
  wait?: number
  /** A label that reports about the port show. By default the file that node runs. */
  label?: string
}

/** A reserved port. It stays reserved until `release()`, or until this process ends. */
export class Reservation implements AsyncDisposable {
  private constructor()
  readonly port: number
  readonly protocol: 'tcp' | 'udp'
  readonly guarantee: 'kernel' | 'cooperative' | 'best_effort'
  /** For `named`, the usual number of the name. `port` differs if that number was in use. */
  readonly firstChoice: number | undefined
  /** Releases the port. A second call has no effect. */
  release(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

/** Reserves a TCP or UDP port. Rejects with an error that names the holder of a port in use. */
export function reserve(options?: ReserveOptions): Promise<Reservation>

/** Reserves `count` ports or none. With `block` their numbers are consecutive. */
export function reserveMany(
  count: number,
  options?: ReserveOptions & { block?: boolean }
): Promise<Reservation[]>

/**
 * Reserves the number of `name`, which is the same in each run. It depends on the user, the project
 * (the nearest folder with `.git`, or PORTLEASE_PROJECT) and the name. If it is in use, another
 * number is reserved: see `firstChoice`.
 */
export function named(name: string, options?: Omit<ReserveOptions, 'port'>): Promise<Reservation>

/** A process that owns a socket. `null` means unknown. */
export interface Process {
  pid: number
  name: string
  program: string | null
  parent: number | null
  uid: number | null
  user: string | null
  started: string | null
  state: string
  ignores_sigterm: boolean
  working_directory: string | null
  unit: string | null
  container: string | null
  relation: string | null
}

/** A socket on the port, with the processes that own it. */
export interface Holder {
  protocol: string
  local: string
  remote: string | null
  state: string
  uid: number | null
  user: string | null
  hidden: boolean
  client: boolean
  interface: string | null
  shared: boolean
  owner: string
  processes: Process[]
}

/** A reservation of the port, by any process. */
export interface Lease {
  protocol: string
  port: number
  pid: number | null
  foreign: boolean
  inherited_by: number[]
  on_behalf_of: number | null
  on_behalf_of_name: string | null
  program: string | null
  command: string | null
  working_directory: string | null
  test: string | null
  at: string | null
  label: string | null
  name: string | null
  first_choice: number | null
  since: string | null
}

/**
 * The answer of `whoHolds`. `complete` is false if something could not be read. `unseen` then says
 * what.
 */
export interface Report {
  version: number
  port: number
  complete: boolean
  unseen: string[]
  holders: Holder[]
  leases: Lease[]
}

/** Returns the sockets on a port in every state, with their processes, and the reservations. */
export function whoHolds(port: number): Promise<Report>

/**
 * Checks that ports are free: a server could bind them now, and no other process has reserved
 * them. Waits up to `wait` milliseconds for that. Rejects with a PortInUseError if a port is not
 * free.
 */
export function checkFree(
  ports: Port | Port[],
  options?: { reuseAddr?: boolean, wait?: number }
): Promise<void>

/**
 * Waits until a server listens on each port, for up to `timeout` milliseconds (by default 30 s).
 * Rejects with a NotListeningError when the time is up. With `pid`, only a listener of that process
 * or of one that it started counts.
 */
export function waitListening(
  ports: Port | Port[],
  options?: { timeout?: number, pid?: number }
): Promise<void>

/** Returns the path of the command that this package installed. */
export function findCommand(): string
