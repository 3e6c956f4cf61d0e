import portlease from './index.cjs'

export const {
  NotListeningError,
  PortInUseError,
  PortleaseError,
  Reservation,
  checkFree,
  findCommand,
  named,
  reserve,
  reserveMany,
  waitListening,
  whoHolds
} = portlease
export default portlease
