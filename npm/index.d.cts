/** The command failed. The message is its report: what happened, and what to do. */
export class PortleaseError extends Error {}
/** A port is not free. The message names the holder. */
export class PortInUseError extends PortleaseError {}
/** No server listened in time. The message says what was found instead. */
export class NotListeningError extends PortleaseError {}

/** A number, or what the command takes: `'53/udp'`, `'127.0.0.1:8080'`, `'8000-8010'`. */
export type Port = number | string

export interface ReserveOptions {
  /** Exactly this number; of several ports, the first. */
  port?: number
  udp?: boolean
  /** False for a server that sets neither SO_REUSEADDR nor SO_REUSEPORT. Node's servers set it. */
  reuseAddr?: boolean
  /** How many milliseconds to wait for a port that is in use. */
  wait?: number
  /** Shown in reports about the port. By default the file that node runs. */
  label?: string
}

/** A reserved port. It stays reserved until `release()`, or until this process ends. */
export class Reservation implements AsyncDisposable {
  private constructor()
  readonly port: number
  readonly protocol: 'tcp' | 'udp'
  readonly guarantee: 'kernel' | 'cooperative' | 'best_effort'
  /** For `named`, the first number of the name. It was not free if `port` differs. */
  readonly firstChoice: number | undefined
  /** Releases the port. A second call has no effect. */
  release(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

/** Reserves a TCP or UDP port. Rejects with an error that names the holder of a port in use. */
export function reserve(options?: ReserveOptions): Promise<Reservation>

/** Reserves several ports, all or none. With `block` their numbers are consecutive. */
export function reserveMany(
  count: number,
  options?: ReserveOptions & { block?: boolean }
): Promise<Reservation[]>

/**
 * Reserves the number that `name` stands for, the same one run after run. It depends on the user,
 * the project (the nearest folder with `.git`, or PORTLEASE_PROJECT) and the name.
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

/** `complete` is false if something could not be read, and `unseen` says what. */
export interface Report {
  version: number
  port: number
  complete: boolean
  unseen: string[]
  holders: Holder[]
  leases: Lease[]
}

/** Every socket on a port, in every state, with its processes, and the reservations. */
export function whoHolds(port: number): Promise<Report>

/**
 * Checks that ports are free: a server could bind them now, and no other process has reserved
 * them. Rejects with a PortInUseError otherwise. `wait` is in milliseconds.
 */
export function checkFree(
  ports: Port | Port[],
  options?: { reuseAddr?: boolean, wait?: number }
): Promise<void>

/**
 * Waits until a server listens on each port, for up to `timeout` milliseconds (by default 30 s).
 * With `pid`, only a listener of that process or of one that it started counts.
 */
export function waitListening(
  ports: Port | Port[],
  options?: { timeout?: number, pid?: number }
): Promise<void>

/** The path of the command that this package installed. */
export function findCommand(): string
