'use strict'

/** The path of the command, which the package of this platform holds. */
function findCommand () {
  const name = `@portlease/${process.platform}-${process.arch}`
  try {
    return require.resolve(`${name}/bin/portlease`)
  } catch (cause) {
    const help = process.platform === 'linux' && ['x64', 'arm64'].includes(process.arch)
      ? 'install it, or install portlease again without --omit=optional'
      : 'portlease runs on Linux alone, on x64 and arm64'
    throw new Error(`cannot find the package ${name}: ${help}`, { cause })
  }
}

module.exports = { findCommand }
