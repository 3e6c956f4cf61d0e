import portlease = require('./index.cjs')

export * from './index.cjs'
export default portlease
