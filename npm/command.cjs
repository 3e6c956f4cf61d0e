'use strict'

/** Returns the path of the command, which is in the package for this platform. */
function findCommand () {
  const name = `@portlease/${process.platform}-${process.arch}`
  try {
    return require.resolve(`${name}/bin/portlease`)
  } catch (cause) {
    const help = process.platform === 'linux' && ['x64', 'arm64'].includes(process.arch)
      ? 'install it, or install portlease again without --omit=optional'
      : 'portlease supports only Linux on x64 and arm64'
    throw new Error(`cannot find the package ${name}: ${help}`, { cause })
  }
}

module.exports = { findCommand }
